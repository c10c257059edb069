//! The whole way, with the crate's own loader and wiring: a packet from pod to pod, and one to the network and back.
//!
//! The namespace forwards nothing, so what arrives was carried by the programs.

use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use datapath::fast_path::{Counter, FIRST_IFINDEX, FastPath, Limits, Reason, Scope, Timeouts, Traffic, TrafficOf};
use datapath::netlink::{Request, Socket};
use datapath::{HostNetns, Ifindex, Kept, Netns, NodeNetwork, PodLink, PodRange, Uplink, attach};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::sched::{CloneFlags, unshare};
use std::os::fd::{AsFd, AsRawFd};

use crate::{object, private};

pub(crate) const UPLINK: Ifindex = Ifindex(10);
const FABRIC: Ifindex = Ifindex(11);
pub(crate) const LOOPBACK: Ifindex = Ifindex(1);
/// Under emulation everything takes its time.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// More packets than an interface says of itself when it comes up: those are the host's own.
const CARRIED: u64 = 30;
/// Ethernet, IP and UDP headers, and the message.
const MESSAGE: &[u8] = b"by the fast path";

/// One family's addresses: two pods, another node's pod, the gateway, this node's uplink.
pub(crate) const FAMILIES: [[&str; 5]; 2] = [
    ["10.0.1.17", "10.0.1.18", "10.0.1.40", "10.0.0.1", "10.0.0.11"],
    ["fd00:10:0:1::11", "fd00:10:0:1::12", "fd00:10:0:2::11", "fd00:10::1", "fd00:10::b"],
];

#[test]
fn what_the_stack_does_not_forward_arrives() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        for [a, b, remote, ..] in FAMILIES {
            let (a, b, remote): (IpAddr, IpAddr, IpAddr) = (a.parse()?, b.parse()?, remote.parse()?);
            let before = node.counts()?;
            exchange(&node.pods[0], a, &node.pods[1], b).context("between pods of a node")?;
            println!("{a} and {b} have talked");
            for _ in 0..CARRIED {
                exchange(&node.pods[0], a, &node.fabric, remote).context("between nodes")?;
            }
            println!("{a} and {remote} have talked");
            exchange(&node.fabric, remote, &node.pods[0], a).context("between nodes, begun by the other")?;
            let after = node.counts()?;

            let headers = if a.is_ipv4() { 14 + 20 + 8 } else { 14 + 40 + 8 };
            let bytes = headers + MESSAGE.len() as u64;
            let grown = |scope, packets| {
                let plus = |counter: Counter| Counter { packets: counter.packets + packets, bytes: counter.bytes + packets * bytes };
                let at = scope as usize;
                ensure!(after.sent[at] == plus(before.sent[at]), "{scope:?} sent: {:?}, then {:?}", before.sent, after.sent);
                ensure!(after.received[at] == plus(before.received[at]), "{scope:?} received: {before:?}, then {after:?}");
                Ok(())
            };
            grown(Scope::SameNode, 1)?;
            grown(Scope::Vpc, CARRIED + 1)?;
        }
        node.nothing_by_the_stack()
    })
}

/// A datagram in pieces is the stack's to forward, past conntrack: a firewall that drops whatever conntrack sees lets it through, in both
/// directions, while nothing else is left to the stack.
#[test]
fn pieces_of_a_carried_flow_pass_conntrack_by() -> Result<()> {
    const LARGE: usize = 4000;
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        if Command::new("nft").arg("--version").output().is_err() {
            println!("SKIP needs nft");
            return Ok(());
        }
        let node = Node::build(&object)?;
        let mut host = Socket::open()?;
        let described = NodeNetwork { uplinks: vec![uplink()?], masquerade: true, ..network()? };
        let refused = described.apply(&mut host, Some(&node.fast_path), &mut Kept::default());
        ensure!(refused.is_empty(), "refused: {refused:?}");
        for [_, _, _, gateway, _] in FAMILIES {
            let gateway: IpAddr = gateway.parse()?;
            let everywhere = if gateway.is_ipv4() { "0.0.0.0" } else { "::" };
            host.execute(vec![route((everywhere.parse()?, 0), gateway)])?;
        }
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
        let rules = b"table inet firewall {\n chain forward {\n type filter hook forward priority 0; ct state != untracked drop;\n }\n}\n";
        nft.stdin.take().context("nft takes no input")?.write_all(rules)?;
        ensure!(nft.wait()?.success(), "nft refuses the rules");
        for [a, b, remote, ..] in FAMILIES {
            let (a, b, remote): (IpAddr, IpAddr, IpAddr) = (a.parse()?, b.parse()?, remote.parse()?);
            exchange_of(&node.pods[0], a, &node.fabric, remote, &[7; LARGE]).with_context(|| format!("{a} and {remote}"))?;
            exchange_of(&node.pods[0], a, &node.pods[1], b, &[7; LARGE]).with_context(|| format!("{a} and {b}"))?;
        }
        let pieces =
            node.fast_path.reasons()?.into_iter().find(|(reason, _)| *reason == Reason::Fragment).map_or(0, |(_, packets)| packets);
        ensure!(pieces >= 24, "{pieces} pieces were left to the stack");
        ensure!(node.fast_path.sweep_notes(&Timeouts::of_conntrack())?.total == 0, "they were noted");
        Ok(())
    })
}

/// Links with blocks of their own and links that share them are looked at alike, and nobody else's filter is seen where there is none.
#[test]
fn pods_links_have_what_they_need_whosever_blocks_they_have() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        let mut host = Socket::open()?;
        let links = [pod_link(0)?, pod_link(1)?];
        for link in &links {
            let lacks = node.fast_path.lacks(&mut host, link, &network()?)?;
            ensure!(lacks.is_empty(), "{}: {lacks:?}", link.host_ifname);
        }
        let indexes = links.map(|link| link.host_ifindex);
        let others = node.fast_path.heed_others(&mut host, &indexes, &indexes)?;
        ensure!(others.is_empty(), "others: {others:?}");
        let [a, b, ..] = FAMILIES[0];
        exchange(&node.pods[0], a.parse()?, &node.pods[1], b.parse()?)
    })
}

/// What the programs look at first may still lead to where a pod was: nothing is sent there, and whoever comes next is found.
#[test]
fn a_pod_that_was_forgotten_is_found_no_more_until_it_is_told_of_again() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        let [gone, stays] = [pod_link(0)?, pod_link(1)?];
        node.fast_path.retain_endpoints(&[stays.host_ifindex])?;
        for [a, b, ..] in FAMILIES {
            let (a, b): (IpAddr, IpAddr) = (a.parse()?, b.parse()?);
            let unreached = || -> Result<u64> {
                let reasons = node.fast_path.reasons()?;
                Ok(reasons.into_iter().find(|(reason, _)| *reason == Reason::NoSuchPod).map_or(0, |(_, packets)| packets))
            };
            let before = unreached()?;
            let socket = node.pods[1].run(|| UdpSocket::bind((b, 0)))??;
            socket.send_to(MESSAGE, (a, 9))?;
            ensure!(unreached()? == before + 1, "{a} still leads somewhere");
        }
        node.fast_path.add_endpoint(&gone, &network()?)?;
        for [a, b, ..] in FAMILIES {
            exchange(&node.pods[0], a.parse()?, &node.pods[1], b.parse()?)?;
        }
        Ok(())
    })
}

/// A node with two pods, and what stands for the rest of the cloud network.
pub(crate) struct Node {
    pub(crate) fast_path: FastPath,
    pub(crate) pods: [Netns; 2],
    pub(crate) fabric: Netns,
}

impl Node {
    pub(crate) fn build(object: &Path) -> Result<Self> {
        for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(Path::new("/proc/sys/net").join(family), "0").with_context(|| format!("forward nothing: {family}"))?;
        }
        let home = HostNetns::current()?;
        let mut host = Socket::open()?;
        let node = Self {
            fast_path: FastPath::load(object, Path::new("/run/test"))?,
            pods: [namespace(&home)?, namespace(&home)?],
            fabric: namespace(&home)?,
        };
        println!("loaded");
        let network = network()?;
        node.fast_path.set_network(&network)?;
        node.connect(&mut host)?;
        for (number, netns) in node.pods.iter().enumerate() {
            let link = pod_link(number)?;
            node.fast_path.add_endpoint(&link, &network)?;
            attach(&mut host, netns, &link, Some(&node.fast_path))?;
            wait_for_local_routes(netns, &link)?;
        }
        println!("attached");
        Ok(node)
    }

    /// The uplink, with the programs, and the fabric behind it.
    fn connect(&self, host: &mut Socket) -> Result<()> {
        host.execute(vec![uplink_pair(&self.fabric), up(UPLINK)])?;
        for [_, _, remote, gateway, node] in FAMILIES {
            let (remote, gateway, node): (IpAddr, IpAddr, IpAddr) = (remote.parse()?, gateway.parse()?, node.parse()?);
            let pods = if node.is_ipv4() { ("10.0.1.16".parse()?, 28) } else { ("fd00:10:0:1::".parse()?, 64) };
            let on_link = if node.is_ipv4() { 24 } else { 64 };
            host.execute(vec![address(UPLINK, node, on_link)])?;
            self.fabric.run(|| {
                Socket::open()?.execute(vec![
                    up(LOOPBACK),
                    up(FABRIC),
                    address(FABRIC, gateway, on_link),
                    address(LOOPBACK, remote, if node.is_ipv4() { 32 } else { 128 }),
                    route(pods, node),
                ])
            })??;
        }
        Ok(self.fast_path.attach_uplinks(host, &[uplink()?])?)
    }

    /// Of the first pod.
    pub(crate) fn counts(&self) -> Result<Traffic> {
        Ok(self.fast_path.traffic(TrafficOf::Pod(Ifindex(FIRST_IFINDEX)))?)
    }

    /// A packet of the fast path is neither noted nor taken for the host's own where it leaves.
    fn nothing_by_the_stack(&self) -> Result<()> {
        let noted = self.fast_path.sweep_notes(&Timeouts::of_conntrack())?;
        ensure!(noted.total == 0, "flows were noted as going through the stack: {noted:?}");
        // Interfaces speak for themselves, by multicast, when they come up.
        let reasons: Vec<_> =
            self.fast_path.reasons()?.into_iter().filter(|(reason, packets)| *packets != 0 && *reason != Reason::LinkLocal).collect();
        ensure!(reasons.is_empty(), "packets left the fast path: {reasons:?}");
        let host = self.fast_path.traffic(TrafficOf::Host)?;
        let carried = host.sent.iter().any(|counter| counter.packets >= CARRIED);
        ensure!(!carried, "counted as the host's own: {:?}", host.sent);
        Ok(())
    }
}

/// The kernel makes them of IPv6 addresses a moment later (`addrconf_dad_work`, net/ipv6/addrconf.c).
pub(crate) fn wait_for_local_routes(netns: &Netns, link: &PodLink) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        let routes = netns.run(|| fs::read_to_string("/proc/thread-self/net/ipv6_route"))??;
        let local: Vec<_> = routes.lines().filter_map(local_address).collect();
        if link.addresses.iter().all(|address| address.is_ipv4() || local.contains(address)) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(anyhow!("no local routes of {:?} in {LIMIT:?}", link.addresses))
}

/// The destination of a local route, from a line of `/proc/net/ipv6_route` (`rt6_info_route`, net/ipv6/route.c).
fn local_address(line: &str) -> Option<IpAddr> {
    const FLAGS: usize = 8;
    const LOCAL: u32 = 0x8000_0000;
    let fields: Vec<_> = line.split_whitespace().collect();
    let flags = u32::from_str_radix(fields.get(FLAGS)?, 16).ok()?;
    let address = u128::from_str_radix(fields.first()?, 16).ok()?;
    (flags & LOCAL != 0).then(|| Ipv6Addr::from_bits(address).into())
}

/// A short datagram each way.
pub(crate) fn exchange(here: &Netns, from: IpAddr, there: &Netns, to: IpAddr) -> Result<()> {
    exchange_of(here, from, there, to, MESSAGE)
}

/// A datagram from `here` arrives, whole, from the right address; and another comes back.
fn exchange_of(here: &Netns, from: IpAddr, there: &Netns, to: IpAddr, datagram: &[u8]) -> Result<()> {
    let bind = |netns: &Netns, address: IpAddr| -> Result<UdpSocket> {
        let socket = netns.run(|| UdpSocket::bind((address, 0)))??;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(socket)
    };
    let (near, far) = (bind(here, from)?, bind(there, to)?);
    let send = |from: &UdpSocket, to: &UdpSocket| -> Result<()> {
        let target: SocketAddr = to.local_addr()?;
        from.send_to(datagram, target)?;
        let mut message = [0; 8192];
        let (length, source) = to.recv_from(&mut message).with_context(|| format!("nothing came from {from:?}"))?;
        ensure!(source == from.local_addr()? && message[..length] == *datagram, "from {source}: {length} bytes");
        Ok(())
    };
    send(&near, &far)?;
    send(&far, &near)
}

/// The node's uplink, with a gateway of each family.
pub(crate) fn uplink() -> Result<Uplink> {
    let gateways = FAMILIES.iter().map(|[.., gateway, _]| gateway.parse()).collect::<Result<_, _>>()?;
    Ok(Uplink { index: 0, ifindex: UPLINK, ifname: "uplink".to_owned(), mtu: 1500, running: true, gateways, addresses: Vec::new() })
}

pub(crate) fn network() -> Result<NodeNetwork> {
    let range = |first: &str, last: &str| Ok::<_, anyhow::Error>(PodRange { first: first.parse()?, last: last.parse()?, uplink: 0 });
    Ok(NodeNetwork {
        pods: vec![range("10.0.1.16", "10.0.1.31")?, range("fd00:10:0:1::", "fd00:10:0:1::ffff")?],
        native: vec!["10.0.0.0/16".parse()?, "fd00:10::/32".parse()?],
        ..NodeNetwork::default()
    })
}

/// The first pod has filter blocks of its own, the second is one of many and shares them.
pub(crate) fn pod_link(number: usize) -> Result<PodLink> {
    const MANY: u32 = 300;
    let slot = u8::try_from(number)?;
    Ok(PodLink {
        host_ifname: format!("bwtest{number}"),
        host_ifindex: Ifindex(FIRST_IFINDEX + u32::from(slot) * MANY),
        pod_ifname: "eth0".to_owned(),
        pod_mac: [2, 0, 0, 0, 0, slot],
        mtu: 1500,
        container_id: format!("test-{number}"),
        addresses: FAMILIES.iter().map(|family| family[number].parse()).collect::<Result<_, _>>()?,
        namespace: String::new(),
        limits: Limits::default(),
        allowed: Vec::new(),
    })
}

pub(crate) fn namespace(home: &HostNetns) -> Result<Netns> {
    let maker = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok::<_, anyhow::Error>(OwnedFd::from(File::open("/proc/thread-self/ns/net")?))
    });
    let fd = maker.join().map_err(|_panic| anyhow!("the thread that makes a namespace panicked"))??;
    Ok(Netns::new(fd, home)?)
}

fn request(step: &'static str, message: RouteNetlinkMessage) -> Request {
    Request { step, message, flags: NLM_F_CREATE | NLM_F_EXCL }
}

fn uplink_pair(fabric: &Netns) -> Request {
    let mut peer = LinkMessage::default();
    peer.header.index = FABRIC.0;
    peer.attributes = vec![LinkAttribute::IfName("fabric".to_owned()), LinkAttribute::NetNsFd(fabric.as_fd().as_raw_fd())];
    let mut message = LinkMessage::default();
    message.header.index = UPLINK.0;
    message.attributes = vec![
        LinkAttribute::IfName("uplink".to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))]),
    ];
    request("make the uplink", RouteNetlinkMessage::NewLink(message))
}

fn up(ifindex: Ifindex) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = ifindex.0;
    (message.header.flags, message.header.change_mask) = (LinkFlags::Up, LinkFlags::Up);
    Request { step: "set a link up", message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

pub(crate) fn address(ifindex: Ifindex, address: IpAddr, prefix_len: u8) -> Request {
    let mut message = AddressMessage::default();
    (message.header.family, message.header.prefix_len, message.header.index) = (family(address), prefix_len, ifindex.0);
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    request("give a link its address", RouteNetlinkMessage::NewAddress(message))
}

pub(crate) fn route((network, prefix_len): (IpAddr, u8), gateway: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) = (family(gateway), prefix_len);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes =
        vec![RouteAttribute::Destination(RouteAddress::from(network)), RouteAttribute::Gateway(RouteAddress::from(gateway))];
    request("give the fabric its route to the pods", RouteNetlinkMessage::NewRoute(message))
}
