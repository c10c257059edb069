//! A ruleset as data: chains, and elements of sets and maps.

use std::collections::{BTreeMap, BTreeSet};

use crate::Family;

/// A chain or an affinity set by family and name.
pub type ChainKey = (Family, String);

/// An element by its set or map and its key, as nftables writes it.
pub type ElementKey = (Family, Container, String);

/// The sets and maps of each family's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Container {
    /// All services' cluster addresses.
    ClusterIps,
    /// Local backends: a pod that talks to itself through a service must hear itself from the node.
    Hairpin,
    /// The node's addresses on which node ports are served.
    NodeAddresses,
    /// Where what is sent to an address and port of a service goes.
    Services,
    /// Endpoints of a service that is reached by its cluster address alone, by that, its port and a number from zero.
    Backends,
    /// The same by node port.
    NodePorts,
    /// What becomes of what is sent to an address and port without an endpoint.
    NoEndpoints,
    /// The same by node port.
    NoEndpointsNodePorts,
    /// Load balancers' addresses that not everybody may use.
    Firewall,
}

impl Container {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::ClusterIps,
        Self::Hairpin,
        Self::NodeAddresses,
        Self::Services,
        Self::Backends,
        Self::NodePorts,
        Self::NoEndpoints,
        Self::NoEndpointsNodePorts,
        Self::Firewall,
    ];

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIps => "cluster-ips",
            Self::Hairpin => "hairpin",
            Self::NodeAddresses => "node-addresses",
            Self::Services => "service-ips",
            Self::Backends => "backends",
            Self::NodePorts => "node-ports",
            Self::NoEndpoints => "no-endpoints",
            Self::NoEndpointsNodePorts => "no-endpoints-node-ports",
            Self::Firewall => "firewall",
        }
    }

    /// What its keys lead to.
    #[must_use]
    pub const fn leads_to(self) -> LeadsTo {
        match self {
            Self::ClusterIps | Self::Hairpin | Self::NodeAddresses => LeadsTo::Nothing,
            Self::Backends => LeadsTo::Endpoint,
            Self::Services | Self::NodePorts | Self::NoEndpoints | Self::NoEndpointsNodePorts | Self::Firewall => LeadsTo::Verdict,
        }
    }

    /// As it is declared in a table, the type of its keys and values included.
    pub(crate) fn declaration(self, family: Family) -> String {
        let (name, address) = (self.name(), family.address_type());
        match self {
            Self::ClusterIps | Self::NodeAddresses => format!("set {name} {{ type {address}; }}"),
            Self::Hairpin => format!("set {name} {{ type {address} . {address} . inet_proto . inet_service; }}"),
            Self::Services | Self::NoEndpoints | Self::Firewall => {
                format!("map {name} {{ type {address} . inet_proto . inet_service : verdict; }}")
            }
            // A number has no type of its own: what yields one has.
            Self::Backends => {
                let ip = family.keyword();
                format!("map {name} {{ typeof {ip} daddr . meta l4proto . th dport . numgen random mod 2 : {ip} daddr . th dport; }}")
            }
            Self::NodePorts | Self::NoEndpointsNodePorts => format!("map {name} {{ type inet_proto . inet_service : verdict; }}"),
        }
    }
}

/// What a key of a set or map leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeadsTo {
    /// It is a set.
    Nothing,
    /// A verdict.
    Verdict,
    /// An address and a port.
    Endpoint,
}

/// What is to be there, less what every ruleset has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The chains of services and their rules.
    pub chains: BTreeMap<ChainKey, Vec<String>>,
    /// Sets of clients that stay with one endpoint.
    pub affinity: BTreeSet<ChainKey>,
    /// Elements, those of maps with what they lead to.
    pub elements: BTreeMap<ElementKey, Option<String>>,
}
