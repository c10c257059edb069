//! What a pod may send and be sent, with real packets: how much passes the programs, and what is not held back.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use datapath::fast_path::{FIRST_IFINDEX, Limit, Limits, Reason, Scope, Traffic, TrafficOf};
use datapath::{Ifindex, NodeNetwork, PodLink};

use crate::carried::{FAMILIES, Node, exchange, network, pod_link};
use crate::{object, private};

/// Bytes a second: 10 Mbit/s.
const RATE: u64 = 1_250_000;
const DURATION: Duration = Duration::from_millis(700);
const PAYLOAD: usize = 1_400;
const PORT: u16 = 9;

#[test]
fn a_pod_sends_to_the_internet_what_it_may_and_to_the_cluster_what_it_wants() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        for (family, rate, senders) in [(0, RATE, 1), (1, RATE, 4), (0, 2 * RATE, 4)] {
            // As a reload does it: the pod runs on.
            node.fast_path.set_network(&NodeNetwork { internet_egress: rate, ..network()? })?;
            let outside: IpAddr = if family == 0 { "198.51.100.1" } else { "2001:db8::1" }.parse()?;
            let [a, _, remote, ..] = FAMILIES[family];
            let (a, remote) = (a.parse()?, remote.parse()?);
            let (bytes, lasted, dropped) = send(&node, a, outside, senders)?;
            exchange(&node.pods[0], a, &node.fabric, remote)?;
            within(Limit::of(rate), bytes, lasted, dropped, &format!("{outside} by {senders}"))?;
        }
        node.fast_path.set_network(&network()?)?;
        let (_, _, dropped) = send(&node, FAMILIES[0][0].parse()?, "198.51.100.1".parse()?, 1)?;
        ensure!(dropped == 0, "without a limit {dropped} packets were dropped");
        Ok(())
    })
}

#[test]
fn a_pod_is_held_to_its_own_limits_on_every_way_in_and_out() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        let limit = Limit::of(RATE);
        let limits = [Limits { sent: limit, ..Limits::default() }, Limits { received: limit, ..Limits::default() }];
        for (number, limits) in limits.into_iter().enumerate() {
            let link = PodLink { limits, ..pod_link(number)? };
            ensure!(node.fast_path.is_granted_otherwise(&link, &network()?)?);
            node.fast_path.grant(&link, &network()?)?;
            ensure!(!node.fast_path.is_granted_otherwise(&link, &network()?)? && !node.fast_path.knows_otherwise(&link, &network()?)?);
        }
        for [a, b, remote, _, host] in FAMILIES {
            let [a, b, remote, host]: [IpAddr; 4] = [a.parse()?, b.parse()?, remote.parse()?, host.parse()?];
            // What the first pod sends: out of the uplink by the fast path, to the host by the stack.
            for to in [remote, host] {
                let from = node.pods[0].run(|| UdpSocket::bind((a, 0)))??;
                let (bytes, lasted, dropped) = node.flood(&[from], to, Reason::EgressLimit, || node.all_sent(0))?;
                within(limit, bytes, lasted, dropped, &format!("{a} to {to}"))?;
            }
            // What the second is sent: by a pod of the node and by the uplink past the stack, by the host through it.
            let _sink = node.pods[1].run(|| UdpSocket::bind((b, PORT)))??;
            for (way, from) in [("uplink", node.fabric.run(|| UdpSocket::bind((remote, 0)))??), ("host", UdpSocket::bind((host, 0))?)] {
                let (bytes, lasted, dropped) = node.flood(&[from], b, Reason::IngressLimit, || node.all_received(1))?;
                within(limit, bytes, lasted, dropped, &format!("{way} to {b}"))?;
            }
            // Nobody else is held to anything: the second sends, and the first is sent, what they want.
            let _sink = node.pods[0].run(|| UdpSocket::bind((a, PORT)))??;
            let from = node.pods[1].run(|| UdpSocket::bind((b, 0)))??;
            for reason in [Reason::EgressLimit, Reason::IngressLimit] {
                let (bytes, lasted, dropped) = node.flood(std::slice::from_ref(&from), a, reason, || node.all_received(0))?;
                ensure!(
                    dropped == 0 && bytes > 4 * RATE * DURATION.as_millis() as u64 / 1000,
                    "{b} to {a}: {bytes} in {lasted:?}, {dropped} lost"
                );
            }
        }
        // As a reload takes them away: both talk as they want.
        for number in [0, 1] {
            node.fast_path.grant(&pod_link(number)?, &network()?)?;
        }
        let from = node.pods[0].run(|| UdpSocket::bind((FAMILIES[0][0].parse::<IpAddr>()?, 0)).map_err(anyhow::Error::from))??;
        let (_, _, dropped) = node.flood(&[from], FAMILIES[0][1].parse()?, Reason::EgressLimit, || node.all_sent(0))?;
        ensure!(dropped == 0, "without limits {dropped} packets were dropped");
        Ok(())
    })
}

#[test]
fn the_internet_limit_is_the_pods_then_its_namespaces_then_the_nodes() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        let network = NodeNetwork { internet_egress: 8 * RATE, internet_egress_of: [("batch".to_owned(), 2 * RATE)].into(), ..network()? };
        node.fast_path.set_network(&network)?;
        let (a, outside): (IpAddr, IpAddr) = (FAMILIES[0][0].parse()?, "198.51.100.1".parse()?);
        let own = Limits { internet: Limit::of(RATE), ..Limits::default() };
        let batch = || "batch".to_owned();
        for (link, rate) in [
            (PodLink { namespace: batch(), limits: own, ..pod_link(0)? }, RATE),
            (PodLink { namespace: batch(), ..pod_link(0)? }, 2 * RATE),
            (PodLink { namespace: "web".to_owned(), ..pod_link(0)? }, 8 * RATE),
        ] {
            node.fast_path.grant(&link, &network)?;
            let from = node.pods[0].run(|| UdpSocket::bind((a, 0)))??;
            let (bytes, lasted, dropped) = node.flood(&[from], outside, Reason::InternetEgressLimit, || node.all_sent(0))?;
            within(Limit::of(rate), bytes, lasted, dropped, &format!("{} with {:?}", link.namespace, link.limits.internet))?;
        }
        Ok(())
    })
}

/// Bytes that a burst has room for, and a packet for each of the others that decide at once.
fn room(limit: Limit) -> f64 {
    (limit.burst as f64 * limit.rate as f64 / 1e9) + 4.0 * 1_514.0
}

/// Whether so much passed as a limit lets pass, and the rest was dropped.
fn within(limit: Limit, bytes: u64, lasted: Lasted, dropped: u64, what: &str) -> Result<()> {
    let allowed = |time: Duration| limit.rate as f64 * time.as_secs_f64();
    println!("{what} at {} B/s: {bytes} bytes in {lasted:?}, {dropped} packets dropped", limit.rate);
    ensure!(dropped > 0, "{what}: nothing was held back: {bytes} bytes in {lasted:?}");
    ensure!((bytes as f64) <= allowed(lasted.all) * 1.05 + room(limit), "{what}: {bytes} bytes in {lasted:?} at {} a second", limit.rate);
    let least = allowed(lasted.all.saturating_sub(lasted.stalled)) * 0.90;
    ensure!((bytes as f64) >= least, "{what}: only {bytes} bytes in {lasted:?} at {} a second", limit.rate);
    Ok(())
}

impl Node {
    fn traffic_of(&self, pod: usize) -> Result<Traffic> {
        Ok(self.fast_path.traffic(TrafficOf::Pod(pod_link(pod)?.host_ifindex))?)
    }

    fn all_sent(&self, pod: usize) -> Result<u64> {
        Ok(self.traffic_of(pod)?.sent.iter().map(|counter| counter.bytes).sum())
    }

    fn all_received(&self, pod: usize) -> Result<u64> {
        Ok(self.traffic_of(pod)?.received.iter().map(|counter| counter.bytes).sum())
    }

    /// As much as these can send: the bytes that were counted, how long it took, and the packets that were dropped for a reason.
    fn flood(&self, from: &[UdpSocket], to: IpAddr, reason: Reason, bytes: impl Fn() -> Result<u64>) -> Result<(u64, Lasted, u64)> {
        let dropped = || -> Result<u64> {
            let reasons = self.fast_path.reasons()?;
            Ok(reasons.into_iter().find(|(name, _)| *name == reason).map_or(0, |(_, packets)| packets))
        };
        let (bytes_before, dropped_before) = (bytes()?, dropped()?);
        let lasted = flood(from, to)?;
        Ok((bytes()? - bytes_before, lasted, dropped()? - dropped_before))
    }
}

/// How long packets were sent.
#[derive(Debug, Clone, Copy)]
struct Lasted {
    all: Duration,
    /// Of that, how long no sender had a processor: what could have been sent then was not held back.
    stalled: Duration,
}

/// A sender that has a processor sends again sooner.
const STALL: Duration = Duration::from_millis(5);

/// Sends as much as these can.
fn flood(from: &[UdpSocket], to: IpAddr) -> Result<Lasted> {
    let begun = Instant::now();
    let sender = |socket: &UdpSocket| -> Result<Duration> {
        let (mut last, mut stalled) = (begun, Duration::ZERO);
        while begun.elapsed() < DURATION {
            // A pod that was told that nobody listens goes on all the same.
            match socket.send_to(&[7; PAYLOAD], (to, PORT)) {
                Err(error) if error.kind() != std::io::ErrorKind::ConnectionRefused => return Err(error.into()),
                _ => {}
            }
            let gap = last.elapsed();
            last += gap;
            stalled += if gap > STALL { gap } else { Duration::ZERO };
        }
        Ok(stalled)
    };
    let stalled = thread::scope(|scope| {
        let threads: Vec<_> = from.iter().map(|socket| scope.spawn(move || sender(socket))).collect();
        let stalled = threads.into_iter().map(|sender| sender.join().map_err(|_panic| anyhow!("a sender panicked"))?);
        stalled.collect::<Result<Vec<_>>>()
    })?;
    Ok(Lasted { all: begun.elapsed(), stalled: stalled.into_iter().min().unwrap_or_default() })
}

/// As much as the first pod can send: the bytes that passed, the packets that were dropped, and how long it took.
fn send(node: &Node, from: IpAddr, to: IpAddr, senders: usize) -> Result<(u64, Lasted, u64)> {
    let sockets: Vec<UdpSocket> =
        (0..senders).map(|_| Ok::<_, anyhow::Error>(node.pods[0].run(|| UdpSocket::bind((from, 0)))??)).collect::<Result<_>>()?;
    let sent = || Ok(node.fast_path.traffic(TrafficOf::Pod(Ifindex(FIRST_IFINDEX)))?.sent[Scope::Internet as usize].bytes);
    node.flood(&sockets, to, Reason::InternetEgressLimit, sent)
}
