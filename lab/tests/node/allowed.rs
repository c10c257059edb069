//! Addresses that a pod uses beside its own, with the real plugin and daemon: asked for by its annotation within what the operator lets its
//! namespace have, its own alone, answered for on the uplink's link, kept through restarts, taken back, and gone with the pod.

use anyhow::{Context, Result, ensure};
use lab::command::wait_until;
use lab::host::{Answer, Daemon, Host, Pod, Settings, Start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::{on_host, ping};

const TRY_AGAIN_LATER: u64 = 11;
const INVALID_CONFIG: u64 = 7;
/// Of the native networks, and in no range of pods. The last two are of the subnets that the uplink itself is in.
const GRANTED: &str =
    "[network.namespaces.edge]\nallowed_addresses = [\"10.0.50.0/29\", \"fd00:10:50::/64\", \"10.0.0.64/28\", \"fd00:10::70/124\"]\n";
const BESIDE: [&str; 2] = ["10.0.50.7", "fd00:10:50::7"];

fn started<'a>(host: &'a Host, keys: &str) -> Result<Daemon<'a>> {
    let daemon = host.spawn_with(Start { keys, ..Start::default() })?;
    daemon.wait_until_ready()?;
    Ok(daemon)
}

/// On a node that grants addresses, with the kernel programs and without.
fn both_ways(test: impl Fn(&Host, Daemon<'_>) -> Result<()>) -> Result<()> {
    for fast_path in [false, true] {
        let outcome = on_host(Settings::default().with_fast_path(fast_path), |host| {
            let daemon = started(host, GRANTED)?;
            let page = daemon.get("/debug/fast_path")?.replace(' ', "");
            ensure!(page.contains("\"attached\":true") == fast_path, "{page}; {}", daemon.end_of_log());
            test(host, daemon)
        });
        outcome.with_context(|| format!("with the fast path {}", if fast_path { "on" } else { "off" }))?;
    }
    Ok(())
}

fn add(host: &Host, pod: &Pod, namespace: &str, name: &str, asked: &str) -> Result<Answer> {
    let annotations = json!({ "io.kubernetes.cri.pod-annotations": { "barewire.io/allowed-addresses": asked } });
    let identity = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
    host.call_for("ADD", pod).with("CNI_ARGS", identity).conf("runtimeConfig", annotations).run()
}

/// A pod that has these addresses on its interface.
fn with_addresses(host: &Host, name: &str, allowed: &[&str]) -> Result<Pod> {
    let pod = host.pod()?;
    add(host, &pod, "edge", name, &allowed.join(", "))?.result()?;
    use_addresses(&pod, allowed)?;
    Ok(pod)
}

fn use_addresses(pod: &Pod, addresses: &[&str]) -> Result<()> {
    for address in addresses {
        let how = if address.contains(':') { "/128 dev eth0 nodad" } else { "/32 dev eth0" };
        pod.run(&format!("ip address add {address}{how}"))?;
    }
    Ok(())
}

/// An address of a pod is reached by the node and by another pod, and speaks to both.
fn is_reached(host: &Host, pod: &Pod, address: &str, other: &Pod) -> Result<()> {
    ping(|line| other.run(line), address, "").context("from another pod")?;
    ping(|line| host.run(&line.split_whitespace().collect::<Vec<_>>()), address, "").context("from the node")?;
    let node = if address.contains(':') { "fd00:10::10" } else { "10.0.0.10" };
    ping(|line| pod.run(line), node, &format!("-I {address}")).context("to the node")
}

/// No packet of the pod with this source gets anywhere.
fn is_refused(daemon: &Daemon<'_>, pod: &Pod, source: &str) -> Result<()> {
    let dropped = || daemon.metric("barewire_fast_path_dropped_total{reason=\"spoofed_address\"}");
    let (before, node) = (dropped()?, if source.contains(':') { "fd00:10::10" } else { "10.0.0.10" });
    ensure!(pod.run(&format!("ping -n -c 2 -i 0.2 -W 1 -I {source} {node}")).is_err(), "{source} is answered");
    ensure!(dropped()? >= before + 2.0, "packets from {source} were not dropped as spoofed");
    Ok(())
}

fn told(daemon: &Daemon<'_>, pod: &Pod) -> Result<Value> {
    let page: Value = serde_json::from_str(&daemon.get("/pods")?)?;
    let found = page.as_array().into_iter().flatten().find(|entry| entry["container_id"] == pod.id.as_str());
    Ok(found.context("the pod is not told")?["allowed_addresses"].clone())
}

fn routes(host: &Host) -> Result<String> {
    Ok([host.run(&["ip", "route"])?, host.run(&["ip", "-6", "route"])?].concat())
}

#[test]
fn a_pod_uses_what_it_asked_for_and_nobody_else_does() -> Result<()> {
    both_ways(|host, daemon| {
        let (other, _) = host.attached()?;
        let pod = with_addresses(host, "vip-0", &BESIDE)?;
        ensure!(told(&daemon, &pod)? == json!(BESIDE), "told as {}", told(&daemon, &pod)?);
        let states: Value = serde_json::from_str(&daemon.get("/addresses")?)?;
        for address in BESIDE {
            let all = states["addresses"].as_array().context("no addresses")?;
            let entry = all.iter().find(|entry| entry["address"] == address).context(address)?;
            ensure!(entry["state"] == "allowed" && entry["owner"]["name"] == "vip-0", "{entry}");
            is_reached(host, &pod, address, &other)?;
        }
        let sent = "barewire_namespace_packets_total{namespace=\"edge\",direction=\"sent\",scope=\"same-node\"}";
        ensure!(daemon.metric(sent)? >= 2.0, "answers from these addresses are not counted");
        use_addresses(&other, &BESIDE)?;
        use_addresses(&pod, &["10.0.50.6"])?;
        for address in BESIDE {
            is_refused(&daemon, &other, address)?;
        }
        is_refused(&daemon, &pod, "10.0.50.6")?;
        other.run(&format!("ip address del {}/32 dev eth0", BESIDE[0]))?;
        other.run(&format!("ip address del {}/128 dev eth0", BESIDE[1]))?;

        daemon.kill()?;
        let daemon = started(host, GRANTED)?;
        ensure!(told(&daemon, &pod)? == json!(BESIDE), "not told after a restart");
        for address in BESIDE {
            is_reached(host, &pod, address, &other).with_context(|| format!("{address} after a restart"))?;
        }
        // Somebody takes a route away: it is back.
        host.run(&["ip", "route", "del", BESIDE[0]])?;
        daemon.wait_until("the route to be back", || {
            ensure!(routes(host)?.contains(BESIDE[0]), "it is not");
            Ok(())
        })?;

        host.call_for("DEL", &pod).run()?.silence()?;
        host.wait_for_host_ends(1)?;
        ensure!(!BESIDE.iter().any(|address| routes(host).is_ok_and(|routes| routes.contains(address))), "{}", routes(host)?);
        // Whoever comes in its place asks for the same, at once; and who asks for nothing has nothing.
        let next = with_addresses(host, "vip-0", &BESIDE)?;
        is_reached(host, &next, BESIDE[0], &other)?;
        ensure!(told(&daemon, &other)?.is_null());
        daemon.stop()
    })
}

#[test]
fn one_pod_of_a_node_has_an_address_at_a_time() -> Result<()> {
    both_ways(|host, daemon| {
        let (other, _) = host.attached()?;
        let first = with_addresses(host, "vip-0", &BESIDE)?;
        let second = host.pod()?;
        let ends = host.host_ends()?.len();
        add(host, &second, "edge", "vip-1", BESIDE[1])?.refused(TRY_AGAIN_LATER, &[BESIDE[1], "edge/vip-0", "podAntiAffinity"])?;
        host.wait_for_host_ends(ends)?;
        is_reached(host, &first, BESIDE[1], &other).context("after another asked for it")?;
        // A further interface of the same pod asks with the same annotation.
        let annotations = json!({ "io.kubernetes.cri.pod-annotations": { "barewire.io/allowed-addresses": BESIDE[1] } });
        let further = host.call_for_interface("ADD", &first, "net1").with("CNI_ARGS", "K8S_POD_NAMESPACE=edge;K8S_POD_NAME=vip-0");
        further.conf("runtimeConfig", annotations).run()?.result()?;
        // As a runtime tries again when the first is gone.
        host.call_for_interface("DEL", &first, "net1").run()?.silence()?;
        host.call_for("DEL", &first).run()?.silence()?;
        add(host, &second, "edge", "vip-1", BESIDE[1])?.result()?;
        use_addresses(&second, &BESIDE[1..])?;
        is_reached(host, &second, BESIDE[1], &other)?;
        daemon.stop()
    })
}

#[test]
fn what_a_pod_may_not_use_is_refused_in_words() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = started(host, GRANTED)?;
        host.ip("address add 10.0.50.3/32 dev eth1\n")?;
        for (namespace, asked, parts) in [
            ("edge", "10.0.50.7,", &["barewire.io/allowed-addresses", "\"\" is neither"][..]),
            ("edge", "vip", &["\"vip\" is neither an address nor a CIDR"]),
            ("edge", "0.0.0.0/0", &["\"0.0.0.0/0\" is more than the 16"]),
            ("edge", "10.0.51.7", &["10.0.51.7", "network.namespaces.edge.allowed_addresses", "10.0.50.0/29"]),
            ("web", "10.0.50.7", &["\"web\"", "network.namespaces.web.allowed_addresses"]),
            ("edge", "10.0.1.7", &["10.0.1.7 is not in"]),
        ] {
            let pod = host.pod()?;
            add(host, &pod, namespace, "vip-0", asked)?.refused(INVALID_CONFIG, parts)?;
        }
        // What the node itself has, from the next look on.
        daemon.wait_until("the node's own address to be seen", || {
            let pod = host.pod()?;
            let answer = add(host, &pod, "edge", "vip-0", "10.0.50.3")?;
            host.call_for("DEL", &pod).run()?.silence()?;
            answer.refused(INVALID_CONFIG, &["10.0.50.3", "on an interface of the node itself"])
        })?;
        host.wait_for_host_ends(0)?;
        ensure!(daemon.pool()?["ipv4 held"] == 0, "{:?}", daemon.pool()?);
        daemon.stop()
    })
}

#[test]
fn a_reload_takes_back_and_gives_again() -> Result<()> {
    both_ways(|host, daemon| {
        let (other, _) = host.attached()?;
        let pod = with_addresses(host, "vip-0", &BESIDE)?;
        for (keys, granted) in [("", false), (GRANTED, true)] {
            host.write_configuration(keys)?;
            kill(Pid::from_raw(i32::try_from(daemon.process())?), Signal::SIGHUP)?;
            daemon.wait_until("the reload", || {
                ensure!(told(&daemon, &pod)?.is_null() != granted, "it has not come");
                for address in BESIDE {
                    ensure!(routes(host)?.contains(address) == granted, "{}", routes(host)?);
                }
                Ok(())
            })?;
            for address in BESIDE {
                if granted { is_reached(host, &pod, address, &other)? } else { is_refused(&daemon, &pod, address)? }
            }
        }
        daemon.stop()
    })
}

/// The uplink's other end is a neighbour's, which knows the address from a node that has failed.
#[test]
fn neighbours_on_the_uplinks_link_are_told_and_answered() -> Result<()> {
    const ON_LINK: [&str; 2] = ["10.0.0.77", "fd00:10::77"];
    both_ways(|host, daemon| {
        let neighbour = host.pod()?;
        host.ip(&format!("link set fabric0 netns {}\n", neighbour.netns.path().display()))?;
        neighbour.run("ip link set fabric0 up")?;
        neighbour.run("ip address add 10.0.0.1/24 dev fabric0")?;
        neighbour.run("ip address add fd00:10::1/64 dev fabric0 nodad")?;
        for address in ON_LINK {
            neighbour.run(&format!("ip neigh replace {address} lladdr 02:00:00:00:00:99 dev fabric0 nud reachable"))?;
        }
        let link = host.run(&["ip", "-o", "link", "show", "eth1"])?;
        let uplink = link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).context("no uplink")?.to_owned();
        let known = || {
            Ok::<_, anyhow::Error>(
                [neighbour.run("ip -4 neigh show dev fabric0")?, neighbour.run("ip -6 neigh show dev fabric0")?].concat(),
            )
        };

        let pod = with_addresses(host, "vip-0", &ON_LINK)?;
        for address in ON_LINK {
            wait_until("the announcement", std::time::Duration::from_secs(5), || {
                let known = known().map_err(|error| error.to_string())?;
                let line = known.lines().find(|line| line.starts_with(address)).unwrap_or_default();
                if line.contains(&uplink) { Ok(()) } else { Err(format!("{address} is at {line:?} and not at {uplink}")) }
            })?;
            // One that knows nothing asks.
            neighbour.run(&format!("ip neigh del {address} dev fabric0"))?;
            ping(|line| neighbour.run(line), address, "").context("from a neighbour")?;
        }
        // Somebody takes the entries away: they are back.
        let answered = || host.run(&["ip", "neigh", "show", "proxy", "dev", "eth1"]);
        let entries = answered()?;
        host.run(&["ip", "neigh", "del", "proxy", ON_LINK[0], "dev", "eth1"])?;
        host.run(&["ip", "neigh", "add", "proxy", "10.0.0.200", "dev", "eth1"])?;
        daemon.wait_until("the entry to be back", || {
            ensure!(ON_LINK.iter().all(|address| answered().is_ok_and(|now| now.contains(address))), "{entries} and then {}", answered()?);
            Ok(())
        })?;
        host.call_for("DEL", &pod).run()?.silence()?;
        let left = answered()?;
        ensure!(!ON_LINK.iter().any(|address| left.contains(address)), "answered for still: {left}");
        ensure!(left.contains("10.0.0.200"), "an entry of somebody else is gone: {left}");
        daemon.stop()
    })
}
