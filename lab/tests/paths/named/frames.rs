//! Frames as a pod with `CAP_NET_RAW`, or somebody on the network, can make them.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::capture::{Capture, mac};
use lab::kube_proxy::Family;
use lab::raw::{Link, Raw, udp_packet};

use super::{in_families, is_answered};
use crate::probe::Probe;
use crate::site::{End, Site};
use crate::ways::Asked::Direct;

const PORT: u16 = 4242;
const FROM: u16 = 4141;
const V4: [u8; 2] = [0x08, 0x00];
const V6: [u8; 2] = [0x86, 0xdd];

fn ether_type(family: Family) -> [u8; 2] {
    if family == Family::V4 { V4 } else { V6 }
}

/// The MAC address of the host's end of the first pod's link.
fn host_end(site: &Site) -> Result<[u8; 6]> {
    let route = site.sides[0].node.run(&["ip", "route", "get", "10.0.1.18"])?;
    let link = route.split_ascii_whitespace().skip_while(|word| *word != "dev").nth(1).context("no route to the pod")?;
    mac(site.network(End::Node1), link)
}

fn sink(site: &Site, end: End) -> Result<UdpSocket> {
    let socket = site.network(end).run(|| Ok::<_, anyhow::Error>(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))?))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(socket)
}

/// That nothing has come until a packet that was sent last, by the same way, has.
fn heard_nothing_before(site: &Site, (from, to): (End, End), family: Family, socket: &UdpSocket) -> Result<()> {
    let raw = Raw::open(site.network(from))?;
    let own = SocketAddr::new(site.address(from, family)?, FROM + 1);
    raw.send(own, SocketAddr::new(site.address(to, family)?, PORT))?;
    let mut bytes = [0; 64];
    let (length, seen) = socket.recv_from(&mut bytes).context("the packet that was allowed")?;
    ensure!(seen.port() == FROM + 1, "{} received {:?} from {seen}", to.name(), &bytes[..length]);
    socket.set_nonblocking(true)?;
    match socket.recv_from(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        other => anyhow::bail!("{} received {other:?}", to.name()),
    }
    socket.set_nonblocking(false)?;
    Ok(())
}

/// IEEE 802.1Q, 6.9: a priority tag says nothing of where a frame belongs, so it must not decide who looks at it. CVE-2021-27853 and
/// its kin are filters that did not look behind it.
pub(super) fn tagged(site: &mut Site) -> Result<()> {
    let link = Link::open(site.network(End::A1), "eth0")?;
    let own = mac(site.network(End::A1), "eth0")?;
    let host = host_end(site)?;
    in_families(|family| {
        let sources = [site.address(End::A2, family)?, site.address(End::Node2, family)?];
        for to in [End::B1, End::A2, End::Node1] {
            let socket = sink(site, to)?;
            let wire = Capture::start(site.network(End::Node1), "eth1", &format!("udp dst port {PORT} and udp src port {FROM}"))?;
            let destination = SocketAddr::new(site.address(to, family)?, PORT);
            for source in sources.into_iter().filter(|source| *source != destination.ip()) {
                let packet = udp_packet(SocketAddr::new(source, FROM), destination)?;
                let kind = ether_type(family);
                let length = u16::try_from(packet.len() + 8)?.to_be_bytes();
                let tags: [Vec<u8>; 6] = [
                    [&[0x81, 0, 0, 0][..], &kind].concat(),
                    [&[0x81, 0, 0xe0, 0][..], &kind].concat(),
                    [&[0x88, 0xa8, 0, 0, 0x81, 0, 0, 0][..], &kind].concat(),
                    [&[0x81, 0, 0, 0, 0x81, 0, 0, 0][..], &kind].concat(),
                    [&[0x88, 0xa8, 0, 0][..], &kind].concat(),
                    // IEEE 802.3 with LLC and SNAP.
                    [&length[..], &[0xaa, 0xaa, 3, 0, 0, 0], &kind].concat(),
                ];
                for tag in tags {
                    link.send(&[&host[..], &own, &tag, &packet].concat())?;
                }
            }
            heard_nothing_before(site, (End::A1, to), family, &socket)?;
            let frames = wire.frames()?;
            ensure!(frames.is_empty(), "on the wire to {}: {frames:?}", to.name());
        }
        Ok(())
    })
}

/// What the network sends with a source that is a pod of this node is not from the pod (BCP 38).
pub(super) fn from_the_network(site: &mut Site) -> Result<()> {
    let fabric = lab::network::Network::of(site.lab.node("vpc")?)?;
    let raw = Raw::open(&fabric)?;
    in_families(|family| {
        let socket = sink(site, End::A2)?;
        for source in [End::A1, End::U1] {
            let to = SocketAddr::new(site.address(End::A2, family)?, PORT);
            raw.send(SocketAddr::new(site.address(source, family)?, FROM), to)?;
        }
        // Another way than theirs, but behind them in the queue of the same uplink.
        heard_nothing_before(site, (End::B2, End::A2), family, &socket)
    })
}

/// A switch floods what it knows no port for, and broadcasts reach everybody: neither is ours to forward (RFC 1122, 3.3.6).
pub(super) fn for_others(site: &mut Site) -> Result<()> {
    let fabric = lab::network::Network::of(site.lab.node("vpc")?)?;
    let link = Link::open(&fabric, "eth1")?;
    let router = mac(&fabric, "eth1")?;
    in_families(|family| {
        let socket = sink(site, End::A2)?;
        let to = SocketAddr::new(site.address(End::A2, family)?, PORT);
        let packet = udp_packet(SocketAddr::new(site.address(End::B2, family)?, FROM), to)?;
        for destination in [[0xff; 6], [0x01, 0, 0x5e, 1, 2, 3], [0x33, 0x33, 0, 0, 0, 1], [0x0a, 0x42, 0x42, 0x42, 0x42, 0x42]] {
            link.send(&[&destination[..], &router, &ether_type(family), &packet].concat())?;
        }
        heard_nothing_before(site, (End::B2, End::A2), family, &socket)
    })
}

/// RFC 826, RFC 4861: a pod answers for its own addresses, and the host believes no other answer.
pub(super) fn claims(site: &mut Site) -> Result<()> {
    let link = Link::open(site.network(End::A1), "eth0")?;
    let own = mac(site.network(End::A1), "eth0")?;
    let node = &site.sides[0].node;
    let table = || -> Result<Vec<String>> {
        let all = node.run(&["sh", "-c", "ip neigh show; ip -6 neigh show"])?;
        let own = own.map(|octet| format!("{octet:02x}")).join(":");
        let of_own = all.lines().filter(|line| line.contains(&own)).map(|line| line.split(" used").next().unwrap_or(line).to_owned());
        let mut lines: Vec<String> = of_own.collect();
        lines.sort();
        Ok(lines)
    };
    let before = table()?;
    for claimed in [site.address(End::A2, Family::V4)?, "10.0.0.1".parse()?, site.address(End::Node1, Family::V4)?] {
        let IpAddr::V4(claimed) = claimed else { continue };
        // An announcement, and a reply that nobody asked for.
        for operation in [1, 2] {
            let arp = [&[0, 1, 8, 0, 6, 4, 0, operation][..], &own, &claimed.octets(), &[0xff; 6], &claimed.octets()].concat();
            link.send(&[&[0xff; 6][..], &own, &[0x08, 0x06], &arp].concat())?;
        }
    }
    for claimed in [site.address(End::A2, Family::V6)?, "fe80::1".parse()?] {
        let IpAddr::V6(claimed) = claimed else { continue };
        let mut advertisement = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &claimed.octets(), &[2, 1], &own].concat();
        link.send_icmp6(own, [0x33, 0x33, 0, 0, 0, 1], "fe80::bad".parse()?, "ff02::1".parse()?, &mut advertisement)?;
    }
    in_families(|family| {
        for probe in Probe::FRESH {
            is_answered(site, (End::Node1, Direct(End::A2)), family, probe, "a2", Some(End::Node1))?;
            is_answered(site, (End::B2, Direct(End::A2)), family, probe, "a2", Some(End::B2))?;
            is_answered(site, (End::A1, Direct(End::B1)), family, probe, "b1", Some(End::A1))?;
        }
        Ok(())
    })?;
    let after = table()?;
    ensure!(after.iter().all(|line| before.contains(line)), "the host has learnt: {after:?}, it knew {before:?}");
    Ok(())
}

/// The table of neighbours is one for all namespaces of a machine, and has room for a thousand (`gc_thresh3`).
pub(super) fn solicitations(site: &mut Site) -> Result<()> {
    const SENT: u16 = 200;
    /// Neighbours of other kinds come and go.
    const FEW: usize = 8;
    let link = Link::open(site.network(End::A1), "eth0")?;
    let own = mac(site.network(End::A1), "eth0")?;
    let node = &site.sides[0].node;
    let known = || -> Result<usize> { Ok(node.run(&["ip", "-6", "neigh", "show"])?.lines().count()) };
    let before = known()?;
    for number in 0..SENT {
        let mut solicitation = [&[133, 0, 0, 0, 0, 0, 0, 0, 1, 1][..], &own].concat();
        let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xbad, number + 1);
        link.send_icmp6(own, [0x33, 0x33, 0, 0, 0, 2], source, "ff02::2".parse()?, &mut solicitation)?;
    }
    is_answered(site, (End::A1, Direct(End::Node1)), Family::V6, Probe::EchoSmall, "node1", None)?;
    let after = known()?;
    ensure!(after <= before + FEW, "{after} neighbours, {before} before {SENT} solicitations");
    Ok(())
}
