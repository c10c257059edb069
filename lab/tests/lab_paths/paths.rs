//! Every way from a client to a server, over TCP and UDP, IPv4 and IPv6: who answers, and whom it sees.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use lab::echo::{Conversation, Protocol};
use lab::kube_proxy::Family;

use crate::Case;
use crate::cluster::{Cluster, End, HOST_PORT, SERVED};
use lab::services::{NODE_PORT, NODE_PORT_LOCAL, PORT, To};

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
enum Asked {
    /// A server by its own address.
    Direct(End),
    /// A service by its cluster address.
    Service(To),
    /// A port of a node.
    At(End, u16),
}

/// A way, and what is to come of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    name: &'static str,
    from: End,
    asked: Asked,
    /// Who answers; nobody where it is empty, all of them in turn where they are several.
    servers: &'static [End],
    /// Whose address the server sees.
    seen: End,
}

const fn way(name: &'static str, from: End, asked: Asked, servers: &'static [End], seen: End) -> Way {
    Way { name, from, asked, servers, seen }
}

use Asked::{At, Direct, Service};
use End::{A1, A2, B1, B2, Internet, Node1, Node2, Web};

/// Ways that need no rules but the daemon's own.
const WITHOUT_SERVICES: [Way; 9] = [
    way("pod_to_pod_on_the_same_node", A1, Direct(A2), &[A2], A1),
    way("pod_to_pod_across_nodes", A1, Direct(B1), &[B1], A1),
    way("pod_to_pod_across_nodes_the_other_way", B2, Direct(A2), &[A2], B2),
    way("pod_to_its_own_node", A1, Direct(Node1), &[Node1], A1),
    way("pod_to_the_other_node", A1, Direct(Node2), &[Node2], A1),
    way("node_to_its_own_pod", Node1, Direct(A2), &[A2], Node1),
    way("node_to_a_remote_pod", Node1, Direct(B1), &[B1], Node1),
    way("node_to_node", Node1, Direct(Node2), &[Node2], Node1),
    // Masqueraded: the internet sees the node.
    way("pod_to_the_internet", A1, Direct(Internet), &[Internet], Node1),
];

/// Ways through kube-proxy's rules and `portmap`'s.
const THROUGH_SERVICES: [Way; 24] = [
    way("cluster_ip_to_a_local_backend", A1, Service(To::First), &[A2], A1),
    way("cluster_ip_to_a_remote_backend", A1, Service(To::Second), &[B1], A1),
    way("cluster_ip_to_a_backend_on_the_first_node_from_the_second", B2, Service(To::First), &[A2], B2),
    way("cluster_ip_of_two_backends", A1, Service(To::Two), &[A2, B1], A1),
    way("cluster_ip_from_the_node_to_a_local_backend", Node1, Service(To::First), &[A2], Node1),
    way("cluster_ip_from_the_node_to_a_remote_backend", Node1, Service(To::Second), &[B1], Node1),
    way("cluster_ip_from_the_node_to_two_backends", Node2, Service(To::Two), &[A2, B1], Node2),
    // To oneself: masqueraded, or the pod would answer itself.
    way("hairpin_through_a_service", A1, Service(To::Itself), &[A1], Node1),
    way("node_port_from_the_internet", Internet, At(Node1, NODE_PORT), &[A2], Node1),
    way("node_port_from_the_internet_by_the_node_without_a_backend", Internet, At(Node2, NODE_PORT), &[A2], Node2),
    way("node_port_from_the_other_node", Node2, At(Node1, NODE_PORT), &[A2], Node1),
    way("node_port_from_its_own_node", Node1, At(Node1, NODE_PORT), &[A2], Node1),
    way("node_port_from_a_pod_of_the_node", A1, At(Node1, NODE_PORT), &[A2], Node1),
    way("node_port_from_a_remote_pod", B2, At(Node1, NODE_PORT), &[A2], Node1),
    way("node_port_from_a_pod_of_the_node_without_a_backend", B2, At(Node2, NODE_PORT), &[A2], Node2),
    way("local_node_port_from_the_internet", Internet, At(Node1, NODE_PORT_LOCAL), &[A2], Internet),
    way("local_node_port_from_the_other_node", Node2, At(Node1, NODE_PORT_LOCAL), &[A2], Node2),
    way("local_node_port_from_a_pod_of_the_node", A1, At(Node1, NODE_PORT_LOCAL), &[A2], A1),
    way("local_node_port_from_a_remote_pod", B2, At(Node1, NODE_PORT_LOCAL), &[A2], B2),
    way("local_node_port_without_a_local_backend", Internet, At(Node2, NODE_PORT_LOCAL), &[], Internet),
    way("host_port_from_the_internet", Internet, At(Node1, HOST_PORT), &[Web], Internet),
    way("host_port_from_the_other_node", Node2, At(Node1, HOST_PORT), &[Web], Node2),
    way("host_port_from_a_pod_of_the_node", A1, At(Node1, HOST_PORT), &[Web], A1),
    way("host_port_from_a_remote_pod", B2, At(Node1, HOST_PORT), &[Web], B2),
];

/// All ways, one case each; `when` is part of the case's name.
pub(crate) fn cases(when: &'static str) -> Vec<Case> {
    let all = WITHOUT_SERVICES.into_iter().chain(THROUGH_SERVICES);
    all.map(|way| Case::new(format!("{when}/{}", way.name), move |cluster| way.check(cluster, when))).collect()
}

/// Begins a conversation by every way that needs no rules of services.
pub(crate) fn without_services(cluster: &mut Cluster, when: &str) -> Result<()> {
    WITHOUT_SERVICES.into_iter().try_for_each(|way| way.check(cluster, when).context(way.name))
}

impl Way {
    /// Goes it in every protocol and family, with little and with much, and keeps the conversations.
    fn check(self, cluster: &mut Cluster, when: &str) -> Result<()> {
        for family in Family::ALL {
            for protocol in Protocol::ALL {
                let name = format!("{when}/{} {family:?} {protocol:?}", self.name);
                for mut conversation in self.open(cluster, family, protocol).with_context(|| format!("{family:?} {protocol:?}"))? {
                    conversation.exchange().and_then(|()| conversation.transfer()).context(name.clone())?;
                    if ![self.from, self.seen].contains(&Internet) && !matches!(self.asked, Direct(Internet)) {
                        // The way out has a smaller MTU, which over IPv6 the first datagram in fragments only finds out.
                        conversation.exchange_fragments().context(name.clone())?;
                    }
                    conversation.exchange().context(name.clone())?;
                    cluster.kept.push((name.clone(), conversation));
                }
            }
        }
        Ok(())
    }

    /// A conversation with each of the servers.
    fn open(self, cluster: &Cluster, family: Family, protocol: Protocol) -> Result<Vec<Conversation>> {
        /// That one of two backends is not met in so many tries has a chance of one in a million million.
        const TRIES: usize = 40;
        let to = match self.asked {
            Direct(server) => SocketAddr::new(cluster.address(server, family)?, SERVED),
            Service(service) => SocketAddr::new(service.address(family), PORT),
            At(node, port) => SocketAddr::new(cluster.address(node, family)?, port),
        };
        let seen = cluster.address(self.seen, family)?;
        let mut met: Vec<Conversation> = Vec::new();
        if self.servers.is_empty() {
            Conversation::is_refused(cluster.network(self.from), protocol, to)?;
            return Ok(met);
        }
        for _ in 0..TRIES {
            let conversation = Conversation::open(cluster.network(self.from), protocol, to)?;
            let greeting = conversation.greeting();
            ensure!(self.servers.iter().any(|server| server.name() == greeting.server), "{} answers", greeting.server);
            ensure!(greeting.source == seen, "{} sees {}, not {seen}", greeting.server, greeting.source);
            if !met.iter().any(|known| known.greeting() == greeting) {
                met.push(conversation);
            }
            if met.len() == self.servers.len() {
                return Ok(met);
            }
        }
        bail!("only {} of {:?} answered {TRIES} times", met.len(), self.servers)
    }
}
