//! The netlink messages that both ends of a pod's link are made of. Pure.

use std::net::IpAddr;
use std::path::Path;
use std::sync::LazyLock;

use netlink_packet_core::DefaultNla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};

use crate::Ifindex;
use crate::raw_netlink::attribute;

/// Whether the kernel has IPv6 at all (`ipv6.disable=1` on its command line takes it away).
pub(super) fn kernel_has_ipv6() -> bool {
    static HAS_IPV6: LazyLock<bool> = LazyLock::new(|| Path::new("/proc/sys/net/ipv6").exists());
    *HAS_IPV6
}

/// `IN6_ADDR_GEN_MODE_NONE`, where the kernel has IPv6 at all.
pub(super) fn no_address_generation() -> Option<AfSpecUnspec> {
    kernel_has_ipv6().then(|| AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]))
}

/// What comes in by the interface over IPv4 is forwarded, whatever the host gives new interfaces (`net.ipv4.conf.default.forwarding`).
pub(super) fn forwarding() -> AfSpecUnspec {
    /// `IFLA_INET_CONF`, and in it `IPV4_DEVCONF_FORWARDING` (linux/if_link.h, linux/ip.h).
    const SETTINGS: u16 = 1;
    const FORWARDING: u16 = 1;
    let setting = attribute(FORWARDING, &1_u32.to_ne_bytes());
    AfSpecUnspec::Inet(vec![AfSpecInet::Other(DefaultNla::new(SETTINGS, setting))])
}

pub(super) fn up(ifindex: Ifindex) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex.0;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

/// The family of an address, and the length of a prefix that is this address alone.
pub(crate) const fn family(address: IpAddr) -> (AddressFamily, u8) {
    match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    }
}

/// An address without neighbours. An IPv6 one is not probed for duplicates, and has no route to its own /128 beside the local one.
pub(super) fn address(ifindex: Ifindex, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    (message.header.family, message.header.prefix_len) = family(address);
    message.header.index = ifindex.0;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
    }
    message
}

pub(super) fn permanent_neighbour(ifindex: Ifindex, address: IpAddr, mac: [u8; 6]) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address).0;
    message.header.ifindex = ifindex.0;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes =
        vec![NeighbourAttribute::Destination(NeighbourAddress::from(address)), NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
    message
}

/// A route to one address that is on the link itself.
pub(crate) fn link_route(ifindex: Ifindex, address: IpAddr, protocol: RouteProtocol) -> RouteMessage {
    let mut message = route(address, protocol);
    message.header.destination_prefix_length = family(address).1;
    message.header.scope = if address.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::from(address)), RouteAttribute::Oif(ifindex.0)];
    message
}

/// The default route of the gateway's family.
pub(super) fn default_route(ifindex: Ifindex, gateway: IpAddr) -> RouteMessage {
    let mut message = route(gateway, RouteProtocol::Static);
    message.attributes = vec![RouteAttribute::Gateway(RouteAddress::from(gateway)), RouteAttribute::Oif(ifindex.0)];
    message
}

fn route(of: IpAddr, protocol: RouteProtocol) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(of).0;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = protocol;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message
}
