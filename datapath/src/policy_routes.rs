//! The way out for packets that the stack sends of pods whose addresses belong to a further uplink: one rule by mark and one
//! table with a default route for each (docs/adr/0008).

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use crate::netlink::{NetlinkError, Request, Socket};
use crate::pod_link::ROUTE_PROTOCOL;
use crate::{Marks, Uplink};

/// The table of the first further uplink is the next.
const FIRST_TABLE: u32 = 0xB300;
/// Before the main table (32766), behind the local one (0).
const PRIORITY: u32 = 0xB3;

/// What one further uplink needs in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WayOut {
    index: u16,
    gateway: IpAddr,
    oif: u32,
}

impl WayOut {
    fn table(self) -> u32 {
        FIRST_TABLE + u32::from(self.index)
    }

    const fn family(self) -> AddressFamily {
        if self.gateway.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
    }
}

/// Sets rules and routes for all of `uplinks` but the node's own, and removes ours that no uplink needs.
pub(crate) fn apply(host: &mut Socket, uplinks: &[Uplink], marks: Marks) -> Result<(), NetlinkError> {
    let wanted = ways_out(uplinks);
    let kept = |family: AddressFamily, table: Option<u32>| wanted.iter().any(|way| way.family() == family && Some(way.table()) == table);
    let mut requests = Vec::new();
    let found = our_rules(host)?;
    for rule in &found {
        if !kept(rule.header.family, table_of_rule(rule)) || mask_of_rule(rule) != Some(marks.of_uplinks()) {
            let message = RouteNetlinkMessage::DelRule(rule.clone());
            requests.push(Request { step: "remove the rule of an uplink that is gone", message, flags: 0 });
        }
    }
    for route in our_default_routes(host)? {
        if !kept(route.header.address_family, table_of_route(&route)) {
            let message = RouteNetlinkMessage::DelRoute(route);
            requests.push(Request { step: "remove the route of an uplink that is gone", message, flags: 0 });
        }
    }
    for way in wanted {
        let message = RouteNetlinkMessage::NewRoute(default_route(way));
        requests.push(Request { step: "give a further uplink its default route", message, flags: NLM_F_CREATE | NLM_F_REPLACE });
        let stands = |rule: &RuleMessage| {
            (rule.header.family, table_of_rule(rule), mask_of_rule(rule)) == (way.family(), Some(way.table()), Some(marks.of_uplinks()))
        };
        if !found.iter().any(stands) {
            let message = RouteNetlinkMessage::NewRule(rule(way, marks));
            requests.push(Request { step: "give a further uplink its rule", message, flags: NLM_F_CREATE });
        }
    }
    // A route goes with its interface, perhaps since it was read.
    let refused = host.execute_each(requests)?;
    refused.into_iter().find(|error| !error.is(Errno::ESRCH)).map_or(Ok(()), Err)
}

fn ways_out(uplinks: &[Uplink]) -> Vec<WayOut> {
    let mut ways = Vec::new();
    for uplink in uplinks.iter().filter(|uplink| uplink.index != 0) {
        ways.extend(uplink.gateways.iter().map(|&gateway| WayOut { index: uplink.index, gateway, oif: uplink.ifindex.0 }));
    }
    ways
}

fn rule(way: WayOut, marks: Marks) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = way.family();
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::FwMark(marks.of_uplink(way.index)),
        RuleAttribute::FwMask(marks.of_uplinks()),
        RuleAttribute::Table(way.table()),
        RuleAttribute::Protocol(ROUTE_PROTOCOL),
    ];
    message
}

fn default_route(way: WayOut) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = way.family();
    message.header.protocol = ROUTE_PROTOCOL;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.header.flags = RouteFlags::Onlink;
    message.attributes =
        vec![RouteAttribute::Table(way.table()), RouteAttribute::Gateway(RouteAddress::from(way.gateway)), RouteAttribute::Oif(way.oif)];
    message
}

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

fn our_rules(host: &mut Socket) -> Result<Vec<RuleMessage>, NetlinkError> {
    let mut found = Vec::new();
    for family in FAMILIES {
        let mut request = RuleMessage::default();
        request.header.family = family;
        found.extend(host.dump("read the routing rules", &RouteNetlinkMessage::GetRule(request), |row| match row {
            RouteNetlinkMessage::NewRule(rule) if rule.attributes.contains(&RuleAttribute::Protocol(ROUTE_PROTOCOL)) => Some(rule),
            _ => None,
        })?);
    }
    Ok(found)
}

fn our_default_routes(host: &mut Socket) -> Result<Vec<RouteMessage>, NetlinkError> {
    let mut found = Vec::new();
    for family in FAMILIES {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        found.extend(host.dump("read the routes", &RouteNetlinkMessage::GetRoute(request), |row| match row {
            RouteNetlinkMessage::NewRoute(route)
                if route.header.protocol == ROUTE_PROTOCOL && table_of_route(&route).is_some_and(|table| table > FIRST_TABLE) =>
            {
                Some(route)
            }
            _ => None,
        })?);
    }
    Ok(found)
}

fn table_of_rule(rule: &RuleMessage) -> Option<u32> {
    rule.attributes.iter().find_map(|attribute| if let RuleAttribute::Table(table) = attribute { Some(*table) } else { None })
}

fn mask_of_rule(rule: &RuleMessage) -> Option<u32> {
    rule.attributes.iter().find_map(|attribute| if let RuleAttribute::FwMask(mask) = attribute { Some(*mask) } else { None })
}

fn table_of_route(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| if let RouteAttribute::Table(table) = attribute { Some(*table) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ifindex;

    #[test]
    fn the_first_uplink_needs_no_way_of_its_own() {
        let uplink = |ifindex: u32, gateways: &[&str]| Uplink {
            index: u16::try_from(ifindex).unwrap() - 2,
            ifindex: Ifindex(ifindex),
            ifname: format!("eth{ifindex}"),
            mtu: 9001,
            running: true,
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            addresses: Vec::new(),
        };
        let ways = ways_out(&[uplink(2, &["10.0.0.1"]), uplink(3, &["10.0.0.1", "fe80::1"]), uplink(4, &[])]);
        assert_eq!(ways.iter().map(|way| (way.index, way.oif, way.table())).collect::<Vec<_>>(), [(1, 3, 0xB301), (1, 3, 0xB301)]);
    }
}
