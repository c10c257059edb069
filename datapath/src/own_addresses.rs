//! The host's own addresses, and which of several is the node's.
//!
//! An interface can have addresses that float: keepalived's or a load balancer's come and go, and flows that were translated to one break
//! when it goes. Nothing marks them as such for certain, so what the kernel tells is put in an order. Pure but for the reading.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use crate::inventory::address;
use crate::netlink::{NetlinkError, Socket};
use crate::{Ifindex, prefixes};

/// An address as its interface has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnAddress {
    pub(crate) ifindex: Ifindex,
    pub(crate) address: IpAddr,
    /// Of its subnet.
    prefix: u8,
    flags: AddressFlags,
}

/// Every address of the socket's namespace, in the kernel's order.
pub(crate) fn read(host: &mut Socket) -> Result<Vec<OwnAddress>, NetlinkError> {
    host.dump("read the host's addresses", &RouteNetlinkMessage::GetAddress(AddressMessage::default()), |row| {
        let RouteNetlinkMessage::NewAddress(message) = &row else { return None };
        let (prefix, header) = (message.header.prefix_len, u32::from(message.header.flags.bits()));
        // The header has room for the first eight flags alone.
        let flags = message
            .attributes
            .iter()
            .find_map(|attribute| if let AddressAttribute::Flags(flags) = attribute { Some(*flags) } else { None });
        let flags = flags.unwrap_or(AddressFlags::from_bits_retain(header));
        address(row).map(|(ifindex, address)| OwnAddress { ifindex: Ifindex(ifindex), address, prefix, flags })
    })
}

/// An interface's addresses, of each family the node's own first: one that is not about to go nor about to come; not a secondary or
/// temporary one; the one that its default route names as source (`src`, as DHCP sets it); one in the subnet of its gateway; one that was
/// given for a time, as DHCP does and keepalived does not; the oldest.
pub(crate) fn primary_first(mut own: Vec<OwnAddress>, sources: &[IpAddr], gateways: &[IpAddr]) -> Vec<IpAddr> {
    // The kernel lists the oldest IPv4 address first, and the oldest IPv6 address last (`ipv6_link_dev_addr`, net/ipv6/addrconf.c).
    let (v4, mut v6): (Vec<_>, Vec<_>) = own.drain(..).partition(|own| own.address.is_ipv4());
    v6.reverse();
    own = v4.into_iter().chain(v6).collect();
    own.sort_by_key(|own| {
        let fleeting = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
        let subnet = prefixes::prefix(own.address.is_ipv4(), prefixes::number(own.address), own.prefix);
        let has_gateway = gateways.iter().any(|gateway| prefixes::contains(&subnet, &IpNetwork::from(*gateway)));
        (
            !own.address.is_ipv4(),
            is_link_local(own.address),
            own.flags.intersects(fleeting),
            own.flags.contains(AddressFlags::Secondary),
            !sources.contains(&own.address),
            !has_gateway,
            own.flags.contains(AddressFlags::Permanent),
        )
    });
    own.into_iter().map(|own| own.address).collect()
}

/// Whether an address means nothing beyond its link.
pub(crate) const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(cidr: &str, flags: AddressFlags) -> OwnAddress {
        let cidr: IpNetwork = cidr.parse().unwrap();
        OwnAddress { ifindex: Ifindex(2), address: cidr.ip(), prefix: cidr.prefix(), flags }
    }

    fn first(own: &[OwnAddress], source: Option<&str>, gateway: &str) -> String {
        let sources: Vec<_> = source.iter().map(|text| text.parse().unwrap()).collect();
        primary_first(own.to_vec(), &sources, &[gateway.parse().unwrap()])[0].to_string()
    }

    #[test]
    fn a_floating_address_is_not_the_nodes() {
        const STATIC: AddressFlags = AddressFlags::Permanent;
        let node = own("10.0.0.11/24", STATIC);
        for floating in [own("10.0.0.100/24", STATIC | AddressFlags::Secondary), own("10.0.0.5/32", STATIC), own("192.0.2.5/24", STATIC)] {
            assert_eq!(first(&[floating, node], None, "10.0.0.1"), "10.0.0.11");
        }
        let leased = own("10.0.0.11/24", AddressFlags::Secondary);
        assert_eq!(first(&[own("10.0.0.5/24", STATIC), leased], None, "10.0.0.1"), "10.0.0.5", "what the kernel calls primary");
        assert_eq!(first(&[own("10.0.0.5/25", STATIC), own("10.0.0.11/24", AddressFlags::empty())], None, "10.0.0.1"), "10.0.0.11");
        assert_eq!(first(&[own("10.0.0.5/25", STATIC), node], Some("10.0.0.11"), "10.0.0.1"), "10.0.0.11", "its route says so");
        let ipv6 = [own("fd00::5/64", STATIC), own("fd00::11/64", STATIC), own("fe80::1/64", STATIC)];
        assert_eq!(first(&ipv6, None, "fe80::1"), "fd00::11", "the oldest");
        let temporary = own("fd00::99/64", AddressFlags::Secondary);
        let deprecated = own("fd00::5/128", STATIC | AddressFlags::Deprecated);
        assert_eq!(first(&[temporary, own("fd00::11/64", AddressFlags::empty()), deprecated], None, "fe80::1"), "fd00::11");
    }
}
