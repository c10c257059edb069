//! What a node's netfilter carries: connection tracking and the rules of its services as kube-proxy writes them, in its iptables form
//! or in its nftables form.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;
use ipnetwork::IpNetwork;
use lab::kube_proxy::{Backend, Family, KubeProxy, Service};

use crate::node::feed;

/// Which rules of services a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rules {
    /// kube-proxy's iptables mode, with this many ports of services.
    Iptables(u32),
    /// kube-proxy's nftables mode, with this many ports of services.
    Nftables(u32),
}

/// Cluster addresses are taken from behind this one's next, which the API server's own service has.
const SERVICES: u32 = u32::from_be_bytes([10, 96, 0, 0]);
/// Backends are taken from here: within the pods' network, but no pod of the benchmark.
const BACKENDS: u32 = u32::from_be_bytes([10, 10, 128, 0]);
const BACKENDS_PER_SERVICE: u32 = 2;
/// A service has its port in TCP and in UDP.
const PORTS_PER_SERVICE: u32 = 2;
/// Every tenth service has a port on the node too.
const NODE_PORT_EVERY: u32 = 10;
const NODE_PORTS: u32 = 30_000;

impl Rules {
    /// Sets them in the calling thread's network; `own` are the node's pods.
    ///
    /// # Errors
    /// When a program is missing or refuses.
    pub fn install(self, node: Ipv4Addr, own: IpNetwork) -> Result<()> {
        let (Self::Iptables(ports) | Self::Nftables(ports)) = self;
        let services = services(ports)?;
        let (node, pods) = ([IpAddr::from(node)], [own]);
        let proxy = KubeProxy { node: &node, pods: &pods, services: &services };
        match self {
            Self::Iptables(_) => {
                feed("iptables-restore", &["--noflush"], "iptables", &KubeProxy::iptables_jumps())?;
                feed("iptables-restore", &["--noflush"], "iptables", &proxy.iptables(Family::V4))
            }
            Self::Nftables(_) => feed("nft", &["-f", "-"], "nftables", &proxy.nftables()),
        }
    }
}

/// Services that have so many ports.
pub(crate) fn services(ports: u32) -> Result<Vec<Service>> {
    let service = |number: u32| -> Result<Service> {
        let backend = |index| {
            let address = Ipv4Addr::from(BACKENDS + 1 + number * BACKENDS_PER_SERVICE + index);
            Backend { target: SocketAddr::new(address.into(), 8080), here: false }
        };
        let node_port = number.is_multiple_of(NODE_PORT_EVERY).then(|| u16::try_from(NODE_PORTS + number)).transpose()?;
        Ok(Service {
            name: format!("service-{number}"),
            addresses: vec![Ipv4Addr::from(SERVICES + 2 + number).into()],
            port: 80,
            node_port,
            local_only: false,
            backends: (0..BACKENDS_PER_SERVICE).map(backend).collect(),
        })
    };
    (0..ports / PORTS_PER_SERVICE).map(service).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_ports_as_asked_for() {
        for ports in [10, 300, 5_000] {
            let services = services(ports).unwrap();
            let pods = ["10.10.16.0/20".parse().unwrap()];
            let proxy = KubeProxy { node: &[], pods: &pods, services: &services };
            let rules = proxy.iptables(Family::V4);
            let entries = rules.lines().filter(|line| line.starts_with("-A KUBE-SERVICES -d "));
            assert_eq!(entries.count(), ports as usize);
            assert_eq!(proxy.nftables().matches(" : goto service-").count(), ports as usize);
        }
    }
}
