//! The error result: sections 2, "Errors", and 5, "Error".

use serde_json::Value;

use crate::{
    case::{Case, Stop, ensure},
    stage::Stage,
    version::SpecVersion,
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "5.error.structure",
        requirement: "A failing plugin exits non-zero and prints an object with code and msg, and details as a string if at all.",
        since: SpecVersion::V0_3_1,
        run: |stage| provoked(stage).map(|_| ()),
    },
    Case {
        name: "5.error.echoes-cniversion",
        requirement: "cniVersion of an error result is that of the configuration.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let error = provoked(stage)?;
            ensure(error["cniVersion"] == stage.version().as_str(), || {
                format!("expected cniVersion {:?}, got {error}", stage.version().as_str())
            })
        },
    },
];

/// An error that every plugin meets after it has read its configuration: the namespace is not there.
fn provoked(stage: &Stage<'_>) -> Result<Value, Stop> {
    let pod = stage.pod()?;
    stage.call_for("ADD", &pod, "eth0").with("CNI_NETNS", stage.no_such_path()).run()?.error()
}
