//! An `unreachable` route for each of the node's pod ranges.
//!
//! A pod that is there has a route of its own, which is longer, or better by its metric. A packet to an address of the node's ranges that
//! no pod has would else follow the default route, come back from the network, and go round until its hop limit ends it. With the route
//! whoever sends it hears at once that there is nobody (ICMP "host unreachable", "no route to host").

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType};
use nix::errno::Errno;

use crate::inventory::{destination, routes};
use crate::netlink::{NetlinkError, Request, Socket};
use crate::pod_link::{ROUTE_PROTOCOL, family};
use crate::{PodRange, prefixes};

/// Behind any route that somebody means (Documentation/networking/vrf.rst uses the same).
const METRIC: u32 = 4_278_198_272;
/// A netlink send must fit the socket's buffer.
const BATCH_MAX: usize = 256;

/// Sets the routes of these ranges, and removes those of others.
pub(crate) fn apply(host: &mut Socket, ranges: &[PodRange]) -> Result<(), NetlinkError> {
    let found = routes(host, ours)?;
    let wanted: Vec<_> = ranges.iter().flat_map(PodRange::prefixes).collect();
    let mut requests = Vec::new();
    for prefix in found.iter().filter(|prefix| !wanted.contains(prefix)) {
        let message = RouteNetlinkMessage::DelRoute(route(prefix));
        requests.push(Request { step: "remove the unreachable route of a pod range that is gone", message, flags: 0 });
    }
    for prefix in wanted.iter().filter(|prefix| !found.contains(prefix)) {
        let message = RouteNetlinkMessage::NewRoute(route(prefix));
        requests.push(Request { step: "make a pod range unreachable beside its pods", message, flags: NLM_F_CREATE | NLM_F_EXCL });
    }
    let mut refused = Vec::new();
    while !requests.is_empty() {
        let rest = requests.split_off(requests.len().min(BATCH_MAX));
        refused.extend(host.execute_each(std::mem::replace(&mut requests, rest))?);
    }
    // Somebody may have done the same since they were read.
    refused.into_iter().find(|error| !error.is(Errno::ESRCH) && !error.is(Errno::EEXIST)).map_or(Ok(()), Err)
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

/// The prefix of a route that [`route`] has made.
fn ours(route: RouteMessage) -> Option<IpNetwork> {
    let is_ours = route.header.protocol == ROUTE_PROTOCOL && route.header.kind == RouteType::Unreachable;
    let address: IpAddr = destination(&route).filter(|_| is_ours)?;
    Some(prefixes::prefix(address.is_ipv4(), prefixes::number(address), route.header.destination_prefix_length))
}
