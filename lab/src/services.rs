//! The services of the lab, and their rules on a node.

use std::net::{IpAddr, SocketAddr};

use super::node::Node;
use crate::kube_proxy::{Backend, Family, KubeProxy, Service};
use anyhow::Result;
use ipnetwork::IpNetwork;

/// Cluster addresses are of these networks; the daemons are told.
pub const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:96::/64"];
/// The port of every service.
pub const PORT: u16 = 80;

/// How the rules are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Verdict maps.
    Nftables,
    /// Chains, one of which drops what conntrack finds invalid.
    Iptables,
}

impl Form {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];

    /// kube-proxy's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }

    /// Writes a node's rules in place of earlier ones.
    ///
    /// # Errors
    /// When they are refused.
    pub fn apply(self, node: &Node, proxy: &KubeProxy<'_>) -> Result<()> {
        match self {
            Self::Nftables => {
                node.write("/run/kube-proxy.nft", proxy.nftables())?;
                node.run(&["nft", "-f", "/run/kube-proxy.nft"])?;
            }
            Self::Iptables => {
                for (family, program, word) in
                    [(Family::V4, "iptables-restore", "iptables"), (Family::V6, "ip6tables-restore", "ip6tables")]
                {
                    let restore = |text: String| -> Result<()> {
                        node.write("/run/kube-proxy.rules", text)?;
                        node.run(&["sh", "-c", &format!("{program} --wait --noflush /run/kube-proxy.rules")])?;
                        Ok(())
                    };
                    if node.run(&["sh", "-c", &format!("{word} -t nat -S PREROUTING | grep -c KUBE-SERVICES || true")])?.trim() == "0" {
                        restore(KubeProxy::iptables_jumps())?;
                    }
                    restore(proxy.iptables(family))?;
                }
            }
        }
        Ok(())
    }
}

/// A service by its place among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// One backend on the first node, and node port [`NODE_PORT`].
    First,
    /// One backend on the second node.
    Second,
    /// A backend on each.
    Two,
    /// The client itself.
    Itself,
    /// As `First`, with node port [`NODE_PORT_LOCAL`] and `externalTrafficPolicy: Local`.
    FirstLocal,
    /// A backend on each node that takes everything and says nothing.
    Sink,
}

/// Leads to `First` and hides who asks.
pub const NODE_PORT: u16 = 30_080;
/// Leads to `First` where it is on the node, and hides nobody.
pub const NODE_PORT_LOCAL: u16 = 30_081;

impl To {
    const ALL: [Self; 6] = [Self::First, Self::Second, Self::Two, Self::Itself, Self::FirstLocal, Self::Sink];

    /// The service's address in one family.
    #[must_use]
    pub fn address(self, family: Family) -> IpAddr {
        let number = 10 + self as u8;
        match family {
            Family::V4 => [10, 96, 0, number].into(),
            Family::V6 => [0xfd00, 0x96, 0, 0, 0, 0, 0, u16::from(number)].into(),
        }
    }
}

/// Whoever is behind services: their addresses and the node that they are on.
#[derive(Debug, Clone, Copy)]
pub struct Backends<'a> {
    /// The client on the first node.
    pub client: &'a [IpAddr],
    /// The backend on the first node.
    pub first: &'a [IpAddr],
    /// The backend on the second node.
    pub second: &'a [IpAddr],
    /// The port of backends.
    pub port: u16,
    /// The port behind [`To::Sink`].
    pub sink_port: u16,
}

/// All services, as the first or the second node's kube-proxy sees them.
fn services(backends: &Backends<'_>, on_first: bool) -> Vec<Service> {
    let on = |addresses: &[IpAddr], port, here| -> Vec<Backend> {
        addresses.iter().map(|address| Backend { target: SocketAddr::new(*address, port), here }).collect()
    };
    let first = |port| on(backends.first, port, on_first);
    let second = |port| on(backends.second, port, !on_first);
    let Backends { port, sink_port, .. } = *backends;
    let service = |to: To| {
        let (name, node_port, local_only, backends) = match to {
            To::First => ("first", Some(NODE_PORT), false, first(port)),
            To::Second => ("second", None, false, second(port)),
            To::Two => ("two", None, false, [first(port), second(port)].concat()),
            To::Itself => ("itself", None, false, on(backends.client, port, on_first)),
            To::FirstLocal => ("first-local", Some(NODE_PORT_LOCAL), true, first(port)),
            To::Sink => ("sink", None, false, [first(sink_port), second(sink_port)].concat()),
        };
        let addresses = Family::ALL.map(|family| to.address(family)).to_vec();
        Service { name: name.to_owned(), addresses, port: PORT, node_port, local_only, backends }
    };
    To::ALL.map(service).to_vec()
}

/// A node on which the rules of services are written: with its addresses, and those of its pods.
pub type Proxied<'a> = (&'a Node, &'a [IpAddr], &'a [IpNetwork]);

/// Writes the rules of all services on the first and the second node, as their kube-proxies would.
///
/// # Errors
/// Where a node refuses them.
pub fn install(form: Form, backends: &Backends<'_>, nodes: [Proxied<'_>; 2]) -> Result<()> {
    for ((node, addresses, pods), on_first) in nodes.into_iter().zip([true, false]) {
        form.apply(node, &KubeProxy { node: addresses, pods, services: &services(backends, on_first) })?;
    }
    Ok(())
}
