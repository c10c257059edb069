//! The interfaces that lead to the cloud network.

use netlink_packet_route::AddressFamily;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};

use crate::Ifindex;
use crate::inventory::{all_links, gateway, host_addresses};
use crate::netlink::{NetlinkError, Socket};
use crate::pod_link::{GROUP, ROUTE_PROTOCOL};

/// An uplink as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its index among the node's uplinks, for as long as it is attached: 0 is the node's own.
    pub index: u16,
    /// Its number.
    pub ifindex: Ifindex,
    /// Its name.
    pub ifname: String,
    /// Bytes; pods get the same.
    pub mtu: u32,
    /// `IFF_UP` and a carrier.
    pub running: bool,
    /// Its gateways, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
}

/// An uplink as somebody asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UplinkChoice {
    /// Its index.
    pub index: u16,
    /// Its name; the default route tells where there is none, which only the first may do without.
    pub interface: Option<String>,
    /// Its gateways, where its default routes do not tell.
    pub gateways: Vec<IpAddr>,
}

/// Why there is no uplink.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// A table could not be read.
    #[error("{0}")]
    Netlink(#[from] NetlinkError),
    /// The configured interface does not exist.
    #[error("the uplink {0:?} does not exist on this node; name one of: {1}")]
    Unknown(String, String),
    /// No interface was configured, and no default route tells.
    #[error("the node has no default route to tell the uplink by; set uplink.interface")]
    NoDefaultRoute,
}

/// Finds uplinks in the order of `choices`, and every address of the node. An unnamed one is the interface of the default route
/// with the lowest metric, IPv4 first.
///
/// # Errors
/// See [`UplinkError`].
pub fn find_uplinks(host: &mut Socket, choices: &[UplinkChoice]) -> Result<(Vec<Uplink>, Vec<IpAddr>), UplinkError> {
    let links = host.dump("read the host's links", &all_links(), not_a_pods)?;
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let mut of_family = host.dump("read the routes", &RouteNetlinkMessage::GetRoute(request), |row| default_route(&row))?;
        // What is in the main table decides before what is in others.
        of_family.sort_by_key(|route| (!route.in_main_table, route.metric));
        routes.extend(of_family);
    }
    let addresses = host_addresses(host)?;
    let mut uplinks = Vec::new();
    for choice in choices {
        let mut uplink = choose(choice, &links, &routes)?;
        uplink.index = choice.index;
        let told = routes.iter().filter(|route| route.oif == uplink.ifindex.0).filter_map(|route| route.gateway);
        for gateway in choice.gateways.iter().copied().chain(told) {
            if !uplink.gateways.iter().any(|known| known.is_ipv4() == gateway.is_ipv4()) {
                uplink.gateways.push(gateway);
            }
        }
        uplink.addresses = addresses.iter().filter(|(ifindex, _)| *ifindex == uplink.ifindex.0).map(|(_, address)| *address).collect();
        uplinks.push(uplink);
    }
    let mut addresses: Vec<_> = addresses.into_iter().map(|(_, address)| address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok((uplinks, addresses))
}

fn choose(choice: &UplinkChoice, links: &[Uplink], routes: &[DefaultRoute]) -> Result<Uplink, UplinkError> {
    let Some(name) = &choice.interface else {
        let mut main = routes.iter().filter(|route| route.in_main_table);
        let found = main.find_map(|route| links.iter().find(|link| link.ifindex.0 == route.oif));
        return found.cloned().ok_or(UplinkError::NoDefaultRoute);
    };
    links.iter().find(|link| link.ifname == *name).cloned().ok_or_else(|| {
        let mut names: Vec<_> = links.iter().map(|link| link.ifname.as_str()).collect();
        names.sort_unstable();
        UplinkError::Unknown(name.clone(), names.join(", "))
    })
}

/// A default route of somebody else's.
struct DefaultRoute {
    in_main_table: bool,
    metric: u32,
    oif: u32,
    gateway: Option<IpAddr>,
}

fn default_route(row: &RouteNetlinkMessage) -> Option<DefaultRoute> {
    let RouteNetlinkMessage::NewRoute(route) = row else { return None };
    let header = &route.header;
    // Ours say only what we were told before.
    if header.destination_prefix_length != 0 || header.kind != RouteType::Unicast || header.protocol == ROUTE_PROTOCOL {
        return None;
    }
    let (mut metric, mut interface) = (0, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    let in_main_table = header.table == RouteHeader::RT_TABLE_MAIN;
    interface.map(|oif| DefaultRoute { in_main_table, metric, oif, gateway: gateway(route) })
}

fn not_a_pods(row: RouteNetlinkMessage) -> Option<Uplink> {
    let RouteNetlinkMessage::NewLink(link) = row else { return None };
    let (mut ifname, mut mtu) = (String::new(), 0);
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => ifname = name,
            LinkAttribute::Mtu(bytes) => mtu = bytes,
            LinkAttribute::Group(GROUP) => return None,
            _ => {}
        }
    }
    let running = link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    Some(Uplink { index: 0, ifindex: Ifindex(link.header.index), ifname, mtu, running, gateways: Vec::new(), addresses: Vec::new() })
}
