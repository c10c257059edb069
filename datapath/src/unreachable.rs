//! An `unreachable` route for each of the node's pod ranges.
//!
//! A pod that is there has a route of its own, which is longer, or better by its metric. A packet to an address of the node's ranges that
//! no pod has would else follow the default route, come back from the network, and go round until its hop limit ends it. With the route
//! whoever sends it hears at once that there is nobody (ICMP "host unreachable", "no route to host").

use std::collections::HashSet;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType};

use crate::PodRange;
use crate::netlink::Request;
use crate::ours::Ours;
use crate::pod_link::{ROUTE_PROTOCOL, family};

/// Behind any route that somebody means (Documentation/networking/vrf.rst uses the same).
const METRIC: u32 = 4_278_198_272;
const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// What is to be done so that there are routes of these ranges, and of no others. Pure.
pub(crate) fn plan(found: &Ours, ranges: &[PodRange]) -> Vec<Request> {
    let found: HashSet<_> = found.routes.iter().filter(|route| route.is_unreachable && route.table == MAIN).map(|route| route.to).collect();
    let wanted: HashSet<_> = ranges.iter().flat_map(PodRange::prefixes).collect();
    let mut requests = Vec::new();
    for prefix in found.difference(&wanted) {
        let message = RouteNetlinkMessage::DelRoute(route(prefix));
        requests.push(Request { step: "remove the unreachable route of a pod range that is gone", message, flags: 0 });
    }
    for prefix in wanted.difference(&found) {
        let message = RouteNetlinkMessage::NewRoute(route(prefix));
        requests.push(Request { step: "make a pod range unreachable beside its pods", message, flags: NLM_F_CREATE | NLM_F_EXCL });
    }
    requests
}

fn route(prefix: &IpNetwork) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(prefix.network()).0;
    message.header.destination_prefix_length = prefix.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = ROUTE_PROTOCOL;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unreachable;
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::from(prefix.network())), RouteAttribute::Priority(METRIC)];
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ours::Route;

    #[test]
    fn each_range_has_its_route_and_no_other() {
        let range = PodRange { first: "10.0.1.16".parse().unwrap(), last: "10.0.1.31".parse().unwrap(), uplink: 0 };
        let unreachable =
            |to: &str| Route { table: MAIN, to: to.parse().unwrap(), is_unreachable: true, oif: None, gateway: None, is_dead: false };
        let plan = |routes: Vec<Route>| {
            let plan = plan(&Ours { routes, ..Ours::default() }, &[range]);
            plan.iter().map(|request| matches!(request.message, RouteNetlinkMessage::NewRoute(_))).collect::<Vec<_>>()
        };
        assert_eq!(plan(Vec::new()), [true]);
        assert_eq!(plan(vec![unreachable("10.0.1.16/28")]), [true; 0]);
        assert_eq!(plan(vec![unreachable("10.0.1.16/28"), unreachable("10.0.2.0/28")]), [false]);
        let pods = Route { is_unreachable: false, ..unreachable("10.0.1.17/32") };
        assert_eq!(plan(vec![pods, unreachable("10.0.1.16/28")]), [true; 0]);
    }
}
