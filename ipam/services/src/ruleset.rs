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
    pub const ALL: [Self; 8] = [
        Self::ClusterIps,
        Self::Hairpin,
        Self::NodeAddresses,
        Self::Services,
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
            Self::NodePorts => "node-ports",
            Self::NoEndpoints => "no-endpoints",
            Self::NoEndpointsNodePorts => "no-endpoints-node-ports",
            Self::Firewall => "firewall",
        }
    }

    /// Whether its elements have verdicts.
    #[must_use]
    pub const fn is_map(self) -> bool {
        !matches!(self, Self::ClusterIps | Self::Hairpin | Self::NodeAddresses)
    }

    /// The type of its keys.
    pub(crate) fn key_type(self, family: Family) -> String {
        let address = family.address_type();
        match self {
            Self::ClusterIps | Self::NodeAddresses => address.to_owned(),
            Self::Hairpin => format!("{address} . {address} . inet_proto . inet_service"),
            Self::Services | Self::NoEndpoints | Self::Firewall => format!("{address} . inet_proto . inet_service"),
            Self::NodePorts | Self::NoEndpointsNodePorts => "inet_proto . inet_service".to_owned(),
        }
    }
}

/// What is to be there, less what every ruleset has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The chains of services and their rules.
    pub chains: BTreeMap<ChainKey, Vec<String>>,
    /// Sets of clients that stay with one endpoint.
    pub affinity: BTreeSet<ChainKey>,
    /// Elements, those of maps with their verdict.
    pub elements: BTreeMap<ElementKey, Option<String>>,
}
