//! Flows that the stack carries: very many, too many, and one that only its server keeps alive.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use conformance_tests::kube_proxy::Family;
use conformance_tests::lab::cni::FastPath;
use conformance_tests::lab::node::Node;
use conformance_tests::lab::telemetry;

use crate::cluster::{Cluster, End, SINK};
use conformance_tests::lab::raw::Raw;
use conformance_tests::lab::services::{PORT, To};

const FLOWS: usize = 100_000;
/// Ports that each of two clients sends from: half of the flows.
const HALF: RangeInclusive<u16> = 10_000..=59_999;
const ALL: RangeInclusive<u16> = 1_024..=65_535;

/// The flows over IPv4 that a node's programs have noted: `ebpf::flow::Flow4` and `Noted`, as they lie in the map.
type Flows = HashMap<MapData, [u8; 16], u32>;

/// The table of a node, and how many flows it has room for.
struct Noted {
    flows: Flows,
    room: usize,
}

fn noted(node: &Node) -> Result<Noted> {
    let pins = node.host_path("/sys/fs/bpf/barewire/run-barewire");
    // Beside the maps, by the version of their layout, are the uplinks.
    let is_maps = |path: &PathBuf| path.join("FLOWS4").exists();
    let entries = std::fs::read_dir(&pins).into_iter().flatten().flatten().map(|entry| entry.path());
    let maps = entries.into_iter().find(is_maps).with_context(|| format!("no maps in {}", pins.display()))?;
    let map = MapData::from_pin(maps.join("FLOWS4"))?;
    let room = map.info()?.max_entries() as usize;
    Ok(Noted { flows: HashMap::try_from(Map::from_map_data(map)?)?, room })
}

/// Sends one datagram of each of a hundred thousand flows through a service, while conversations go on.
pub(crate) fn hundred_thousand(cluster: &mut Cluster) -> Result<()> {
    let service = SocketAddr::new(To::Sink.address(Family::V4), PORT);
    thread::scope(|scope| -> Result<()> {
        let floods = [End::A1, End::Web].map(|end| {
            let raw = Raw::open(cluster.network(end));
            let source = cluster.address(end, Family::V4);
            scope.spawn(move || raw?.flood(source?, HALF, service, false))
        });
        floods.into_iter().try_for_each(|flood| flood.join().unwrap_or_else(|_| bail!("a flood panicked")))
    })?;
    let node = &cluster.sides[0].node;
    let tracked: usize = node.run(&["sysctl", "-n", "net.netfilter.nf_conntrack_count"])?.trim().parse()?;
    ensure!(tracked >= FLOWS, "the stack tracks {tracked} connections");
    if cluster.fast_path == FastPath::Auto {
        let noted = noted(node)?.flows.keys().count();
        ensure!(noted >= FLOWS, "{noted} flows are noted, {tracked} connections tracked");
        // The table had room: nobody may have been sent to the stack for good.
        let reasons = telemetry::not_carried(cluster.network(End::Node1))?;
        ensure!(reasons.get("stack_only") == Some(&0), "{reasons:?}");
    }
    cluster.all_go_on()
}

/// Conntrack remembers a connection by packets of either direction, so a noted flow must not be forgotten while its server goes on
/// sending: the client of a stream may be silent for as long as it likes.
pub(crate) fn replies_keep_it_noted(cluster: &mut Cluster) -> Result<()> {
    const STREAM: Duration = Duration::from_millis(2_500);
    /// Of a datagram on this machine, however busy.
    const ARRIVAL: Duration = Duration::from_secs(5);
    let server = cluster.sink(End::A2, SINK + 20)?;
    let (client, backend) = (cluster.address(End::A1, Family::V4)?, cluster.address(End::A2, Family::V4)?);
    // A service of its own, so that no flood is in the way.
    let node = &cluster.sides[0].node;
    let rule = format!("ip daddr 10.96.9.9 udp dport 80 dnat to {backend}:{}", SINK + 20);
    node.run(&["nft", &format!("table ip stream {{ chain prerouting {{ type nat hook prerouting priority -101; {rule}; }}; }}")])?;
    let socket = cluster.network(End::A1).run(|| -> Result<_> {
        let socket = UdpSocket::bind((client, 0))?;
        socket.connect("10.96.9.9:80")?;
        Ok(socket)
    })?;
    socket.set_read_timeout(Some(ARRIVAL))?;
    socket.send(b"play")?;
    let mut bytes = [0; 16];
    server.set_nonblocking(false)?;
    server.set_read_timeout(Some(ARRIVAL))?;
    let (_, peer) = server.recv_from(&mut bytes).context("the client's only datagram")?;
    let flow = flow(backend, SINK + 20, client, socket.local_addr()?.port())?;
    let first = noted(node)?.flows.get(&flow, 0).context("the flow of the replies is noted")?;
    let end = Instant::now() + STREAM;
    while Instant::now() < end {
        server.send_to(b"tone", peer)?;
        socket.recv(&mut bytes).context("a datagram of the stream")?;
        thread::sleep(Duration::from_millis(50));
    }
    let last = noted(node)?.flows.get(&flow, 0)?;
    node.run(&["nft", "delete", "table", "ip", "stream"])?;
    ensure!(last >= first + 2, "noted at {first} s and, after {STREAM:?} of replies, last seen at {last} s: it would be forgotten");
    Ok(())
}

/// The key of a flow over UDP, in the direction of its replies.
fn flow(source: IpAddr, source_port: u16, destination: IpAddr, destination_port: u16) -> Result<[u8; 16]> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { bail!("not IPv4") };
    let parts = [&source.octets()[..], &destination.octets(), &source_port.to_be_bytes(), &destination_port.to_be_bytes(), &[17, 0, 0, 0]];
    Ok(parts.concat().try_into().unwrap_or_else(|_| unreachable!("sixteen bytes")))
}

/// Fills the first node's table. Packets with options are for the stack, so the flow of each is noted; conntrack, whose own table is
/// no larger, is told to leave them alone.
pub(crate) fn full(cluster: &mut Cluster) -> Result<()> {
    const PORTS: RangeInclusive<u16> = SINK + 1..=SINK + 6;
    let node = cluster.sides[0].node.clone();
    let untracked = format!("udp dport {}-{} notrack", PORTS.start(), PORTS.end());
    node.run(&["nft", &format!("table ip flood {{ chain prerouting {{ type filter hook prerouting priority raw; {untracked}; }}; }}")])?;
    let (source, sink) = (cluster.address(End::A1, Family::V4)?, cluster.address(End::A2, Family::V4)?);
    let _sinks: Vec<UdpSocket> = PORTS.map(|port| cluster.sink(End::A2, port)).collect::<Result<_>>()?;
    let raw = Raw::open(cluster.network(End::A1))?;
    let Noted { flows, room } = noted(&node)?;
    for port in PORTS {
        raw.flood(source, ALL, SocketAddr::new(sink, port), true)?;
        if flows.keys().count() == room {
            break;
        }
    }
    node.run(&["nft", "delete", "table", "ip", "flood"])?;
    let noted = flows.keys().count();
    ensure!(noted == room, "{noted} of {room} flows");
    let stack_only = || -> Result<u64> {
        let reasons = telemetry::not_carried(cluster.network(End::Node1))?;
        Ok(reasons.get("stack_only").copied().unwrap_or_default())
    };
    let before = stack_only()?;
    // The flow that found no room was the sink's: from now on all its packets take the stack.
    let mut direct = conformance_tests::lab::echo::Conversation::open(
        cluster.network(End::A1),
        conformance_tests::lab::echo::Protocol::Udp,
        SocketAddr::new(sink, crate::cluster::SERVED),
    )?;
    direct.exchange()?;
    ensure!(stack_only()? >= before + 4, "{} packets for the stack alone, {before} before", stack_only()?);
    cluster.all_go_on()
}
