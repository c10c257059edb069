//! The rules of services as kube-proxy writes them on one node, as text: in its nftables form and in its iptables form.
//!
//! Promise: names, order of chains, marks and the rules for `externalTrafficPolicy: Local`, for hairpins and for masquerade are
//! those of kube-proxy with `--detect-local-mode=NodeCIDR`: traffic of this node's own pods is what is not masqueraded on its way
//! to a service. Sources: Kubernetes' `pkg/proxy/nftables` and `pkg/proxy/iptables`. Nothing is executed here.

mod iptables;
mod nftables;

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;

/// The mark of what is to be masqueraded (`--iptables-masquerade-bit` 14).
const MASQUERADE: &str = "0x4000";

/// Protocols that a service's port is opened for.
const PROTOCOLS: [&str; 2] = ["tcp", "udp"];

/// One address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Whether an address is of this family.
    #[must_use]
    pub const fn has(self, address: &IpAddr) -> bool {
        matches!((self, address), (Self::V4, IpAddr::V4(_)) | (Self::V6, IpAddr::V6(_)))
    }
}

/// A service with one port, open for TCP and for UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name, in chains and comments.
    pub name: String,
    /// Its cluster addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Its port on every node.
    pub node_port: Option<u16>,
    /// `externalTrafficPolicy: Local`: the node port leads to backends of the node that it is on, and hides nobody's address.
    pub local_only: bool,
    /// Where it leads.
    pub backends: Vec<Backend>,
}

/// A pod behind a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Its address and port.
    pub target: SocketAddr,
    /// Whether it is on the node whose rules are written.
    pub here: bool,
}

/// What the kube-proxy of one node knows.
#[derive(Debug, Clone, Copy)]
pub struct KubeProxy<'a> {
    /// The node's addresses, on which node ports are.
    pub node: &'a [IpAddr],
    /// Addresses of the node's own pods.
    pub pods: &'a [IpNetwork],
    /// All services.
    pub services: &'a [Service],
}

impl KubeProxy<'_> {
    /// The rules of both families for `nft -f`. They replace earlier ones in one transaction.
    #[must_use]
    pub fn nftables(&self) -> String {
        Family::ALL.map(|family| nftables::table(self, family)).concat()
    }

    /// The rules of one family for `iptables-restore --noflush` or `ip6tables-restore --noflush`. They replace earlier ones in one
    /// transaction; what leads to them is in [`KubeProxy::iptables_jumps`].
    #[must_use]
    pub fn iptables(&self, family: Family) -> String {
        iptables::rules(self, family)
    }

    /// What leads from the kernel's own chains to kube-proxy's: to be restored once.
    #[must_use]
    pub fn iptables_jumps() -> String {
        iptables::jumps()
    }

    /// The ranges of this node's pods in one family.
    fn pods_of(&self, family: Family) -> impl Iterator<Item = &IpNetwork> {
        self.pods.iter().filter(move |range| family.has(&range.network()))
    }

    /// Each port that is to have rules in a family.
    fn ports(&self, family: Family) -> Vec<Port<'_>> {
        let mut ports = Vec::new();
        for (number, service) in self.services.iter().enumerate() {
            let Some(address) = service.addresses.iter().find(|address| family.has(address)) else { continue };
            let backends = service.backends.iter().copied().filter(|backend| family.has(&backend.target.ip()));
            let backends: Vec<Backend> = backends.collect();
            for protocol in PROTOCOLS {
                ports.push(Port { number, service, address: *address, protocol, backends: backends.clone() });
            }
        }
        ports
    }
}

/// A service's port in one family and one protocol.
struct Port<'a> {
    number: usize,
    service: &'a Service,
    address: IpAddr,
    protocol: &'static str,
    backends: Vec<Backend>,
}

impl Port<'_> {
    fn backends_here(&self) -> impl Iterator<Item = (usize, &Backend)> {
        self.backends.iter().enumerate().filter(|(_, backend)| backend.here)
    }

    /// Whether the node port has anywhere to lead to on this node.
    fn is_reachable_here(&self) -> bool {
        !self.backends.is_empty() && (!self.service.local_only || self.backends_here().next().is_some())
    }
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    use std::fmt::Write as _;
    // Writing to a string cannot fail.
    let _written = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests;
