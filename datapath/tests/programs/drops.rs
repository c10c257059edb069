//! Packets that are dropped, told one by one: with what they were, to whoever watches, and not too many.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use datapath::PodLink;
use datapath::fast_path::{DropHook, DroppedPacket, Limit, Limits, Reason};

use crate::carried::{FAMILIES, LIMIT, Node, network, pod_link};
use crate::packet::{Packet, Payload};
use crate::wire::{counted, put_on_the_wire};
use crate::{object, private};

/// Longer than a test lasts.
const WATCHED: Duration = Duration::from_secs(60);
/// Told of one reason: so many at once, and a second.
const RATE: u64 = 20;
/// More than that.
const MANY: u64 = 200;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0];

#[test]
fn whoever_watches_is_told_what_was_dropped_and_why() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        for ([_, b, ..], foreign) in FAMILIES.into_iter().zip(["10.0.9.9", "fd00:9::9"]) {
            let (b, foreign): (IpAddr, IpAddr) = (b.parse()?, foreign.parse()?);
            let spoofed = Packet::new(foreign, b, Payload::Udp(4660, 53)).sent_by(MAC).bytes();
            let send = || -> Result<()> {
                let before = counted(&node, "spoofed_address")?;
                node.pods[0].run(|| put_on_the_wire(&spoofed))??;
                wait_for(|| Ok(counted(&node, "spoofed_address")? > before))
            };
            send()?;
            ensure!(of(node.fast_path.watch_drops(WATCHED)?, Reason::SpoofedAddress).is_empty(), "told while nobody watched");
            send()?;
            let told = of(node.fast_path.watch_drops(Duration::ZERO)?, Reason::SpoofedAddress);
            let [DroppedPacket { age, link, hook, length, packet, .. }] = &told[..] else { anyhow::bail!("not one packet: {told:?}") };
            ensure!(*age < LIMIT && *link == pod_link(0)?.host_ifindex && *hook == DropHook::FromPod, "{told:?}");
            ensure!(*length as usize == spoofed.len() && packet.source_mac == Some(MAC), "{told:?}");
            ensure!((packet.protocol.as_str(), packet.ports) == ("udp", Some((4660, 53))), "{told:?}");
            ensure!((packet.source, packet.destination) == (Some(foreign), Some(b)), "{told:?}");
            // That was for no time at all.
            send()?;
            ensure!(of(node.fast_path.watch_drops(WATCHED)?, Reason::SpoofedAddress).is_empty(), "told after the watch had ended");
            let _ = node.fast_path.watch_drops(Duration::ZERO)?;
        }
        Ok(())
    })
}

#[test]
fn a_flood_is_told_in_part_and_counted_in_whole_and_hides_nothing_else() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        let [a, b, ..] = FAMILIES[0];
        let (a, b): (IpAddr, IpAddr) = (a.parse()?, b.parse()?);
        let _ = node.fast_path.watch_drops(WATCHED)?;
        let spoofed = Packet::new("10.0.9.9".parse()?, b, Payload::Udp(4660, 53)).sent_by(MAC).bytes();
        let tagged = Packet::new(a, b, Payload::Udp(4660, 53)).sent_by(MAC).vlan(7).bytes();
        let begun = Instant::now();
        node.pods[0].run(|| (0..MANY).try_for_each(|_| put_on_the_wire(&spoofed)).and_then(|()| put_on_the_wire(&tagged)))??;
        wait_for(|| Ok(counted(&node, "spoofed_address")? >= MANY && counted(&node, "vlan_tag")? > 0))?;
        let told = node.fast_path.watch_drops(WATCHED)?;
        ensure!(of(told.clone(), Reason::VlanTag).len() == 1, "the other packet is not told: {told:?}");
        let told = of(told, Reason::SpoofedAddress).len() as u64;
        let most = (RATE as f64 * (1.0 + begun.elapsed().as_secs_f64())) as u64 + 1;
        ensure!(told >= RATE && told <= most, "{told} of {MANY} were told, and no more than {most} may be");
        let untold = node.fast_path.untold_drops()?.into_iter().find(|(reason, _)| *reason == Reason::SpoofedAddress);
        ensure!(untold.is_some_and(|(_, untold)| told + untold == MANY), "{told} told, and {untold:?}");
        Ok(())
    })
}

/// What a limit drops of what the host sends is seen where it would enter the pod.
#[test]
fn what_a_limit_drops_is_told_at_the_pods_link() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        let limits = Limits { received: Limit::of(125_000), ..Limits::default() };
        let link = PodLink { limits, ..pod_link(1)? };
        node.fast_path.grant(&link, &network()?)?;
        let [_, b, _, _, host] = FAMILIES[0];
        let (b, host): (IpAddr, IpAddr) = (b.parse()?, host.parse()?);
        let _sink = node.pods[1].run(|| UdpSocket::bind((b, 9)))??;
        let from = UdpSocket::bind((host, 0))?;
        let _ = node.fast_path.watch_drops(WATCHED)?;
        let port = from.local_addr()?.port();
        wait_for(|| {
            from.send_to(&[7; 1_400], (b, 9))?;
            Ok(counted(&node, "ingress_limit")? > 0)
        })?;
        let told = of(node.fast_path.watch_drops(WATCHED)?, Reason::IngressLimit);
        let first = told.first().ok_or_else(|| anyhow::anyhow!("no packet was told"))?;
        ensure!((first.hook, first.link) == (DropHook::ToPod, link.host_ifindex) && first.length == 1_442, "{first:?}");
        ensure!(first.packet.source == Some(host) && first.packet.ports == Some((port, 9)), "{first:?}");
        Ok(())
    })
}

fn of(told: Vec<DroppedPacket>, reason: Reason) -> Vec<DroppedPacket> {
    told.into_iter().filter(|packet| packet.reason == reason).collect()
}

fn wait_for(mut there: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !there()? {
        ensure!(Instant::now() < deadline, "not within {LIMIT:?}");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
