//! VERSION: sections 2, "VERSION", and 5, "Version".

use serde_json::{Value, json};

use crate::{
    case::{Case, Stop, Verdict, ensure},
    shape,
    stage::Stage,
    version::SpecVersion,
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "2.version.needs-only-the-command",
        requirement: "VERSION succeeds with no parameter but CNI_COMMAND and prints a version result.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let violations = shape::version_result(&version(stage)?);
            ensure(violations.is_empty(), || violations.join("; "))
        },
    },
    Case {
        name: "5.version.lists-the-version",
        requirement: "supportedVersions lists the versions that the plugin speaks.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let result = version(stage)?;
            let listed = result["supportedVersions"].as_array().is_some_and(|list| list.contains(&json!(stage.version().as_str())));
            ensure(listed, || format!("expected {:?} in supportedVersions, got {result}", stage.version().as_str()))
        },
    },
    Case {
        name: "5.version.echoes-cniversion",
        requirement: "cniVersion of a version result is the cniVersion on stdin.",
        since: SpecVersion::V1_0_0,
        run: |stage| -> Verdict {
            let result = version(stage)?;
            ensure(result["cniVersion"] == stage.version().as_str(), || {
                format!("expected cniVersion {:?}, got {}", stage.version().as_str(), result["cniVersion"])
            })
        },
    },
];

fn version(stage: &Stage<'_>) -> Result<Value, Stop> {
    stage.call("VERSION").without("CNI_PATH").conf(&json!({ "cniVersion": stage.version().as_str() })).run()?.result()
}
