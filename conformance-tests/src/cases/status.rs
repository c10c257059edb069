//! STATUS: section 2, "STATUS".

use crate::{case::Case, version::SpecVersion};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "2.status.ready",
        requirement: "STATUS of a plugin that can serve an ADD succeeds, without output.",
        since: SpecVersion::V1_1_0,
        run: |stage| {
            stage.attached()?;
            stage.call("STATUS").run()?.silence()
        },
    },
    Case {
        name: "2.status.needs-only-the-command",
        requirement: "STATUS needs no parameter but CNI_COMMAND; CNI_PATH is optional.",
        since: SpecVersion::V1_1_0,
        run: |stage| stage.call("STATUS").without("CNI_PATH").run()?.silence(),
    },
];
