//! One pod's link as the kernel has it: its end in the pod, its end on the host, and how packets get from one to the other.
//!
//! Each thing is asked for by itself, never by reading a table: to look at one pod costs the same on a node with a thousand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use nix::errno::Errno;

use crate::inventory::{address, found_link, gateway, oif, without_counters};
use crate::netlink::{NetlinkError, Socket};
use crate::pod_link::{HOST_MAC, family, gateway_for};
use crate::{FoundLink, Ifindex, Netns, NetnsError};

/// An address that is nowhere (RFC 5737): the way to it is the default route's.
const FAR_AWAY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The same for IPv6 (RFC 3849).
const FAR_AWAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// One interface of a pod as seen from inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodState {
    /// `IFF_UP`
    pub up: bool,
    /// Bytes.
    pub mtu: u32,
    /// Its MAC address.
    pub mac: Vec<u8>,
    /// Every address that it has, link-local ones included.
    pub addresses: Vec<IpAddr>,
    /// How packets leave, by each address that was asked about.
    pub ways_out: Vec<WayOut>,
}

/// How what has one address of a pod as its source leaves the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayOut {
    /// The source.
    pub source: IpAddr,
    /// Far destinations are reached by our gateway on this interface.
    pub by_gateway: bool,
    /// The gateway itself is reached on this interface.
    pub gateway_on_link: bool,
    /// A MAC address that the pod takes for the gateway's, and that is not.
    pub wrong_gateway_mac: Option<Vec<u8>>,
}

/// A host end, and the host's way to the pod behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEnd {
    /// The link itself. `addresses` are those, of the ones that were asked about, whose packets leave by it.
    pub link: FoundLink,
    /// `IFF_UP`
    pub up: bool,
    /// The MAC address that the host has for each address that was asked about, where it has one.
    pub neighbours: Vec<(IpAddr, Vec<u8>)>,
}

/// Looks at an interface of a pod, and at how packets from `sources` leave; `None` where it has none of that name.
///
/// # Errors
/// Where the namespace cannot be entered or the kernel not be asked.
pub fn inspect_pod(netns: &Netns, ifname: &str, sources: &[IpAddr]) -> Result<Result<Option<PodState>, NetlinkError>, NetnsError> {
    netns.run(|| {
        let mut socket = Socket::open()?;
        let Some(link) = link(&mut socket, "read the pod's link", vec![LinkAttribute::IfName(ifname.to_owned())], 0)? else {
            return Ok(None);
        };
        let ifindex = link.header.index;
        let mut state = PodState { up: link.header.flags.contains(LinkFlags::Up), ..PodState::default() };
        let mut master = None;
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::Mtu(bytes) => state.mtu = bytes,
                LinkAttribute::Address(mac) => state.mac = mac,
                LinkAttribute::Controller(index) => master = Some(index),
                _ => {}
            }
        }
        // Of one namespace: a pod has a handful.
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let of_link = |row| address(row).filter(|(index, _)| *index == ifindex).map(|(_, address)| address);
        state.addresses = socket.dump("read the pod's addresses", &request, of_link)?;
        // An interface in a VRF has its routes in the VRF's table, which is asked only about packets of that interface.
        let bound_to = master.filter(|index| *index != 0).map(|_| ifindex);
        for &source in sources {
            state.ways_out.push(way_out(&mut socket, ifindex, source, bound_to)?);
        }
        Ok(Some(state))
    })
}

fn way_out(pod: &mut Socket, ifindex: u32, source: IpAddr, bound_to: Option<u32>) -> Result<WayOut, NetlinkError> {
    let our_gateway = gateway_for(source);
    let far = if source.is_ipv4() { IpAddr::V4(FAR_AWAY_V4) } else { FAR_AWAY_V6.into() };
    let by_gateway = next_hop(pod, far, Some(source), bound_to)? == Some((ifindex, Some(our_gateway)));
    // An IPv6 gateway is link-local, and a route by it names the link.
    let gateway_on_link = our_gateway.is_ipv6() || next_hop(pod, our_gateway, Some(source), bound_to)? == Some((ifindex, None));
    let mac = neighbour(pod, ifindex, our_gateway)?;
    Ok(WayOut { source, by_gateway, gateway_on_link, wrong_gateway_mac: mac.filter(|mac| *mac != HOST_MAC) })
}

/// Looks at a host end of ours, and at the host's way to `pod`; `None` where there is no such link.
///
/// # Errors
/// Where the kernel cannot be asked.
pub fn inspect_host_end(host: &mut Socket, ifindex: Ifindex, pod: &[IpAddr]) -> Result<Option<HostEnd>, NetlinkError> {
    let Some(message) = link(host, "read the host end", Vec::new(), ifindex.0)? else { return Ok(None) };
    let up = message.header.flags.contains(LinkFlags::Up);
    let Some(mut link) = found_link(RouteNetlinkMessage::NewLink(message)) else { return Ok(None) };
    let mut neighbours = Vec::new();
    for &address in pod {
        if next_hop(host, address, None, None)? == Some((ifindex.0, None)) {
            link.addresses.push(address);
        }
        neighbours.extend(neighbour(host, ifindex.0, address)?.map(|mac| (address, mac)));
    }
    Ok(Some(HostEnd { link, up, neighbours }))
}

/// The MAC address of a pod's end, as the host sees it: by the namespace's number, without entering it. `None` where either end is gone, or
/// the pod's is not what speaks for the pod: it is down, has another name or belongs to a bridge, behind which a machine has the address
/// that the interface was given (KubeVirt).
///
/// # Errors
/// Where the kernel cannot be asked.
pub fn pod_mac(host: &mut Socket, host_end: Ifindex, pod_ifname: &str) -> Result<Option<[u8; 6]>, NetlinkError> {
    let Some(own) = link(host, "read the host end", Vec::new(), host_end.0)? else { return Ok(None) };
    let (mut peer, mut namespace) = (None, None);
    for attribute in own.attributes {
        match attribute {
            LinkAttribute::Link(index) => peer = Some(index),
            LinkAttribute::LinkNetNsId(id) => namespace = Some(id),
            _ => {}
        }
    }
    let Some((peer, namespace)) = peer.zip(namespace) else { return Ok(None) };
    let Some(pods) = link(host, "read the pod's end", vec![LinkAttribute::IfNetnsId(namespace)], peer)? else { return Ok(None) };
    let (mut speaks, mut mac) = (pods.header.flags.contains(LinkFlags::Up), None);
    for attribute in pods.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = bytes.try_into().ok(),
            LinkAttribute::IfName(name) => speaks &= name == pod_ifname,
            LinkAttribute::Controller(master) => speaks &= master == 0,
            _ => {}
        }
    }
    Ok(mac.filter(|_| speaks))
}

/// Whether the calling thread's namespace has a link of this name.
pub(crate) fn link_exists(ifname: &str) -> Result<bool, NetlinkError> {
    let by_name = vec![LinkAttribute::IfName(ifname.to_owned())];
    Ok(link(&mut Socket::open()?, "read the pod's link", by_name, 0)?.is_some())
}

pub(crate) fn link(
    socket: &mut Socket,
    step: &'static str,
    known_by: Vec<LinkAttribute>,
    ifindex: u32,
) -> Result<Option<LinkMessage>, NetlinkError> {
    let mut question = LinkMessage::default();
    question.header.index = ifindex;
    question.attributes = known_by;
    question.attributes.push(without_counters());
    Ok(match present(socket.ask(step, RouteNetlinkMessage::GetLink(question)))? {
        Some(RouteNetlinkMessage::NewLink(link)) => Some(link),
        _ => None,
    })
}

/// Interface and gateway of the route that the kernel would take (`ip route get`); `None` where it has no way.
fn next_hop(
    socket: &mut Socket,
    to: IpAddr,
    from: Option<IpAddr>,
    bound_to: Option<u32>,
) -> Result<Option<(u32, Option<IpAddr>)>, NetlinkError> {
    let mut question = RouteMessage::default();
    (question.header.address_family, question.header.destination_prefix_length) = family(to);
    question.attributes = vec![RouteAttribute::Destination(RouteAddress::from(to))];
    if let Some(from) = from {
        question.header.source_prefix_length = family(from).1;
        question.attributes.push(RouteAttribute::Source(RouteAddress::from(from)));
    }
    question.attributes.extend(bound_to.map(RouteAttribute::Oif));
    match socket.ask("ask for a route", RouteNetlinkMessage::GetRoute(question)) {
        Ok(RouteNetlinkMessage::NewRoute(route)) if route.header.kind == RouteType::Unicast => {
            Ok(oif(&route).map(|oif| (oif, gateway(&route))))
        }
        Ok(_) => Ok(None),
        Err(error) if [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EINVAL, Errno::EACCES].iter().any(|no| error.is(*no)) => Ok(None),
        Err(error) => present(Err(error)).map(|_: Option<RouteNetlinkMessage>| None),
    }
}

/// The MAC address that is known for an address on a link.
fn neighbour(socket: &mut Socket, ifindex: u32, of: IpAddr) -> Result<Option<Vec<u8>>, NetlinkError> {
    let mut question = NeighbourMessage::default();
    question.header.family = family(of).0;
    question.header.ifindex = ifindex;
    question.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::from(of))];
    Ok(match present(socket.ask("ask for a neighbour", RouteNetlinkMessage::GetNeighbour(question)))? {
        Some(RouteNetlinkMessage::NewNeighbour(entry)) => entry.attributes.into_iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(mac) => Some(mac),
            _ => None,
        }),
        _ => None,
    })
}

/// What is not there is an answer, no failure.
fn present<T>(outcome: Result<T, NetlinkError>) -> Result<Option<T>, NetlinkError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_absence() => Ok(None),
        Err(error) => Err(error),
    }
}
