//! The network configuration on stdin: sections 1, "Plugin configuration objects", 3, "Deriving execution configuration",
//! and the codes of section 5 for what cannot be read.

use serde_json::{Value, json};

use crate::{
    case::{Case, Verdict, ensure},
    stage::Stage,
    version::SpecVersion,
};

const INCOMPATIBLE_VERSION: u64 = 1;
const UNSUPPORTED_FIELD: u64 = 2;
const UNDECODABLE: u64 = 6;
const INVALID_CONFIGURATION: u64 = 7;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "5.error.stdin-empty",
        requirement: "A configuration that is not there fails with code 6.",
        since: SpecVersion::V0_3_1,
        run: |stage| undecodable(stage, ""),
    },
    Case {
        name: "5.error.stdin-not-json",
        requirement: "A configuration that is no JSON fails with code 6.",
        since: SpecVersion::V0_3_1,
        run: |stage| undecodable(stage, "{ \"cniVersion\": "),
    },
    Case {
        name: "5.error.stdin-not-an-object",
        requirement: "A configuration that is no JSON object fails with code 6.",
        since: SpecVersion::V0_3_1,
        run: |stage| undecodable(stage, "[\"cniVersion\"]"),
    },
    Case {
        name: "5.error.unsupported-version",
        requirement: "A cniVersion that the plugin does not speak fails with code 1.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let pod = stage.pod()?;
            let conf = stage.conf_with("cniVersion", json!("9.9.9"));
            let answer = stage.call_for("ADD", &pod, "eth0").conf(&conf).run()?;
            answer.error_code(INCOMPATIBLE_VERSION)?;
            let left: Vec<_> = pod.kernel()?.links()?.into_iter().map(|link| link.name).filter(|name| name == "eth0").collect();
            ensure(left.is_empty(), || format!("expected no interface after the failed ADD, got {left:?}"))
        },
    },
    Case {
        name: "1.configuration.name-missing",
        requirement: "A configuration without a network name fails with code 7.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let mut conf = stage.conf();
            conf.as_object_mut().and_then(|conf| conf.remove("name"));
            invalid(stage, &conf)
        },
    },
    Case {
        name: "1.configuration.name-empty",
        requirement: "An empty network name fails with code 7.",
        since: SpecVersion::V0_3_1,
        run: |stage| invalid(stage, &stage.conf_with("name", json!(""))),
    },
    Case {
        name: "1.configuration.name-illegal",
        requirement: "A network name with other characters than letters, digits, underscore, dot and hyphen fails with code 7.",
        since: SpecVersion::V0_4_0,
        run: |stage| invalid(stage, &stage.conf_with("name", json!("conform/../net"))),
    },
    Case {
        name: "1.configuration.name-first-character",
        requirement: "A network name that does not start with a letter or digit fails with code 7.",
        since: SpecVersion::V0_4_0,
        run: |stage| invalid(stage, &stage.conf_with("name", json!("-conform"))),
    },
    Case {
        name: "1.configuration.unknown-key",
        requirement: "A key that the plugin does not know is ignored, or refused with code 2 and the key in the message.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let key = "conformUnknownKey";
            let pod = stage.pod()?;
            let answer = stage.call_for("ADD", &pod, "eth0").conf(&stage.conf_with(key, json!({ "a": [1] }))).run()?;
            if answer.succeeded() {
                return answer.result().map(|_| ());
            }
            let error = answer.error_code(UNSUPPORTED_FIELD)?;
            ensure(error.to_string().contains(key), || format!("expected {key:?} in the message, got {error}"))
        },
    },
    Case {
        name: "1.configuration.args-ignored",
        requirement: "Data of others under the key args is ignored.",
        since: SpecVersion::V0_3_1,
        run: |stage| accepted(stage, &stage.conf_with("args", json!({ "labels": { "conform": "1" } }))),
    },
    Case {
        name: "3.configuration.unknown-capability",
        requirement: "A capability argument in runtimeConfig that the plugin does not know is ignored.",
        since: SpecVersion::V0_3_1,
        run: |stage| accepted(stage, &stage.conf_with("runtimeConfig", json!({ "conformCapability": { "a": 1 } }))),
    },
];

fn undecodable(stage: &Stage<'_>, stdin: &str) -> Verdict {
    let pod = stage.pod()?;
    stage.call_for("ADD", &pod, "eth0").stdin(stdin).run()?.error_code(UNDECODABLE).map(|_| ())
}

fn invalid(stage: &Stage<'_>, conf: &Value) -> Verdict {
    let pod = stage.pod()?;
    stage.call_for("ADD", &pod, "eth0").conf(conf).run()?.error_code(INVALID_CONFIGURATION).map(|_| ())
}

fn accepted(stage: &Stage<'_>, conf: &Value) -> Verdict {
    let pod = stage.pod()?;
    stage.call_for("ADD", &pod, "eth0").conf(conf).run()?.result().map(|_| ())
}
