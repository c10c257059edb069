//! A node: a daemon with its pool, supply and source, driven as `barewired` drives them, and what survives the daemon's crash.
//!
//! A pod that finds no address waits for one. Its runtime gives up after a while and asks again, so what counts is how long it took
//! from its first asking.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use cloudsim::cloud::InstanceId;
use ipam_clouds::Source;
use ipam_pool::range::Family;
use ipam_pool::{AttachmentKey, Pool};
use ipam_supply::memory::Known;
use ipam_supply::sizing::Sizing;
use ipam_supply::{Interface, Outcome, Report, Request, Settings, Supply};
use ipnetwork::IpNetwork;
use node_api::BootMillis;
use tokio::task::AbortHandle;

use crate::services::{Services, Shared};

/// How long a freed address cools down.
pub(crate) const COOLDOWN: u64 = 30_000;

/// What a node is launched with.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Its instance type.
    pub instance_type: String,
    /// Prefixes that it is launched with.
    pub prefixes: u32,
    /// Whether its daemon may call the API.
    pub api: bool,
    /// From its launch to its daemon's start.
    pub boot: Duration,
    /// Nodes of the cluster, as its configuration says.
    pub cluster_nodes: u64,
}

impl Default for NodeSettings {
    /// An m5.xlarge without prefixes, alone in its cluster, whose daemon runs at once.
    fn default() -> Self {
        Self { instance_type: "m5.xlarge".to_owned(), prefixes: 0, api: true, boot: Duration::ZERO, cluster_nodes: 0 }
    }
}

/// A pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodId(pub(crate) u64);

impl PodId {
    /// What its attachment is known by.
    fn owner(self) -> AttachmentKey {
        format!("pod-{}/eth0", self.0).parse().expect("letters, digits and a hyphen are a name")
    }
}

/// How long pods have waited for addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waits {
    /// Pods that were given one.
    pub served: u64,
    /// Those of them that had to wait.
    pub waited: u64,
    /// The longest wait, in milliseconds.
    pub longest: u64,
}

impl Waits {
    pub(crate) fn and(self, other: Self) -> Self {
        let Self { served, waited, longest } = other;
        Self { served: self.served + served, waited: self.waited + waited, longest: self.longest.max(longest) }
    }

    fn note(&mut self, millis: u64) {
        self.served += 1;
        self.waited += u64::from(millis > 0);
        self.longest = self.longest.max(millis);
    }
}

/// What is lost with the daemon.
#[derive(Debug)]
struct Daemon {
    pool: Pool,
    supply: Supply,
    source: Rc<Source>,
    /// Interfaces that the kernel has.
    present: BTreeSet<String>,
    /// What makes its calls, as long as it has any to make.
    calling: Option<AbortHandle>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.calling.iter().for_each(AbortHandle::abort);
    }
}

/// A node.
#[derive(Debug)]
pub struct Node {
    name: String,
    settings: NodeSettings,
    instance: InstanceId,
    shared: Shared,
    daemon: Option<Daemon>,
    pods: BTreeMap<PodId, IpAddr>,
    freed: VecDeque<(IpAddr, BootMillis)>,
    released: BTreeMap<IpNetwork, BootMillis>,
    remembered: Known,
    waiting: VecDeque<(PodId, BootMillis)>,
    waits: Waits,
    reports: Vec<(BootMillis, Report)>,
    started_at: Option<BootMillis>,
    ready_at: Option<BootMillis>,
}

impl Node {
    pub(crate) fn new(name: String, settings: NodeSettings, instance: InstanceId, shared: Shared) -> Self {
        Self {
            name,
            settings,
            instance,
            shared,
            daemon: None,
            pods: BTreeMap::new(),
            freed: VecDeque::new(),
            released: BTreeMap::new(),
            remembered: Known::default(),
            waiting: VecDeque::new(),
            waits: Waits::default(),
            reports: Vec::new(),
            started_at: None,
            ready_at: None,
        }
    }

    /// Its instance in the cloud.
    #[must_use]
    pub const fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The present, by its clock.
    #[must_use]
    pub fn now(&self) -> BootMillis {
        self.shared.clock.node()
    }

    /// The daemon's pool, while there is a daemon.
    #[must_use]
    pub fn pool(&self) -> Option<&Pool> {
        self.daemon.as_ref().map(|daemon| &daemon.pool)
    }

    /// The daemon's supply, while there is a daemon.
    #[must_use]
    pub fn supply(&self) -> Option<&Supply> {
        self.daemon.as_ref().map(|daemon| &daemon.supply)
    }

    /// Live pods with their addresses.
    pub fn pods(&self) -> impl Iterator<Item = (PodId, IpAddr)> {
        self.pods.iter().map(|(pod, address)| (*pod, *address))
    }

    /// A pod's address, once it has one.
    #[must_use]
    pub fn address_of(&self, pod: PodId) -> Option<IpAddr> {
        self.pods.get(&pod).copied()
    }

    /// Pods that have asked and have no address yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How long pods have waited, those that wait still included.
    #[must_use]
    pub fn waits(&self) -> Waits {
        let now = self.now();
        let longest = self.waiting.iter().map(|(_, since)| now.since(*since)).max().unwrap_or(0).max(self.waits.longest);
        Waits { longest, ..self.waits }
    }

    /// What the supply has told the operator, and when.
    #[must_use]
    pub fn reports(&self) -> &[(BootMillis, Report)] {
        &self.reports
    }

    /// When its daemon was started first.
    #[must_use]
    pub const fn started_at(&self) -> Option<BootMillis> {
        self.started_at
    }

    /// When a pod could first have had an address.
    #[must_use]
    pub const fn ready_at(&self) -> Option<BootMillis> {
        self.ready_at
    }

    /// Starts the daemon, from what is durable.
    pub(crate) fn start(&mut self) {
        let now = self.now();
        self.started_at.get_or_insert(now);
        let mut pool = Pool::new(&[], COOLDOWN);
        pool.want(Family::V4);
        for (pod, address) in &self.pods {
            pool.restore_held(*address, &pod.owner());
        }
        pool.restore_freed(self.freed.iter().copied().collect());
        let NodeSettings { api, cluster_nodes, .. } = self.settings;
        let mut supply = Supply::new(supply_settings(&self.name, api, cluster_nodes), self.released.clone(), now);
        let blocks = self.remembered.blocks.iter().map(|(block, interface)| (block, interface.as_str()));
        let reports = supply.restore(&self.remembered.interfaces, blocks, &self.remembered.assigned_here, &mut pool, now);
        self.reports.extend(reports.into_iter().map(|report| (now, report)));
        let source = Rc::new(Services { shared: self.shared.clone(), instance: self.instance }.source(api));
        self.daemon = Some(Daemon { pool, supply, source, present: BTreeSet::new(), calling: None });
        self.look_at_interfaces();
    }

    pub(crate) fn crash(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        let supply = &daemon.supply;
        // The daemon has written it down whenever it changed.
        self.remembered = Known {
            interfaces: supply.interfaces().iter().map(Interface::lasting).collect(),
            blocks: supply.blocks().map(|(block, interface)| (*block, interface.to_owned())).collect(),
            native: Vec::new(),
            assigned_here: supply.assigned_here().copied().collect(),
        };
    }

    /// A pod asks for an address.
    pub(crate) fn ask(&mut self, pod: PodId) {
        self.waiting.push_back((pod, self.now()));
        self.serve();
    }

    /// A pod has ended, whether it has an address by now or not.
    pub(crate) fn end(&mut self, pod: PodId) {
        let now = self.now();
        self.waiting.retain(|(waiting, _)| *waiting != pod);
        let Some(address) = self.pods.remove(&pod) else { return };
        self.shared.lock().ledger.end(address);
        while self.freed.front().is_some_and(|(_, at)| now.since(*at) >= COOLDOWN) {
            self.freed.pop_front();
        }
        self.freed.push_back((address, now));
        if let Some(daemon) = &mut self.daemon {
            daemon.pool.release(address, &pod.owner(), now);
        }
    }

    /// Gives addresses to pods that wait.
    fn serve(&mut self) {
        let now = self.now();
        let Some(Daemon { pool, .. }) = &mut self.daemon else { return };
        if self.ready_at.is_none() && pool.lacking(now).is_none() {
            self.ready_at = Some(now);
        }
        while let Some((pod, since)) = self.waiting.front() {
            let Ok(address) = pool.take(Family::V4, &pod.owner(), now) else { return };
            self.pods.insert(*pod, address);
            self.waits.note(now.since(*since));
            let crate::services::State { cloud, ledger } = &mut *self.shared.lock();
            ledger.begin(cloud, self.instance, address);
            self.waiting.pop_front();
        }
    }

    /// Tells the supply of interfaces that have come or gone.
    fn look_at_interfaces(&mut self) {
        let now = self.now();
        let Some(Daemon { pool, supply, present, .. }) = &mut self.daemon else { return };
        let attached: BTreeSet<_> = {
            let state = self.shared.lock();
            let interfaces = state.cloud.interfaces_of(self.instance).into_iter();
            interfaces.filter(|interface| interface.device().is_some()).map(|interface| interface.id.to_string()).collect()
        };
        if attached != *present {
            present.clone_from(&attached);
            let reports = supply.set_present(attached, pool, now);
            self.reports.extend(reports.into_iter().map(|report| (now, report)));
        }
    }

    fn next(&mut self) -> Option<(Rc<Source>, Request)> {
        self.serve();
        let now = self.now();
        let Daemon { pool, supply, source, .. } = self.daemon.as_mut()?;
        let request = supply.poll_request(pool, self.waiting.len() as u64, now)?;
        if let Request::Unassign { blocks, .. } = &request {
            self.released.extend(blocks.iter().map(|block| (*block, now)));
        }
        Some((Rc::clone(source), request))
    }

    fn done(&mut self, request: &Request, outcome: Outcome) {
        let now = self.now();
        if let (Request::Unassign { blocks, .. }, Outcome::Refused(_)) = (request, &outcome) {
            self.released.retain(|block, _| !blocks.contains(block));
        }
        let Some(Daemon { pool, supply, .. }) = &mut self.daemon else { return };
        let reports = supply.handle_response(outcome, pool, now);
        self.reports.extend(reports.into_iter().map(|report| (now, report)));
        self.look_at_interfaces();
        self.serve();
    }
}

pub(crate) fn supply_settings(node: &str, api: bool, cluster_nodes: u64) -> Settings {
    let sizing = [Some(Sizing::of_blocks(16)), None];
    Settings { node: node.to_owned(), api, sizing, exclude: Vec::new(), cluster_nodes, account_calls_per_second: 5 }
}

/// The daemon looks at what is due, and makes the calls that are.
pub(crate) fn look(node: &Rc<RefCell<Node>>) {
    let call = node.borrow_mut().next();
    if let Some(call) = call {
        let calling = tokio::task::spawn_local(make(Rc::clone(node), call)).abort_handle();
        if let Some(daemon) = &mut node.borrow_mut().daemon {
            daemon.calling = Some(calling);
        }
    }
}

/// One call, and those that are due after it.
async fn make(node: Rc<RefCell<Node>>, call: (Rc<Source>, Request)) {
    let mut call = Some(call);
    while let Some((source, request)) = call {
        let outcome = source.call(&request).await;
        let mut node = node.borrow_mut();
        node.done(&request, outcome);
        call = node.next();
    }
}
