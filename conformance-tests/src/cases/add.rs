//! ADD: section 2, "ADD". What the kernel shows afterwards.

use serde_json::Value;

use crate::{
    case::{Case, Stop, ensure, fail, listed, skip},
    kernel::{MAIN_TABLE, Route},
    stage::{Attachment, Pod, Stage, prefix},
    version::SpecVersion,
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "2.add.creates-interface",
        requirement: "ADD creates the interface CNI_IFNAME in the namespace CNI_NETNS, and it is up.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            ensure(attachment.link()?.up, || format!("expected {:?} to be up, it is down", attachment.interface))
        },
    },
    Case {
        name: "2.add.configures-addresses",
        requirement: "The interface has exactly the addresses that the result says were assigned to it.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            let mut expected = attachment.addresses()?;
            let mut got = attachment.pod.kernel()?.addresses(&attachment.link()?)?;
            expected.sort();
            got.sort();
            ensure(expected == got, || format!("expected the result's addresses {}, the interface has {}", listed(&expected), listed(&got)))
        },
    },
    Case {
        name: "2.add.configures-mac",
        requirement: "The interface has the hardware address of the result, and its mtu where the result has one.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            let (_, entry) = attachment.entry()?;
            let link = attachment.link()?;
            let mac = entry["mac"].as_str().unwrap_or_default();
            if let Some(mtu) = entry["mtu"].as_u64().filter(|_| stage.version() >= SpecVersion::V1_1_0) {
                ensure(mtu == u64::from(link.mtu), || format!("expected the result's mtu {mtu}, the interface has {}", link.mtu))?;
            }
            if mac.is_empty() && !link.mac.is_empty() {
                return fail(format!("expected the interface's mac {:?} in the result, it has none", link.mac));
            }
            ensure(mac.eq_ignore_ascii_case(&link.mac), || format!("expected the result's mac {mac:?}, the interface has {:?}", link.mac))
        },
    },
    Case {
        name: "2.add.configures-routes",
        requirement: "The routes of the result exist in the pod and leave by the interface.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            if attachment.routes().is_empty() {
                return skip("the result has no routes");
            }
            for route in attachment.routes() {
                if kernel_route(&attachment, route)?.is_none() {
                    let routes = attachment.pod.kernel()?.routes()?;
                    return fail(format!("expected the result's route {route} in the pod, its routes are {}", listed(&routes)));
                }
            }
            Ok(())
        },
    },
    Case {
        name: "2.add.second-interface",
        requirement: "A container may be added to a network again under another CNI_IFNAME; it gets other addresses there.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let pod = stage.pod()?;
            let first = stage.add(&pod, "eth0")?;
            let second = stage.add(&pod, "net1")?;
            first.link()?;
            second.link()?;
            let taken: Vec<_> = first.addresses()?.iter().map(|address| address.ip()).collect();
            let shared: Vec<_> = second.addresses()?.into_iter().filter(|address| taken.contains(&address.ip())).collect();
            ensure(shared.is_empty(), || format!("expected other addresses than eth0's on net1, got {} on both", listed(&shared)))
        },
    },
    Case {
        name: "2.add.same-attachment-twice",
        requirement: "A runtime never calls ADD twice for one attachment; what a plugin then does is its own affair.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let first = stage.attached()?;
            let again = stage.call_for("ADD", &first.pod, &first.interface).run()?;
            let outcome = if !again.succeeded() {
                "fails"
            } else if again.result()? == first.result {
                "returns the first result"
            } else {
                "returns another result"
            };
            skip(format!("for information: a second ADD of the same attachment {outcome}"))
        },
    },
    Case {
        name: "2.add.name-taken",
        requirement: "ADD fails if an interface CNI_IFNAME is in the pod already.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let pod = taken(stage)?;
            stage.call_for("ADD", &pod, "eth0").run()?.error().map(|_| ())
        },
    },
    Case {
        name: "2.add.failure-leaves-nothing",
        requirement: "An ADD that failed leaves the pod's interfaces, addresses and routes as they were.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let pod = taken(stage)?;
            let before = contents(&pod)?;
            stage.call_for("ADD", &pod, "eth0").run()?.error()?;
            let after = contents(&pod)?;
            ensure(before == after, || format!("expected the pod as before: {}; got {}", listed(&before), listed(&after)))
        },
    },
    Case {
        name: "2.add.netns-missing",
        requirement: "ADD to a namespace path that does not exist fails.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let pod = stage.pod()?;
            stage.call_for("ADD", &pod, "eth0").with("CNI_NETNS", stage.no_such_path()).run()?.error().map(|_| ())
        },
    },
    Case {
        name: "2.add.netns-not-a-namespace",
        requirement: "ADD to a path that is no network namespace fails.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let pod = stage.pod()?;
            stage.call_for("ADD", &pod, "eth0").with("CNI_NETNS", stage.regular_file()).run()?.error().map(|_| ())
        },
    },
];

/// A pod with an `eth0` that the plugin has not made.
fn taken(stage: &Stage<'_>) -> Result<Pod, Stop> {
    let pod = stage.pod()?;
    pod.kernel()?.add_veth("eth0", "foreign0")?;
    Ok(pod)
}

/// Interfaces with their addresses, and routes, as text that can be compared.
fn contents(pod: &Pod) -> Result<Vec<String>, Stop> {
    let mut kernel = pod.kernel()?;
    let mut contents = Vec::new();
    for link in kernel.links()? {
        contents.push(format!("{} {} up={} addresses: {}", link.name, link.mac, link.up, listed(kernel.addresses(&link)?)));
    }
    contents.extend(kernel.routes()?.iter().map(|route| format!("route {}", route.destination)));
    contents.sort();
    Ok(contents)
}

/// The kernel's route for one of the result. A route without `gw` may use any next hop.
pub(super) fn kernel_route(attachment: &Attachment, route: &Value) -> Result<Option<Route>, Stop> {
    let destination = prefix(&route["dst"])?;
    let gateway = route["gw"].as_str().and_then(|text| text.parse().ok());
    let table = route["table"].as_u64().and_then(|table| u32::try_from(table).ok()).unwrap_or(MAIN_TABLE);
    let interface = attachment.link()?.index;
    Ok(attachment.pod.kernel()?.routes()?.into_iter().find(|kernel| {
        kernel.destination.network() == destination.network()
            && kernel.destination.prefix() == destination.prefix()
            && kernel.interface == Some(interface)
            && kernel.table == table
            && (gateway.is_none() || kernel.gateway == gateway)
    }))
}

/// The default route that the result lists, in the kernel. Cases that need one are skipped without.
pub(super) fn default_route(attachment: &Attachment) -> Result<Route, Stop> {
    for route in attachment.routes() {
        if prefix(&route["dst"])?.prefix() == 0 {
            return match kernel_route(attachment, route)? {
                Some(route) => Ok(route),
                None => fail(format!("expected the result's route {route} in the pod, it is not there")),
            };
        }
    }
    skip("the result has no default route")
}
