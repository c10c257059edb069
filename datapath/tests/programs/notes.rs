//! The notes of flows as the daemon keeps them, in the kernel's own tables: swept in time, gone with their pods, limited by pod, and
//! read from connection tracking where they are not known.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use datapath::fast_path::{FIRST_IFINDEX, FastPath, Limits, Timeouts};
use datapath::netlink::{Request, Socket};
use datapath::{Ifindex, NodeNetwork, PodLink, PodRange};
use ebpf::layout::LAYOUT_VERSION;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};

use crate::{object, private};

const POD: [u8; 4] = [10, 0, 1, 17];
const OTHER: [u8; 4] = [10, 0, 1, 18];
const REMOTE: [u8; 4] = [10, 0, 2, 9];
const OUTSIDE: [u8; 4] = [198, 51, 100, 7];
const UDP: u32 = 17;

type Key = [u8; 16];
type Value = [u8; 8];

fn network() -> Result<NodeNetwork> {
    Ok(NodeNetwork {
        pods: vec![PodRange { first: "10.0.1.16".parse()?, last: "10.0.1.31".parse()?, uplink: 0 }],
        native: vec!["10.0.0.0/16".parse()?],
        ..NodeNetwork::default()
    })
}

fn link(slot: u8, address: [u8; 4]) -> PodLink {
    PodLink {
        host_ifname: format!("bwtest{slot}"),
        host_ifindex: Ifindex(FIRST_IFINDEX + u32::from(slot)),
        pod_ifname: "eth0".to_owned(),
        pod_mac: [2, 0, 0, 0, 0, slot],
        mtu: 1500,
        container_id: format!("test-{slot}"),
        addresses: vec![address.into()],
        namespace: String::new(),
        limits: Limits::default(),
        allowed: Vec::new(),
    }
}

fn start(object: &Path) -> Result<(FastPath, NodeNetwork)> {
    let (fast_path, network) = (FastPath::load(object, Path::new("/run/test"))?, network()?);
    fast_path.set_network(&network)?;
    Ok((fast_path, network))
}

fn table() -> Result<HashMap<MapData, Key, Value>> {
    Ok(Map::HashMap(MapData::from_pin(format!("/sys/fs/bpf/barewire/run-test/v{LAYOUT_VERSION}/FLOWS4"))?).try_into()?)
}

/// As `ebpf::flow::Flow4` lies in the map.
fn key(low: [u8; 4], high: [u8; 4], low_port: u16, high_port: u16) -> Key {
    let numbers = [u32::from_be_bytes(low), u32::from_be_bytes(high), u32::from(low_port) | u32::from(high_port) << 16, UDP];
    let mut key = [0; 16];
    for (place, number) in key.chunks_mut(4).zip(numbers) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    key
}

/// Seen in both directions, just now or never.
fn value(slot: u16, seen: u32) -> Value {
    let ([a, b, c, d], [e, f]) = (seen.to_ne_bytes(), slot.to_ne_bytes());
    [a, b, c, d, e, f, 1, 1]
}

fn now() -> Result<u32> {
    Ok(u32::try_from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?.tv_sec())?)
}

#[test]
fn a_full_table_is_swept_in_time_and_names_who_has_most() -> Result<()> {
    /// Well under 100 ms where it was measured; emulated kernels and unoptimised tests take longer.
    const LIMIT: Duration = Duration::from_secs(3);
    /// More than a pod's share.
    const MOST: u32 = 70_000;
    const FEW: u32 = 3_000;
    const TOTAL: u32 = 100_000;
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let (fast_path, _) = start(&object)?;
        let (mut flows, now) = (table()?, now()?);
        // An answered datagram is noted for 50 s. A machine that was started just now knows no time so long ago.
        let old = if now < 60 { now } else { now.saturating_sub(10_000) };
        for number in 0..TOTAL {
            let [_, high, low, port] = number.to_be_bytes();
            let (slot, seen) = if number < MOST { (7, now) } else { (8, if number < MOST + FEW { now } else { old }) };
            flows.insert(key(POD, [10, high, low, port], 1, 2), value(slot, seen), 0)?;
        }
        let ended = if old == now { 0 } else { TOTAL - MOST - FEW };
        let begun = Instant::now();
        let found = fast_path.sweep_notes(&Timeouts::of_conntrack())?;
        let first = begun.elapsed();
        ensure!(found.total == (TOTAL - ended) as usize, "{} stay", found.total);
        let begun = Instant::now();
        let found = fast_path.sweep_notes(&Timeouts::of_conntrack())?;
        println!("swept {TOTAL} notes in {first:?}, and the {} that stay in {:?}", found.total, begun.elapsed());
        ensure!(first + begun.elapsed() < LIMIT, "swept in {first:?} and {:?}", begun.elapsed());
        ensure!(found.pods[0] == (Ifindex(FIRST_IFINDEX + 7), MOST), "{:?}", &found.pods[..found.pods.len().min(3)]);
        ensure!(
            found.at_their_share().next() == Some(Ifindex(FIRST_IFINDEX + 7)),
            "of {} nobody is at the share of {}",
            found.total,
            found.share
        );
        ensure!(fast_path.noted_flows() == found);
        Ok(())
    })
}

#[test]
fn notes_go_with_the_pod_and_its_allowed_addresses() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let (fast_path, network) = start(&object)?;
        let further = [10, 0, 1, 30];
        let pod = PodLink { allowed: vec![further.into()], ..link(0, POD) };
        fast_path.add_endpoint(&pod, &network)?;
        let (mut flows, now) = (table()?, now()?);
        for (low, high) in [(POD, REMOTE), (further, REMOTE), (OTHER, REMOTE)] {
            flows.insert(key(low, high, 1, 2), value(0, now), 0)?;
        }
        ensure!(fast_path.sweep_notes(&Timeouts::of_conntrack())?.total == 3, "a pod that is there keeps its notes");
        fast_path.remove_endpoint(pod.host_ifindex)?;
        ensure!(fast_path.sweep_notes(&Timeouts::of_conntrack())?.total == 1, "of a pod that is gone none stays");
        ensure!(flows.get(&key(OTHER, REMOTE, 1, 2), 0).is_ok(), "the other's went as well");
        Ok(())
    })
}

/// A pod ran before the programs did, with a flow in connection tracking: it is carried for once that flow is noted.
#[test]
fn flows_of_pods_that_ran_before_are_read_from_connection_tracking() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        if !track(&[POD, REMOTE, OUTSIDE])? {
            println!("SKIP needs nft");
            return Ok(());
        }
        let (near, far) = (UdpSocket::bind((Ipv4Addr::from(POD), 4660))?, UdpSocket::bind((Ipv4Addr::from(REMOTE), 53))?);
        near.send_to(b"by the stack", far.local_addr()?)?;
        let (fast_path, network) = start(&object)?;
        let pod = link(0, POD);
        // Its link is not there to attach to: what the maps hold is what matters here.
        let mut host = Socket::open()?;
        ensure!(fast_path.adopt_endpoint(&mut host, &pod, &network).is_err(), "attached to a link that is not there");
        ensure!(fast_path.heal()? == 1, "one pod waited");
        ensure!(fast_path.heal()? == 0, "and waits no longer");
        let flows = table()?;
        let noted: Vec<_> = flows.keys().collect::<Result<_, _>>()?;
        ensure!(noted == [key(POD, REMOTE, 4660, 53)], "noted are {noted:?}");

        // A flow to what is not native need not be noted, until that changes.
        let outside = UdpSocket::bind((Ipv4Addr::from(OUTSIDE), 53))?;
        near.send_to(b"by the stack", outside.local_addr()?)?;
        let more = NodeNetwork { native: vec!["10.0.0.0/16".parse()?, "198.51.100.0/24".parse()?], ..network };
        fast_path.set_network(&more)?;
        let mut noted: Vec<_> = flows.keys().collect::<Result<_, _>>()?;
        noted.sort_unstable_by_key(|key| *key == self::key(POD, OUTSIDE, 4660, 53));
        ensure!(noted == [key(POD, REMOTE, 4660, 53), key(POD, OUTSIDE, 4660, 53)], "noted are {noted:?}");
        Ok(())
    })
}

/// Gives the loopback interface these addresses, and has connection tracking see what passes it; whether that could be done.
fn track(addresses: &[[u8; 4]]) -> Result<bool> {
    let mut up = LinkMessage::default();
    up.header.index = 1;
    (up.header.flags, up.header.change_mask) = (LinkFlags::Up, LinkFlags::Up);
    let mut requests = vec![Request { step: "set loopback up", message: RouteNetlinkMessage::SetLink(up), flags: 0 }];
    requests.extend(addresses.iter().map(|address| crate::carried::address(Ifindex(1), IpAddr::from(*address), 32)));
    Socket::open()?.execute(requests)?;
    let Ok(mut nft) = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn() else { return Ok(false) };
    let rules = b"table ip t {\n chain c {\n type filter hook input priority 0; ct state new counter accept;\n }\n}\n";
    nft.stdin.take().context("nft takes no input")?.write_all(rules)?;
    ensure!(nft.wait()?.success(), "nft refuses the rules");
    Ok(true)
}
