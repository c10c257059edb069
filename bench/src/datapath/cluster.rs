//! Two nodes and the fabric between them, with the pods of one contender. Each contender has its own, so that all are up at
//! once and can take turns; all of them have the same addresses, the same fabric and the same rules.
//!
//! The fabric routes, as a cloud network does: a node has a /32 on its uplink and sends everything to its gateway.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::world;
use serde_json::Value;

use crate::contender::Pods;
use crate::daemon::{Daemon, Settings};
use crate::datapath::peers::cilium::{Agent, ControlPlane, Member};
use crate::datapath::peers::etcd::Etcd;
use crate::datapath::peers::flannel::{self, Flannel};
use crate::datapath::rules::Rules;
use crate::datapath::served;
use crate::netns::Namespace;
use crate::node::{Node, UPLINK_MTU, ip};
use crate::plugin::{Attached, Plugin};

/// Ports of services in the rules of each node.
pub const SERVICES: u32 = 300;
/// All pods of all nodes.
const PODS: &str = "10.10.0.0/16";
const GATEWAY: &str = "10.0.0.1";
const LENGTH_OF_A_NODE: u8 = 20;
/// Kubernetes needs bridged packets to pass the rules; conntrack must not fill up with connections that are closed.
const SETTINGS_OF_A_NODE: [(&str, &str); 3] =
    [("ipv4/ip_forward", "1"), ("bridge/bridge-nf-call-iptables", "1"), ("netfilter/nf_conntrack_tcp_timeout_time_wait", "10")];

/// Who carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// The nodes themselves, without pods and without any rules: the least.
    Bare,
    /// The nodes themselves, without pods.
    Host,
    /// The same with other rules of services.
    Ruled(Rules),
    /// Barewire with its fast path.
    FastPath,
    /// The same on a node that is full ([`crate::datapath::loaded`]).
    Loaded,
    /// Barewire through the kernel's stack.
    Stack,
    /// The reference plugins `bridge` and `host-local`, routed between the nodes.
    Bridge,
    /// Flannel: the same bridge, with VXLAN between the nodes.
    Overlay,
    /// Cilium, with native routing and eBPF host routing.
    Cilium,
    /// Two namespaces on one veth: the least that two pods of a node need.
    Floor,
    /// Barewire with its fast path, which serves Services itself. Its nodes have no other rules.
    Served,
    /// The same beside kube-proxy in its nftables mode, whose rules are set when the pods are known.
    Proxied,
}

impl Contender {
    /// Those of the table, in its order.
    pub const TABLE: [Self; 9] =
        [Self::Bare, Self::Host, Self::FastPath, Self::Loaded, Self::Stack, Self::Cilium, Self::Bridge, Self::Overlay, Self::Floor];
    /// Nodes by their rules, beside [`Self::Bare`] and [`Self::Host`].
    pub const RULED: [Self; 5] = [
        Self::Ruled(Rules::Iptables(10)),
        Self::Ruled(Rules::Iptables(5_000)),
        Self::Ruled(Rules::Nftables(10)),
        Self::Ruled(Rules::Nftables(300)),
        Self::Ruled(Rules::Nftables(5_000)),
    ];

    /// All.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::TABLE.into_iter().chain(Self::RULED)
    }

    /// Its name in JSON and in the table.
    #[must_use]
    pub fn key(self) -> String {
        let name = match self {
            Self::Ruled(Rules::Iptables(ports)) => return format!("iptables_{ports}"),
            Self::Ruled(Rules::Nftables(ports)) => return format!("nftables_{ports}"),
            Self::Bare => "bare",
            Self::Host => "host",
            Self::FastPath => "fast_path",
            Self::Loaded => "loaded",
            Self::Stack => "stack",
            Self::Bridge => "bridge",
            Self::Overlay => "overlay",
            Self::Cilium => "cilium",
            Self::Floor => "floor",
            Self::Served => "served",
            Self::Proxied => "proxied",
        };
        name.to_owned()
    }

    /// The rules of services on its nodes.
    fn rules(self) -> Option<Rules> {
        match self {
            // Programs do what the rules do, or the rules come later.
            Self::Bare | Self::Floor | Self::Cilium | Self::Served | Self::Proxied => None,
            Self::Ruled(rules) => Some(rules),
            Self::Host | Self::FastPath | Self::Loaded | Self::Stack | Self::Bridge | Self::Overlay => Some(Rules::Iptables(SERVICES)),
        }
    }

    /// Whether it is nodes without pods.
    fn is_nodes(self) -> bool {
        matches!(self, Self::Bare | Self::Host | Self::Ruled(_))
    }
}

/// Where a load's client and server are.
#[derive(Debug, Clone, Copy)]
pub struct Ends<'a> {
    /// The client's network.
    pub client: &'a Namespace,
    /// The server's network.
    pub server: &'a Namespace,
    /// The server's address.
    pub address: IpAddr,
    /// What the client connects to instead: a service's address.
    pub service: Option<IpAddr>,
    /// The server's port, and the service's; 0 for any.
    pub port: u16,
}

/// What all clusters are built with.
#[derive(Debug)]
pub struct Site<'a> {
    /// Where Barewire's programs are.
    pub binaries: &'a Path,
    /// Where folders in memory come from.
    pub node: &'a Node,
    /// Whether the daemon knows the key `network.fast_path`.
    pub fast_path_is_known: bool,
    /// What the names of folders begin with: two clusters of one contender have different ones.
    pub folders: &'static str,
}

/// Other people's programs.
#[derive(Debug, Default)]
struct Peers {
    flannels: Vec<Flannel>,
    agents: Vec<Agent>,
    control: Option<ControlPlane>,
    etcd: Option<Etcd>,
}

impl Peers {
    /// What they have set up carries packets without them, and others are measured beside them.
    fn pause(&self) -> Result<()> {
        self.agents.iter().try_for_each(Agent::pause)?;
        self.flannels.iter().try_for_each(Flannel::pause)?;
        self.control.iter().try_for_each(ControlPlane::pause)?;
        self.etcd.iter().try_for_each(Etcd::pause)
    }
}

/// Two nodes with the pods of one contender.
#[derive(Debug)]
pub struct Cluster {
    contender: Contender,
    /// By node: two on the first, one on the second, and whoever was added since.
    pods: [Vec<Attached>; 2],
    plugins: Vec<Plugin>,
    daemons: Vec<Daemon>,
    peers: Peers,
    nodes: [Namespace; 2],
    fabric: Namespace,
}

impl Cluster {
    /// Sets it up.
    ///
    /// # Errors
    /// When the kernel, a daemon or a plugin refuses.
    pub fn build(contender: Contender, site: &Site<'_>, names: &mut Pods) -> Result<Self> {
        let nodes = [Namespace::create()?, Namespace::create()?];
        let fabric = Namespace::create()?;
        let mut cluster = Self {
            contender,
            pods: [Vec::new(), Vec::new()],
            plugins: Vec::new(),
            daemons: Vec::new(),
            peers: Peers::default(),
            nodes,
            fabric,
        };
        if contender == Contender::Floor {
            cluster.wire_floor()?;
            return Ok(cluster);
        }
        for index in 0..2 {
            cluster.wire_node(index)?;
        }
        cluster.bring_peers(site)?;
        for index in 0..2 {
            cluster.bring_network(index, site).with_context(|| format!("the network of {} does not come up", contender.key()))?;
        }
        for (index, flannel) in cluster.peers.flannels.iter_mut().enumerate() {
            let _home = cluster.nodes[index].enter()?;
            flannel.wait_for_route(&range_of_node(1 - index))?;
        }
        if !contender.is_nodes() {
            for node in [0, 0, 1] {
                cluster.add(node, names)?;
            }
        }
        cluster.peers.pause()?;
        Ok(cluster)
    }

    /// What other people's nodes have in common.
    fn bring_peers(&mut self, site: &Site<'_>) -> Result<()> {
        let _home = self.fabric.enter()?;
        match self.contender {
            Contender::Overlay => {
                let mut etcd = Etcd::start(&site.node.folder("overlay-etcd")?)?;
                flannel::configure(&mut etcd, PODS, LENGTH_OF_A_NODE)?;
                self.peers.etcd = Some(etcd);
            }
            Contender::Cilium => {
                let ranges = [range_of_node(0), range_of_node(1)];
                let members = [0, 1].map(|index| Member { index, address: address_of_node(index), range: &ranges[index] });
                self.peers.control = Some(ControlPlane::start(&site.node.folder("cilium-control")?, GATEWAY, &members, SERVICES)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whose packets these are.
    #[must_use]
    pub fn contender(&self) -> Contender {
        self.contender
    }

    /// From one node to the other, if there are pods (or nodes without) to do so.
    ///
    /// # Errors
    /// When a pod has no address.
    pub fn across(&self) -> Result<Option<Ends<'_>>> {
        Ok(match self.contender {
            nodes if nodes.is_nodes() => {
                Some(Ends { client: &self.nodes[0], server: &self.nodes[1], address: address_of_node(1).into(), service: None, port: 0 })
            }
            Contender::Floor => None,
            _ => Some(between(&self.pods[0][0], &self.pods[1][0])?),
        })
    }

    /// From one pod to another on the same node.
    ///
    /// # Errors
    /// When a pod has no address.
    pub fn within(&self) -> Result<Option<Ends<'_>>> {
        Ok(match self.contender {
            nodes if nodes.is_nodes() => None,
            Contender::Floor => {
                Some(Ends { client: &self.nodes[0], server: &self.nodes[1], address: address_of_node(1).into(), service: None, port: 0 })
            }
            _ => Some(between(&self.pods[0][0], &self.pods[0][1])?),
        })
    }

    /// The daemons, of Barewire only.
    #[must_use]
    pub fn daemons(&self) -> &[Daemon] {
        &self.daemons
    }

    /// Attaches a pod to a node, and tells how long that took.
    ///
    /// # Errors
    /// When the plugin fails.
    pub fn add(&mut self, node: usize, names: &mut Pods) -> Result<Duration> {
        self.add_with(node, names, &Value::Null)
    }

    /// Attaches a pod of which a runtime passes this as `runtimeConfig`.
    ///
    /// # Errors
    /// When the plugin fails.
    pub fn add_with(&mut self, node: usize, names: &mut Pods, runtime_config: &Value) -> Result<Duration> {
        let pod = names.make()?;
        let _home = self.nodes[node].enter()?;
        let (took, attached) = self.plugins[node].add_with(pod, runtime_config)?;
        self.pods[node].push(attached);
        Ok(took)
    }

    /// Detaches the pods that were added to the first node since it was set up.
    ///
    /// # Errors
    /// When the plugin fails.
    pub fn detach_later(&mut self) -> Result<()> {
        let _home = self.nodes[0].enter()?;
        for attached in self.pods[0].drain(2..) {
            self.plugins[0].del(&attached)?;
        }
        Ok(())
    }

    /// A node's network.
    #[must_use]
    pub fn node(&self, index: usize) -> &Namespace {
        &self.nodes[index]
    }

    /// The network between the nodes, and what is beyond it.
    #[must_use]
    pub fn fabric(&self) -> &Namespace {
        &self.fabric
    }

    /// The pods of a node.
    #[must_use]
    pub fn pods(&self, node: usize) -> &[Attached] {
        &self.pods[node]
    }

    /// What its daemons wrote last, to go with an error.
    #[must_use]
    pub fn end_of_logs(&self) -> String {
        self.daemons.iter().map(Daemon::end_of_log).collect()
    }

    fn wire_floor(&self) -> Result<()> {
        {
            let _home = self.nodes[0].enter()?;
            ip(&format!(
                "link set lo up\n\
                 link add eth0 mtu {UPLINK_MTU} type veth peer name eth0 mtu {UPLINK_MTU} netns {}\n\
                 address add {}/24 dev eth0\n\
                 link set eth0 up\n",
                self.nodes[1].path().display(),
                address_of_node(0)
            ))?;
        }
        let _home = self.nodes[1].enter()?;
        ip(&format!("link set lo up\naddress add {}/24 dev eth0\nlink set eth0 up\n", address_of_node(1)))
    }

    fn wire_node(&self, index: usize) -> Result<()> {
        let address = address_of_node(index);
        {
            let _home = self.fabric.enter()?;
            write_setting("ipv4/ip_forward", "1")?;
            ip(&format!(
                "link set lo up\n\
                 link add port{index} mtu {UPLINK_MTU} type veth peer name eth1 mtu {UPLINK_MTU} netns {}\n\
                 address add {GATEWAY}/32 dev port{index}\n\
                 link set port{index} up\n\
                 route add {address} dev port{index}\n\
                 route add {} via {address} dev port{index} onlink\n",
                self.nodes[index].path().display(),
                range_of_node(index)
            ))?;
        }
        let _home = self.nodes[index].enter()?;
        ip(&format!(
            "link set lo up\n\
             address add {address}/32 dev eth1\n\
             link set eth1 up\n\
             route add {GATEWAY} dev eth1\n\
             route add default via {GATEWAY}\n"
        ))?;
        for (setting, value) in SETTINGS_OF_A_NODE {
            write_setting(setting, value)?;
        }
        if let Some(rules) = self.contender.rules() {
            rules.install(address, range_of_node(index).parse()?)?;
        }
        Ok(())
    }

    fn bring_network(&mut self, index: usize, site: &Site<'_>) -> Result<()> {
        let state = site.node.folder(&format!("{}{}-{index}", site.folders, self.contender.key()))?;
        let range = range_of_node(index);
        let _home = self.nodes[index].enter()?;
        let barewire = |choice: &str| -> Result<(Daemon, Plugin)> {
            let fast_path = site.fast_path_is_known.then_some(choice);
            let more =
                if self.contender == Contender::Served { served::of_daemon(&state, network_of_node(1), SERVICES)? } else { String::new() };
            let settings = Settings {
                ranges: &[&range],
                native_cidrs: &["10.0.0.0/16", PODS],
                masquerade: true,
                fast_path,
                service_cidrs: &[served::CIDR],
                more: &more,
            };
            let daemon = Daemon::start_with(site.binaries, state.clone(), &settings)?;
            let plugin = Plugin::barewire(site.binaries, &daemon.socket());
            Ok((daemon, plugin))
        };
        match self.contender {
            Contender::Bare | Contender::Host | Contender::Ruled(_) | Contender::Floor => {}
            Contender::FastPath | Contender::Loaded | Contender::Stack | Contender::Served | Contender::Proxied => {
                let (daemon, plugin) = barewire(if self.contender == Contender::Stack { "off" } else { "auto" })?;
                self.daemons.push(daemon);
                self.plugins.push(plugin);
            }
            Contender::Bridge => self.plugins.push(Plugin::bridge(&state, &range, UPLINK_MTU)),
            Contender::Overlay => {
                let flannel = Flannel::start(&state, GATEWAY, "eth1", PODS, &range)?;
                self.plugins.push(Plugin::bridge(&state, &range, flannel.mtu()?));
                self.peers.flannels.push(flannel);
            }
            Contender::Cilium => {
                let control = self.peers.control.as_ref().context("Cilium without its control plane")?;
                let member = Member { index, address: address_of_node(index), range: &range };
                let agent = Agent::start(&state, control.kubeconfig(), &member, "eth1", PODS)?;
                self.plugins.push(Plugin::cilium(world::program("cilium", "cilium-cni")?, agent.socket()));
                self.peers.agents.push(agent);
            }
        }
        Ok(())
    }
}

fn between<'a>(client: &'a Attached, server: &'a Attached) -> Result<Ends<'a>> {
    Ok(Ends { client: client.namespace(), server: server.namespace(), address: server.address()?, service: None, port: 0 })
}

/// Node 0 is 10.0.0.11.
pub(crate) fn address_of_node(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, if index == 0 { 11 } else { 12 })
}

/// Node 0 has the pods 10.10.16.0/20.
fn network_of_node(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 10, if index == 0 { 16 } else { 32 }, 0)
}

fn range_of_node(index: usize) -> String {
    format!("{}/{LENGTH_OF_A_NODE}", network_of_node(index))
}

/// A setting of the calling thread's network; one that this kernel does not have needs no value.
pub(crate) fn write_setting(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    if !path.exists() {
        return Ok(());
    }
    fs::write(&path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
}
