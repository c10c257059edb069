//! One pod's veth pair: made, addressed and routed in four sends.
//!
//! 1. host: `RTM_NEWLINK`, the peer born in the pod's namespace with the interface number we choose (moving a link between
//!    namespaces costs an `rcu_barrier`, and asking for the number a round trip);
//! 2. host: programs, link up, neighbours of the pod, host routes;
//! 3. pod: addresses, link up, neighbour of the gateway, routes to it and by it;
//! 4. host: a question that makes the kernel let the host end carry packets.
//!
//! The end that comes up second carries packets at once; the first one when the kernel gets round to it, and what is sent before is
//! lost. So the pod's end is second, and the question settles the host's. Neighbours are permanent on both sides and IPv6 addresses
//! carry `IFA_F_NODAD`: no ARP, no ND, no waiting. Who knows nothing of our neighbours (a virtual machine that took the pod's addresses
//! and routes, a pod whose MAC address was changed) asks, and the host answers.

mod host_end;
mod messages;
mod pod_end;
mod source_rules;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage};
use netlink_packet_route::route::RouteProtocol;

use crate::fast_path::{FastPath, FastPathError, Limits};
use crate::netlink::{NetlinkError, Request, Socket};
use crate::{Difference, Ifindex, Netns, NetnsError, SysctlError};
pub(crate) use messages::{family, link_route};

/// The IPv4 gateway of every pod (RFC 3927 link-local). Nobody has the address; the host answers for it.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The IPv6 gateway of every pod: the host end's address.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The host end's MAC address, the same for every pod: a pod's neighbour entry stays right whatever becomes of the link.
pub const HOST_MAC: [u8; 6] = [0x0a, 0x42, 0x57, 0x00, 0x00, 0x01];

/// The link group (`ip link … group`) of every host end.
pub(crate) const GROUP: u32 = 0xB3;
/// The origin of every route that is ours (`ip route … proto 179`), a number that no routing daemon is registered for.
pub(crate) const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(0xB3);
/// The metric of a route to an address that a pod may use beside its own: what tells the two kinds apart where the store is lost.
pub(crate) const ALLOWED_METRIC: u32 = 0xB3;
/// What an interface alias of ours starts with.
pub(crate) const ALIAS_PREFIX: &str = "barewire ";

/// The kernel's default is one queue a CPU, each with its sysfs objects on both ends: much of what making a pair costs, and
/// more with every core. A veth needs none of them: it takes no lock to send, and receives on the sender's CPU.
const QUEUES: u32 = 1;

const HOST_NEIGHBOUR: &str = "give the host the pod's neighbour entry";
const POD_NEIGHBOUR: &str = "give the pod its gateway's neighbour entry";

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
    /// The pod's namespace in Kubernetes: a node's limits may be by namespace.
    pub namespace: String,
    /// What the pod is held to, of its own.
    pub limits: Limits,
    /// Addresses that it may use beside its own: what is sent to them reaches it, and it may send from them.
    pub allowed: Vec<IpAddr>,
}

impl PodLink {
    /// Every address that leads to the pod.
    pub(crate) fn leading_here(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().chain(&self.allowed).copied()
    }
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
    /// IPv6 is off for an interface, and cannot be switched on.
    #[error("IPv6 is off in the namespace: {0}")]
    Ipv6Disabled(#[from] SysctlError),
    /// The pod is to have an IPv6 address.
    #[error("the kernel has no IPv6 (ipv6.disable=1), but this node's ranges have; enable it, or take the IPv6 ranges away")]
    NoIpv6,
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
    if link.addresses.iter().any(IpAddr::is_ipv6) && !messages::kernel_has_ipv6() {
        return Err(WiringError::NoIpv6);
    }
    let pod_ifindex = create_pair(host, netns, link)?;
    let wired = host_end::wire(host, link, fast_path)
        .and_then(|()| pod_end::wire(netns, link, pod_ifindex))
        .and_then(|()| Ok(host.execute(vec![settle(link.host_ifindex)])?));
    if wired.is_err()
        && let Err(error) = crate::removal::remove_links(host, &[link.host_ifindex])
    {
        tracing::error!(link = link.host_ifname, %error, "link left behind by failed wiring not removed");
    }
    wired
}

/// Sets the host end's routes and neighbours again, as they were made: a daemon that starts repairs what was lost.
///
/// # Errors
/// The first request that was refused.
pub fn refresh_host_end(host: &mut Socket, link: &PodLink) -> Result<(), WiringError> {
    host_end::refresh(host, link)
}

/// Sets again what of a host end is not as it was made, and nothing else: packets that find their way meanwhile go on finding it.
///
/// # Errors
/// The first request that was refused.
pub fn restore_host_end(host: &mut Socket, link: &PodLink, differences: &[Difference]) -> Result<(), WiringError> {
    host_end::restore(host, link, differences)
}

/// Has neighbour solicitations of a pod for its IPv6 gateway answered. Not part of wiring: an ordinary pod makes none.
///
/// # Errors
/// Where the kernel refuses.
pub fn answer_solicitations(host: &mut Socket, host_end: Ifindex) -> Result<(), NetlinkError> {
    host_end::be_the_ipv6_gateway(host, host_end)
}

/// Whether the kernel refused because IPv6 is off for an interface (`disable_ipv6`): for an address (`addrconf_add_dev`,
/// net/ipv6/addrconf.c) and for a route (`fib6_nh_init`, net/ipv6/route.c) alike.
fn ipv6_is_disabled(error: &NetlinkError) -> bool {
    error.is(nix::errno::Errno::EACCES)
}

/// Whether a request was refused for that, as far as the kernel says: of a neighbour entry it says something else (`ndisc_allow_add`,
/// net/ipv6/ndisc.c).
fn for_want_of_ipv6(error: &NetlinkError) -> bool {
    ipv6_is_disabled(error) || error.is(nix::errno::Errno::EINVAL) && [HOST_NEIGHBOUR, POD_NEIGHBOUR].contains(&error.step)
}

pub(crate) const fn gateway_for(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(GATEWAY_V4),
        IpAddr::V6(_) => IpAddr::V6(GATEWAY_V6),
    }
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
                let taken_in_pod = netns.run(|| crate::inspection::link_exists(&link.pod_ifname))??;
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
    // Counters of each kind are half of the answer.
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    Request { step: "settle the host end's carrier", message: RouteNetlinkMessage::GetLink(message), flags: 0 }
}
