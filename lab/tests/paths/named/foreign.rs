//! Room for others: what is inside pods, and what other tools put on their links.

use anyhow::{Context, Result, ensure};
use lab::bare::BarePod;
use lab::capture::{Capture, mac};
use lab::echo::Server;
use lab::kube_proxy::Family;
use lab::network::Network;
use lab::services::To;
use lab::telemetry;

use super::{follows, in_families, is_answered, is_silent, meanwhile};
use crate::probe::Probe;
use crate::site::{End, SERVED, Site};
use crate::ways::Asked::{Direct, Place, Service};

/// What a pod bridges, captures or hands to a virtual machine, it knows by the address of the frame.
pub(super) fn addressed(site: &mut Site) -> Result<()> {
    let own = mac(site.network(End::A2), "eth0")?.map(|octet| format!("{octet:02x}")).join(":");
    let filter = format!("not ether src {own} and not ether dst {own} and not ether multicast");
    let inside = Capture::start(site.network(End::A2), "eth0", &filter)?;
    in_families(|family| {
        for from in [End::A1, End::B2, End::U1, End::Far, End::Node1] {
            for probe in Probe::FRESH {
                is_answered(site, (from, Direct(End::A2)), family, probe, "a2", Some(from))?;
            }
        }
        Ok(())
    })?;
    let frames = inside.frames()?;
    ensure!(frames.is_empty(), "{} frames entered that were addressed to somebody else, the first {:?}", frames.len(), frames.first());
    Ok(())
}

/// KubeVirt's bridge binding: the pod's interface becomes a port of a bridge, and a guest behind it has its MAC and IP addresses.
pub(super) fn bridge(site: &mut Site) -> Result<()> {
    let node = site.sides[0].node.clone();
    let pod = BarePod::start_with(&node, "vm", &["10.0.1.21", "fd00:10:0:1::21"])?;
    let outcome = bridged(site, &node, &pod);
    // The guest's namespace goes first; the pod's takes the rest with it.
    node.run(&["sh", "-c", "ip netns delete guest 2>/dev/null; true"])?;
    pod.remove(&node)?;
    outcome
}

fn bridged(site: &Site, node: &lab::node::Node, pod: &BarePod) -> Result<()> {
    let own = mac(&pod.network, "eth0")?.map(|octet| format!("{octet:02x}")).join(":");
    let mut other = mac(&pod.network, "eth0")?;
    other[5] ^= 0x80;
    let other = other.map(|octet| format!("{octet:02x}")).join(":");
    let gateway = node.run(&["sh", "-c", "ip -n vm neigh show dev eth0 nud permanent | awk '{print $1, $3}'"])?;
    let routes = node.run(&["sh", "-c", "ip -n vm route show default; ip -n vm -6 route show default"])?;
    let mut lines = vec![
        "ip netns add guest".to_owned(),
        "ip -n guest link set lo up".to_owned(),
        "ip -n vm address flush dev eth0 scope global".to_owned(),
        format!("ip -n vm link set eth0 down && ip -n vm link set eth0 address {other} && ip -n vm link set eth0 up"),
        "ip -n vm link add br0 type bridge && ip -n vm link set br0 type bridge forward_delay 0 && ip -n vm link set br0 up".to_owned(),
        "ip -n vm link set eth0 master br0".to_owned(),
        format!("ip -n vm link add tap0 type veth peer name eth0 netns guest address {own}"),
        "ip -n vm link set tap0 master br0 up".to_owned(),
        "ip -n guest link set eth0 up".to_owned(),
        "ip -n guest address add 10.0.1.21/32 dev eth0 && ip -n guest -6 address add fd00:10:0:1::21/128 dev eth0 nodad".to_owned(),
    ];
    for neighbour in gateway.lines() {
        let (address, lladdr) = neighbour.split_once(' ').with_context(|| format!("a neighbour: {neighbour}"))?;
        lines.push(format!("ip -n guest neigh replace {address} lladdr {lladdr} dev eth0 nud permanent"));
    }
    for via in routes.lines().filter_map(|route| route.split_ascii_whitespace().skip_while(|word| *word != "via").nth(1)) {
        lines.push(format!("ip -n guest route add default via {via} dev eth0 onlink"));
    }
    for line in &lines {
        node.run(&["sh", "-c", line])?;
    }
    let guest = Network::at("guest", &node.host_path("/run/netns/guest"))?;
    guest.run(crate::site::speak_freely)?;
    let _server = Server::start(&guest, SERVED)?;
    in_families(|family| {
        for from in [End::Node1, End::A1, End::B2, End::Peer] {
            for probe in Probe::FRESH {
                let guest = Place("10.0.1.21", "fd00:10:0:1::21");
                is_answered(site, (from, guest), family, probe, "guest", Some(from))?;
            }
        }
        Ok(())
    })
}

/// A filter that drops has seen what it drops.
pub(super) fn filter(site: &mut Site) -> Result<()> {
    let node = &site.sides[0].node;
    let route = node.run(&["ip", "route", "get", "10.0.1.18"])?;
    let link = route.split_ascii_whitespace().skip_while(|word| *word != "dev").nth(1).context("no link")?.to_owned();
    for hook in ["ingress", "egress"] {
        // `TC_ACT_SHOT` for every packet.
        let add = format!(
            "tc qdisc add dev {link} clsact 2>/dev/null; tc filter add dev {link} {hook} prio 60 protocol all bpf direct-action bytecode '1,6 0 0 2'"
        );
        let del = format!("tc filter del dev {link} {hook} prio 60 2>/dev/null; true");
        meanwhile(node, &[&add], &[&del], || {
            follows(&format!("packets to meet the filter at {hook}"), || {
                in_families(|family| {
                    for (from, to) in [(End::A1, End::A2), (End::A1, End::B1), (End::B2, End::A1)] {
                        is_silent(site, (from, Direct(to)), family, Probe::UdpSmall).with_context(|| hook.to_owned())?;
                    }
                    Ok(())
                })
            })
        })?;
    }
    follows("the pod without the filters", || {
        in_families(|family| is_answered(site, (End::A1, Direct(End::B1)), family, Probe::UdpSmall, "b1", Some(End::A1)))
    })
}

/// A pod can write `skb->tc_index`, which stays with a packet on its way through the host: it may not pass for a mark of ours.
pub(super) fn index(site: &mut Site) -> Result<()> {
    const SENT: u64 = 10;
    let node = site.sides[0].node.clone();
    let add = "ip netns exec a1 sh -c \"tc qdisc add dev eth0 clsact; \
               tc filter add dev eth0 egress prio 1 protocol all bpf bytecode '1,6 0 0 4294967295' classid 1:b3\"";
    let sent = |site: &Site| -> Result<u64> {
        let counted = telemetry::traffic(site.network(End::Node1))?;
        let of_node =
            counted.iter().filter(|(traffic, _)| traffic.pod.is_empty() && traffic.direction == "sent" && traffic.scope == "internet");
        Ok(of_node.map(|(_, count)| count.packets).sum())
    };
    meanwhile(&node, &[add], &["ip netns exec a1 tc qdisc del dev eth0 clsact"], || {
        in_families(|family| {
            for probe in [Probe::TcpSmall, Probe::UdpSmall] {
                is_answered(site, (End::A1, Service(To::Second)), family, probe, "b1", Some(End::A1))?;
            }
            Ok(())
        })?;
        let before = sent(site)?;
        (0..SENT).try_for_each(|_| is_answered(site, (End::A1, Direct(End::Internet)), Family::V4, Probe::UdpSmall, "internet", None))?;
        let after = sent(site)?;
        ensure!(after >= before + SENT, "{SENT} packets left, {} were counted", after - before);
        Ok(())
    })
}
