//! The host's end: programs, owner, up, and the host's way to the pod; in one send. Later, the pods' IPv6 gateway.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour_table::{NeighbourTableAttribute, NeighbourTableMessage, NeighbourTableParameter};
use netlink_packet_route::route::RouteAttribute;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::messages::{address, forwarding, link_route, no_address_generation, permanent_neighbour, up};
use super::{
    ALIAS_PREFIX, ALLOWED_METRIC, GATEWAY_V6, HOST_MAC, HOST_NEIGHBOUR, PodLink, ROUTE_PROTOCOL, WiringError, for_want_of_ipv6,
    ipv6_is_disabled,
};
use crate::fast_path::FastPath;
use crate::netlink::{NetlinkError, Request, Socket};
use crate::{Difference, Ifindex, sysctl};

const SET_UP: &str = "set the host end up";
const TAKE_AWAY: &str = "take a route to the pod away";

pub(super) fn wire(host: &mut Socket, link: &PodLink, fast_path: Option<&FastPath>) -> Result<(), WiringError> {
    let programs = fast_path.map_or_else(Vec::new, |fast_path| fast_path.host_end_requests(link.host_ifindex));
    let batch = programs.into_iter().chain(requests(link)).collect();
    let refused = host.execute_each(batch)?;
    settle(host, link, refused)
}

/// Sets all of it again but for the programs.
pub(super) fn refresh(host: &mut Socket, link: &PodLink) -> Result<(), WiringError> {
    let refused = host.execute_each(requests(link))?;
    settle(host, link, refused)
}

/// A host on which IPv6 is off for new interfaces (`net.ipv6.conf.default.disable_ipv6`) gives it to a pod's link none the less, where
/// the pod is to have an IPv6 address.
fn settle(host: &mut Socket, link: &PodLink, mut refused: Vec<NetlinkError>) -> Result<(), WiringError> {
    if refused.iter().any(ipv6_is_disabled) {
        sysctl::enable_ipv6(&link.host_ifname)?;
        refused.retain(|error| !for_want_of_ipv6(error));
        refused.extend(host.execute_each(requests(link))?);
    }
    refused.into_iter().next().map_or(Ok(()), |error| Err(error.into()))
}

/// Safe to repeat: `NLM_F_REPLACE` throughout.
fn requests(link: &PodLink) -> Vec<Request> {
    let ifindex = link.host_ifindex;
    let alias = LinkAttribute::IfAlias(format!("{ALIAS_PREFIX}{} {}", link.container_id, link.pod_ifname));
    let mut requests =
        vec![name_owner(ifindex, alias), Request { step: SET_UP, message: RouteNetlinkMessage::SetLink(up(ifindex)), flags: 0 }];
    for pod in link.leading_here() {
        requests.extend(pod.is_ipv4().then(|| answer_arp_at_once(ifindex)));
        requests.push(neighbour(link, pod));
        requests.push(route(link, pod));
    }
    requests
}

fn neighbour(link: &PodLink, pod: IpAddr) -> Request {
    let message = RouteNetlinkMessage::NewNeighbour(permanent_neighbour(link.host_ifindex, pod, link.pod_mac));
    Request { step: HOST_NEIGHBOUR, message, flags: NLM_F_CREATE | NLM_F_REPLACE }
}

fn route(link: &PodLink, pod: IpAddr) -> Request {
    let mut message = link_route(link.host_ifindex, pod, ROUTE_PROTOCOL);
    message.attributes.extend(link.allowed.contains(&pod).then_some(RouteAttribute::Priority(ALLOWED_METRIC)));
    Request {
        step: "give the host its route to the pod",
        message: RouteNetlinkMessage::NewRoute(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

/// Only what differs.
pub(super) fn restore(host: &mut Socket, link: &PodLink, differences: &[Difference]) -> Result<(), WiringError> {
    let ifindex = link.host_ifindex;
    let set = |step, attributes| {
        let mut message = LinkMessage::default();
        message.header.index = ifindex.0;
        message.attributes = attributes;
        Request { step, message: RouteNetlinkMessage::SetLink(message), flags: 0 }
    };
    let to_request = |difference: &Difference| {
        Some(match difference {
            Difference::Down => Request { step: SET_UP, message: RouteNetlinkMessage::SetLink(up(ifindex)), flags: 0 },
            Difference::Mtu => set("give the host end its MTU", vec![LinkAttribute::Mtu(link.mtu)]),
            Difference::Mac => set("give the host end its MAC address", vec![LinkAttribute::Address(HOST_MAC.to_vec())]),
            Difference::Name => set("give the host end its name", vec![LinkAttribute::IfName(link.host_ifname.clone())]),
            Difference::NotForwarding => set("have the host end forward", vec![LinkAttribute::AfSpecUnspec(vec![forwarding()])]),
            Difference::Route(pod) => route(link, *pod),
            Difference::Neighbour(pod) => neighbour(link, *pod),
            Difference::Surplus(address) => {
                let message = RouteNetlinkMessage::DelRoute(link_route(ifindex, *address, ROUTE_PROTOCOL));
                Request { step: TAKE_AWAY, message, flags: 0 }
            }
            Difference::Ipv6Gateway => return None,
        })
    };
    let mut refused = host.execute_each(differences.iter().filter_map(to_request).collect())?;
    // Whoever the address is of may have led it to himself since.
    refused.retain(|error| error.step != TAKE_AWAY || !error.is(Errno::ESRCH));
    settle(host, link, refused)?;
    if differences.contains(&Difference::Ipv6Gateway) { Ok(be_the_ipv6_gateway(host, ifindex)?) } else { Ok(()) }
}

/// The alias, forwarding, and no IPv6 address of the host end's own making: nobody speaks to it, and making one means timers, multicast groups
/// and routes on every link. It must come before the link goes up, in a message of its own: the kernel applies flags first.
fn name_owner(ifindex: Ifindex, alias: LinkAttribute) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = ifindex.0;
    let settings = no_address_generation().into_iter().chain([forwarding()]).collect();
    message.attributes = vec![alias, LinkAttribute::AfSpecUnspec(settings)];
    Request { step: "name the link's owner", message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// An ARP request for the gateway is answered by the entry that [`crate::gateway`] makes, a proxy's; and a proxy lets up to 0.8 s pass
/// first, so that the owner of the address may answer (`proxy_delay`, arp(7)). On a pod's link there is none.
fn answer_arp_at_once(ifindex: Ifindex) -> Request {
    let mut message = NeighbourTableMessage::default();
    message.header.family = AddressFamily::Inet;
    message.attributes = vec![
        NeighbourTableAttribute::Name("arp_cache".to_owned()),
        NeighbourTableAttribute::Parms(vec![NeighbourTableParameter::Ifindex(ifindex.0), NeighbourTableParameter::ProxyDelay(0)]),
    ];
    Request { step: "have ARP answered at once", message: RouteNetlinkMessage::SetNeighbourTable(message), flags: 0 }
}

/// Neighbour solicitations for the gateway are answered only by who has the address, on that very link. So the host end gets it; but after
/// the ADD, as the kernel looks at every IPv6 address of the namespace for each new one (`addrconf_verify_rtnl` in `inet6_addr_add`,
/// net/ipv6/addrconf.c): with a thousand pods 0.2 to 0.4 ms, for a gateway that an ordinary pod never asks for.
///
/// Asked for first: to be given it again, in vain, makes the kernel report its multicast groups to the pod (`ipv6_find_idev`).
pub(super) fn be_the_ipv6_gateway(host: &mut Socket, ifindex: Ifindex) -> Result<(), NetlinkError> {
    let message = address(ifindex, GATEWAY_V6.into());
    match host.ask("ask for the gateway's IPv6 address", RouteNetlinkMessage::GetAddress(message.clone())) {
        Ok(_) => return Ok(()),
        Err(error) if error.is_absence() => return Ok(()),
        Err(error) if error.is(Errno::EADDRNOTAVAIL) => {}
        Err(error) => return Err(error),
    }
    let message = RouteNetlinkMessage::NewAddress(message);
    let request = Request { step: "give the host end the gateway's IPv6 address", message, flags: NLM_F_CREATE | NLM_F_EXCL };
    match host.execute(vec![request]) {
        // The link has gone since.
        Err(error) if error.is_absence() => Ok(()),
        outcome => outcome,
    }
}
