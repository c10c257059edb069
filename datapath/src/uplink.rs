//! The interface that leads to the cloud network.

use netlink_packet_route::AddressFamily;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};

use crate::Ifindex;
use crate::inventory::{all_links, gateway, node_addresses};
use crate::netlink::{NetlinkError, Socket};
use crate::pod_link::GROUP;

/// An uplink as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its number.
    pub ifindex: Ifindex,
    /// Its name.
    pub ifname: String,
    /// Bytes; pods get the same.
    pub mtu: u32,
    /// `IFF_UP` and a carrier.
    pub running: bool,
    /// Gateways of its default routes, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Every address of the node, of whichever interface.
    pub node_addresses: Vec<IpAddr>,
}

/// Why there is no uplink.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// A table could not be read.
    #[error("{0}")]
    Netlink(#[from] NetlinkError),
    /// The configured interface does not exist.
    #[error("uplink.interface {0:?} does not exist on this node; name one of: {1}")]
    Unknown(String, String),
    /// No interface was configured, and no default route tells.
    #[error("the node has no default route to tell the uplink by; set uplink.interface")]
    NoDefaultRoute,
}

/// Finds the uplink: the interface `named`, or else that of the default route with the lowest metric, IPv4 first.
///
/// # Errors
/// See [`UplinkError`].
pub fn find_uplink(host: &mut Socket, named: Option<&str>) -> Result<Uplink, UplinkError> {
    let links = host.dump("read the host's links", &all_links(), not_a_pods)?;
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let mut of_family = host.dump("read the routes", &RouteNetlinkMessage::GetRoute(request), |row| default_route(&row))?;
        of_family.sort_by_key(|route| route.metric);
        routes.extend(of_family);
    }
    let mut uplink = match named {
        Some(name) => links.iter().find(|link| link.ifname == name).cloned().ok_or_else(|| {
            let mut names: Vec<_> = links.iter().map(|link| link.ifname.as_str()).collect();
            names.sort_unstable();
            UplinkError::Unknown(name.to_owned(), names.join(", "))
        })?,
        None => routes
            .iter()
            .find_map(|route| links.iter().find(|link| link.ifindex.0 == route.oif))
            .cloned()
            .ok_or(UplinkError::NoDefaultRoute)?,
    };
    for gateway in routes.iter().filter(|route| route.oif == uplink.ifindex.0).filter_map(|route| route.gateway) {
        if !uplink.gateways.iter().any(|known| known.is_ipv4() == gateway.is_ipv4()) {
            uplink.gateways.push(gateway);
        }
    }
    uplink.node_addresses = node_addresses(host)?;
    Ok(uplink)
}

/// A default route in the main table.
struct DefaultRoute {
    metric: u32,
    oif: u32,
    gateway: Option<IpAddr>,
}

fn default_route(row: &RouteNetlinkMessage) -> Option<DefaultRoute> {
    let RouteNetlinkMessage::NewRoute(route) = row else { return None };
    let header = &route.header;
    if header.destination_prefix_length != 0 || header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
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
    interface.map(|oif| DefaultRoute { metric, oif, gateway: gateway(route) })
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
    Some(Uplink { ifindex: Ifindex(link.header.index), ifname, mtu, running, gateways: Vec::new(), node_addresses: Vec::new() })
}
