//! DEL: section 2, "DEL".

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::{
    case::{Case, Stop, Verdict, ensure, listed, skip},
    stage::{Attachment, Stage},
    version::SpecVersion,
};

/// A bigger pool takes too long to go through.
const LARGEST_POOL: u32 = 256;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "2.del.removes-interface",
        requirement: "DEL deletes the interface that ADD created in the pod.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            stage.del(&attachment)?;
            interface_goes(stage, &attachment)
        },
    },
    Case {
        name: "2.del.idempotent",
        requirement: "DEL of an attachment that is deleted already succeeds.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            stage.del(&attachment)?;
            stage.del(&attachment)
        },
    },
    Case {
        name: "2.del.without-add",
        requirement: "DEL of an attachment that was never added succeeds.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let pod = stage.pod()?;
            stage.call_for("DEL", &pod, "eth0").run()?.success().map(|_| ())
        },
    },
    Case {
        name: "2.del.netns-unset",
        requirement: "DEL without CNI_NETNS releases what it can and succeeds.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            stage.call_again("DEL", &attachment).without("CNI_NETNS").run()?.success().map(|_| ())
        },
    },
    Case {
        name: "2.del.netns-empty",
        requirement: "DEL with an empty CNI_NETNS releases what it can and succeeds.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            stage.call_again("DEL", &attachment).with("CNI_NETNS", "").run()?.success().map(|_| ())
        },
    },
    Case {
        name: "2.del.netns-vanished",
        requirement: "DEL succeeds if the pod's namespace does not exist any more.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            attachment.pod.netns.vanish();
            stage.del(&attachment)
        },
    },
    Case {
        name: "2.del.interface-gone",
        requirement: "DEL succeeds if the interface in the pod does not exist any more.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            attachment.pod.kernel()?.delete_link(&attachment.link()?)?;
            stage.del(&attachment)
        },
    },
    Case {
        name: "2.del.without-prev-result",
        requirement: "DEL without a prevResult deletes the attachment all the same.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            stage.call_for("DEL", &attachment.pod, &attachment.interface).run()?.success()?;
            interface_goes(stage, &attachment)
        },
    },
    Case {
        name: "2.del.prev-result-null",
        requirement: "DEL reads null as absent: a prevResult that is null, or has null for its lists, keeps nothing attached.",
        since: SpecVersion::V0_4_0,
        run: |stage| {
            let lists = json!({ "cniVersion": stage.version().as_str(), "interfaces": null, "ips": null, "routes": null, "dns": null });
            [json!(null), lists].into_iter().try_for_each(|previous| deleted_with_prev_result(stage, previous))
        },
    },
    Case {
        name: "2.del.prev-result-foreign",
        requirement: "DEL is not kept from its work by what other plugins have put into a prevResult.",
        since: SpecVersion::V0_4_0,
        run: |stage| {
            let previous = json!({
                "cniVersion": stage.version().as_str(),
                "interfaces": [{ "name": "conform-other", "conformUnknownKey": [1] }],
                "ips": [{ "address": "192.0.2.77/24", "conformUnknownKey": { "a": null } }],
                "dns": {},
                "conformUnknownKey": true,
            });
            deleted_with_prev_result(stage, previous)
        },
    },
    Case {
        name: "2.del.prev-result-nonsense",
        requirement: "DEL completes without error where it can: what it deletes is named by its parameters, not by a prevResult that is none.",
        since: SpecVersion::V0_4_0,
        run: |stage| [json!(7), json!([])].into_iter().try_for_each(|previous| deleted_with_prev_result(stage, previous)),
    },
    Case {
        name: "2.del.arguments-malformed",
        requirement: "DEL completes without error where it can, with a CNI_ARGS that is no list of pairs too.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            stage.call_again("DEL", &attachment).with("CNI_ARGS", "conform;A=B=C;;").run()?.success()?;
            interface_goes(stage, &attachment)
        },
    },
    Case {
        name: "2.del.keeps-other-attachments",
        requirement: "DEL deletes the attachment of its CNI_CONTAINERID and CNI_IFNAME and no other.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let kept = stage.attached()?;
            let deleted = stage.attached()?;
            stage.del(&deleted)?;
            interface_goes(stage, &deleted)?;
            let expected = kept.addresses()?;
            let got = kept.pod.kernel()?.addresses(&kept.link()?)?;
            ensure(expected.iter().all(|address| got.contains(address)), || {
                format!("expected the other pod to keep {}, it has {}", listed(&expected), listed(&got))
            })
        },
    },
    Case {
        name: "2.del.then-add-again",
        requirement: "After DEL, the same attachment can be added again.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            stage.del(&attachment)?;
            interface_goes(stage, &attachment)?;
            stage.add(&attachment.pod, &attachment.interface)?.link().map(|_| ())
        },
    },
    Case {
        name: "2.del.leaves-nothing-on-host",
        requirement: "DEL also removes what ADD made on the host for this attachment alone.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            // A first round brings what the plugin shares between attachments, as a bridge.
            let first = stage.attached()?;
            stage.del(&first)?;
            let shared = host_interfaces(stage)?;
            let second = stage.attached()?;
            stage.del(&second)?;
            stage.settles("the interfaces that ADD made on the host to be gone", || Ok(host_interfaces(stage)?.is_subset(&shared)))
        },
    },
    Case {
        name: "2.del.releases-addresses",
        requirement: "DEL releases the addresses of the attachment: more attachments than the pool is large, one after another.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let Some(pool) = stage.pool_size() else {
                return skip("the size of the pool is not known: say --pool-size N");
            };
            if pool > LARGEST_POOL {
                return skip(format!("{pool} attachments take too long: use a pool of at most {LARGEST_POOL} addresses"));
            }
            for _ in 0..pool + 2 {
                stage.del(&stage.attached()?)?;
            }
            Ok(())
        },
    },
];

fn deleted_with_prev_result(stage: &Stage<'_>, previous: Value) -> Verdict {
    let attachment = stage.attached()?;
    let conf = stage.conf_with("prevResult", previous);
    stage.call_for("DEL", &attachment.pod, &attachment.interface).conf(&conf).run()?.success()?;
    interface_goes(stage, &attachment)
}

pub(super) fn interface_goes(stage: &Stage<'_>, attachment: &Attachment) -> Verdict {
    let expected = format!("the interface {:?} to be gone from the pod", attachment.interface);
    stage.settles(&expected, || Ok(attachment.pod.kernel()?.link(&attachment.interface)?.is_none()))
}

fn host_interfaces(stage: &Stage<'_>) -> Result<HashSet<String>, Stop> {
    Ok(stage.host()?.links()?.into_iter().map(|link| link.name).collect())
}
