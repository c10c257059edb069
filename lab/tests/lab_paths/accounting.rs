//! Counters of the daemon beside those of the interfaces and what `tcpdump` saw: equal, to the byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::cni::Plan;
use lab::command::wait_until;
use lab::echo::{Conversation, Protocol};
use lab::kube_proxy::Family;
use lab::network::Network;
use lab::telemetry::{self, Count, Traffic};

use crate::Case;
use crate::cluster::{Cluster, End, SERVED};
use lab::capture::{Capture, Frame, mac};
use lab::services::{PORT, To};

/// No connection that is done is silent for so long and then says something more (`TCP_DELACK_MAX` is 200 ms).
const QUIET: Duration = Duration::from_millis(300);
/// Limit of the wait for that.
const SETTLED: Duration = Duration::from_secs(10);

/// Who talks to whom, and what that is to those whose counters are read.
struct Talk {
    from: End,
    to: fn(&Cluster, Family) -> Result<SocketAddr>,
    accounts: &'static [(End, &'static [&'static str])],
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, from, to, accounts| {
        Case::new(format!("accounting/{name}"), move |cluster: &mut Cluster| exact(cluster, &Talk { from, to, accounts }))
    };
    vec![
        case(
            "same_node",
            End::A1,
            |cluster, family| server(cluster, End::A2, family),
            &[(End::A1, &["same-node"]), (End::A2, &["same-node"])],
        ),
        case("vpc", End::A1, |cluster, family| server(cluster, End::B1, family), &[(End::A1, &["vpc"]), (End::B1, &["vpc"])]),
        case(
            "vpc_to_a_node",
            End::A1,
            |cluster, family| server(cluster, End::Node2, family),
            &[(End::A1, &["vpc"]), (End::Node2, &["vpc"])],
        ),
        case(
            "service_on_this_node",
            End::A1,
            |_, family| service(To::First, family),
            &[(End::A1, &["service"]), (End::A2, &["same-node"])],
        ),
        case("service_on_another_node", End::A1, |_, family| service(To::Second, family), &[(End::A1, &["service"]), (End::B1, &["vpc"])]),
        case("node", End::A1, |cluster, family| server(cluster, End::Node1, family), &[(End::A1, &["node"])]),
        case("node_to_its_pod", End::Node1, |cluster, family| server(cluster, End::A2, family), &[(End::A2, &["node"])]),
        // Translated, it is the node's own on the wire.
        case(
            "internet",
            End::A1,
            |cluster, family| server(cluster, End::Internet, family),
            &[(End::A1, &["internet"]), (End::Node1, &["internet"])],
        ),
        case("host_to_internet", End::Node1, |cluster, family| server(cluster, End::Internet, family), &[(End::Node1, &["internet"])]),
        case(
            "host_to_a_remote_pod",
            End::Node1,
            |cluster, family| server(cluster, End::B1, family),
            &[(End::Node1, &["vpc"]), (End::B1, &["vpc"])],
        ),
    ]
}

fn server(cluster: &Cluster, end: End, family: Family) -> Result<SocketAddr> {
    Ok(SocketAddr::new(cluster.address(end, family)?, SERVED))
}

fn service(to: To, family: Family) -> Result<SocketAddr> {
    Ok(SocketAddr::new(to.address(family), PORT))
}

/// One account while it is watched.
struct Watched {
    end: End,
    node: End,
    interface: &'static str,
    capture: Capture,
    interface_before: [Count; 2],
    before: BTreeMap<Traffic, Count>,
}

fn exact(cluster: &mut Cluster, talk: &Talk) -> Result<()> {
    // Whoever spoke before may still have to acknowledge.
    silence(cluster, talk)?;
    let mut watched = Vec::new();
    for (end, _) in talk.accounts {
        let (node, interface) = place_of(*end);
        let network = cluster.network(*end);
        let capture = Capture::start(network, interface, "")?;
        let before = telemetry::traffic(cluster.network(node))?;
        watched.push(Watched { end: *end, node, interface, capture, interface_before: of_interface(network, interface)?, before });
    }
    for family in Family::ALL {
        for protocol in Protocol::ALL {
            let to = (talk.to)(cluster, family)?;
            let mut conversation = Conversation::open(cluster.network(talk.from), protocol, to)?;
            conversation.exchange()?;
            conversation.transfer()?;
        }
    }
    silence(cluster, talk)?;
    for (watched, (_, scopes)) in watched.into_iter().zip(talk.accounts) {
        let name = watched.end.name();
        settle(cluster, watched, scopes).with_context(|| format!("the account of {name}"))?;
    }
    Ok(())
}

/// Whose daemon keeps an end's account, and the interface that it is of.
const fn place_of(end: End) -> (End, &'static str) {
    match end {
        End::A1 | End::A2 | End::Web | End::Greedy => (End::Node1, "eth0"),
        End::B1 | End::B2 => (End::Node2, "eth0"),
        End::Node1 | End::Node2 | End::Internet => (end, "eth1"),
    }
}

/// Waits until nobody whose account is read says anything any more.
fn silence(cluster: &Cluster, talk: &Talk) -> Result<()> {
    let count = || -> Result<Vec<[Count; 2]>> {
        talk.accounts.iter().map(|(end, _)| of_interface(cluster.network(*end), place_of(*end).1)).collect()
    };
    let mut last = (count()?, Instant::now());
    Ok(wait_until("silence on the interfaces", SETTLED, || {
        let now = count().map_err(|error| format!("{error:#}"))?;
        if now != last.0 {
            last = (now, Instant::now());
        }
        if last.1.elapsed() >= QUIET { Ok(()) } else { Err(format!("{:?}", last.0)) }
    })?)
}

/// Compares what one account says with what others saw.
fn settle(cluster: &Cluster, watched: Watched, scopes: &[&str]) -> Result<()> {
    let Watched { end, node, interface, capture, interface_before, before } = watched;
    let network = cluster.network(end);
    let is_host = interface == "eth1";
    let after = telemetry::traffic(cluster.network(node))?;
    let interface_after = of_interface(network, interface)?;
    let frames = capture.frames()?;
    let own = mac(network, interface)?;

    let owner = if is_host { "" } else { end.name() };
    let mut said: BTreeMap<(&str, &str), Count> = BTreeMap::new();
    for (traffic, count) in after.iter().filter(|(traffic, _)| traffic.pod == owner) {
        let earlier = before.get(traffic).copied().unwrap_or_default();
        if *count != earlier {
            let change = Count { packets: count.packets - earlier.packets, bytes: count.bytes - earlier.bytes };
            said.insert((&traffic.direction, &traffic.scope), change);
        }
    }
    let pods = &cluster.sides[usize::from(node == End::Node2)].plan;
    for (index, direction) in ["received", "sent"].into_iter().enumerate() {
        let of_direction: Vec<&Frame> = frames.iter().filter(|frame| (frame.mac == own) == (direction == "sent")).collect();
        let (traffic, others): (Vec<&Frame>, Vec<&Frame>) =
            of_direction.into_iter().partition(|frame| is_traffic(frame, is_host.then_some(pods)));
        let counted = sum(traffic);
        ensure!(counted.packets > 0, "{direction}: nothing was seen");
        // The account was read a moment before the capture ended. What a node and its neighbours say at any time is in a node's account,
        // as the network's; what they said meanwhile is at the capture's end.
        let neighbours: Vec<&Frame> =
            others.iter().copied().filter(|frame| is_host && frame.addresses.is_some_and(|(a, b)| !beyond_link(a, b))).collect();
        let total = said.iter().filter(|((of, _), _)| *of == direction).fold(Count::default(), |total, (_, count)| plus(total, *count));
        let with_neighbours = (0..=neighbours.len()).map(|end| sum(neighbours[..end].to_vec()));
        let matching: Vec<Count> = with_neighbours.filter(|more| plus(counted, *more) == total).collect();
        ensure!(!matching.is_empty(), "{direction}: it says {total:?}, tcpdump saw {counted:?}; by scope {said:?}");
        if said.get(&(direction, "vpc")).is_some_and(|vpc| vpc.packets > 0 && matching.contains(vpc)) {
            said.remove(&(direction, "vpc"));
        }
        let (earlier, later) = (interface_before[index], interface_after[index]);
        let of_interface = Count { packets: later.packets - earlier.packets, bytes: later.bytes - earlier.bytes };
        let seen: Vec<Count> = (0..=others.len()).map(|end| plus(counted, sum(others[..end].to_vec()))).collect();
        ensure!(seen.contains(&of_interface), "{direction}: {interface} counted {of_interface:?}, tcpdump saw {seen:?}");
    }
    let found: BTreeSet<&str> = said.keys().map(|(_, scope)| *scope).collect();
    ensure!(found == scopes.iter().copied().collect(), "expected {scopes:?}: {said:?}");
    Ok(())
}

/// Whether a frame is traffic of an account: not what is said of a link, and on a host not that of its pods.
fn is_traffic(frame: &Frame, pods: Option<&Plan>) -> bool {
    let Some((source, destination)) = frame.addresses else { return false };
    beyond_link(source, destination) && pods.is_none_or(|pods| !pods.owns(source) && !pods.owns(destination))
}

fn beyond_link(source: IpAddr, destination: IpAddr) -> bool {
    [source, destination].into_iter().all(|address| match address {
        IpAddr::V4(address) => !address.is_multicast() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_multicast() && !address.is_unicast_link_local() && !address.is_unspecified(),
    })
}

fn sum(frames: Vec<&Frame>) -> Count {
    frames.into_iter().fold(Count::default(), |total, frame| plus(total, Count { packets: 1, bytes: frame.bytes }))
}

fn plus(a: Count, b: Count) -> Count {
    Count { packets: a.packets + b.packets, bytes: a.bytes + b.bytes }
}

/// What an interface has received and sent (proc_pid_net(5), `dev`).
fn of_interface(network: &Network, interface: &str) -> Result<[Count; 2]> {
    let table = network.run(|| -> Result<_> { Ok(fs::read_to_string("/proc/thread-self/net/dev")?) })?;
    let line = table.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:"))).context("no such interface")?;
    let numbers: Vec<u64> = line.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let count = |at: usize| -> Result<Count> {
        let number = |at: usize| numbers.get(at).copied().with_context(|| format!("too few columns: {line}"));
        Ok(Count { packets: number(at + 1)?, bytes: number(at)? })
    };
    Ok([count(0)?, count(8)?])
}
