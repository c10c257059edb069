//! What a pod may send to the internet, with real packets: how much passes the program at its link, and what is not held back.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use datapath::Ifindex;
use datapath::NodeNetwork;
use datapath::fast_path::{FIRST_IFINDEX, Reason, Scope, TrafficOf};

use crate::carried::{FAMILIES, Node, exchange, network};
use crate::{object, private};

/// Bytes a second: 10 Mbit/s.
const RATE: u64 = 1_250_000;
const DURATION: Duration = Duration::from_millis(700);
const PAYLOAD: usize = 1_400;

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
            let (bytes, dropped, lasted) = send(&node, a, outside, senders)?;
            exchange(&node.pods[0], a, &node.fabric, remote)?;
            let allowed = rate as f64 * lasted.as_secs_f64();
            // The burst, and a packet for each of the others that decide at once.
            let burst = (ebpf::shape::burst(rate) as f64 * rate as f64 / 1e9) + 4.0 * 1_514.0;
            println!("{outside} at {rate} B/s by {senders}: {bytes} bytes in {lasted:?}, {dropped} packets dropped");
            ensure!(dropped > 0, "nothing was held back: {bytes} bytes in {lasted:?}");
            ensure!((bytes as f64) <= allowed * 1.05 + burst, "{bytes} bytes in {lasted:?} at {rate} a second");
            ensure!((bytes as f64) >= allowed * 0.90, "only {bytes} bytes in {lasted:?} at {rate} a second");
        }
        node.fast_path.set_network(&network()?)?;
        let (_, dropped, _) = send(&node, FAMILIES[0][0].parse()?, "198.51.100.1".parse()?, 1)?;
        ensure!(dropped == 0, "without a limit {dropped} packets were dropped");
        Ok(())
    })
}

/// As much as the first pod can send: the bytes that passed, the packets that were dropped, and how long it took.
fn send(node: &Node, from: IpAddr, to: IpAddr, senders: usize) -> Result<(u64, u64, Duration)> {
    let counts = || -> Result<(u64, u64)> {
        let sent = node.fast_path.traffic(TrafficOf::Pod(Ifindex(FIRST_IFINDEX)))?.sent[Scope::Internet as usize].bytes;
        let dropped = node.fast_path.reasons()?.into_iter().find(|(reason, _)| *reason == Reason::InternetEgressLimit);
        Ok((sent, dropped.map_or(0, |(_, packets)| packets)))
    };
    let sockets: Vec<UdpSocket> =
        (0..senders).map(|_| Ok::<_, anyhow::Error>(node.pods[0].run(|| UdpSocket::bind((from, 0)))??)).collect::<Result<_>>()?;
    let (before, begun) = (counts()?, Instant::now());
    thread::scope(|scope| {
        let threads: Vec<_> = sockets
            .iter()
            .map(|socket| {
                scope.spawn(move || -> Result<()> {
                    while begun.elapsed() < DURATION {
                        socket.send_to(&[7; PAYLOAD], (to, 9))?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|sender| sender.join().map_err(|_panic| anyhow!("a sender panicked"))?)
    })?;
    let (after, lasted) = (counts()?, begun.elapsed());
    Ok((after.0 - before.0, after.1 - before.1, lasted))
}
