//! What clients hear of ways as they are.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::capture::Capture;
use lab::kube_proxy::Family;
use lab::telemetry;

use super::{in_families, is_answered, is_silent, is_told};
use crate::probe::Probe;
use crate::site::{End, Site};
use crate::ways::Asked::{Direct, Place};

const EVERY_SMALL: [Probe; 3] = Probe::FRESH;

/// RFC 2663 (translation is the session's, not a packet's): an answer leaves by the address that was asked.
pub(super) fn not_native(site: &mut Site) -> Result<()> {
    let balancer = Place("198.51.100.200", "2001:db8:51::200");
    let ways = [
        (End::Peer, Direct(End::A2), End::A2),
        (End::Peer, Direct(End::B1), End::B1),
        (End::Office, Direct(End::A2), End::A2),
        (End::Client, balancer, End::A2),
        (End::Client, Direct(End::A2), End::A2),
    ];
    in_families(|family| {
        for (from, asked, server) in ways {
            for probe in EVERY_SMALL.into_iter().chain([Probe::TcpLarge]) {
                is_answered(site, (from, asked), family, probe, server.name(), Some(from))?;
            }
        }
        Ok(())
    })
}

/// RFC 1122, 3.2.2.1 and 4.1.3.3.
pub(super) fn closed_port(site: &mut Site) -> Result<()> {
    let ways = [(End::A1, End::A2), (End::A1, End::B1), (End::A1, End::Node2), (End::Peer, End::A2), (End::A1, End::Internet)];
    in_families(|family| {
        for (from, to) in ways {
            for probe in [Probe::UdpClosed, Probe::TcpClosed] {
                is_told(site, (from, Direct(to)), family, probe, "connection refused")?;
            }
        }
        Ok(())
    })
}

/// RFC 1191, RFC 8201: the sender learns what the way carries.
pub(super) fn narrow_way(site: &mut Site) -> Result<()> {
    in_families(|family| {
        for from in [End::A1, End::B1, End::U1] {
            is_answered(site, (from, Direct(End::Far)), family, Probe::TcpLarge, "far", Some(from))?;
            for probe in [Probe::UdpFull, Probe::EchoFull] {
                is_told(site, (from, Direct(End::Far)), family, probe, "1400")?;
            }
        }
        // The pod is the one that answers too much.
        is_answered(site, (End::Far, Direct(End::A2)), family, Probe::TcpLarge, "a2", Some(End::Far))
    })
}

/// RFC 1812, 5.3.1; RFC 4443, 3.3.
pub(super) fn last_hop(site: &mut Site) -> Result<()> {
    in_families(|family| {
        let told = if family == Family::V4 { "ICMP 11/0 of 10.0.0.11" } else { "ICMP 3/0 of fd00:10::11" };
        for to in [End::A2, End::B1, End::U1, End::Far] {
            for probe in [Probe::UdpLastHop, Probe::EchoLastHop] {
                is_told(site, (End::A1, Direct(to)), family, probe, told)?;
            }
        }
        Ok(())
    })
}

/// What is left to the stack is said, a line each.
pub(super) fn told(site: &mut Site) -> Result<()> {
    let said = ["/status", "/debug/fast_path"].map(|page| telemetry::get(site.network(End::Node1), page));
    let said = said.into_iter().collect::<Result<Vec<_>>>()?.concat();
    for cidr in ["10.0.50.0/24", "10.0.70.0/24", "10.0.80.0/24", "fd00:10:0:50::/64", "fd00:10:0:80::/64"] {
        ensure!(said.contains(cidr), "nothing is said of {cidr}: {said}");
    }
    Ok(())
}

pub(super) fn routes(site: &mut Site) -> Result<()> {
    in_families(|family| {
        for probe in [Probe::TcpLarge, Probe::UdpSmall, Probe::UdpFragments] {
            is_answered(site, (End::A1, Direct(End::Storage)), family, probe, "storage", Some(End::A1))?;
            is_answered(site, (End::A1, Place("10.0.70.1", "fd00:10:0:70::1")), family, probe, "storage", Some(End::A1))?;
            is_answered(site, (End::Storage, Direct(End::A2)), family, probe, "a2", Some(End::Storage))?;
        }
        // A connection over IPv6 waits for better times (`tcp_v6_err`, net/ipv6/tcp_ipv6.c).
        for probe in [Probe::UdpSmall, Probe::EchoSmall] {
            is_told(site, (End::A1, Place("10.0.71.10", "fd00:10:0:71::10")), family, probe, "unreachable")?;
        }
        for probe in EVERY_SMALL {
            for nowhere in [Place("10.0.71.10", "fd00:10:0:71::10"), Place("10.0.72.10", "fd00:10:0:72::10")] {
                let heard = super::ask(site, End::A1, nowhere, family, probe)?;
                ensure!(!heard.is_answered(), "{nowhere:?}: {heard}");
            }
        }
        Ok(())
    })
}

pub(super) fn ipsec(site: &mut Site) -> Result<()> {
    in_families(|family| {
        for probe in EVERY_SMALL {
            is_silent(site, (End::A1, Place("10.0.80.10", "fd00:10:0:80::10")), family, probe)?;
            is_answered(site, (End::B1, Place("10.0.80.10", "fd00:10:0:80::10")), family, probe, "far", Some(End::B1))?;
        }
        Ok(())
    })
}

/// RFC 1812, 5.2.7.1: who has no route says so. And the network is not asked for what the node itself has.
pub(super) fn nobody(site: &mut Site) -> Result<()> {
    let nobody = Place("10.0.1.29", "fd00:10:0:1::99");
    let wire = Capture::start(
        site.network(End::Node1),
        "eth1",
        "src host 10.0.1.18 and dst host 10.0.1.29 or src host fd00:10:0:1::18 and dst host fd00:10:0:1::99",
    )?;
    let heard = in_families(|family| {
        for probe in [Probe::UdpSmall, Probe::EchoSmall] {
            is_told(site, (End::A1, nobody), family, probe, "unreachable")?;
        }
        Ok(())
    });
    std::thread::sleep(Duration::from_millis(50));
    let frames = wire.frames()?.len();
    ensure!(frames == 0, "{frames} packets left for an address that the node has and no pod");
    heard?;
    in_families(|family| is_told(site, (End::Peer, nobody), family, Probe::UdpSmall, "unreachable"))
}
