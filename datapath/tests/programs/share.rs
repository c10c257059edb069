//! Fair shares of a node's limit, with real connections: what one pod gets depends neither on how many connections it has nor on whether it
//! heeds losses, and what one does not use the others have.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use datapath::fast_path::{FIRST_IFINDEX, Reason, Scope, TrafficOf};
use datapath::netlink::Socket;
use datapath::{HostNetns, Ifindex, Netns, NodeNetwork, PodLink, attach};

use crate::carried::{FAMILIES, LIMIT, LOOPBACK, Node, address, namespace, network, pod_link, route};
use crate::{object, private};

/// Bytes a second of all pods together: 80 Mbit/s.
const RATE: u64 = 10_000_000;
/// The burst is used up, and connections have found their rate.
const WARM_UP: Duration = Duration::from_secs(2);
const DURATION: Duration = Duration::from_secs(4);
const OUTSIDE: &str = "198.51.100.1";
const PORT: u16 = 9;
const PATIENCE: Duration = Duration::from_millis(100);

/// How a pod sends.
#[derive(Debug, Clone, Copy)]
enum Sender {
    /// So many connections.
    Tcp(usize),
    /// As many datagrams as go out, whatever becomes of them.
    Flood,
    /// Datagrams at so many bytes a second.
    Paced(u64),
    Silent,
}

#[test]
fn each_pod_has_its_share_however_it_sends() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Crowd::build(&object)?;
        let before = node.dropped()?;
        let shares = node.shares(&[Sender::Tcp(16), Sender::Tcp(1), Sender::Flood, Sender::Tcp(1)])?;
        let dropped = node.dropped()? - before;
        println!("shares of a fair one: {shares:.2?}, {dropped} packets dropped");
        ensure!(dropped > 0, "nothing was held back");
        ensure!(shares.iter().all(|share| (share - 1.0).abs() < 0.15), "not fair: {shares:.2?}");
        let all = shares.iter().sum::<f64>() / 4.0;
        ensure!((all - 1.0).abs() < 0.06, "all together have {all:.2} of the limit: {shares:.2?}");
        Ok(())
    })
}

#[test]
fn what_a_pod_does_not_use_the_others_have() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Crowd::build(&object)?;
        // One alone has all of it; beside one that uses a part of its share, the rest.
        let alone = node.shares(&[Sender::Silent, Sender::Silent, Sender::Flood, Sender::Silent])?;
        println!("alone: {alone:.2?}");
        ensure!((alone[2] - 4.0).abs() < 0.3, "one pod alone has {alone:.2?} of a fourth");
        let beside = node.shares(&[Sender::Tcp(1), Sender::Paced(RATE / 8), Sender::Flood, Sender::Silent])?;
        println!("beside one that wants little: {beside:.2?}");
        ensure!(beside[1] > 0.45, "who wants less than a share was held back: {beside:.2?}");
        ensure!([beside[0], beside[2]].iter().all(|share| (share / 1.75 - 1.0).abs() < 0.15), "the others have not the rest: {beside:.2?}");
        Ok(())
    })
}

/// A node with four pods and a way to the internet.
struct Crowd {
    node: Node,
    more: [Netns; 2],
}

impl Crowd {
    fn build(object: &std::path::Path) -> Result<Self> {
        let node = Node::build(object)?;
        let (home, mut host) = (HostNetns::current()?, Socket::open()?);
        let network = NodeNetwork { node_internet_egress: RATE, ..network()? };
        node.fast_path.set_network(&network)?;
        let crowd = Self { node, more: [namespace(&home)?, namespace(&home)?] };
        for (number, netns) in crowd.more.iter().enumerate() {
            let link = crowd.link(2 + number)?;
            crowd.node.fast_path.add_endpoint(&link, &network)?;
            attach(&mut host, netns, &link, Some(&crowd.node.fast_path))?;
        }
        // What goes to the internet is the stack's to forward.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot have packets forwarded")?;
        host.execute(vec![route((OUTSIDE.parse()?, 32), FAMILIES[0][3].parse()?)])?;
        crowd.node.fabric.run(|| Socket::open()?.execute(vec![address(LOOPBACK, OUTSIDE.parse()?, 32)]).map_err(anyhow::Error::from))??;
        Ok(crowd)
    }

    fn address(&self, pod: usize) -> Result<IpAddr> {
        Ok(["10.0.1.17", "10.0.1.18", "10.0.1.19", "10.0.1.20"][pod].parse()?)
    }

    fn link(&self, pod: usize) -> Result<PodLink> {
        if pod < 2 {
            return pod_link(pod);
        }
        let slot = u8::try_from(pod)?;
        Ok(PodLink {
            host_ifname: format!("bwtest{pod}"),
            host_ifindex: Ifindex(FIRST_IFINDEX + u32::from(slot)),
            pod_mac: [2, 0, 0, 0, 0, slot],
            container_id: format!("test-{pod}"),
            addresses: vec![self.address(pod)?],
            ..pod_link(0)?
        })
    }

    fn netns(&self, pod: usize) -> &Netns {
        if pod < 2 { &self.node.pods[pod] } else { &self.more[pod - 2] }
    }

    fn dropped(&self) -> Result<u64> {
        let reasons = self.node.fast_path.reasons()?;
        Ok(reasons.into_iter().find(|(reason, _)| *reason == Reason::NodeInternetEgressLimit).map_or(0, |(_, packets)| packets))
    }

    fn sent(&self, pod: usize) -> Result<u64> {
        Ok(self.node.fast_path.traffic(TrafficOf::Pod(self.link(pod)?.host_ifindex))?.sent[Scope::Internet as usize].bytes)
    }

    /// What each pod gets, by a fourth of the limit.
    fn shares(&self, senders: &[Sender; 4]) -> Result<Vec<f64>> {
        let stop = &AtomicBool::new(false);
        let fabric = &self.node.fabric;
        let listener = fabric.run(|| TcpListener::bind((OUTSIDE, 0)))??;
        let _sink = fabric.run(|| UdpSocket::bind((OUTSIDE, PORT)))??;
        let to = listener.local_addr()?;
        thread::scope(|scope| {
            // Whatever happens, the threads are told to end before they are waited for.
            let _end = EndOnDrop(stop);
            for (pod, sender) in senders.iter().enumerate() {
                let netns = self.netns(pod);
                let bind = || -> Result<UdpSocket> { Ok(netns.run(|| UdpSocket::bind(("0.0.0.0", 0)))??) };
                match *sender {
                    Sender::Silent => {}
                    Sender::Tcp(connections) => {
                        for _ in 0..connections {
                            let from = netns.run(|| TcpStream::connect_timeout(&to, LIMIT))??;
                            let (into, _) = listener.accept()?;
                            from.set_write_timeout(Some(PATIENCE))?;
                            into.set_read_timeout(Some(PATIENCE))?;
                            scope.spawn(move || until(stop, from, |from| from.write(&[7; 65_536]).unwrap_or(0)));
                            scope.spawn(move || until(stop, into, |into| into.read(&mut [0; 65_536]).unwrap_or(0)));
                        }
                    }
                    Sender::Flood => {
                        let from = bind()?;
                        scope.spawn(move || until(stop, from, |from| from.send_to(&[7; 1_400], (OUTSIDE, PORT)).unwrap_or(0)));
                    }
                    Sender::Paced(rate) => {
                        let (from, begun, mut sent) = (bind()?, Instant::now(), 0.0);
                        scope.spawn(move || {
                            until(stop, from, move |from| {
                                if sent >= begun.elapsed().as_secs_f64() * rate as f64 {
                                    thread::sleep(Duration::from_millis(1));
                                    return 0;
                                }
                                sent += 1_442.0;
                                from.send_to(&[7; 1_400], (OUTSIDE, PORT)).unwrap_or(0)
                            })
                        });
                    }
                }
            }
            thread::sleep(WARM_UP);
            let all = || (0..4).map(|pod| self.sent(pod)).collect::<Result<Vec<_>>>();
            let (begun, before) = (Instant::now(), all()?);
            thread::sleep(DURATION);
            let (after, took) = (all()?, begun.elapsed().as_secs_f64());
            let fair = RATE as f64 / 4.0 * took;
            Ok(before.iter().zip(after).map(|(before, after)| (after - before) as f64 / fair).collect())
        })
    }
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn until<T>(stop: &AtomicBool, mut end: T, mut work: impl FnMut(&mut T) -> usize) {
    while !stop.load(Ordering::Relaxed) {
        let _bytes = work(&mut end);
    }
}
