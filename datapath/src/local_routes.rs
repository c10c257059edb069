//! The local routes of Google's guest agent: `ip route show table local proto 66`.

use std::net::IpAddr;

use crate::netlink::{NetlinkError, Socket};
use ipnetwork::IpNetwork;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

/// `ethernet_proto_id` under `[IpForwarding]` in the guest agent's configuration, where nobody has changed it.
const GUEST_AGENT: u8 = 66;

/// `RT_TABLE_LOCAL` of linux/rtnetlink.h.
const LOCAL_TABLE: u8 = 255;

/// Their destinations. Blocking.
///
/// # Errors
/// Where the kernel does not tell its routes.
pub fn of_guest_agent() -> Result<Vec<IpNetwork>, NetlinkError> {
    let mut ask = RouteMessage::default();
    ask.header.address_family = AddressFamily::Inet;
    Socket::open()?.dump("list local routes", &RouteNetlinkMessage::GetRoute(ask), |row| match row {
        RouteNetlinkMessage::NewRoute(route) => destination(&route),
        _ => None,
    })
}

fn destination(route: &RouteMessage) -> Option<IpNetwork> {
    if route.header.table != LOCAL_TABLE || route.header.protocol != RouteProtocol::from(GUEST_AGENT) {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => {
            IpNetwork::new(IpAddr::V4(*address), route.header.destination_prefix_length).ok()
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_routes_of_the_agent_in_the_local_table() {
        let mut route = RouteMessage::default();
        route.header.table = LOCAL_TABLE;
        route.header.protocol = RouteProtocol::from(66);
        route.header.destination_prefix_length = 24;
        route.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet([10, 1, 2, 0].into()))];
        assert_eq!(destination(&route), Some("10.1.2.0/24".parse().unwrap()));
        let mut kernels = route.clone();
        kernels.header.protocol = RouteProtocol::Kernel;
        assert_eq!(destination(&kernels), None);
        route.header.table = 254;
        assert_eq!(destination(&route), None);
    }
}
