//! The host's answer to ARP requests for the pods' IPv4 gateway.
//!
//! A pod of ours has the gateway as a permanent neighbour and does not ask. A virtual machine that was given the pod's addresses and routes
//! does (Kata, KubeVirt, gVisor), and so does a pod whose MAC address was changed. One entry of a proxy that names no interface
//! (`ip neigh show proxy`) answers on all of them, for this one address; `proxy_arp` would answer for every address that the host has a
//! route to, and be a write to /proc for each pod.
//!
//! A proxy answers where the host's own way to the address is by another interface (`arp_process`, net/ipv4/arp.c). A host with a
//! default route has one; for one without it there is a route. The address is link-local: nothing that is sent there gets any further.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use nix::errno::Errno;

use crate::netlink::{NetlinkError, Request, Socket};
use crate::pod_link::{GATEWAY_V4, ROUTE_PROTOCOL, family, link_route};
use crate::{Ifindex, NodeNetwork};

/// Has requests answered, where pods have IPv4 addresses.
pub(crate) fn apply(host: &mut Socket, network: &NodeNetwork) -> Result<(), NetlinkError> {
    if network.pods_of(true).next().is_none() {
        return remove(host);
    }
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    let mut requests =
        vec![Request { step: "have ARP for the pods' gateway answered", message: RouteNetlinkMessage::NewNeighbour(proxy()), flags }];
    requests.extend(network.uplinks.first().map(|uplink| {
        let route = link_route(uplink.ifindex, GATEWAY_V4.into(), ROUTE_PROTOCOL);
        Request { step: "give the host its route to the pods' gateway", message: RouteNetlinkMessage::NewRoute(route), flags }
    }));
    // An uplink that is down, or gone since it was looked for, takes no route.
    unless(&[Errno::ENETDOWN, Errno::ENODEV, Errno::EINVAL], host.execute_each(requests)?)
}

/// Takes away what [`apply`] has made.
pub(crate) fn remove(host: &mut Socket) -> Result<(), NetlinkError> {
    let any_interface = Ifindex(0);
    let mut route = link_route(any_interface, GATEWAY_V4.into(), ROUTE_PROTOCOL);
    route.attributes.pop();
    let requests = [RouteNetlinkMessage::DelNeighbour(proxy()), RouteNetlinkMessage::DelRoute(route)];
    let requests = requests.map(|message| Request { step: "stop answering ARP for the pods' gateway", message, flags: 0 });
    unless(&[Errno::ENOENT, Errno::ESRCH], host.execute_each(requests.into())?)
}

/// The first refusal that is none of these.
fn unless(expected: &[Errno], refused: Vec<NetlinkError>) -> Result<(), NetlinkError> {
    refused.into_iter().find(|error| !expected.iter().any(|errno| error.is(*errno))).map_or(Ok(()), Err)
}

fn proxy() -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(GATEWAY_V4.into()).0;
    message.header.flags = NeighbourFlags::Proxy;
    message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::from(GATEWAY_V4))];
    message
}
