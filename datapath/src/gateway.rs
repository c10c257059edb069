//! The host's answer to ARP requests for the pods' IPv4 gateway.
//!
//! A pod of ours has the gateway as a permanent neighbour and does not ask. A virtual machine that was given the pod's addresses and routes
//! does (Kata, KubeVirt, gVisor), and so does a pod whose MAC address was changed. One entry of a proxy that names no interface
//! (`ip neigh show proxy`) answers on all of them, for this one address; `proxy_arp` would answer for every address that the host has a
//! route to, and be a write to /proc for each pod.
//!
//! A proxy answers where the host's own way to the address is by another interface (`arp_process`, net/ipv4/arp.c). A host with a
//! default route has one; for one without it there is a route. The address is link-local: nothing that is sent there gets any further.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::route::RouteMessage;

use crate::netlink::Request;
use crate::ours::Ours;
use crate::pod_link::{GATEWAY_V4, ROUTE_PROTOCOL, family, link_route};
use crate::{Ifindex, NodeNetwork};

/// What is to be done so that requests are answered where pods have IPv4 addresses, and nowhere else. Pure.
pub(crate) fn plan(found: &Ours, network: &NodeNetwork) -> Vec<Request> {
    let is_answered = found.proxied.contains(&IpAddr::from(GATEWAY_V4));
    let gateway = IpNetwork::from(IpAddr::from(GATEWAY_V4));
    let route = found.routes.iter().find(|route| route.to == gateway);
    if network.pods_of(true).next().is_none() {
        let step = "stop answering ARP for the pods' gateway";
        let delete = |message| Request { step, message, flags: 0 };
        let entry = is_answered.then(|| delete(RouteNetlinkMessage::DelNeighbour(proxy())));
        return entry.into_iter().chain(route.map(|_| delete(RouteNetlinkMessage::DelRoute(route_by_any())))).collect();
    }
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    let mut requests = Vec::new();
    if !is_answered {
        let message = RouteNetlinkMessage::NewNeighbour(proxy());
        requests.push(Request { step: "have ARP for the pods' gateway answered", message, flags });
    }
    if let Some(uplink) = network.uplinks.first()
        && route.is_none_or(|route| route.oif != Some(uplink.ifindex.0) || route.is_dead)
    {
        let message = RouteNetlinkMessage::NewRoute(link_route(uplink.ifindex, GATEWAY_V4.into(), ROUTE_PROTOCOL));
        requests.push(Request { step: "give the host its route to the pods' gateway", message, flags });
    }
    requests
}

fn route_by_any() -> RouteMessage {
    let mut route = link_route(Ifindex(0), GATEWAY_V4.into(), ROUTE_PROTOCOL);
    route.attributes.pop();
    route
}

fn proxy() -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(GATEWAY_V4.into()).0;
    message.header.flags = NeighbourFlags::Proxy;
    message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::from(GATEWAY_V4))];
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ours::Route;
    use crate::{PodRange, Uplink};

    #[test]
    fn entry_and_route_are_set_where_they_are_not() {
        let uplink = Uplink {
            index: 0,
            ifindex: Ifindex(2),
            ifname: "eth0".to_owned(),
            mtu: 1500,
            running: true,
            gateways: Vec::new(),
            addresses: Vec::new(),
        };
        let pods = vec![PodRange { first: "10.0.1.16".parse().unwrap(), last: "10.0.1.31".parse().unwrap(), uplink: 0 }];
        let with_pods = NodeNetwork { uplinks: vec![uplink], pods, ..NodeNetwork::default() };
        let route =
            Route { table: 254, to: "169.254.1.1/32".parse().unwrap(), is_unreachable: false, oif: Some(2), gateway: None, is_dead: false };
        let both = Ours { routes: vec![route], proxied: vec![GATEWAY_V4.into()], ..Ours::default() };
        assert_eq!(plan(&both, &with_pods).len(), 0);
        assert_eq!(plan(&Ours::default(), &with_pods).len(), 2);
        assert_eq!(plan(&Ours { proxied: Vec::new(), ..both.clone() }, &with_pods).len(), 1);
        assert_eq!(plan(&Ours { routes: vec![Route { oif: Some(3), ..route }], ..both.clone() }, &with_pods).len(), 1, "another uplink");
        assert_eq!(plan(&both, &NodeNetwork::default()).len(), 2, "taken away");
        assert_eq!(plan(&Ours::default(), &NodeNetwork::default()).len(), 0);
    }
}
