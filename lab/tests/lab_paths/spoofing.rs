//! A pod may make whatever packets it likes (`CAP_NET_RAW`, `CAP_NET_ADMIN`); only what is its own arrives, anywhere.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::cni::FastPath;
use lab::kube_proxy::Family;
use lab::network::Network;
use lab::telemetry;

use crate::Case;
use crate::cluster::{Cluster, End};
use lab::capture::{Capture, mac};
use lab::raw::{PAYLOAD, Raw};

/// Where everybody listens for what should not come.
const PORT: u16 = 4242;
const FROM: u16 = 4141;
/// Of what is the pod's own to send.
const ALLOWED: u16 = 4142;
/// Limit of the wait for it.
const ARRIVAL: Duration = Duration::from_secs(5);
const TARGETS: [End; 5] = [End::A2, End::B1, End::Node1, End::Node2, End::Internet];

pub(crate) fn of_addresses() -> Case {
    Case::new("spoofing/a_source_address_that_is_not_the_pods_goes_nowhere", addresses)
}

/// The stack's rules do not look at it.
pub(crate) fn of_mac_addresses() -> Case {
    Case::new("spoofing/a_source_mac_that_is_not_the_pods_goes_nowhere", mac_address)
}

/// Sources that are none of the pod's: another pod's of this node and of the other, the nodes', outside, loopback, and addresses that
/// mean something on their own link only.
fn foreign(cluster: &Cluster, family: Family) -> Result<Vec<IpAddr>> {
    let mut sources = Vec::new();
    for end in [End::Web, End::A2, End::B2, End::Node1, End::Node2, End::Internet] {
        sources.push(cluster.address(end, family)?);
    }
    let more: &[&str] = match family {
        Family::V4 => &["198.51.100.7", "10.96.0.10", "127.0.0.1", "169.254.7.7", "169.254.1.1", "224.0.0.5"],
        Family::V6 => &["2001:db8:bad::7", "fd00:96::10", "::1", "fe80::7", "fe80::1", "::ffff:10.0.1.17"],
    };
    for address in more {
        sources.push(address.parse()?);
    }
    Ok(sources)
}

fn addresses(cluster: &mut Cluster) -> Result<()> {
    let raw = Raw::open(cluster.network(End::A1))?;
    let watch = Watch::start(cluster)?;
    let dropped = || reason(cluster, "spoofed_address");
    let before = dropped()?;
    let mut sent = 0;
    for family in Family::ALL {
        for target in TARGETS {
            let to = SocketAddr::new(cluster.address(target, family)?, PORT);
            for source in foreign(cluster, family)? {
                raw.send(SocketAddr::new(source, FROM), to).with_context(|| format!("{source} to {to}"))?;
                // IPv6 drops it by itself, before any rule sees it (`ip6_rcv_core`, net/ipv6/ip6_input.c).
                let dropped_before = cluster.fast_path == FastPath::Off && source == IpAddr::V6(Ipv6Addr::LOCALHOST);
                sent += u64::from(!dropped_before);
            }
        }
    }
    // The same packets with the pod's own source arrive: it was the source that was wrong with the others.
    watch.saw_nothing_but_what_is_allowed(cluster, &raw)?;
    let counted = dropped()? - before;
    ensure!(counted == sent, "{sent} packets had a foreign source, {counted} were dropped for it");
    cluster.all_go_on()
}

fn mac_address(cluster: &mut Cluster) -> Result<()> {
    let network = cluster.network(End::A1);
    let own = mac(network, "eth0")?;
    let mut foreign = own;
    foreign[5] ^= 1;
    let raw = Raw::open(network)?;
    let watch = Watch::start(cluster)?;
    let before = reason(cluster, "spoofed_mac")?;
    set_mac(network, foreign)?;
    let mut sent = 0;
    let mut send_all = || -> Result<()> {
        for (target, family) in TARGETS.iter().flat_map(|target| Family::ALL.map(|family| (*target, family))) {
            let source = SocketAddr::new(cluster.address(End::A1, family)?, FROM);
            raw.send(source, SocketAddr::new(cluster.address(target, family)?, PORT))?;
            sent += 1;
        }
        Ok(())
    };
    let outcome = send_all();
    set_mac(network, own)?;
    outcome?;
    watch.saw_nothing_but_what_is_allowed(cluster, &raw)?;
    let counted = reason(cluster, "spoofed_mac")? - before;
    // More, where the kernel tells its neighbours of the change by itself.
    ensure!(counted >= sent, "{sent} packets had a foreign MAC, {counted} were dropped for it");
    cluster.all_go_on()
}

/// Gives a pod's interface another MAC address. The kernel then forgets its neighbours, permanent ones included, so they are put back.
fn set_mac(pod: &Network, address: [u8; 6]) -> Result<()> {
    let ip = |arguments: &str| -> Result<String> {
        let said = pod.run(|| -> Result<_> { Ok(Command::new("ip").args(arguments.split(' ')).output()?) })?;
        ensure!(said.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&said.stderr));
        Ok(String::from_utf8(said.stdout)?)
    };
    let neighbours = ip("neighbour show dev eth0 nud permanent")?;
    ip(&format!("link set dev eth0 address {}", address.map(|octet| format!("{octet:02x}")).join(":")))?;
    for neighbour in neighbours.lines() {
        let entry: Vec<&str> = neighbour.split_ascii_whitespace().take(3).collect();
        ip(&format!("neighbour replace {} dev eth0 nud permanent", entry.join(" ")))?;
    }
    Ok(())
}

fn reason(cluster: &Cluster, name: &str) -> Result<u64> {
    let reasons = telemetry::not_carried(cluster.network(End::Node1))?;
    reasons.get(name).copied().with_context(|| format!("no {name} in {reasons:?}"))
}

fn listen(cluster: &Cluster, end: End) -> Result<UdpSocket> {
    let socket = cluster.sink(end, PORT)?;
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(ARRIVAL))?;
    Ok(socket)
}

/// Everybody who could receive something, and every wire that it could come by.
struct Watch {
    listeners: Vec<(End, UdpSocket)>,
    wires: Vec<Capture>,
}

impl Watch {
    fn start(cluster: &Cluster) -> Result<Self> {
        let listeners = TARGETS.map(|target| Ok((target, listen(cluster, target)?))).into_iter().collect::<Result<_>>()?;
        let filter = format!("udp dst port {PORT} and udp src port {FROM}");
        let wires = [End::Node1, End::Node2].map(|node| Capture::start(cluster.network(node), "eth1", &filter));
        Ok(Self { listeners, wires: wires.into_iter().collect::<Result<_>>()? })
    }

    /// Behind everything that was not allowed, one packet that is goes to each target in each family: when it is there, nothing else may be.
    fn saw_nothing_but_what_is_allowed(self, cluster: &Cluster, raw: &Raw) -> Result<()> {
        for (end, socket) in self.listeners {
            for family in Family::ALL {
                let own = SocketAddr::new(cluster.address(End::A1, family)?, ALLOWED);
                raw.send(own, SocketAddr::new(cluster.address(end, family)?, PORT))?;
                let mut bytes = [0; 64];
                let (length, from) =
                    socket.recv_from(&mut bytes).with_context(|| format!("the pod's own packet to {}, {family:?}", end.name()))?;
                // The internet sees the node, and a port of its choice.
                ensure!(end == End::Internet || from.port() == ALLOWED, "{} received something of {from}", end.name());
                ensure!(bytes[..length] == PAYLOAD[..], "{} received {:?}", end.name(), &bytes[..length]);
            }
            socket.set_nonblocking(true)?;
            match socket.recv_from(&mut [0; 64]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => anyhow::bail!("{} received {other:?}", end.name()),
            }
        }
        for wire in self.wires {
            let frames = wire.frames()?;
            ensure!(frames.is_empty(), "on a wire: {frames:?}");
        }
        Ok(())
    }
}
