//! One pod's veth pair: made, addressed and routed in four sends.
//!
//! 1. host: `RTM_NEWLINK`, the peer born in the pod's namespace with the interface number we choose (moving a link between
//!    namespaces costs an `rcu_barrier`, and asking for the number a round trip);
//! 2. host: programs, link up, neighbours of the pod, host routes;
//! 3. pod: addresses, link up, neighbour of the gateway, default routes;
//! 4. host: a question that makes the kernel let the host end carry packets.
//!
//! The end that comes up second carries packets at once; the first one when the kernel gets round to it, and what is sent before is
//! lost. So the pod's end is second, and the question settles the host's. Neighbours are permanent on both sides and IPv6 addresses
//! carry `IFA_F_NODAD`: no ARP, no ND, no waiting.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::LazyLock;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::fast_path::{FastPath, FastPathError};
use crate::netlink::{NetlinkError, Request, Socket};
use crate::{Ifindex, Netns, NetnsError};

/// The IPv4 gateway of every pod (RFC 3927 link-local): it exists only as a permanent neighbour.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The IPv6 gateway of every pod.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The host end's MAC address, the same for every pod: a pod's neighbour entry stays right whatever becomes of the link.
pub const HOST_MAC: [u8; 6] = [0x0a, 0x42, 0x57, 0x00, 0x00, 0x01];

/// The link group (`ip link … group`) of every host end.
pub(crate) const GROUP: u32 = 0xB3;
/// The origin of every route that is ours (`ip route … proto 179`), a number that no routing daemon is registered for.
pub(crate) const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(0xB3);
/// What an interface alias of ours starts with.
pub(crate) const ALIAS_PREFIX: &str = "barewire ";

/// The kernel's default is one queue a CPU, each with its sysfs objects on both ends: much of what making a pair costs, and
/// more with every core. A veth needs none of them: it takes no lock to send, and receives on the sender's CPU.
const QUEUES: u32 = 1;

/// A veth pair to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    /// The host end's name.
    pub host_ifname: String,
    /// The host end's number.
    pub host_ifindex: Ifindex,
    /// The name in the pod.
    pub pod_ifname: String,
    /// The MAC address in the pod.
    pub pod_mac: [u8; 6],
    /// Bytes, both ends.
    pub mtu: u32,
    /// Whose link it is, kept by the kernel as the host end's alias: the second copy of what the store knows.
    pub container_id: String,
    /// The pod's addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
}

/// Why a pod could not be wired. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// The pod's namespace cannot be entered.
    #[error("the pod's network namespace: {0}")]
    Netns(#[from] NetnsError),
    /// A request was refused.
    #[error("{0}")]
    Netlink(#[from] NetlinkError),
    /// The kernel programs' maps refused the pod.
    #[error("{0}")]
    FastPath(#[from] FastPathError),
    /// The pod has an interface of that name already.
    #[error("the container has an interface {0:?} already; remove it or ask for another name")]
    NameTaken(String),
    /// The host has an interface of that name or number already.
    #[error("the host has an interface {0:?} or number {1} already")]
    HostEndTaken(String, Ifindex),
}

/// Makes the pair, with the programs on its host end before it goes up. `host` is a socket of the host's namespace. On failure
/// the pair is removed again.
///
/// # Errors
/// See [`WiringError`].
pub fn attach(host: &mut Socket, netns: &Netns, link: &PodLink, fast_path: Option<&FastPath>) -> Result<(), WiringError> {
    let pod_ifindex = create_pair(host, netns, link)?;
    let programs = fast_path.map_or_else(Vec::new, |fast_path| fast_path.host_end_requests(link.host_ifindex));
    let host_end = programs.into_iter().chain(host_end_requests(link)).collect();
    let wired = host
        .execute(host_end)
        .map_err(WiringError::from)
        .and_then(|()| wire_pod(netns, link, pod_ifindex))
        .and_then(|()| Ok(host.execute(vec![settle(link.host_ifindex)])?));
    if wired.is_err()
        && let Err(error) = crate::removal::remove_links(host, &[link.host_ifindex])
    {
        tracing::error!(link = link.host_ifname, %error, "a link that could not be wired could not be removed either");
    }
    wired
}

/// Sets the host end's routes and neighbours again, as they were made: a daemon that starts repairs what was lost.
///
/// # Errors
/// The first request that was refused.
pub fn refresh_host_end(host: &mut Socket, link: &PodLink) -> Result<(), NetlinkError> {
    host.execute(host_end_requests(link))
}

/// The number of a pod's first interface: 1 is the loopback.
const FIRST_POD_IFINDEX: Ifindex = Ifindex(2);

/// Numbers to try for the pod's end. Usually the first is free. The second is for a further interface
/// of the same pod. They must differ from the host end's: a veth whose ends have equal numbers comes up only after up to
/// a second (`linkwatch_urgent_event`, net/core/link_watch.c).
fn pod_ifindexes(link: &PodLink) -> [Ifindex; 2] {
    [FIRST_POD_IFINDEX, Ifindex(link.host_ifindex.0 ^ 1)]
}

fn create_pair(host: &mut Socket, netns: &Netns, link: &PodLink) -> Result<Ifindex, WiringError> {
    use nix::errno::Errno;
    let mut outcome = Ok(());
    for pod_ifindex in pod_ifindexes(link) {
        outcome = host.execute(vec![create_request(netns, link, pod_ifindex)]);
        match &outcome {
            Ok(()) => return Ok(pod_ifindex),
            // The number is taken, on one of the sides (dev_index_reserve).
            Err(error) if error.is(Errno::EBUSY) => {}
            Err(error) if error.is(Errno::EEXIST) => {
                let taken_in_pod = netns.run(|| crate::inventory::link_exists(&link.pod_ifname))??;
                return Err(if taken_in_pod { WiringError::NameTaken(link.pod_ifname.clone()) } else { host_end_taken(link) });
            }
            Err(_) => break,
        }
    }
    Err(match outcome {
        Err(error) if error.is(Errno::EBUSY) => host_end_taken(link),
        Err(error) => error.into(),
        Ok(()) => unreachable!("success returned above"),
    })
}

fn host_end_taken(link: &PodLink) -> WiringError {
    WiringError::HostEndTaken(link.host_ifname.clone(), link.host_ifindex)
}

fn create_request(netns: &Netns, link: &PodLink, pod_ifindex: Ifindex) -> Request {
    let mut peer = LinkMessage::default();
    peer.header.index = pod_ifindex.0;
    peer.attributes = vec![
        LinkAttribute::IfName(link.pod_ifname.clone()),
        LinkAttribute::Mtu(link.mtu),
        LinkAttribute::Address(link.pod_mac.to_vec()),
        LinkAttribute::NumTxQueues(QUEUES),
        LinkAttribute::NumRxQueues(QUEUES),
        LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()),
    ];
    let mut message = LinkMessage::default();
    message.header.index = link.host_ifindex.0;
    message.attributes = vec![
        LinkAttribute::IfName(link.host_ifname.clone()),
        LinkAttribute::Mtu(link.mtu),
        LinkAttribute::Address(HOST_MAC.to_vec()),
        LinkAttribute::Group(GROUP),
        LinkAttribute::NumTxQueues(QUEUES),
        LinkAttribute::NumRxQueues(QUEUES),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))]),
    ];
    Request { step: "make the veth pair", message: RouteNetlinkMessage::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// A question whose answer is not needed: before the kernel tells of a link, it does what is still to be done about its carrier
/// (`linkwatch_sync_dev` in `rtnl_getlink`, net/core/rtnetlink.c, since Linux 6.8).
fn settle(ifindex: Ifindex) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = ifindex.0;
    Request { step: "settle the host end's carrier", message: RouteNetlinkMessage::GetLink(message), flags: 0 }
}

fn wire_pod(netns: &Netns, link: &PodLink, pod_ifindex: Ifindex) -> Result<(), WiringError> {
    Ok(netns.run(|| Socket::open()?.execute(pod_end_requests(link, pod_ifindex)))??)
}

fn pod_end_requests(link: &PodLink, ifindex: Ifindex) -> Vec<Request> {
    let mut requests: Vec<_> = link
        .addresses
        .iter()
        .map(|&address| Request {
            step: "give the pod its address",
            message: RouteNetlinkMessage::NewAddress(pod_address(ifindex, address)),
            flags: NLM_F_CREATE | NLM_F_EXCL,
        })
        .collect();
    if link.addresses.iter().all(IpAddr::is_ipv4) {
        requests.extend(no_address_generation().map(|attribute| {
            let mut message = LinkMessage::default();
            message.header.index = ifindex.0;
            message.attributes = vec![attribute];
            Request { step: "keep IPv6 off an IPv4 pod", message: RouteNetlinkMessage::SetLink(message), flags: 0 }
        }));
    }
    requests.push(Request { step: "set the pod's link up", message: RouteNetlinkMessage::SetLink(up(ifindex)), flags: 0 });
    for address in &link.addresses {
        let gateway = gateway_for(*address);
        requests.push(Request {
            step: "give the pod its gateway's neighbour entry",
            message: RouteNetlinkMessage::NewNeighbour(permanent_neighbour(ifindex, gateway, HOST_MAC)),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
        });
        requests.push(Request {
            step: "give the pod its default route",
            message: RouteNetlinkMessage::NewRoute(default_route(ifindex, gateway)),
            flags: NLM_F_CREATE | NLM_F_EXCL,
        });
    }
    requests
}

/// Safe to repeat: `NLM_F_REPLACE` throughout.
fn host_end_requests(link: &PodLink) -> Vec<Request> {
    let ifindex = link.host_ifindex;
    let alias = LinkAttribute::IfAlias(format!("{ALIAS_PREFIX}{} {}", link.container_id, link.pod_ifname));
    let mut requests = vec![name_owner(ifindex, alias)];
    requests.push(Request { step: "set the host end up", message: RouteNetlinkMessage::SetLink(up(ifindex)), flags: 0 });
    for &address in &link.addresses {
        requests.push(Request {
            step: "give the host the pod's neighbour entry",
            message: RouteNetlinkMessage::NewNeighbour(permanent_neighbour(ifindex, address, link.pod_mac)),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
        });
        requests.push(Request {
            step: "give the host its route to the pod",
            message: RouteNetlinkMessage::NewRoute(host_route(ifindex, address)),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
        });
    }
    requests
}

/// The alias, and no IPv6 address of the host end's own: nobody speaks to it, and making one means timers, multicast groups
/// and routes on every link. It must come before the link goes up, in a message of its own: the kernel applies flags first.
fn name_owner(ifindex: Ifindex, alias: LinkAttribute) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = ifindex.0;
    message.attributes = vec![alias];
    message.attributes.extend(no_address_generation());
    Request { step: "name the link's owner", message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// `IN6_ADDR_GEN_MODE_NONE`, where the kernel has IPv6 at all.
fn no_address_generation() -> Option<LinkAttribute> {
    static HAS_IPV6: LazyLock<bool> = LazyLock::new(|| Path::new("/proc/sys/net/ipv6").exists());
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    HAS_IPV6.then(|| LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]))
}

pub(crate) fn gateway_for(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}

fn up(ifindex: Ifindex) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex.0;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn family(address: IpAddr) -> (AddressFamily, u8) {
    match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    }
}

fn pod_address(ifindex: Ifindex, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    (message.header.family, message.header.prefix_len) = family(address);
    message.header.index = ifindex.0;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        // Nor a route to the address's own /128 beside the local one.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
    }
    message
}

fn permanent_neighbour(ifindex: Ifindex, address: IpAddr, mac: [u8; 6]) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address).0;
    message.header.ifindex = ifindex.0;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes =
        vec![NeighbourAttribute::Destination(NeighbourAddress::from(address)), NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
    message
}

fn default_route(ifindex: Ifindex, gateway: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway).0;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    // The gateway is no neighbour by any route of the pod's; onlink spares the pod a route to it.
    message.header.flags = RouteFlags::Onlink;
    message.attributes = vec![RouteAttribute::Gateway(RouteAddress::from(gateway)), RouteAttribute::Oif(ifindex.0)];
    if ifindex != FIRST_POD_IFINDEX {
        // A further interface stands back behind the one that the pod had first, and the kernel takes no second route
        // of the same metric.
        message.attributes.push(RouteAttribute::Priority(ifindex.0));
    }
    message
}

fn host_route(ifindex: Ifindex, address: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) = family(address);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = ROUTE_PROTOCOL;
    message.header.scope = if address.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::from(address)), RouteAttribute::Oif(ifindex.0)];
    message
}
