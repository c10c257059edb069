//! Two nodes with pods, a server in each of them, and the conversations that are going on.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab::bare::BarePod;
use lab::cni::{self, Daemon, FastPath, NodeCni, Plan};
use lab::echo::{Conversation, Server};
use lab::ends::Ends;
use lab::kube_proxy::Family;
use lab::network::Network;
use lab::node::{Node, tail};
use lab::topology::Topology;
use lab::{Lab, Options};

use lab::services::{self, Backends, Form, SERVICE_CIDRS};

/// Where servers listen.
pub(crate) const SERVED: u16 = 8080;
/// Where nobody answers.
pub(crate) const SINK: u16 = 9009;
/// The first node's port that leads to [`End::Web`].
pub(crate) const HOST_PORT: u16 = 8081;

/// Who speaks or is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A client on the first node.
    A1,
    /// A backend on the first node.
    A2,
    /// A pod of the first node with a host port.
    Web,
    /// A pod of the first node that does harm, and that nobody has to do with.
    Greedy,
    /// A backend on the second node.
    B1,
    /// A client on the second node.
    B2,
    Node1,
    Node2,
    Internet,
}

impl End {
    /// Its name, which its server greets with.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::A1 => "a1",
            Self::A2 => "a2",
            Self::Web => "web",
            Self::Greedy => "greedy",
            Self::B1 => "b1",
            Self::B2 => "b2",
            Self::Node1 => "node1",
            Self::Node2 => "node2",
            Self::Internet => "internet",
        }
    }
}

/// A node that runs pods.
pub(crate) struct Side {
    pub(crate) node: Node,
    /// `None` only while it is stopped.
    pub(crate) daemon: Option<Daemon>,
    pub(crate) plan: Plan,
}

pub(crate) struct Cluster {
    pub(crate) lab: Lab,
    pub(crate) fast_path: FastPath,
    pub(crate) form: Form,
    pub(crate) sides: [Side; 2],
    ends: Ends<End>,
    /// Dropped with the cluster: they listen.
    _servers: Vec<Server>,
    _sinks: Vec<UdpSocket>,
    /// Conversations that are to go on until the end.
    pub(crate) kept: Vec<(String, Conversation)>,
}

impl Cluster {
    pub(crate) fn up(fast_path: FastPath, form: Form) -> Result<Self> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/two-nodes.clab.yml");
        let options = Options { name: Some("paths".to_owned()), ..Options::of_this_program()? };
        let lab = Lab::up(Topology::read(&file)?, &options)?;
        let side = |name: &str| -> Result<Side> {
            let node = lab.node(name)?.clone();
            let daemon = cni::install(&node, NodeCni::Barewire, configure(&node, fast_path)?)?;
            Ok(Side { plan: Plan::of(&node)?, daemon, node })
        };
        let sides = [side("node1")?, side("node2")?];
        let mut ends = Ends::new();
        for (end, side, host_ports) in [
            (End::A1, &sides[0], &[][..]),
            (End::A2, &sides[0], &[]),
            (End::Web, &sides[0], &[(HOST_PORT, SERVED)]),
            (End::Greedy, &sides[0], &[]),
            (End::B1, &sides[1], &[]),
            (End::B2, &sides[1], &[]),
        ] {
            let pod = BarePod::start(&side.node, end.name(), host_ports)?;
            ends.push(end, pod.network.clone(), pod.addresses);
        }
        for (end, addresses) in [
            (End::Node1, ["10.0.0.11", "fd00:10::11"]),
            (End::Node2, ["10.0.0.12", "fd00:10::12"]),
            (End::Internet, ["203.0.113.10", "2001:db8:113::10"]),
        ] {
            let addresses = addresses.iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
            ends.push(end, Network::of(lab.node(end.name())?)?, addresses);
        }
        let servers = ends.serve(SERVED)?;
        let mut cluster = Self { lab, fast_path, form, sides, ends, _servers: servers, _sinks: Vec::new(), kept: Vec::new() };
        cluster._sinks = [End::A2, End::B1].map(|end| cluster.sink(end, SINK)).into_iter().collect::<Result<_>>()?;
        Ok(cluster)
    }

    pub(crate) fn down(self) -> Result<()> {
        drop((self.kept, self._servers, self._sinks));
        drop(self.ends);
        Ok(self.lab.down()?)
    }

    pub(crate) fn network(&self, end: End) -> &Network {
        self.ends.network(end)
    }

    pub(crate) fn address(&self, end: End, family: Family) -> Result<IpAddr> {
        self.ends.address(end, family)
    }

    /// A socket that takes datagrams and answers none.
    pub(crate) fn sink(&self, end: End, port: u16) -> Result<UdpSocket> {
        let socket = self.network(end).run(|| Ok::<_, anyhow::Error>(UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, port))?))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Writes the rules of all services on both nodes.
    pub(crate) fn apply_rules(&self) -> Result<()> {
        let [client, first, second] = [End::A1, End::A2, End::B1].map(|end| self.ends.addresses(end));
        let backends = Backends { client, first, second, port: SERVED, sink_port: SINK };
        let node = |side: usize, end| (&self.sides[side].node, self.ends.addresses(end), &*self.sides[side].plan.pods);
        services::install(self.form, &backends, [node(0, End::Node1), node(1, End::Node2)])
    }

    /// That every conversation goes on.
    pub(crate) fn all_go_on(&mut self) -> Result<()> {
        /// Each one that is broken costs the time to wait for it.
        const ENOUGH: usize = 5;
        let mut broken = Vec::new();
        for (name, conversation) in &mut self.kept {
            if let Err(error) = conversation.exchange() {
                broken.push(format!("{name}: {error:#}"));
                if broken.len() == ENOUGH {
                    break;
                }
            }
        }
        let all = self.kept.len();
        if !broken.is_empty() {
            // What is broken is reported now, and not by every case that follows.
            self.kept.clear();
        }
        ensure!(broken.is_empty(), "of {all} conversations these broke, if not more: {}", broken.join("; "));
        Ok(())
    }

    /// Ends both daemons, lets `meanwhile` happen, and starts them again with `fast_path`.
    pub(crate) fn restart(
        &mut self,
        fast_path: FastPath,
        end: fn(Daemon) -> lab::Result<cni::Stopped>,
        meanwhile: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let mut stopped = Vec::new();
        for side in &mut self.sides {
            stopped.push(end(side.daemon.take().context("a daemon that runs")?)?);
        }
        let outcome = meanwhile(self);
        for (side, stopped) in self.sides.iter_mut().zip(stopped) {
            configure(&side.node, fast_path)?;
            side.daemon = Some(stopped.start()?);
        }
        outcome
    }

    /// What the daemons' logs have beside their daily talk.
    pub(crate) fn logs(&self) -> Vec<String> {
        const LINES: usize = 100;
        let tails = self.sides.iter().map(|side| (side.node.name(), tail(&side.node.logs().join("barewired.log"), LINES)));
        let telling = |(name, log): (&str, String)| {
            let lines = log.lines().filter(|line| !line.contains(" INFO ")).map(|line| format!("{name} barewired: {line}"));
            lines.collect::<Vec<_>>()
        };
        tails.flat_map(telling).collect()
    }
}

fn configure(node: &Node, fast_path: FastPath) -> Result<&'static str> {
    let services = SERVICE_CIDRS.map(|cidr| format!("\"{cidr}\"")).join(", ");
    let keys = [("fast_path", format!("\"{}\"", fast_path.value())), ("service_cidrs", format!("[{services}]"))];
    Ok(cni::configure(node, &keys)?)
}
