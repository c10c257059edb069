//! Limits before a real fq: packets leave at the rate from the first on, and none is lost that can wait.
//!
//! Where the kernel has no fq these say `SKIP`; with `BAREWIRE_REQUIRE_FQ=1` that is a failure. What holds without it, a limit all the same,
//! is tested in any kernel.

use std::env;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use datapath::fast_path::{Limit, Limits, Reason, TrafficOf};
use datapath::netlink::{NetlinkError, Request, Socket};
use datapath::{Departures, NodeNetwork, PodLink, Queueing, queueing};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::carried::{FAMILIES, LOOPBACK, Node, UPLINK, address, network, pod_link, route, uplink};
use crate::{object, private};

/// Bytes a second: 10 Mbit/s.
const RATE: u64 = 1_250_000;
const PAYLOAD: usize = 1_400;
/// With headers.
const FRAME: u64 = 1_442;
const DURATION: Duration = Duration::from_secs(3);
const PORT: u16 = 9;
/// Bytes of what has arrived and is not read yet: more than all of a test.
const ROOM: usize = 32 << 20;
const OUTSIDE: &str = "198.51.100.1";

#[test]
fn an_uplinks_queue_is_found_as_it_is_and_as_it_changes() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        let mut host = Socket::open()?;
        let found = queues(&mut host)?;
        let [Queueing { departures: Departures::Ignored { why }, .. }] = &found[..] else { anyhow::bail!("{found:?}") };
        ensure!(why.starts_with("has noqueue"), "{why}");
        let described = NodeNetwork { queueing: found, ..network()? };
        let why = node.fast_path.departure_packets(&described).err().context("no queue, and packets wait in it")?;
        ensure!(why.contains("has noqueue") || why.contains("Linux 5.18"), "{why}");
        if !has_fq(&mut host)? {
            return Ok(());
        }
        let described = NodeNetwork { queueing: queues(&mut host)?, ..network()? };
        ensure!(node.fast_path.departure_packets(&described) == Ok(100), "{:?}", described.queueing);
        Ok(())
    })
}

#[test]
fn what_a_pod_sends_leaves_at_its_limit_from_the_first_packet_on() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        let mut host = Socket::open()?;
        if !has_fq(&mut host)? {
            return Ok(());
        }
        let described = NodeNetwork { queueing: queues(&mut host)?, ..network()? };
        node.fast_path.set_network(&described)?;
        let [a, _, remote, gateway, _] = FAMILIES[0];
        let (a, remote, outside): (IpAddr, IpAddr, IpAddr) = (a.parse()?, remote.parse()?, OUTSIDE.parse()?);
        let limit = Limit::of(RATE);
        // By the programs, past the stack: the sender itself is held back.
        node.fast_path.grant(&PodLink { limits: Limits { sent: limit, ..Limits::default() }, ..pod_link(0)? }, &described)?;
        let (arrivals, dropped) = flood(&node, a, remote, Reason::EgressLimit)?;
        leaves_at(RATE, &arrivals, "by the programs")?;
        println!("by the programs: {dropped} packets dropped");
        // By the stack, which forgets who has sent a packet: what cannot wait is dropped before it is paid for.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot have packets forwarded")?;
        host.execute(vec![route((outside, 32), gateway.parse()?)])?;
        node.fabric.run(|| Socket::open()?.execute(vec![address(LOOPBACK, outside, 32)]).map_err(anyhow::Error::from))??;
        node.fast_path.grant(&PodLink { limits: Limits { internet: limit, ..Limits::default() }, ..pod_link(0)? }, &described)?;
        let (arrivals, dropped) = flood(&node, a, outside, Reason::InternetEgressLimit)?;
        leaves_at(RATE, &arrivals, "by the stack")?;
        ensure!(dropped > 0, "by the stack: nothing was dropped");
        // What does not leave the node is held to it as well, and nothing waits for a queue that it never sees.
        node.fast_path.grant(&PodLink { limits: Limits { sent: limit, ..Limits::default() }, ..pod_link(0)? }, &described)?;
        let here: IpAddr = FAMILIES[0][4].parse()?;
        let before = sent(&node)?;
        let (from, begun) = (node.pods[0].run(|| UdpSocket::bind((a, 0)))??, Instant::now());
        while begun.elapsed() < DURATION {
            let _refused = from.send_to(&[7; PAYLOAD], (here, PORT));
        }
        let allowed = RATE as f64 * (begun.elapsed().as_secs_f64() + 0.3) * 1.05;
        let bytes = sent(&node)? - before;
        ensure!(bytes as f64 <= allowed && bytes as f64 > allowed / 2.0, "{bytes} bytes to the host, and {allowed} are allowed");
        Ok(())
    })
}

/// As where a queue was changed a moment ago: the limit holds.
#[test]
fn where_the_queue_knows_no_departures_after_all_the_limit_holds_none_the_less() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        let believed = vec![Queueing { uplink: "uplink".to_owned(), departures: Departures::Kept { flow_packets: 100 } }];
        let described = NodeNetwork { queueing: believed, ..network()? };
        node.fast_path.set_network(&described)?;
        let limits = Limits { sent: Limit::of(RATE), ..Limits::default() };
        node.fast_path.grant(&PodLink { limits, ..pod_link(0)? }, &described)?;
        let [a, _, remote, ..] = FAMILIES[0];
        let (arrivals, dropped) = flood(&node, a.parse()?, remote.parse()?, Reason::EgressLimit)?;
        let seconds = arrivals.last().context("nothing arrived")?.as_secs_f64();
        let (bytes, room) = (arrivals.len() as u64 * FRAME, 100 * FRAME);
        println!("{bytes} bytes in {seconds:.2} s, {dropped} packets dropped");
        ensure!(
            bytes as f64 <= RATE as f64 * seconds * 1.05 + room as f64 && dropped > 0,
            "{bytes} bytes in {seconds} s, {dropped} dropped"
        );
        Ok(())
    })
}

/// Whether the uplink has fq now; where it cannot, why is printed.
fn has_fq(host: &mut Socket) -> Result<bool> {
    let Err(error) = set_fq(host) else { return Ok(true) };
    let is_missing = error.is(Errno::ENOENT) || error.is(Errno::EOPNOTSUPP);
    ensure!(is_missing && env::var("BAREWIRE_REQUIRE_FQ").as_deref() != Ok("1"), "the uplink takes no fq: {error}");
    println!("SKIP needs the queueing discipline fq: {error}");
    Ok(false)
}

fn set_fq(host: &mut Socket) -> Result<(), NetlinkError> {
    let mut message = TcMessage::default();
    message.header.index = UPLINK.0.cast_signed();
    (message.header.parent, message.header.handle) = (TcHandle::ROOT, TcHandle { major: 1, minor: 0 });
    message.attributes.push(TcAttribute::Kind("fq".to_owned()));
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    host.execute(vec![Request { step: "give the uplink fq", message: RouteNetlinkMessage::NewQueueDiscipline(message), flags }])
}

fn sent(node: &Node) -> Result<u64> {
    Ok(node.fast_path.traffic(TrafficOf::Pod(pod_link(0)?.host_ifindex))?.sent.iter().map(|counter| counter.bytes).sum())
}

/// Sends as much as goes out: when each packet has arrived at the other end, since the first, and how many were dropped for this reason.
fn flood(node: &Node, from: IpAddr, to: IpAddr, reason: Reason) -> Result<(Vec<Duration>, u64)> {
    let dropped =
        || -> Result<u64> { Ok(node.fast_path.reasons()?.into_iter().find(|(name, _)| *name == reason).map_or(0, |(_, packets)| packets)) };
    let into = node.fabric.run(|| UdpSocket::bind((to, PORT)))??;
    into.set_read_timeout(Some(Duration::from_millis(100)))?;
    // What has arrived counts, whenever the reader has a processor.
    setsockopt(&into, sockopt::RcvBufForce, &ROOM)?;
    let sender = node.pods[0].run(|| UdpSocket::bind((from, 0)))??;
    // A sender that the queue holds back is not held for ever.
    sender.set_write_timeout(Some(Duration::from_millis(100)))?;
    let (before, is_over) = (dropped()?, AtomicBool::new(false));
    let arrivals = thread::scope(|scope| -> Result<Vec<Duration>> {
        let receiver = scope.spawn(|| {
            let (mut first, mut arrivals, mut message) = (None, Vec::new(), [0; 2 * PAYLOAD]);
            loop {
                match into.recv(&mut message) {
                    Ok(_) => arrivals.push(first.get_or_insert_with(Instant::now).elapsed()),
                    Err(_) if is_over.load(Ordering::Relaxed) => return arrivals,
                    Err(_) => {}
                }
            }
        });
        let begun = Instant::now();
        while begun.elapsed() < DURATION {
            let _held_back = sender.send_to(&[7; PAYLOAD], (to, PORT));
        }
        is_over.store(true, Ordering::Relaxed);
        receiver.join().map_err(|_panic| anyhow!("the receiver panicked"))
    })?;
    Ok((arrivals, dropped()? - before))
}

/// Whether they arrived at a rate, without a burst at the beginning.
fn leaves_at(rate: u64, arrivals: &[Duration], what: &str) -> Result<()> {
    /// What arrives late for want of a processor comes all at once afterwards.
    const LATE: f64 = 0.06;
    let last = arrivals.last().with_context(|| format!("{what}: nothing arrived"))?.as_secs_f64();
    let bytes = (arrivals.len() as u64 - 1) * FRAME;
    let of_rate = bytes as f64 / (rate as f64 * last);
    println!("{what}: {} packets in {last:.2} s, {of_rate:.3} of the limit", arrivals.len());
    ensure!((of_rate - 1.0).abs() < 0.05, "{what}: {of_rate:.3} of the limit");
    for (packets, at) in arrivals.iter().enumerate() {
        let early = packets as f64 * FRAME as f64 / rate as f64 - at.as_secs_f64();
        ensure!(early < LATE, "{what}: after {at:?} there were {packets} packets, {early:.3} s too many");
    }
    Ok(())
}

/// Of the uplink.
fn queues(host: &mut Socket) -> Result<Vec<Queueing>> {
    let uplink = uplink()?;
    Ok(queueing(host, [(uplink.ifindex, uplink.ifname.as_str())]))
}
