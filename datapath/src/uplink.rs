//! The interfaces that lead to the cloud network.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::Ifindex;
use crate::inventory::{all_links, gateway, ip, is_pods_link};
use crate::netlink::{NetlinkError, Request, Socket};
use crate::own_addresses::{self, OwnAddress};
use crate::pod_link::{GROUP, ROUTE_PROTOCOL};
use crate::sysctl::{self, SysctlError};

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
    /// Its own addresses, of each family the primary one first.
    pub addresses: Vec<IpAddr>,
}

/// By what an uplink is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum UplinkName {
    /// By the default route with the lowest metric, IPv4 first.
    #[default]
    DefaultRoute,
    /// By its name.
    Interface(String),
    /// By its MAC address, whatever its name is. It need not be there: a cloud shows the device some time after it was attached.
    Mac([u8; 6]),
}

/// An uplink as somebody asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UplinkChoice {
    /// Its index.
    pub index: u16,
    /// Which interface it is.
    pub interface: UplinkName,
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
    #[error("{0:?} does not exist on this node, which has {1}")]
    Unknown(String, String),
    /// No interface was configured, and no default route tells.
    #[error("the node has no default route to tell it by")]
    NoDefaultRoute,
    /// What was configured, or what the default route leads to, has no Ethernet frames.
    #[error("{0}; name the interface to the cloud network in uplink.interface")]
    NotEthernet(String),
}

/// What the interfaces tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FoundUplinks {
    /// In the order of the choices.
    pub uplinks: Vec<Uplink>,
    /// The node's own addresses: the uplinks' first, then those of other interfaces, pods' links and [`SERVICE_INTERFACES`] excepted.
    pub node_addresses: Vec<IpAddr>,
    /// What [`SERVICE_INTERFACES`] hold: addresses of services.
    pub service_addresses: Vec<IpAddr>,
    /// Further uplinks that are no Ethernet devices, in words.
    pub not_ethernet: Vec<String>,
}

/// Interfaces that hold addresses of services: kube-proxy's in IPVS mode, and the DNS cache's on each node.
pub const SERVICE_INTERFACES: [&str; 2] = ["kube-ipvs0", "nodelocaldns"];

/// Finds uplinks in the order of `choices`, and every address of the node. Further ones that are not there or no Ethernet devices are
/// left out, and so is any that is known by its MAC address and not there.
///
/// # Errors
/// See [`UplinkError`].
pub fn find_uplinks(host: &mut Socket, choices: &[UplinkChoice]) -> Result<FoundUplinks, UplinkError> {
    let links = host.dump_where("read the host's links", &all_links(), |row| !is_pods_link(row), not_a_pods)?;
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let request = RouteNetlinkMessage::GetRoute(request);
        let mut of_family = host.dump_where("read the routes", &request, |row| row.get(1) == Some(&0), |row| default_route(&row))?;
        // What is in the main table decides before what is in others.
        of_family.sort_by_key(|route| (!route.in_main_table, route.metric));
        routes.extend(of_family);
    }
    let mut addresses = own_addresses::read(host)?;
    addresses.retain(|own| links.iter().any(|link| link.uplink.ifindex == own.ifindex));
    let mut found = FoundUplinks::default();
    for choice in choices {
        let Some(link) = choose(choice, &links, &routes)? else { continue };
        if link.layer != LinkLayerType::Ether {
            let refused = not_ethernet(link, &choice.interface);
            if choice.index == 0 {
                return Err(UplinkError::NotEthernet(refused));
            }
            found.not_ethernet.push(refused);
            continue;
        }
        let mut uplink = Uplink { index: choice.index, ..link.uplink.clone() };
        let leading_here: Vec<_> = routes.iter().filter(|route| route.oif == uplink.ifindex.0).collect();
        for gateway in choice.gateways.iter().copied().chain(leading_here.iter().filter_map(|route| route.gateway)) {
            if !uplink.gateways.iter().any(|known| known.is_ipv4() == gateway.is_ipv4()) {
                uplink.gateways.push(gateway);
            }
        }
        let own: Vec<_> = addresses.iter().filter(|own| own.ifindex == uplink.ifindex).copied().collect();
        let sources: Vec<_> = leading_here.iter().filter_map(|route| route.source).collect();
        uplink.addresses = own_addresses::primary_first(own, &sources, &uplink.gateways);
        found.uplinks.push(uplink);
    }
    let holds_services = |own: &OwnAddress| {
        links.iter().any(|link| link.uplink.ifindex == own.ifindex && SERVICE_INTERFACES.contains(&link.uplink.ifname.as_str()))
    };
    let (services, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(holds_services);
    let sorted = |addresses: Vec<OwnAddress>| {
        let mut addresses: Vec<_> = addresses.into_iter().map(|own| own.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    };
    found.service_addresses = sorted(services);
    found.node_addresses = found.uplinks.iter().flat_map(|uplink| uplink.addresses.iter().copied()).collect();
    let others = sorted(others);
    found.node_addresses.extend(others.into_iter().filter(|other| !found.uplinks.iter().any(|uplink| uplink.addresses.contains(other))));
    Ok(found)
}

fn not_ethernet(link: &HostLink, chosen: &UplinkName) -> String {
    let why = if *chosen == UplinkName::DefaultRoute { "the default route leads to " } else { "" };
    format!("{why}{:?}, which is no Ethernet device (its type is {:?}), so its packets have no frames", link.uplink.ifname, link.layer)
}

fn choose<'a>(choice: &UplinkChoice, links: &'a [HostLink], routes: &[DefaultRoute]) -> Result<Option<&'a HostLink>, UplinkError> {
    let found = match &choice.interface {
        UplinkName::DefaultRoute => {
            let mut main = routes.iter().filter(|route| route.in_main_table);
            let found = main.find_map(|route| links.iter().find(|link| link.uplink.ifindex.0 == route.oif));
            Some(found.ok_or(UplinkError::NoDefaultRoute)?)
        }
        UplinkName::Interface(name) => {
            let found = links.iter().find(|link| link.uplink.ifname == *name);
            if found.is_none() && choice.index == 0 {
                let mut names: Vec<_> = links.iter().map(|link| link.uplink.ifname.as_str()).collect();
                names.sort_unstable();
                return Err(UplinkError::Unknown(name.clone(), names.join(", ")));
            }
            found
        }
        // Others may have the same: what is made on top of it later, and, on Azure, the hardware below it, which it is the master of.
        UplinkName::Mac(mac) => {
            links.iter().filter(|link| link.mac == Some(*mac)).min_by_key(|link| (link.is_below, link.uplink.ifindex.0))
        }
    };
    Ok(found)
}

/// Makes an interface ready to be an uplink: up, and with `address` as its own where it has none of that family.
///
/// A further uplink takes router advertisements, as forwarding would end otherwise, but its default routes come behind those of the
/// node's own; and its address comes without a route to its subnet, which may be the first uplink's as well.
///
/// # Errors
/// Where the kernel refuses.
pub fn set_up_uplink(host: &mut Socket, uplink: &Uplink, address: Option<IpAddr>) -> Result<(), SetUpError> {
    if uplink.index != 0 {
        sysctl::take_advertisements(&uplink.ifname)?;
    }
    let mut requests = Vec::new();
    if !uplink.running {
        let mut link = LinkMessage::default();
        (link.header.index, link.header.flags, link.header.change_mask) = (uplink.ifindex.0, LinkFlags::Up, LinkFlags::Up);
        requests.push(Request { step: "set an uplink up", message: RouteNetlinkMessage::SetLink(link), flags: 0 });
    }
    if let Some(missing) = address.filter(|address| uplink.lacks(*address)) {
        let mut message = AddressMessage::default();
        message.header.family = if missing.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.index = uplink.ifindex.0;
        message.header.prefix_len = if missing.is_ipv4() { 32 } else { 128 };
        message.attributes = vec![AddressAttribute::Address(missing), AddressAttribute::Local(missing)];
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        requests.push(Request { step: "give an uplink its address", message: RouteNetlinkMessage::NewAddress(message), flags });
    }
    Ok(host.execute(requests)?)
}

impl Uplink {
    /// Whether it has no address of the family of `address`.
    #[must_use]
    pub fn lacks(&self, address: IpAddr) -> bool {
        !self.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4())
    }
}

/// Why an interface could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// A setting was refused.
    #[error("{0}")]
    Sysctl(#[from] SysctlError),
    /// The kernel refused.
    #[error("{0}")]
    Netlink(#[from] NetlinkError),
}

/// A link of the host, and what tells it from others with the same MAC address.
struct HostLink {
    uplink: Uplink,
    mac: Option<[u8; 6]>,
    layer: LinkLayerType,
    /// Another link is its master.
    is_below: bool,
}

/// A default route of somebody else's.
struct DefaultRoute {
    in_main_table: bool,
    metric: u32,
    oif: u32,
    gateway: Option<IpAddr>,
    /// The address that the host sends from.
    source: Option<IpAddr>,
}

fn default_route(row: &RouteNetlinkMessage) -> Option<DefaultRoute> {
    let RouteNetlinkMessage::NewRoute(route) = row else { return None };
    let header = &route.header;
    // Ours say only what we were told before.
    if header.destination_prefix_length != 0 || header.kind != RouteType::Unicast || header.protocol == ROUTE_PROTOCOL {
        return None;
    }
    let (mut metric, mut interface, mut source) = (0, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::PrefSource(address) => source = ip(address),
            _ => {}
        }
    }
    let in_main_table = header.table == RouteHeader::RT_TABLE_MAIN;
    interface.map(|oif| DefaultRoute { in_main_table, metric, oif, gateway: gateway(route), source })
}

fn not_a_pods(row: RouteNetlinkMessage) -> Option<HostLink> {
    let RouteNetlinkMessage::NewLink(link) = row else { return None };
    let (mut ifname, mut mtu, mut mac, mut is_below) = (String::new(), 0, None, false);
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = bytes.try_into().ok(),
            LinkAttribute::Controller(_) => is_below = true,
            LinkAttribute::IfName(name) => ifname = name,
            LinkAttribute::Mtu(bytes) => mtu = bytes,
            LinkAttribute::Group(GROUP) => return None,
            _ => {}
        }
    }
    let running = link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    let ifindex = Ifindex(link.header.index);
    let uplink = Uplink { index: 0, ifindex, ifname, mtu, running, gateways: Vec::new(), addresses: Vec::new() };
    Some(HostLink { uplink, mac, layer: link.header.link_layer_type, is_below })
}
