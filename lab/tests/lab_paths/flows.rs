//! Flows that the stack carries: very many, too many, and one that only its server keeps alive.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::cni::FastPath;
use lab::kube_proxy::Family;
use lab::node::Node;
use lab::telemetry;

use crate::cluster::{Cluster, End, SINK};
use crate::notes;
use lab::raw::Raw;
use lab::services::{PORT, To};

const FLOWS: usize = 100_000;
/// Ports that each of two clients sends from: half of the flows.
const HALF: RangeInclusive<u16> = 10_000..=59_999;
const ALL: RangeInclusive<u16> = 1_024..=65_535;

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
        let noted = notes::all(node)?.len();
        ensure!(noted >= FLOWS, "{noted} flows are noted, {tracked} connections tracked");
        // The table had room: nobody may have been sent to the stack for good.
        let reasons = telemetry::not_carried(cluster.network(End::Node1))?;
        ensure!(reasons.get("slow_path_only") == Some(&0), "{reasons:?}");
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
    // As the pod sees it: the stack gives a flow through a service another port.
    let flow = flow(backend, SINK + 20, client, peer.port())?;
    let first = seen(node, flow)?;
    let end = Instant::now() + STREAM;
    while Instant::now() < end {
        server.send_to(b"tone", peer)?;
        socket.recv(&mut bytes).context("a datagram of the stream")?;
        thread::sleep(Duration::from_millis(50));
    }
    let last = seen(node, flow)?;
    node.run(&["nft", "delete", "table", "ip", "stream"])?;
    ensure!(last >= first + 2, "noted at {first} s and, after {STREAM:?} of replies, last seen at {last} s: it would be forgotten");
    Ok(())
}

/// The bytes of a flow over UDP, as far as they do not depend on how programs order them.
fn flow(one: IpAddr, one_port: u16, other: IpAddr, other_port: u16) -> Result<[u8; 16]> {
    let (IpAddr::V4(one), IpAddr::V4(other)) = (one, other) else { bail!("not IPv4") };
    let parts = [&one.octets()[..], &other.octets(), &one_port.to_be_bytes(), &other_port.to_be_bytes(), &[17, 0, 0, 0]];
    Ok(sorted(parts.concat().try_into().unwrap_or_else(|_| unreachable!("sixteen bytes"))))
}

fn sorted(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes.sort_unstable();
    bytes
}

/// When a flow that is noted was last seen.
fn seen(node: &Node, flow: [u8; 16]) -> Result<u32> {
    let found = notes::all(node)?.into_iter().find(|(noted, _)| sorted(*noted) == flow);
    Ok(found.context("the flow is noted")?.1)
}

/// A pod sends of more flows than there is room for. The stack has them in its hands, and conntrack, whose own table is no larger, is told to
/// leave them alone: their destination is changed without it. Nobody else loses anything.
pub(crate) fn full(cluster: &mut Cluster) -> Result<()> {
    const PORTS: RangeInclusive<u16> = SINK + 1..=SINK + 6;
    let node = cluster.sides[0].node.clone();
    let (source, sink) = (cluster.address(End::Greedy, Family::V4)?, cluster.address(End::A2, Family::V4)?);
    let changed = format!("ip daddr 10.96.9.8 udp dport {}-{} notrack ip daddr set {sink}", PORTS.start(), PORTS.end());
    node.run(&["nft", &format!("table ip flood {{ chain prerouting {{ type filter hook prerouting priority raw; {changed}; }}; }}")])?;
    let _sinks: Vec<UdpSocket> = PORTS.map(|port| cluster.sink(End::A2, port)).collect::<Result<_>>()?;
    let raw = Raw::open(cluster.network(End::Greedy))?;
    let mut noted = notes::all(&node)?.len();
    let mut is_full = false;
    for port in PORTS {
        raw.flood(source, ALL, SocketAddr::new([10, 96, 9, 8].into(), port), false)?;
        let more = notes::all(&node)?.len();
        // Of a whole round, not all had room.
        is_full = more < noted + ALL.len();
        noted = more;
        if is_full {
            break;
        }
    }
    node.run(&["nft", "delete", "table", "ip", "flood"])?;
    ensure!(is_full, "there was room for all of {} flows: {noted} are noted", PORTS.len() * ALL.len());
    cluster.all_go_on()
}
