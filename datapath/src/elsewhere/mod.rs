//! Destinations that the host's stack would not send by the uplink's gateway, unchanged: what its routes, its routing rules and its IPsec
//! policies say. The programs leave them to it.
//!
//! What the kernel has is read into plain data; what follows from it is a pure function.

mod routes;
mod xfrm;

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::netlink::{NetlinkError, Socket};
use crate::{NodeNetwork, prefixes};
use routes::Routing;
use xfrm::Policy;

/// More are joined, at the price of some slow neighbours.
const ROOM: usize = 256;

/// How routes, rules and policies are now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ways {
    routing: Routing,
    policies: Vec<Policy>,
}

/// A destination that takes the stack, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The destination.
    pub cidr: IpNetwork,
    /// Why, in the words of an operator.
    pub why: String,
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} takes the slow path: {}", self.cidr, self.why)
    }
}

/// What to know beside the network itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// A neighbour on an uplink's link is reached by the gateway, as in a cloud, where it answers for all of them.
    pub neighbours_by_gateway: bool,
    /// Somebody's rules set marks on pods' packets, so that routing rules by mark may hold for them.
    pub marks_are_set: bool,
}

/// All of them, and of which families nothing can be carried because a policy concerns pods of this node among themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Destinations, sorted, none within another of the same cause.
    pub elsewhere: Vec<Elsewhere>,
    /// IPv4 (true) or IPv6, with the cause.
    pub families: Vec<(bool, String)>,
}

impl Ways {
    /// Reads them, as far as they concern the native networks.
    ///
    /// # Errors
    /// Where a table cannot be read.
    pub fn observe(host: &mut Socket, network: &NodeNetwork) -> Result<Self, NetlinkError> {
        Ok(Self { routing: Routing::observe(host, &network.native)?, policies: xfrm::policies()? })
    }

    /// What of the native networks goes elsewhere. Pure.
    #[must_use]
    pub fn judge(&self, network: &NodeNetwork, terms: Terms) -> Found {
        let mut found = Found { elsewhere: self.routing.elsewhere(network, terms), ..Found::default() };
        xfrm::judge(&self.policies, network, &mut found);
        found
    }
}

impl Found {
    /// The destinations alone, as many as there is room for.
    #[must_use]
    pub fn cidrs(&self) -> Vec<IpNetwork> {
        let (v4, v6): (Vec<_>, Vec<_>) = self.elsewhere.iter().map(|elsewhere| elsewhere.cidr).partition(IpNetwork::is_ipv4);
        [v4, v6].into_iter().flat_map(|cidrs| prefixes::within_room(cidrs, ROOM)).collect()
    }
}

/// The parts of `cidr` that are native and no service: what it concerns.
fn native_parts(cidr: &IpNetwork, network: &NodeNetwork) -> Vec<IpNetwork> {
    let is_service = |part: &IpNetwork| network.service.iter().any(|service| prefixes::contains(service, part));
    let parts = network.native.iter().filter_map(|native| match () {
        () if prefixes::contains(native, cidr) => Some(*cidr),
        () if prefixes::contains(cidr, native) => Some(*native),
        () => None,
    });
    prefixes::without_nested(parts.filter(|part| !is_service(part)).collect())
}

/// Whether every, some or no pod of a family has an address in it.
fn of_pods(cidr: &IpNetwork, network: &NodeNetwork) -> Share {
    let (first, last) = prefixes::ends(cidr);
    let ends = |address: IpAddr| prefixes::number(address);
    let ranges: Vec<_> = network.pods_of(cidr.is_ipv4()).map(|range| (ends(range.first), ends(range.last))).collect();
    match () {
        () if !ranges.iter().any(|range| range.0 <= last && range.1 >= first) => Share::None,
        () if ranges.iter().all(|range| range.0 >= first && range.1 <= last) => Share::All,
        () => Share::Some,
    }
}

/// How much of something is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    None,
    Some,
    All,
}
