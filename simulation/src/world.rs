//! A cloud with its nodes and pods. What is told to a world happens at its present moment; time passes only in [`World::pass`].

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use cloudsim::cloud::{Cloud, InstanceId, InterfaceId, InterfaceSpec, LaunchSpec, Settings, SubnetId, SubnetSpec};
use cloudsim::time::Millis;
use ipam_clouds::Source;
use ipam_pool::range::AddressRange;
use ipnetwork::{IpNetwork, Ipv4Network};

use crate::clock::Clock;
use crate::ledger::Violation;
use crate::node::{Node, NodeSettings, PodId, Waits, look};
use crate::services::{Services, Shared};

/// What a world is made with.
#[derive(Debug, Clone)]
pub struct WorldSettings {
    /// The source of all chance.
    pub seed: u64,
    /// Subnets, each a /16 from 10.0.0.0 on; nodes are launched in them by turns.
    pub subnets: u8,
}

impl Default for WorldSettings {
    /// One subnet.
    fn default() -> Self {
        Self { seed: 1, subnets: 1 }
    }
}

/// Addresses that nobody will give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leak {
    /// The cloud has assigned a block to a node whose pool does not know it.
    Block(InstanceId, IpNetwork),
    /// An interface that is attached to nothing.
    Interface(InterfaceId),
}

/// A node of a world.
pub type NodeHandle = Rc<RefCell<Node>>;

type Nodes = Rc<RefCell<Vec<NodeHandle>>>;

/// How often a daemon looks at what is due when nothing has happened. Not all look at once.
const TICK: Duration = Duration::from_secs(1);
const TURNS: usize = 10;

/// A cloud with its nodes and pods.
#[derive(Debug)]
pub struct World {
    seed: u64,
    shared: Shared,
    subnets: Vec<SubnetId>,
    nodes: Nodes,
    /// Of nodes that have ended.
    waits: Cell<Waits>,
    launched: Cell<u64>,
    pods: Cell<u64>,
}

impl World {
    /// A cloud without nodes. To be called inside of [`run`](crate::run).
    ///
    /// # Panics
    /// Where there are to be more than 256 subnets, or none.
    #[must_use]
    pub fn new(settings: WorldSettings) -> Self {
        let WorldSettings { seed, subnets } = settings;
        let cidr = |number: u8| Ipv4Network::new([10, number, 0, 0].into(), 16).ok();
        let vpc_cidrs = (0..subnets).filter_map(cidr).collect();
        let mut cloud = Cloud::new(Settings { seed, vpc_cidrs, ..Settings::default() });
        let cidrs: Vec<_> = cloud.settings().vpc_cidrs.clone();
        let spec = |cidr| SubnetSpec { availability_zone: "us-east-1a".to_owned(), cidr, ipv6_cidr: None, tags: [].into() };
        let subnets: Vec<_> = cidrs.into_iter().flat_map(|cidr| cloud.create_subnet(spec(cidr))).collect();
        assert!(!subnets.is_empty(), "a world needs a subnet");
        let shared = Shared::new(cloud, Clock::start());
        let nodes = Nodes::default();
        tokio::task::spawn_local(tick(Rc::clone(&nodes)));
        Self { seed, shared, subnets, nodes, waits: Cell::default(), launched: Cell::new(0), pods: Cell::new(0) }
    }

    /// The clock.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// Lets time pass, in which nodes do what they do.
    pub async fn pass(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }

    /// Has something done to the cloud: faults to set, calls to count, operators to be careless.
    pub fn with_cloud<T>(&self, act: impl FnOnce(&mut Cloud, Millis) -> T) -> T {
        self.shared.with(act)
    }

    /// Launches an instance, whose daemon starts when it has booted.
    ///
    /// # Panics
    /// Where the cloud refuses it: for want of addresses, or for settings that no instance has.
    pub fn launch(&self, settings: NodeSettings) -> NodeHandle {
        let boot = settings.boot;
        let number = self.launched.replace(self.launched.get() + 1);
        let subnet = self.subnets[number as usize % self.subnets.len()];
        let interface = InterfaceSpec { ipv4_prefix_count: settings.prefixes, ..InterfaceSpec::new(subnet) };
        let spec = LaunchSpec { interfaces: vec![interface], ..LaunchSpec::new(&settings.instance_type, subnet) };
        #[expect(clippy::panic, reason = "a simulation without its nodes is none")]
        let instance = self.with_cloud(|cloud, now| cloud.launch(now, &spec)).unwrap_or_else(|error| panic!("cannot launch: {error}"));
        let node = Node::new(format!("node-{}-{number}", self.seed), settings, instance, self.shared.clone());
        let node = Rc::new(RefCell::new(node));
        self.nodes.borrow_mut().push(Rc::clone(&node));
        if boot.is_zero() {
            self.start(&node);
        } else {
            let booting = Rc::clone(&node);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(boot).await;
                booting.borrow_mut().start();
                look(&booting);
            });
        }
        node
    }

    /// Starts the daemon of a node anew, from what is durable.
    pub fn start(&self, node: &NodeHandle) {
        node.borrow_mut().start();
        look(node);
    }

    /// Ends the daemon of a node in the midst of whatever it does. Its pods live on.
    pub fn crash(&self, node: &NodeHandle) {
        node.borrow_mut().crash();
    }

    /// Ends a node with its pods and its instance.
    ///
    /// # Panics
    /// Where it has ended before.
    pub fn terminate(&self, node: &NodeHandle) {
        self.crash(node);
        self.waits.set(self.waits.get().and(node.borrow().waits()));
        let pods: Vec<_> = node.borrow().pods().map(|(pod, _)| pod).collect();
        pods.into_iter().for_each(|pod| node.borrow_mut().end(pod));
        let instance = node.borrow().instance();
        let ended = self.with_cloud(|cloud, now| cloud.terminate(now, instance));
        assert!(ended.is_ok(), "a node ends once: {ended:?}");
        self.nodes.borrow_mut().retain(|known| !Rc::ptr_eq(known, node));
    }

    /// The nodes that have not been terminated.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeHandle> {
        self.nodes.borrow().clone()
    }

    /// A pod begins on a node and asks for an address.
    pub fn start_pod(&self, node: &NodeHandle) -> PodId {
        let pod = PodId(self.pods.replace(self.pods.get() + 1));
        node.borrow_mut().ask(pod);
        if node.borrow().waiting() > 0 {
            look(node);
        }
        pod
    }

    /// A pod ends.
    pub fn stop_pod(&self, node: &NodeHandle, pod: PodId) {
        node.borrow_mut().end(pod);
    }

    /// The clients that a daemon on this node has, for one of another kind than ours.
    #[must_use]
    pub fn source_of(&self, node: &NodeHandle) -> Source {
        Services { shared: self.shared.clone(), instance: node.borrow().instance() }.source(true)
    }

    /// A daemon of another kind than ours has given a pod this address.
    pub fn note_pod(&self, node: &NodeHandle, address: IpAddr) {
        let crate::services::State { cloud, ledger } = &mut *self.shared.lock();
        ledger.begin(cloud, node.borrow().instance(), address);
    }

    /// The promises that were broken so far.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.lock().ledger.violations().to_vec()
    }

    /// How long pods have waited for addresses, on nodes that have ended too.
    #[must_use]
    pub fn waits(&self) -> Waits {
        self.nodes.borrow().iter().fold(self.waits.get(), |sum, node| sum.and(node.borrow().waits()))
    }

    /// What nobody will give back. Of meaning when nothing has been in flight for a while, longer than readers lag.
    #[must_use]
    pub fn leaks(&self) -> Vec<Leak> {
        let cloud = &self.shared.lock().cloud;
        let unattached = cloud.interfaces().filter(|interface| interface.attachment.is_none());
        let mut leaks: Vec<_> = unattached.map(|interface| Leak::Interface(interface.id)).collect();
        for node in self.nodes() {
            let node = node.borrow();
            let knows = |block: &IpNetwork| {
                let range = AddressRange::from(*block);
                node.pool().is_some_and(|pool| pool.ranges().any(|(known, _)| *known == range))
            };
            for interface in cloud.interfaces_of(node.instance()) {
                let blocks = interface.networks().filter(|network| network.ip() != interface.primary);
                leaks.extend(blocks.filter(|block| !knows(block)).map(|block| Leak::Block(node.instance(), block)));
            }
        }
        leaks
    }
}

/// Lets the nodes' daemons look at what is due, by turns.
async fn tick(nodes: Nodes) {
    for turn in (0..TURNS).cycle() {
        let due: Vec<_> = nodes.borrow().iter().skip(turn).step_by(TURNS).cloned().collect();
        due.iter().for_each(look);
        tokio::time::sleep(TICK / TURNS as u32).await;
    }
}
