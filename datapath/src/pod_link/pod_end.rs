//! The pod's end: addresses, up, the gateway and the way to it. One send, where the namespace is as a new one is; what somebody has
//! set or made there before is found out by what the kernel refuses.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use nix::errno::Errno;

use super::messages::{address, default_route, link_route, no_address_generation, permanent_neighbour, up};
use super::{
    FIRST_POD_IFINDEX, HOST_MAC, POD_NEIGHBOUR, PodLink, WiringError, for_want_of_ipv6, gateway_for, ipv6_is_disabled, source_rules,
};
use crate::netlink::{NetlinkError, Request, Socket};
use crate::{Ifindex, Netns, sysctl};

const LINK_ROUTE: &str = "give the pod its route to the gateway";
const DEFAULT_ROUTE: &str = "give the pod its default route";

pub(super) fn wire(netns: &Netns, link: &PodLink, ifindex: Ifindex) -> Result<(), WiringError> {
    netns.run(|| wire_here(link, ifindex))?
}

fn wire_here(link: &PodLink, ifindex: Ifindex) -> Result<(), WiringError> {
    let mut pod = Socket::open()?;
    let is_first = ifindex == FIRST_POD_IFINDEX;
    let routes = |of: IpAddr| if is_first { routes_with(ifindex, of, None) } else { Vec::new() };
    let mut refused = pod.execute_each(requests(link, ifindex, routes))?;
    if refused.iter().any(ipv6_is_disabled) {
        for ifname in ["lo", &link.pod_ifname] {
            sysctl::enable_ipv6(ifname)?;
        }
        refused.retain(|error| !for_want_of_ipv6(error));
        let ipv6 = link.addresses.iter().copied().filter(IpAddr::is_ipv6);
        refused.extend(pod.execute_each(ipv6.flat_map(|of| with_gateway(ifindex, of, routes(of))).collect())?);
    }
    if !is_first || refused.iter().any(has_default_route) {
        refused.retain(|error| !has_default_route(error));
        source_rules::forget_stale(&mut pod)?;
        refused.extend(pod.execute_each(link.addresses.iter().flat_map(|of| further_routes(link, ifindex, *of)).collect())?);
    }
    refused.into_iter().next().map_or(Ok(()), |error| Err(error.into()))
}

/// Whether the kernel refused a route because the pod has one by another interface.
fn has_default_route(error: &NetlinkError) -> bool {
    error.is(Errno::EEXIST) && [LINK_ROUTE, DEFAULT_ROUTE].contains(&error.step)
}

fn requests(link: &PodLink, ifindex: Ifindex, routes: impl Fn(IpAddr) -> Vec<Request>) -> Vec<Request> {
    let mut requests: Vec<_> = link.addresses.iter().map(|of| pod_address(ifindex, *of)).collect();
    if link.addresses.iter().all(IpAddr::is_ipv4) {
        requests.extend(no_address_generation().map(|setting| {
            let mut message = LinkMessage::default();
            message.header.index = ifindex.0;
            message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![setting])];
            Request { step: "keep IPv6 off an IPv4 pod", message: RouteNetlinkMessage::SetLink(message), flags: 0 }
        }));
    }
    requests.push(Request { step: "set the pod's link up", message: RouteNetlinkMessage::SetLink(up(ifindex)), flags: 0 });
    for &of in &link.addresses {
        requests.push(gateway_entry(ifindex, of));
        requests.extend(routes(of));
    }
    requests
}

/// What one address needs, on a link that is up.
fn with_gateway(ifindex: Ifindex, of: IpAddr, routes: Vec<Request>) -> Vec<Request> {
    [pod_address(ifindex, of), gateway_entry(ifindex, of)].into_iter().chain(routes).collect()
}

fn pod_address(ifindex: Ifindex, of: IpAddr) -> Request {
    Request {
        step: "give the pod its address",
        message: RouteNetlinkMessage::NewAddress(address(ifindex, of)),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

fn gateway_entry(ifindex: Ifindex, of: IpAddr) -> Request {
    Request {
        step: POD_NEIGHBOUR,
        message: RouteNetlinkMessage::NewNeighbour(permanent_neighbour(ifindex, gateway_for(of), HOST_MAC)),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

/// The routes of one address, with an attribute more. An IPv6 gateway is on the link by being link-local; an IPv4 one needs a route that
/// says so: a flag at the default route (`onlink`) would do for us, and be lost by who copies routes into a sandbox of his own.
fn routes_with(ifindex: Ifindex, of: IpAddr, attribute: Option<&RouteAttribute>) -> Vec<Request> {
    let gateway = gateway_for(of);
    let to_gateway = gateway.is_ipv4().then(|| (LINK_ROUTE, link_route(ifindex, gateway, RouteProtocol::Static)));
    let routes = to_gateway.into_iter().chain([(DEFAULT_ROUTE, default_route(ifindex, gateway))]);
    let request = |(step, mut route): (_, RouteMessage)| {
        route.attributes.extend(attribute.cloned());
        Request { step, message: RouteNetlinkMessage::NewRoute(route), flags: NLM_F_CREATE | NLM_F_EXCL }
    };
    routes.map(request).collect()
}

/// The routes of a further interface. In the main table they stand back behind the first interface's, for sockets that are bound to
/// the interface; what has the interface's address as its source finds them in a table of their own, whatever else the pod has.
fn further_routes(link: &PodLink, ifindex: Ifindex, of: IpAddr) -> Vec<Request> {
    let table = link.host_ifindex.0;
    let behind = RouteAttribute::Priority(ifindex.0);
    let alone = RouteAttribute::Table(table);
    let mut requests: Vec<_> = [behind, alone].iter().flat_map(|attribute| routes_with(ifindex, of, Some(attribute))).collect();
    requests.push(source_rules::request(of, table));
    requests
}
