//! What the kernel says of a network namespace: links, addresses and routes, and the few changes that a case makes.
//!
//! A netlink socket belongs for good to the namespace it was made in, so only its making needs a thread inside.

use std::{fmt, io, net::IpAddr, time::Duration};

use ipnetwork::IpNetwork;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike},
};

use super::netns::{Netns, NetnsError};

/// The kernel answers at once, but for the lock that all namespaces' links share, which a busy machine holds for seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// A dump is interrupted when the namespace changes under it; nothing in a case's namespace keeps changing.
const DUMP_ATTEMPTS: u32 = 20;

/// The kernel could not be asked, or refused.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A socket in the namespace could not be made.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A request failed.
    #[error("netlink: {request}")]
    Request {
        /// What was asked for.
        request: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The answer could not be read.
    #[error("netlink: {request}: an answer that cannot be decoded")]
    Decode {
        /// What was asked for.
        request: &'static str,
        /// What is wrong with it.
        source: netlink_packet_core::DecodeError,
    },
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, as `02:00:00:00:00:01`; empty where it has none.
    pub mac: String,
    /// Its maximum transmission unit in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
}

/// A route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its destination; the default route has prefix length 0.
    pub destination: IpNetwork,
    /// Its next hop.
    pub gateway: Option<IpAddr>,
    /// Index of the interface it leaves by.
    pub interface: Option<u32>,
    /// Its table.
    pub table: u32,
    message: RouteMessage,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        self.gateway.map_or(Ok(()), |gateway| write!(f, " via {gateway}"))
    }
}

/// A window into one network namespace.
pub struct Kernel {
    socket: Socket,
    sequence: u32,
}

impl Kernel {
    /// Opens a window into `netns`.
    pub fn of(netns: &Netns) -> Result<Self, KernelError> {
        let entered = netns.enter()?;
        let socket = request("socket", || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            let bound = TimeVal::milliseconds(i64::try_from(ANSWER_WITHIN.as_millis()).unwrap_or(i64::MAX));
            setsockopt(&socket, ReceiveTimeout, &bound)?;
            Ok(socket)
        });
        drop(entered);
        Ok(Self { socket: socket?, sequence: 0 })
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>, KernelError> {
        let answers = self.dump("links", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Some(link(&message)),
                _ => None,
            })
            .collect())
    }

    /// The link of that name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, KernelError> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// The addresses of a link, without the link-local IPv6 address that the kernel gives on its own.
    pub fn addresses(&mut self, link: &Link) -> Result<Vec<IpNetwork>, KernelError> {
        Ok(self
            .address_messages(link.index)?
            .iter()
            .filter_map(address)
            .filter(|address| !matches!(address, IpNetwork::V6(v6) if v6.ip().is_unicast_link_local()))
            .collect())
    }

    /// Routes to unicast destinations, of every table but `local`, which only holds the namespace's own addresses.
    pub fn routes(&mut self) -> Result<Vec<Route>, KernelError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for answer in self.dump("routes", RouteNetlinkMessage::GetRoute(message))? {
                if let RouteNetlinkMessage::NewRoute(message) = answer
                    && message.header.kind == RouteType::Unicast
                {
                    routes.extend(route(message));
                }
            }
        }
        Ok(routes)
    }

    /// Makes a veth pair in the namespace, both ends down: an interface that the plugin knows nothing of.
    pub fn add_veth(&mut self, name: &str, peer: &str) -> Result<(), KernelError> {
        let named = |name: &str| {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::IfName(name.to_owned()));
            message
        };
        let mut message = named(name);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(named(peer)))),
        ]));
        self.change("new veth", RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sets a link up.
    pub fn set_up(&mut self, link: &Link) -> Result<(), KernelError> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change("set link up", RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Deletes a link.
    pub fn delete_link(&mut self, link: &Link) -> Result<(), KernelError> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        self.change("delete link", RouteNetlinkMessage::DelLink(message), 0)
    }

    /// Takes one address from a link. Says whether the link had it.
    pub fn delete_address(&mut self, link: &Link, gone: IpNetwork) -> Result<bool, KernelError> {
        let found = self.address_messages(link.index)?.into_iter().find(|message| address(message) == Some(gone));
        match found {
            Some(message) => self.change("delete address", RouteNetlinkMessage::DelAddress(message), 0).map(|()| true),
            None => Ok(false),
        }
    }

    /// Deletes a route that [`routes`](Self::routes) listed.
    pub fn delete_route(&mut self, route: Route) -> Result<(), KernelError> {
        self.change("delete route", RouteNetlinkMessage::DelRoute(route.message), 0)
    }

    fn address_messages(&mut self, index: u32) -> Result<Vec<AddressMessage>, KernelError> {
        let answers = self.dump("addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) if message.header.index == index => Some(message),
                _ => None,
            })
            .collect())
    }

    fn change(&mut self, what: &'static str, message: RouteNetlinkMessage, flags: u16) -> Result<(), KernelError> {
        self.exchange(what, message, flags | NLM_F_ACK).map(|_| ())
    }

    fn dump(&mut self, what: &'static str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(answers) = self.exchange(what, message.clone(), NLM_F_DUMP)? {
                return Ok(answers);
            }
        }
        Err(KernelError::Request { request: what, source: io::Error::other("the namespace changes faster than it can be read") })
    }

    /// Sends one request and collects its answers up to the acknowledgement. `None`: the dump was interrupted.
    fn exchange(
        &mut self,
        what: &'static str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, KernelError> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        request(what, || self.socket.send(&bytes, 0))?;

        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let (datagram, _) = request(what, || self.socket.recv_from_full())?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|source| KernelError::Decode { request: what, source })?;
                // Messages are padded to four bytes; the last one's padding may be missing.
                let length = (answer.header.length as usize).next_multiple_of(4).clamp(4, rest.len());
                rest = &rest[length..];
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    NetlinkPayload::Done(_) => return Ok((!interrupted).then_some(answers)),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(Some(answers)),
                    NetlinkPayload::Error(error) => return Err(KernelError::Request { request: what, source: error.to_io() }),
                    _ => {}
                }
            }
        }
    }
}

fn request<T>(request: &'static str, call: impl FnOnce() -> io::Result<T>) -> Result<T, KernelError> {
    call().map_err(|source| KernelError::Request { request, source })
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                link.mac = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
            }
            _ => {}
        }
    }
    link
}

fn address(message: &AddressMessage) -> Option<IpNetwork> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    // On a link with a peer address, `Address` is the peer's and `Local` ours; IPv6 sends `Address` alone.
    let other = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    IpNetwork::new(local.or(other)?, message.header.prefix_len).ok()
}

fn route(message: RouteMessage) -> Option<Route> {
    let any = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0_u16; 8]),
        _ => return None,
    };
    let mut destination = any;
    let mut gateway = None;
    let mut interface = None;
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => destination = ip(to)?,
            RouteAttribute::Gateway(via) => gateway = ip(via),
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Table(id) => table = *id,
            _ => {}
        }
    }
    let destination = IpNetwork::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route { destination, gateway, interface, table, message })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// The table that a route without a `table` of its own belongs to.
pub const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;
