//! The least that any plugin must ask of the kernel to wire a pod: the floor that an ADD is measured against.
//!
//! Three exchanges on a blocking socket, each batch sent in one piece and every acknowledgement collected: the veth,
//! born with its peer in the pod; the pod's side; the host's side. IPv4 only, as the peers are.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::netns::Namespace;
use crate::node::UPLINK_MTU;

/// The group of the host ends, so that one request deletes all.
const LINK_GROUP: u32 = 0xF1;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Chosen by us, so that nothing needs to be looked up. A namespace's `lo` has 1.
const POD_IFINDEX: u32 = 2;
const HOST_IFINDEX_BASE: u32 = 1_000_000;

/// Wires pods with one socket for the host, which is kept, as a daemon would.
#[derive(Debug)]
pub struct Wiring {
    host: Requests,
    count: u32,
}

/// How long the steps of one pod took.
#[derive(Debug, Clone, Copy)]
pub struct Steps {
    /// The creation of the veth.
    pub veth: Duration,
    /// Everything.
    pub total: Duration,
}

impl Wiring {
    /// For the network namespace that the calling thread is in.
    ///
    /// # Errors
    /// When out of file descriptors.
    pub fn open() -> Result<Self> {
        Ok(Self { host: Requests::open()?, count: 0 })
    }

    /// Wires the pod in `namespace`.
    ///
    /// # Errors
    /// When the kernel refuses a request.
    pub fn wire(&mut self, namespace: &Namespace) -> Result<Steps> {
        self.count += 1;
        let host_ifindex = HOST_IFINDEX_BASE + self.count;
        let [_, second, third, fourth] = self.count.to_be_bytes();
        let mac = vec![0x02, 0xb0, 0, second, third, fourth];
        let address = Ipv4Addr::new(10, 79, third, fourth);

        let started = Instant::now();
        self.host.send(vec![create_veth(&format!("floor{}", self.count), host_ifindex, mac.clone(), namespace)])?;
        let veth = started.elapsed();
        {
            let _home = namespace.enter()?;
            Requests::open()?.send(vec![
                pod_address(address),
                up(POD_IFINDEX),
                route(POD_IFINDEX, Some(GATEWAY), None),
                route(POD_IFINDEX, None, Some(GATEWAY)),
                neighbour(mac),
            ])?;
        }
        self.host.send(vec![up(host_ifindex), route(host_ifindex, Some(address), None)])?;
        Ok(Steps { veth, total: started.elapsed() })
    }

    /// Deletes all links made so far, in one request.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn delete_all(&mut self) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(LINK_GROUP));
        self.host.send(vec![(RouteNetlinkMessage::DelLink(message), 0)])
    }
}

type Request = (RouteNetlinkMessage, u16);

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

fn create_veth(name: &str, ifindex: u32, mac: Vec<u8>, namespace: &Namespace) -> Request {
    let mut peer = LinkMessage::default();
    peer.header.index = POD_IFINDEX;
    peer.attributes = vec![
        LinkAttribute::IfName("eth0".to_owned()),
        LinkAttribute::Mtu(UPLINK_MTU),
        LinkAttribute::NetNsFd(namespace.file().as_raw_fd()),
    ];
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(UPLINK_MTU),
        LinkAttribute::Address(mac),
        LinkAttribute::Group(LINK_GROUP),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))]),
    ];
    (RouteNetlinkMessage::NewLink(link), CREATE)
}

fn up(ifindex: u32) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    (RouteNetlinkMessage::SetLink(link), 0)
}

fn pod_address(address: Ipv4Addr) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.scope = AddressScope::Universe;
    message.header.index = POD_IFINDEX;
    message.attributes = vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())];
    (RouteNetlinkMessage::NewAddress(message), CREATE)
}

/// A route to one address, or the default route, on the link itself or through a gateway.
fn route(ifindex: u32, destination: Option<Ipv4Addr>, gateway: Option<Ipv4Addr>) -> Request {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: if destination.is_some() { 32 } else { 0 },
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes.push(RouteAttribute::Oif(ifindex));
    message.attributes.extend(destination.map(|address| RouteAttribute::Destination(RouteAddress::Inet(address))));
    message.attributes.extend(gateway.map(|address| RouteAttribute::Gateway(RouteAddress::Inet(address))));
    (RouteNetlinkMessage::NewRoute(message), CREATE)
}

fn neighbour(mac: Vec<u8>) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = POD_IFINDEX;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet(GATEWAY)), NeighbourAttribute::LinkLayerAddress(mac)];
    (RouteNetlinkMessage::NewNeighbour(message), CREATE)
}

/// A socket that sends requests in batches.
#[derive(Debug)]
struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
        socket.bind_auto().context("cannot bind a netlink socket")?;
        socket.set_cap_ack(true).context("cannot shorten acknowledgements")?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10)).context("cannot bound a netlink socket")?;
        Ok(Self { socket, sequence: 0, buffer: Vec::new() })
    }

    /// Sends all in one piece and collects every acknowledgement; the first refusal is the error.
    fn send(&mut self, requests: Vec<Request>) -> Result<()> {
        let first = self.sequence + 1;
        let mut batch = Vec::with_capacity(1_024);
        for (payload, flags) in requests {
            self.sequence += 1;
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
            header.sequence_number = self.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::from(payload));
            message.finalize();
            let end = batch.len();
            // Lengths of rtnetlink messages are multiples of four, so one follows on the other.
            batch.resize(end + message.buffer_len(), 0);
            message.serialize(&mut batch[end..]);
        }
        self.socket.send(&batch, 0).context("cannot send netlink requests")?;

        let mut awaited = self.sequence + 1 - first;
        let mut refused = None;
        while awaited > 0 {
            self.buffer.clear();
            self.buffer.reserve(16_384);
            self.socket.recv(&mut self.buffer, 0).context("no acknowledgement from netlink within 10 s")?;
            let mut rest = self.buffer.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).context("cannot read an acknowledgement")?;
                let length = answer.header.length as usize;
                if length == 0 || length > rest.len() {
                    bail!("netlink answered a message of {length} bytes in {}", rest.len());
                }
                rest = &rest[length..];
                if let NetlinkPayload::Error(error) = answer.payload {
                    awaited -= 1;
                    if let Some(code) = error.code {
                        refused.get_or_insert((answer.header.sequence_number - first, code));
                    }
                }
            }
        }
        match refused {
            None => Ok(()),
            Some((index, code)) => {
                let error = std::io::Error::from_raw_os_error(code.get().abs());
                bail!("the kernel refused request {index} of a batch: {error}")
            }
        }
    }
}
