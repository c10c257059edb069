//! CHECK: section 2, "CHECK".

use super::add::default_route;
use crate::{
    case::{Case, Verdict, ensure, skip},
    stage::{Attachment, Stage},
    version::SpecVersion,
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "2.check.succeeds-after-add",
        requirement: "CHECK succeeds, without output, from immediately after ADD on.",
        since: SpecVersion::V0_4_0,
        run: |stage| {
            let attachment = stage.attached()?;
            stage.call_again("CHECK", &attachment).run()?.silence()
        },
    },
    Case {
        name: "2.check.interface-gone",
        requirement: "CHECK fails if an interface of prevResult is missing.",
        since: SpecVersion::V0_4_0,
        run: |stage| {
            let attachment = stage.attached()?;
            attachment.pod.kernel()?.delete_link(&attachment.link()?)?;
            objects(stage, &attachment)
        },
    },
    Case {
        name: "2.check.address-gone",
        requirement: "CHECK fails if an address of prevResult is missing.",
        since: SpecVersion::V0_4_0,
        run: |stage| {
            let attachment = stage.attached()?;
            let Some(address) = attachment.addresses()?.first().copied() else {
                return skip("the result has no addresses");
            };
            let deleted = attachment.pod.kernel()?.delete_address(&attachment.link()?, address)?;
            ensure(deleted, || format!("expected the result's address {address} on the interface, it is not there"))?;
            objects(stage, &attachment)
        },
    },
    Case {
        name: "2.check.default-route-gone",
        requirement: "CHECK fails if the default route of prevResult is missing.",
        since: SpecVersion::V0_4_0,
        run: |stage| {
            let attachment = stage.attached()?;
            let route = default_route(&attachment)?;
            attachment.pod.kernel()?.delete_route(route)?;
            objects(stage, &attachment)
        },
    },
    Case {
        name: "2.check.needs-prev-result",
        requirement: "CHECK consults prevResult for what it expects, and so fails without one.",
        since: SpecVersion::V0_4_0,
        run: |stage| {
            let attachment = stage.attached()?;
            stage.call_for("CHECK", &attachment.pod, &attachment.interface).run()?.error().map(|_| ())
        },
    },
];

fn objects(stage: &Stage<'_>, attachment: &Attachment) -> Verdict {
    stage.call_again("CHECK", attachment).run()?.error().map(|_| ())
}
