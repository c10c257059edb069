//! The environment variables: section 2, "Parameters", and what each operation requires.

use crate::{
    case::{Case, Verdict, ensure},
    stage::Stage,
    version::SpecVersion,
};

/// Required variables are wrong: section 5, "Error".
const INVALID_ENVIRONMENT: u64 = 4;

/// A case that has been asked for since the oldest version.
const fn always(name: &'static str, requirement: &'static str, run: fn(&Stage<'_>) -> Verdict) -> Case {
    Case { name, requirement, since: SpecVersion::V0_3_1, run }
}

pub(super) const CASES: &[Case] = &[
    always("2.parameters.add-requires-command", "Without CNI_COMMAND the plugin fails with code 4.", |stage| {
        missing(stage, "ADD", "CNI_COMMAND")
    }),
    always("2.parameters.add-requires-containerid", "ADD without CNI_CONTAINERID fails with code 4.", |stage| {
        missing(stage, "ADD", "CNI_CONTAINERID")
    }),
    always("2.parameters.add-requires-netns", "ADD without CNI_NETNS fails with code 4.", |stage| missing(stage, "ADD", "CNI_NETNS")),
    always("2.parameters.add-requires-ifname", "ADD without CNI_IFNAME fails with code 4.", |stage| missing(stage, "ADD", "CNI_IFNAME")),
    always("2.parameters.del-requires-containerid", "DEL without CNI_CONTAINERID fails with code 4.", |stage| {
        missing(stage, "DEL", "CNI_CONTAINERID")
    }),
    always("2.parameters.del-requires-ifname", "DEL without CNI_IFNAME fails with code 4.", |stage| missing(stage, "DEL", "CNI_IFNAME")),
    Case {
        name: "2.parameters.check-requires-netns",
        requirement: "CHECK without CNI_NETNS fails with code 4.",
        since: SpecVersion::V0_4_0,
        run: |stage| missing(stage, "CHECK", "CNI_NETNS"),
    },
    always("2.parameters.unknown-command", "A CNI_COMMAND that the specification does not know fails with code 4.", |stage| {
        let pod = stage.pod()?;
        stage.call_for("CONFORM", &pod, "eth0").run()?.error_code(INVALID_ENVIRONMENT).map(|_| ())
    }),
    always("2.parameters.containerid-empty", "An empty CNI_CONTAINERID fails with code 4.", |stage| container(stage, "")),
    Case {
        name: "2.parameters.containerid-first-character",
        requirement: "A CNI_CONTAINERID that does not start with a letter or digit fails with code 4.",
        since: SpecVersion::V0_4_0,
        run: |stage| container(stage, "-conform"),
    },
    Case {
        name: "2.parameters.containerid-slash",
        requirement: "A CNI_CONTAINERID with a slash fails with code 4.",
        since: SpecVersion::V0_4_0,
        run: |stage| container(stage, "conform/../../a"),
    },
    always("2.parameters.ifname-empty", "An empty CNI_IFNAME fails with code 4.", |stage| interface(stage, "")),
    always("2.parameters.ifname-too-long", "A CNI_IFNAME of more than 15 characters fails with code 4.", |stage| {
        interface(stage, "sixteen-letters-")
    }),
    always("2.parameters.ifname-slash", "A CNI_IFNAME with a slash fails with code 4.", |stage| interface(stage, "eth/0")),
    always("2.parameters.ifname-colon", "A CNI_IFNAME with a colon fails with code 4.", |stage| interface(stage, "eth0:1")),
    always("2.parameters.ifname-whitespace", "A CNI_IFNAME with whitespace fails with code 4.", |stage| interface(stage, "eth 0")),
    always("2.parameters.ifname-dot", "The CNI_IFNAME \".\" fails with code 4.", |stage| interface(stage, ".")),
    always("2.parameters.ifname-dot-dot", "The CNI_IFNAME \"..\" fails with code 4.", |stage| interface(stage, "..")),
    Case {
        name: "5.error.names-the-missing-variable",
        requirement: "An error with code 4 names the variable that is missing.",
        since: SpecVersion::V0_4_0,
        run: |stage| {
            let pod = stage.pod()?;
            let answer = stage.call_for("ADD", &pod, "eth0").without("CNI_NETNS").run()?;
            names(&answer.error_code(INVALID_ENVIRONMENT)?, "CNI_NETNS")
        },
    },
    Case {
        name: "5.error.names-the-invalid-variable",
        requirement: "An error with code 4 names the variable whose value is illegal.",
        since: SpecVersion::V0_4_0,
        run: |stage| {
            let pod = stage.pod()?;
            let answer = stage.call_for("ADD", &pod, "eth/0").run()?;
            names(&answer.error_code(INVALID_ENVIRONMENT)?, "CNI_IFNAME")
        },
    },
    always(
        "2.parameters.generic-arguments",
        "CNI_ARGS holds key=value pairs separated by semicolons; those of others are no error where IgnoreUnknown=1 is among them.",
        |stage| {
            let pod = stage.pod()?;
            let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=conform;CONFORM=1";
            stage.call_for("ADD", &pod, "eth0").with("CNI_ARGS", arguments).run()?.result().map(|_| ())
        },
    ),
];

fn missing(stage: &Stage<'_>, command: &'static str, variable: &'static str) -> Verdict {
    let pod = stage.pod()?;
    stage.call_for(command, &pod, "eth0").without(variable).run()?.error_code(INVALID_ENVIRONMENT).map(|_| ())
}

fn container(stage: &Stage<'_>, id: &str) -> Verdict {
    let pod = stage.pod()?;
    stage.call_for("ADD", &pod, "eth0").with("CNI_CONTAINERID", id).run()?.error_code(INVALID_ENVIRONMENT).map(|_| ())
}

fn interface(stage: &Stage<'_>, name: &str) -> Verdict {
    let pod = stage.pod()?;
    stage.call_for("ADD", &pod, name).run()?.error_code(INVALID_ENVIRONMENT).map(|_| ())
}

fn names(error: &serde_json::Value, variable: &str) -> Verdict {
    let named = ["msg", "details"].iter().any(|key| error[key].as_str().is_some_and(|text| text.contains(variable)));
    ensure(named, || format!("expected {variable} in the message, got {error}"))
}
