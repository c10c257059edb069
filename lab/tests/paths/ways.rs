//! Rows: every way from a client to whatever it asks for.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use lab::kube_proxy::Family;
use lab::services::{self, NODE_PORT, NODE_PORT_LOCAL};

use crate::site::{CLOSED, End, SERVED, Site};

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked {
    /// A server by its own address.
    Direct(End),
    /// An address of each family, whoever has it.
    Place(&'static str, &'static str),
    /// A service by its cluster address.
    Service(services::To),
    /// A port of a node.
    At(End, u16),
}

/// A row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) from: End,
    pub(crate) asked: Asked,
}

const fn way(name: &'static str, from: End, asked: Asked) -> Way {
    Way { name, from, asked }
}

use Asked::{At, Direct, Place, Service};
use End::{A1, A2, B1, B2, Client, Far, Internet, Node1, Node2, Office, Peer, Storage, U1};
use services::To::{First, Itself, Second};

/// Ways that need no rules but the daemon's own.
const PLAIN: [Way; 36] = [
    way("pod_to_pod_of_the_node", A1, Direct(A2)),
    way("pod_to_remote_pod", A1, Direct(B1)),
    way("remote_pod_to_pod", B2, Direct(A2)),
    way("pod_to_its_node", A1, Direct(Node1)),
    way("pod_to_remote_node", A1, Direct(Node2)),
    way("node_to_its_pod", Node1, Direct(A2)),
    way("node_to_remote_pod", Node1, Direct(B1)),
    way("pod_to_internet", A1, Direct(Internet)),
    // Not native, and not translated on the way in.
    way("peer_to_pod", Peer, Direct(A2)),
    way("peer_to_remote_pod", Peer, Direct(B1)),
    way("pod_to_peer", A1, Direct(Peer)),
    way("peer_to_node", Peer, Direct(Node1)),
    way("office_to_pod", Office, Direct(A2)),
    way("pod_to_office", A1, Direct(Office)),
    way("client_to_pod_through_a_balancer", Client, Place("198.51.100.200", "2001:db8:51::200")),
    way("client_to_pod", Client, Direct(A2)),
    // A way that carries less than both ends.
    way("pod_to_far", A1, Direct(Far)),
    way("far_to_pod", Far, Direct(A2)),
    way("remote_pod_to_far", B1, Direct(Far)),
    way("node_to_far", Node1, Direct(Far)),
    // Native, but the node has routes of its own.
    way("pod_to_storage", A1, Direct(Storage)),
    way("storage_to_pod", Storage, Direct(A2)),
    way("pod_to_appliance", A1, Place("10.0.70.1", "fd00:10:0:70::1")),
    way("pod_to_unreachable_route", A1, Place("10.0.71.10", "fd00:10:0:71::10")),
    way("pod_to_black_hole", A1, Place("10.0.72.10", "fd00:10:0:72::10")),
    way("pod_to_blocked_by_ipsec_policy", A1, Place("10.0.80.10", "fd00:10:0:80::10")),
    way("remote_pod_to_blocked_for_others", B1, Place("10.0.80.10", "fd00:10:0:80::10")),
    // Addresses that no pod has.
    way("pod_to_nobody_of_the_node", A1, Place("10.0.1.29", "fd00:10:0:1::99")),
    way("pod_to_nobody_of_the_other_node", A1, Place("10.0.1.45", "fd00:10:0:2::99")),
    way("peer_to_nobody", Peer, Place("10.0.1.29", "fd00:10:0:1::99")),
    // A second interface with pods of its own.
    way("pod_to_pod_of_another_uplink", A1, Direct(U1)),
    way("pod_of_another_uplink_to_remote_pod", U1, Direct(B1)),
    way("remote_pod_to_pod_of_another_uplink", B2, Direct(U1)),
    way("pod_of_another_uplink_to_internet", U1, Direct(Internet)),
    way("peer_to_pod_of_another_uplink", Peer, Direct(U1)),
    way("far_to_pod_of_another_uplink", Far, Direct(U1)),
];

/// Ways through kube-proxy's rules.
const THROUGH_SERVICES: [Way; 11] = [
    way("service_of_a_local_backend", A1, Service(First)),
    way("service_of_a_remote_backend", A1, Service(Second)),
    way("service_of_the_other_node", B2, Service(First)),
    way("service_of_itself", A1, Service(Itself)),
    way("service_of_a_remote_backend_from_another_uplink", U1, Service(Second)),
    way("service_from_the_node", Node1, Service(Second)),
    way("node_port_from_the_internet", Internet, At(Node1, NODE_PORT)),
    way("node_port_from_the_peer_by_the_other_node", Peer, At(Node2, NODE_PORT)),
    way("node_port_from_a_remote_pod", B2, At(Node1, NODE_PORT)),
    way("local_node_port_from_the_internet", Internet, At(Node1, NODE_PORT_LOCAL)),
    way("local_node_port_from_the_peer", Peer, At(Node1, NODE_PORT_LOCAL)),
];

/// All rows that a lab has, with rules of services or without.
pub(crate) fn all(services: bool) -> Vec<Way> {
    PLAIN.into_iter().chain(THROUGH_SERVICES.into_iter().filter(|_| services)).collect()
}

/// Which of its ports is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// Where somebody listens.
    Open,
    /// Where nobody does.
    Closed,
}

impl Way {
    /// Where it leads.
    pub(crate) fn destination(&self, site: &Site, family: Family, door: Door) -> Result<SocketAddr> {
        let (address, open): (IpAddr, u16) = match self.asked {
            Direct(end) => (site.address(end, family)?, SERVED),
            Place(v4, v6) => (if family == Family::V4 { v4 } else { v6 }.parse()?, SERVED),
            Service(to) => (to.address(family), services::PORT),
            At(node, port) => (site.address(node, family)?, port),
        };
        Ok(SocketAddr::new(address, if door == Door::Open { open } else { CLOSED }))
    }
}
