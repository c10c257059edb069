//! Addresses that a pod may use beside its own: the programs carry them, for this pod and nobody else, and learn nothing else of it.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use datapath::fast_path::FastPath;
use datapath::netlink::Socket;
use datapath::{Ifindex, Netns, PodLink};

use crate::carried::{FAMILIES, LIMIT, Node, address, exchange, network, pod_link, route, wait_for_local_routes};
use crate::packet::{Packet, Payload};
use crate::wire::{counted, put_on_the_wire};
use crate::{object, private};

/// Native, and in no pod range: one of each family of [`FAMILIES`].
const BESIDE: [&str; 2] = ["10.0.50.7", "fd00:10:50::7"];
/// The number that the wiring gives a pod's first interface.
const ETH0: Ifindex = Ifindex(2);

fn allowed() -> Result<PodLink> {
    Ok(PodLink { allowed: BESIDE.iter().map(|text| text.parse()).collect::<Result<_, _>>()?, ..pod_link(0)? })
}

/// Gives an interface of the pod these addresses, as whoever uses them does.
fn have(netns: &Netns, addresses: &[IpAddr]) -> Result<()> {
    for &of in addresses {
        netns.run(|| Socket::open()?.execute(vec![address(ETH0, of, if of.is_ipv4() { 32 } else { 128 })]))??;
    }
    wait_for_local_routes(netns, &PodLink { addresses: addresses.to_vec(), ..pod_link(0)? })
}

/// Something is done that the programs count by this reason.
fn is_counted(node: &Node, reason: &str, what: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = counted(node, reason)?;
    what()?;
    let deadline = Instant::now() + LIMIT;
    while counted(node, reason)? == before {
        ensure!(Instant::now() < deadline, "not counted as {reason}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn sends_from(netns: &Netns, from: IpAddr, to: IpAddr) -> Result<()> {
    let socket = netns.run(|| UdpSocket::bind((from, 0)))??;
    socket.send_to(b"whose?", (to, 9))?;
    Ok(())
}

/// By which a pod claims an address on its link.
fn claim(of: IpAddr, pod: u8) -> Packet {
    let mac = [2, 0, 0, 0, 0, pod];
    if of.is_ipv4() {
        return Packet::new(of, of, Payload::Udp(1, 2)).sent_by(mac).arp(of, mac);
    }
    // By its link-local address, which is any pod's to send from on its link.
    let [link_local, all_nodes] = [0xfe80, 0xff02].map(|prefix| IpAddr::from([prefix, 0, 0, 0, 0, 0, 0, 1]));
    Packet::new(link_local, all_nodes, Payload::Discovery(136, of, mac)).sent_by(mac)
}

#[test]
fn what_a_pod_is_allowed_is_carried_for_it_and_for_nobody_else() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let (node, link, network) = (Node::build(&object)?, allowed()?, network()?);
        ensure!(node.fast_path.is_granted_otherwise(&link, &network)?);
        node.fast_path.grant(&link, &network)?;
        ensure!(!node.fast_path.is_granted_otherwise(&link, &network)? && !node.fast_path.knows_otherwise(&link, &network)?);
        node.pods.iter().try_for_each(|pod| have(pod, &link.allowed))?;
        for (&beside, [_, b, remote, _, host]) in link.allowed.iter().zip(FAMILIES) {
            let (b, remote, host): (IpAddr, IpAddr, IpAddr) = (b.parse()?, remote.parse()?, host.parse()?);
            let whole = if beside.is_ipv4() { 32 } else { 128 };
            node.fabric.run(|| Socket::open()?.execute(vec![route((beside, whole), host)]))??;
            let before = node.counts()?;
            exchange(&node.pods[0], beside, &node.fabric, remote).with_context(|| format!("{beside} to another node"))?;
            exchange(&node.fabric, remote, &node.pods[0], beside).with_context(|| format!("another node to {beside}"))?;
            ensure!(node.counts()? != before, "{beside}: nothing was counted for the pod");

            is_counted(&node, "spoofed_address", || sends_from(&node.pods[1], beside, remote)).context("from another pod")?;
            is_counted(&node, "spoofed_neighbour", || node.pods[1].run(|| put_on_the_wire(&claim(beside, 1).bytes()))?)?;
            is_counted(&node, "link_local", || node.pods[0].run(|| put_on_the_wire(&claim(beside, 0).bytes()))?)?;
            is_counted(&node, "spoofed_neighbour", || node.pods[0].run(|| put_on_the_wire(&claim(b, 0).bytes()))?)?;
        }
        Ok(())
    })
}

/// A daemon that starts finds what the one before it has allowed, and can take it back.
#[test]
fn what_was_allowed_outlives_the_daemon_and_ends_with_the_grant() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let (mut node, link, network) = (Node::build(&object)?, allowed()?, network()?);
        node.fast_path.grant(&link, &network)?;
        have(&node.pods[0], &link.allowed)?;
        node.fast_path = FastPath::load(&object, Path::new("/run/test"))?;
        ensure!(!node.fast_path.knows_otherwise(&link, &network)?, "it does not lead to the pod any more");
        ensure!(node.fast_path.is_granted_otherwise(&pod_link(0)?, &network)?, "what is not granted any more is not seen");
        let bare = pod_link(0)?;
        node.fast_path.grant(&bare, &network)?;
        for (&beside, [a, _, remote, ..]) in link.allowed.iter().zip(FAMILIES) {
            let (a, remote): (IpAddr, IpAddr) = (a.parse()?, remote.parse()?);
            is_counted(&node, "spoofed_address", || sends_from(&node.pods[0], beside, remote))?;
            exchange(&node.pods[0], a, &node.fabric, remote).context("its own address")?;
        }
        // Of a pod that is gone nothing leads anywhere: whoever is next has what it is allowed itself.
        node.fast_path.grant(&link, &network)?;
        node.fast_path.remove_endpoint(link.host_ifindex)?;
        node.fast_path.add_endpoint(&bare, &network)?;
        for (&beside, [_, _, remote, ..]) in link.allowed.iter().zip(FAMILIES) {
            is_counted(&node, "spoofed_address", || sends_from(&node.pods[0], beside, remote.parse()?))?;
        }
        Ok(())
    })
}
