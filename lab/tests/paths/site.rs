//! A lab of ways: two nodes that run pods, everybody around them, and a server in each.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab::bare::BarePod;
use lab::cni::{self, Daemon, FastPath, NodeCni, Plan};
use lab::echo::Server;
use lab::ends::Ends;
use lab::kube_proxy::Family;
use lab::network::Network;
use lab::node::{Node, tail};
use lab::services::{self, Backends, Form, SERVICE_CIDRS};
use lab::topology::Topology;
use lab::{Lab, Options};

/// Where servers listen.
pub(crate) const SERVED: u16 = 8080;
/// Where nobody does.
pub(crate) const CLOSED: u16 = 8099;

/// Who speaks or is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A client on the first node.
    A1,
    /// A server on the first node, behind services and the load balancer.
    A2,
    /// A pod of the first node's second uplink.
    U1,
    /// A server on the second node.
    B1,
    /// A client on the second node.
    B2,
    Node1,
    Node2,
    Internet,
    Peer,
    Office,
    Far,
    Client,
    Storage,
}

use End::{A1, A2, B1, B2, Client, Far, Internet, Node1, Node2, Office, Peer, Storage, U1};

/// Pods, in the order in which they are made.
const PODS: [(End, usize, [&str; 2]); 5] = [
    (A1, 0, ["10.0.1.18", "fd00:10:0:1::18"]),
    (A2, 0, ["10.0.1.17", "fd00:10:0:1::17"]),
    (U1, 0, ["10.0.1.49", "fd00:10:0:3::49"]),
    (B1, 1, ["10.0.1.33", "fd00:10:0:2::33"]),
    (B2, 1, ["10.0.1.34", "fd00:10:0:2::34"]),
];

/// Everybody else, as the topology has them.
const OTHERS: [(End, [&str; 2]); 8] = [
    (Node1, ["10.0.0.11", "fd00:10::11"]),
    (Node2, ["10.0.0.12", "fd00:10::12"]),
    (Internet, ["203.0.113.10", "2001:db8:113::10"]),
    (Peer, ["172.20.0.10", "fd00:172::10"]),
    (Office, ["192.168.77.10", "fd00:77::10"]),
    (Far, ["10.0.60.10", "fd00:10:0:60::10"]),
    (Client, ["198.51.100.7", "2001:db8:51::7"]),
    (Storage, ["10.0.50.2", "fd00:10:0:50::2"]),
];

impl End {
    /// Its name, which its server greets with.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            A1 => "a1",
            A2 => "a2",
            U1 => "u1",
            B1 => "b1",
            B2 => "b2",
            Node1 => "node1",
            Node2 => "node2",
            Internet => "internet",
            Peer => "peer",
            Office => "office",
            Far => "far",
            Client => "client",
            Storage => "storage",
        }
    }
}

/// A node that runs pods.
pub(crate) struct Side {
    pub(crate) node: Node,
    /// `None` only while it is stopped.
    pub(crate) daemon: Option<Daemon>,
    plan: Plan,
}

pub(crate) struct Site {
    pub(crate) lab: Lab,
    pub(crate) fast_path: FastPath,
    pub(crate) sides: [Side; 2],
    pub(crate) pods: Vec<(End, BarePod)>,
    ends: Ends<End>,
    /// Dropped with the site: they listen.
    servers: Vec<Server>,
}

impl Site {
    /// Brings a lab up with the fast path set so, and kube-proxy's rules in a form or none.
    pub(crate) fn up(fast_path: FastPath, form: Option<Form>) -> Result<Self> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/ways.clab.yml");
        let options = Options { name: Some(format!("ways-{}", fast_path.value())), ..Options::of_this_program()? };
        let lab = Lab::up(Topology::read(&file)?, &options)?;
        let side = |name: &str| -> Result<Side> {
            let node = lab.node(name)?.clone();
            let daemon = cni::install(&node, NodeCni::Barewire, configure(&node, fast_path, &[])?)?;
            Ok(Side { plan: Plan::of(&node)?, daemon, node })
        };
        let mut site =
            Self { sides: [side("node1")?, side("node2")?], lab, fast_path, pods: Vec::new(), ends: Ends::new(), servers: Vec::new() };
        for (end, side, addresses) in PODS {
            let pod = BarePod::start_with(&site.sides[side].node, end.name(), &addresses)?;
            site.ends.push(end, pod.network.clone(), pod.addresses.clone());
            site.pods.push((end, pod));
        }
        for (end, addresses) in OTHERS {
            let addresses = addresses.iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
            let network = Network::of(site.lab.node(end.name())?)?;
            site.ends.push(end, network, addresses);
        }
        for network in site.ends.networks() {
            network.run(speak_freely).with_context(|| network.name().to_owned())?;
        }
        site.servers = site.ends.serve(SERVED)?;
        if let Some(form) = form {
            site.apply_rules(form)?;
        }
        Ok(site)
    }

    pub(crate) fn down(self) -> Result<()> {
        drop(self.servers);
        drop((self.ends, self.pods));
        Ok(self.lab.down()?)
    }

    pub(crate) fn network(&self, end: End) -> &Network {
        self.ends.network(end)
    }

    pub(crate) fn address(&self, end: End, family: Family) -> Result<IpAddr> {
        self.ends.address(end, family)
    }

    /// Writes the rules of all services on both nodes.
    fn apply_rules(&self, form: Form) -> Result<()> {
        let [client, first, second] = [A1, A2, B1].map(|end| self.ends.addresses(end));
        let backends = Backends { client, first, second, port: SERVED, sink_port: CLOSED };
        let node = |side: usize, end| (&self.sides[side].node, self.ends.addresses(end), &*self.sides[side].plan.pods);
        services::install(form, &backends, [node(0, Node1), node(1, Node2)])
    }

    /// Ends both daemons as a service manager does, lets `meanwhile` happen, and starts them again.
    pub(crate) fn restart(&mut self, meanwhile: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.restart_with(self.fast_path, &[], meanwhile)
    }

    /// As [`Site::restart`], with another setting, and with keys of `[network]` in place of those that are there.
    pub(crate) fn restart_with(
        &mut self,
        fast_path: FastPath,
        keys: &[(&str, String)],
        meanwhile: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        for side in &mut self.sides {
            if let Some(daemon) = side.daemon.take() {
                daemon.terminate()?;
            }
        }
        let outcome = meanwhile(self);
        for side in &mut self.sides {
            side.daemon = Some(Daemon::start(&side.node, configure(&side.node, fast_path, keys)?)?);
        }
        outcome
    }

    /// Restarts the first node's daemon with another text in its configuration.
    pub(crate) fn restart_first_with(&mut self, (text, other): (&str, &str)) -> Result<()> {
        let side = &mut self.sides[0];
        if let Some(daemon) = side.daemon.take() {
            daemon.terminate()?;
        }
        let path = configure(&side.node, self.fast_path, &[])?;
        let configured = std::fs::read_to_string(side.node.host_path(path))?;
        ensure!(configured.contains(text), "{text:?} is not in {configured}");
        side.node.write(path, configured.replace(text, other))?;
        side.daemon = Some(Daemon::start(&side.node, path)?);
        Ok(())
    }

    /// What the daemons' logs have beside their daily talk.
    pub(crate) fn logs(&self) -> Vec<String> {
        const LINES: usize = 60;
        let tails = self.sides.iter().map(|side| (side.node.name(), tail(&side.node.logs().join("barewired.log"), LINES)));
        let telling = |(name, log): (&str, String)| {
            let lines = log.lines().filter(|line| !line.contains(" INFO ")).map(|line| format!("{name} barewired: {line}"));
            lines.collect::<Vec<_>>()
        };
        tails.flat_map(telling).collect()
    }
}

/// In the namespace of the caller: every error is told, and whoever is root may ping without a raw socket.
pub(crate) fn speak_freely() -> Result<()> {
    for (key, value) in [("ipv4/icmp_ratemask", "0"), ("ipv6/icmp/ratemask", "0"), ("ipv4/ping_group_range", "0 0")] {
        std::fs::write(format!("/proc/sys/net/{key}"), value).with_context(|| key.to_owned())?;
    }
    Ok(())
}

fn configure(node: &Node, fast_path: FastPath, more: &[(&str, String)]) -> Result<&'static str> {
    let services = SERVICE_CIDRS.map(|cidr| format!("\"{cidr}\"")).join(", ");
    let keys = [("fast_path", format!("\"{}\"", fast_path.value())), ("service_cidrs", format!("[{services}]"))];
    let kept = keys.into_iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name));
    Ok(cni::configure(node, &kept.chain(more.iter().cloned()).collect::<Vec<_>>())?)
}
