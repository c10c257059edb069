//! What the kernel has: every pod link of ours on this node.

use std::collections::HashMap;
use std::net::IpAddr;

use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::Ifindex;
use crate::netlink::{NetlinkError, Socket};
use crate::pod_link::{ALIAS_PREFIX, ALLOWED_METRIC, GROUP, ROUTE_PROTOCOL};
use crate::raw_netlink::{attributes, number};

/// A host end of ours as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLink {
    /// Its number.
    pub ifindex: Ifindex,
    /// Its name.
    pub ifname: String,
    /// Bytes.
    pub mtu: u32,
    /// Container and interface name, from the alias; `None` for a link whose wiring never got that far.
    pub owner: Option<(String, String)>,
    /// The pod's own addresses: those routed to it by routes of ours.
    pub addresses: Vec<IpAddr>,
    /// Addresses that it may use besides, likewise.
    pub allowed: Vec<IpAddr>,
}

/// Reads every pod link of ours, and the addresses routed to each.
///
/// # Errors
/// Where a table cannot be read.
pub fn pod_links(host: &mut Socket) -> Result<Vec<FoundLink>, NetlinkError> {
    let mut routed = routed_addresses(host)?;
    // The links name addresses only once all are read: a row picked in an attempt that was interrupted must not use them up.
    let mut links = host.dump("read the host's links", &all_links(), found_link)?;
    for link in &mut links {
        let of_link = routed.remove(&link.ifindex.0).unwrap_or_default();
        let (allowed, own): (Vec<_>, Vec<_>) = of_link.into_iter().partition(|(_, is_allowed)| *is_allowed);
        let addresses = |routes: Vec<(IpAddr, bool)>| routes.into_iter().map(|(address, _)| address).collect();
        (link.addresses, link.allowed) = (addresses(own), addresses(allowed));
    }
    Ok(links)
}

/// A request for every link.
pub(crate) fn all_links() -> RouteNetlinkMessage {
    let mut request = LinkMessage::default();
    request.attributes = vec![without_counters()];
    RouteNetlinkMessage::GetLink(request)
}

/// Whether a row of links is a pod's, by its bytes: a full node has a thousand of them.
pub(crate) fn is_pods_link(row: &[u8]) -> bool {
    /// `struct ifinfomsg`
    const HEADER: usize = 16;
    /// `IFLA_GROUP`
    const OF_GROUP: u16 = 27;
    let mut attributes = attributes(row.get(HEADER..).unwrap_or_default());
    attributes.any(|(kind, value)| kind == OF_GROUP && number(value) == GROUP)
}

/// Asks for links without their counters, which are most of a row.
pub(crate) fn without_counters() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

pub(crate) fn found_link(row: RouteNetlinkMessage) -> Option<FoundLink> {
    let RouteNetlinkMessage::NewLink(link) = row else { return None };
    let (mut ifname, mut mtu, mut ours, mut owner) = (String::new(), 0, false, None);
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => ifname = name,
            LinkAttribute::Mtu(bytes) => mtu = bytes,
            LinkAttribute::Group(group) => ours = group == GROUP,
            LinkAttribute::IfAlias(alias) => {
                owner = alias
                    .strip_prefix(ALIAS_PREFIX)
                    .and_then(|text| text.split_once(' '))
                    .map(|(container, ifname)| (container.to_owned(), ifname.to_owned()));
            }
            _ => {}
        }
    }
    ours.then_some(FoundLink { ifindex: Ifindex(link.header.index), ifname, mtu, owner, addresses: Vec::new(), allowed: Vec::new() })
}

/// By link, and whether each is one that the pod may use beside its own.
fn routed_addresses(host: &mut Socket) -> Result<HashMap<u32, Vec<(IpAddr, bool)>>, NetlinkError> {
    let mut routed: HashMap<u32, Vec<(IpAddr, bool)>> = HashMap::new();
    let ours = routes(host, |route| {
        let ours = route.header.protocol == ROUTE_PROTOCOL;
        let is_allowed = route.attributes.contains(&RouteAttribute::Priority(ALLOWED_METRIC));
        destination(&route).zip(oif(&route)).filter(|_| ours).map(|(address, oif)| (oif, (address, is_allowed)))
    })?;
    for (oif, address) in ours {
        routed.entry(oif).or_default().push(address);
    }
    Ok(routed)
}

/// Other people's routes, of which those that the kernel makes of each pod's link by itself are left out as well: local and link-local ones.
pub(crate) fn routes_of_others<T>(socket: &mut Socket, pick: impl FnMut(RouteMessage) -> Option<T>) -> Result<Vec<T>, NetlinkError> {
    /// `struct rtmsg`, and its protocol; then the destination's own head.
    const PROTOCOL: usize = 5;
    const DESTINATION: usize = 12 + 8 + 4;
    routes_where(
        socket,
        |row| {
            row.get(PROTOCOL) != Some(&u8::from(ROUTE_PROTOCOL)) && !row.get(DESTINATION..).is_some_and(|to| to.starts_with(&[0xfe, 0x80]))
        },
        pick,
    )
}

fn routes<T>(socket: &mut Socket, pick: impl FnMut(RouteMessage) -> Option<T>) -> Result<Vec<T>, NetlinkError> {
    routes_where(socket, |_| true, pick)
}

fn routes_where<T>(
    socket: &mut Socket,
    is_wanted: impl Fn(&[u8]) -> bool,
    mut pick: impl FnMut(RouteMessage) -> Option<T>,
) -> Result<Vec<T>, NetlinkError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        found.extend(socket.dump_where("read the routes", &RouteNetlinkMessage::GetRoute(request), &is_wanted, |row| match row {
            RouteNetlinkMessage::NewRoute(route) => pick(route),
            _ => None,
        })?);
    }
    Ok(found)
}

pub(crate) fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    })
}

pub(crate) fn oif(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| if let RouteAttribute::Oif(index) = attribute { Some(*index) } else { None })
}

pub(crate) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// An address with its interface. `IFA_LOCAL` is the interface's own where it differs from its peer's (rtnetlink(7)).
pub(crate) fn address(row: RouteNetlinkMessage) -> Option<(u32, IpAddr)> {
    let RouteNetlinkMessage::NewAddress(message) = row else { return None };
    let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    let local = of(|attribute| if let AddressAttribute::Local(address) = attribute { Some(*address) } else { None });
    let plain = of(|attribute| if let AddressAttribute::Address(address) = attribute { Some(*address) } else { None });
    local.or(plain).map(|address| (message.header.index, address))
}

pub(crate) fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| if let RouteAttribute::Gateway(gateway) = attribute { ip(gateway) } else { None })
}
