//! The node that is rendered for.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// What of a node decides how it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, as endpoints have it.
    pub name: String,
    /// Its zone (`topology.kubernetes.io/zone`). Where it is not said, it is that of the endpoints on this node.
    pub zone: Option<String>,
    /// The addresses on which node ports are served.
    pub addresses: Vec<IpAddr>,
    /// How the names of pods' interfaces on the host begin: what comes by them is a pod's.
    pub pod_interfaces: String,
    /// The ranges of services' addresses: what has no service there is dropped.
    pub service_cidrs: Vec<IpNetwork>,
    /// Whether `spec.externalIPs` are served.
    pub external_ips: bool,
}
