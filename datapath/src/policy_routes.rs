//! The way out for packets that the stack sends of pods whose addresses belong to a further uplink: one rule by mark and one
//! table with a default route for each (docs/adr/0008).

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::Request;
use crate::ours::{Ours, Route};
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

/// What is to be done so that rules and routes are those of all of `uplinks` but the node's own. Pure.
pub(crate) fn plan(found: &Ours, uplinks: &[Uplink], marks: Marks) -> Vec<Request> {
    let wanted = ways_out(uplinks);
    let mut requests = Vec::new();
    for known in found.rules.iter().filter(|known| !wanted.iter().any(|way| is_rule_of(known, *way, marks))) {
        let message = RouteNetlinkMessage::DelRule(known.clone());
        requests.push(Request { step: "remove the rule of an uplink that is gone", message, flags: 0 });
    }
    let is_ours = |route: &&Route| (FIRST_TABLE + 1..=FIRST_TABLE + u32::from(u16::MAX)).contains(&route.table);
    for route in found.routes.iter().filter(is_ours) {
        if !wanted.iter().any(|way| (way.table(), way.gateway.is_ipv4()) == (route.table, route.to.is_ipv4())) {
            let message = RouteNetlinkMessage::DelRoute(to_delete(route));
            requests.push(Request { step: "remove the route of an uplink that is gone", message, flags: 0 });
        }
    }
    for way in wanted {
        if !found.routes.iter().any(|route| is_route_of(route, way)) {
            let message = RouteNetlinkMessage::NewRoute(default_route(way));
            requests.push(Request { step: "give a further uplink its default route", message, flags: NLM_F_CREATE | NLM_F_REPLACE });
        }
        if !found.rules.iter().any(|known| is_rule_of(known, way, marks)) {
            let message = RouteNetlinkMessage::NewRule(rule(way, marks));
            requests.push(Request { step: "give a further uplink its rule", message, flags: NLM_F_CREATE });
        }
    }
    requests
}

/// Whether a rule of ours is what [`rule`] makes.
fn is_rule_of(known: &RuleMessage, way: WayOut, marks: Marks) -> bool {
    let wanted = rule(way, marks);
    (known.header.family, known.header.action) == (wanted.header.family, wanted.header.action)
        && wanted.attributes.iter().all(|attribute| known.attributes.contains(attribute))
}

fn is_route_of(route: &Route, way: WayOut) -> bool {
    !route.is_dead && (route.table, route.to.prefix(), route.gateway, route.oif) == (way.table(), 0, Some(way.gateway), Some(way.oif))
}

fn to_delete(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if route.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = route.to.prefix();
    message.header.protocol = ROUTE_PROTOCOL;
    message.header.scope = RouteScope::NoWhere;
    message.attributes = vec![RouteAttribute::Table(route.table)];
    if route.to.prefix() != 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(route.to.network())));
    }
    message
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ifindex;

    fn uplink(ifindex: u32, gateways: &[&str]) -> Uplink {
        Uplink {
            index: u16::try_from(ifindex).unwrap() - 2,
            ifindex: Ifindex(ifindex),
            ifname: format!("eth{ifindex}"),
            mtu: 9001,
            running: true,
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            addresses: Vec::new(),
        }
    }

    /// What a plan does, each request in a word.
    fn words(plan: &[Request]) -> Vec<&'static str> {
        let word = |request: &Request| match request.message {
            RouteNetlinkMessage::NewRule(_) => "+rule",
            RouteNetlinkMessage::DelRule(_) => "-rule",
            RouteNetlinkMessage::NewRoute(_) => "+route",
            RouteNetlinkMessage::DelRoute(_) => "-route",
            _ => "?",
        };
        plan.iter().map(word).collect()
    }

    #[test]
    fn what_differs_is_set_and_what_stands_is_left_alone() {
        let uplinks = [uplink(2, &["10.0.0.1"]), uplink(3, &["10.0.0.1"])];
        let marks = Marks::default();
        let way = ways_out(&uplinks)[0];
        let stands = Route {
            table: way.table(),
            to: "0.0.0.0/0".parse().unwrap(),
            is_unreachable: false,
            oif: Some(3),
            gateway: Some(way.gateway),
            is_dead: false,
        };
        let found = Ours { routes: vec![stands], rules: vec![rule(way, marks)], proxied: Vec::new() };
        let of = |found: &Ours| words(&plan(found, &uplinks, marks));
        assert_eq!(of(&found), [""; 0]);
        assert_eq!(of(&Ours { rules: Vec::new(), ..found.clone() }), ["+rule"]);
        assert_eq!(of(&Ours { routes: Vec::new(), ..found.clone() }), ["+route"]);
        let through_another = Route { oif: Some(9), ..stands };
        assert_eq!(of(&Ours { routes: vec![through_another], ..found.clone() }), ["+route"], "it is replaced");
        let mut later = rule(way, marks);
        later.attributes[0] = RuleAttribute::Priority(40_000);
        assert_eq!(of(&Ours { rules: vec![later], ..found.clone() }), ["-rule", "+rule"]);
        let pods = Route { table: 254, to: "10.0.1.17/32".parse().unwrap(), gateway: None, ..stands };
        let gone = Ours { routes: vec![stands, pods], ..found };
        assert_eq!(words(&plan(&gone, &uplinks[..1], marks)), ["-rule", "-route"], "a pod's route is not of this");
        assert_eq!(words(&plan(&gone, &uplinks, Marks::of_mask(0x1f_0000).unwrap())), ["-rule", "+rule"], "other bits of the mark");
    }

    #[test]
    fn the_first_uplink_needs_no_way_of_its_own() {
        let ways = ways_out(&[uplink(2, &["10.0.0.1"]), uplink(3, &["10.0.0.1", "fe80::1"]), uplink(4, &[])]);
        assert_eq!(ways.iter().map(|way| (way.index, way.oif, way.table())).collect::<Vec<_>>(), [(1, 3, 0xB301), (1, 3, 0xB301)]);
    }
}
