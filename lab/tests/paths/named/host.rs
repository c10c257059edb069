//! What changes on the host while pods run.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::bare::BarePod;
use lab::capture::Capture;
use lab::kube_proxy::Family;
use lab::services::To;
use lab::telemetry;

use super::{follows, in_families, is_answered, is_carried, is_silent, is_told, meanwhile};
use crate::notes::PINS;
use crate::probe::Probe;
use crate::site::{End, Site};
use crate::ways::Asked::{Direct, Place, Service};

pub(super) fn route_appears(site: &mut Site) -> Result<()> {
    let before = ["ip route add blackhole 10.0.1.33/32", "ip -6 route add blackhole fd00:10:0:2::33/128"];
    let after = ["ip route del blackhole 10.0.1.33/32", "ip -6 route del blackhole fd00:10:0:2::33/128"];
    meanwhile(&site.sides[0].node, &before, &after, || {
        follows("a route that appears to be taken", || {
            in_families(|family| {
                let heard = super::ask(site, End::A1, Direct(End::B1), family, Probe::UdpSmall)?;
                ensure!(!heard.is_answered(), "{heard}");
                Ok(())
            })
        })
    })?;
    follows("a route that went to be left", || {
        in_families(|family| is_answered(site, (End::A1, Direct(End::B1)), family, Probe::UdpSmall, "b1", Some(End::A1)))
    })
}

pub(super) fn policy_appears(site: &mut Site) -> Result<()> {
    let of = |verb: &str| {
        [("10.0.1.16/28", "10.0.1.32/28"), ("fd00:10:0:1::/80", "fd00:10:0:2::/80")].map(|(src, dst)| {
            format!("ip xfrm policy {verb} src {src} dst {dst} dir out{}", if verb == "add" { " action block" } else { "" })
        })
    };
    let (before, after) = (of("add"), of("del"));
    meanwhile(&site.sides[0].node, &before.each_ref().map(String::as_str), &after.each_ref().map(String::as_str), || {
        follows("a policy that appears to block", || {
            in_families(|family| is_silent(site, (End::A1, Direct(End::B1)), family, Probe::UdpSmall))
        })
    })?;
    follows("a policy that went to block no more", || {
        in_families(|family| is_answered(site, (End::A1, Direct(End::B1)), family, Probe::UdpSmall, "b1", Some(End::A1)))
    })
}

/// Somebody removes the pinned links, and where there is one, the qdisc.
pub(super) fn hooks_removed(site: &mut Site) -> Result<()> {
    let node = &site.sides[0].node;
    let remove = format!("rm -f {PINS}/uplinks/*/*gress; tc qdisc del dev eth1 clsact 2>/dev/null; true");
    node.run(&["sh", "-c", &remove])?;
    let connects = || -> Result<()> {
        in_families(|family| {
            for probe in Probe::FRESH {
                is_answered(site, (End::A1, Direct(End::B1)), family, probe, "b1", Some(End::A1))?;
                is_answered(site, (End::B2, Direct(End::A2)), family, probe, "a2", Some(End::B2))?;
            }
            Ok(())
        })
    };
    let outcome = follows("connections without the uplink's hooks", connects).and_then(|()| {
        follows("status to tell, or the hooks to be back", || {
            let back = node.run(&["sh", "-c", &format!("ls {PINS}/uplinks/*/ingress 2>/dev/null | wc -l")])?.trim().parse::<usize>()? >= 2;
            let status = telemetry::get(site.network(End::Node1), "/status")?;
            let said = telemetry::get(site.network(End::Node1), "/debug/fast_path")?;
            ensure!(back || status.contains("eth1"), "status {status}, fast path {said}");
            Ok(())
        })
    });
    site.restart(|_| Ok(()))?;
    outcome
}

/// kube-proxy's IPVS mode and node-local DNS put addresses on the host by the dozen.
pub(super) fn forty_addresses(site: &mut Site) -> Result<()> {
    let add = "ip link add kube-ipvs0 type bridge && ip link set kube-ipvs0 up && for n in $(seq 1 40); do \
               ip address add 9.96.0.$n/32 dev kube-ipvs0; ip -6 address add fc00:96::$n/128 dev kube-ipvs0 nodad; done";
    meanwhile(&site.sides[0].node, &[add], &["ip link del kube-ipvs0"], || {
        // They are in the daemon's hands before long, for better or worse.
        std::thread::sleep(Duration::from_millis(1_500));
        let filter = "host 10.0.1.18 and host 10.0.0.11 or host fd00:10:0:1::18 and host fd00:10::11";
        let wire = Capture::start(site.network(End::Node1), "eth1", filter)?;
        in_families(|family| {
            for probe in Probe::FRESH {
                is_answered(site, (End::A1, Direct(End::Node1)), family, probe, "node1", Some(End::A1))?;
            }
            Ok(())
        })?;
        let frames = wire.frames()?.len();
        ensure!(frames == 0, "{frames} packets from a pod to its own node left by the uplink");
        Ok(())
    })
}

/// Pods keep the MTU that they were made with.
pub(super) fn narrow_uplink(site: &mut Site) -> Result<()> {
    meanwhile(&site.sides[0].node, &["ip link set eth1 mtu 1500"], &["ip link set eth1 mtu 9001"], || {
        follows("the uplink's new MTU to be told", || {
            in_families(|family| is_told(site, (End::A1, Direct(End::B1)), family, Probe::UdpFull, "1500"))
        })
    })?;
    // What pods have learnt of the way, they keep for ten minutes.
    for pod in ["a1", "a2"] {
        site.sides[0].node.run(&["sh", "-c", &format!("ip -n {pod} route flush cache; ip -n {pod} -6 route flush cache")])?;
    }
    Ok(())
}

/// RFC 6056, 3.3; and a floating address beside the node's own is somebody else's tomorrow.
pub(super) fn masquerade(site: &mut Site) -> Result<()> {
    const SOCKETS: u16 = 24;
    /// By chance one of 28,000 is the same.
    const SAME: usize = 2;
    let before = ["ip address add 10.0.0.99/24 dev eth1 noprefixroute", "ip -6 address add fd00:10::99/64 dev eth1 nodad noprefixroute"];
    let after = ["ip address del 10.0.0.99/24 dev eth1", "ip -6 address del fd00:10::99/64 dev eth1"];
    meanwhile(&site.sides[0].node, &before, &after, || {
        in_families(|family| {
            let any = if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" };
            let server = site.network(End::Internet).run(|| Ok::<_, anyhow::Error>(UdpSocket::bind(any)?))?;
            server.set_read_timeout(Some(Duration::from_secs(1)))?;
            let to = SocketAddr::new(site.address(End::Internet, family)?, server.local_addr()?.port());
            let own = site.address(End::Node1, family)?;
            let mut same = 0;
            for number in 0..SOCKETS {
                let from = SocketAddr::new(site.address(End::A1, family)?, 23_000 + number);
                let socket = site.network(End::A1).run(|| Ok::<_, anyhow::Error>(UdpSocket::bind(from)?))?;
                socket.send_to(b"who am I", to)?;
                let (_, seen) = server.recv_from(&mut [0; 16]).context("a datagram of a pod")?;
                ensure!(seen.ip() == own, "the internet sees {}, not {own}", seen.ip());
                same += usize::from(seen.port() == from.port());
            }
            ensure!(same <= SAME, "{same} of {SOCKETS} datagrams kept the pod's port");
            Ok(())
        })
    })
}

/// cloud-init and DHCP clients put the network's addresses on the interface, those for pods as well.
pub(super) fn address_of_the_host(site: &mut Site) -> Result<()> {
    let node = &site.sides[0].node;
    meanwhile(node, &["ip address add 10.0.1.22/32 dev eth1"], &["ip address del 10.0.1.22/32 dev eth1"], || {
        let refused = || -> Result<()> {
            match BarePod::start_with(node, "twice", &["10.0.1.22", "fd00:10:0:1::22"]) {
                Ok(pod) => {
                    pod.remove(node)?;
                    anyhow::bail!("a pod got 10.0.1.22, which the host has")
                }
                Err(_) => Ok(node.run(&["ip", "netns", "delete", "twice"]).map(drop)?),
            }
        };
        follows("the address to be withheld", refused)
    })
}

pub(super) fn services_within_native(site: &mut Site) -> Result<()> {
    let native = [("native_cidrs", "[\"10.0.0.0/8\", \"fd00::/16\"]".to_owned())];
    let fast_path = site.fast_path;
    let outcome = site.restart_with(fast_path, &native, |_| Ok(())).and_then(|()| {
        in_families(|family| {
            for probe in [Probe::TcpSmall, Probe::UdpSmall] {
                is_answered(site, (End::A1, Service(To::First)), family, probe, "a2", Some(End::A1))?;
                is_answered(site, (End::A1, Service(To::Second)), family, probe, "b1", Some(End::A1))?;
            }
            Ok(())
        })
    });
    site.restart(|_| Ok(())).context("with the usual settings")?;
    outcome
}

/// A broad network that is called native, and nobody said where the services are: it works, or somebody says what to do.
pub(super) fn services_unnamed_within_native(site: &mut Site) -> Result<()> {
    let keys = [("native_cidrs", "[\"10.0.0.0/8\", \"fd00::/16\"]".to_owned()), ("service_cidrs", "[]".to_owned())];
    let fast_path = site.fast_path;
    let outcome = match site.restart_with(fast_path, &keys, |_| Ok(())) {
        Err(error) => {
            ensure!(format!("{error:#}").contains("service_cidrs"), "it does not start, and does not say why: {error:#}");
            Ok(())
        }
        Ok(()) => in_families(|family| {
            let heard = is_answered(site, (End::A1, Service(To::First)), family, Probe::TcpSmall, "a2", Some(End::A1));
            let told = telemetry::get(site.network(End::Node1), "/status")?.contains("service_cidrs");
            if told { Ok(()) } else { heard }
        }),
    };
    site.restart(|_| Ok(())).context("with the usual settings")?;
    outcome
}

/// More networks than anybody has peered.
pub(super) fn many_native(site: &mut Site) -> Result<()> {
    const MORE: u16 = 40;
    let more = (0..MORE).map(|number| format!(", \"10.200.{number}.0/24\", \"fd00:200:{number:x}::/48\""));
    let keys = [("native_cidrs", format!("[\"10.0.0.0/16\", \"fd00:10::/32\"{}]", more.collect::<String>()))];
    let fast_path = site.fast_path;
    let outcome = site.restart_with(fast_path, &keys, |_| Ok(())).and_then(|()| {
        in_families(|family| {
            for probe in Probe::FRESH {
                is_answered(site, (End::A1, Direct(End::B1)), family, probe, "b1", Some(End::A1))?;
                is_answered(site, (End::Far, Direct(End::A2)), family, probe, "a2", Some(End::Far))?;
            }
            Ok(())
        })?;
        let attached = telemetry::fast_path_is_attached(site.network(End::Node1))?;
        ensure!(attached == is_carried(site), "attached is {attached}");
        Ok(())
    });
    site.restart(|_| Ok(())).context("with the usual settings")?;
    outcome
}

/// Addresses that make no ranges (Azure's, and AWS' where a subnet is in pieces). Those between them are other nodes' pods'.
pub(super) fn scattered(site: &mut Site) -> Result<()> {
    /// Packets of other flows, meanwhile.
    const OTHERS: u64 = 8;
    let own = (16..32).filter(|last| ![19, 23].contains(last)).map(|last| format!("\"10.0.1.{last}-10.0.1.{last}\""));
    let more = (0..24).map(|number| format!("\"10.0.90.{0}-10.0.90.{0}\"", 2 * number + 1));
    let ranges = own.chain(more).chain(["\"fd00:10:0:1::/80\"".to_owned()]).collect::<Vec<_>>().join(", ");
    let between = Place("10.0.90.2", "fd00:10:0:90::2");
    let other = site.sides[1].node.clone();
    let outcome =
        site.restart_first_with(("ranges = [\"10.0.1.16/28\", \"fd00:10:0:1::/80\"]", &format!("ranges = [{ranges}]"))).and_then(|()| {
            meanwhile(&other, &["ip address add 10.0.90.2/32 dev lo"], &["ip address del 10.0.90.2/32 dev lo"], || {
                let before = telemetry::not_carried(site.network(End::Node1))?;
                is_answered(site, (End::A1, between), Family::V4, Probe::TcpLarge, "node2", Some(End::A1))?;
                is_answered(site, (End::A1, Direct(End::B1)), Family::V4, Probe::TcpLarge, "b1", Some(End::A1))?;
                let after = telemetry::not_carried(site.network(End::Node1))?;
                let more = after.iter().map(|(reason, count)| (reason, count - before.get(reason).copied().unwrap_or_default()));
                let more: Vec<_> = more.filter(|(_, count)| is_carried(site) && *count > OTHERS).collect();
                ensure!(more.is_empty(), "a transfer was not carried: {more:?}");
                Ok(())
            })
        });
    site.restart(|_| Ok(())).context("with the usual settings")?;
    outcome
}
