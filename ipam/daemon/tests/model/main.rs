//! The invariants of ARCHITECTURE.md under random operations, crashes at every point, and lost stores.
//!
//! The pool, the store (a real one, on disk), recovery and the transactions are the real ones; the kernel and the clock
//! are models. A failing run prints the shortest list of steps that fails.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod kernel;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use barewired::attachments::Attachments;
use barewired::attachments::link::for_recovery;
use barewired::kernel::link_numbers::LinkNumbers;
use barewired::latencies::Metrics;
use cni_spec::{Attachment, Code, Error, PodIdentity};
use datapath::fast_path::Limits;
use datapath::{Ifindex, Uplink};
use ipam_pool::Pool;
use ipam_state::record::{AttachmentKey, Record};
use ipam_state::recovery;
use ipam_state::store::{Change, Store};
use kernel::{CrashPoint, Machine, ModelKernel};
use node_api::{AddRequest, BootMillis, DelRequest, GcRequest};
use proptest::prelude::*;

const COOLDOWN: u64 = 30_000;
const CONTAINERS: u8 = 6;
/// Containers from here on ask for [`BESIDE`].
const FIRST_BESIDE: u8 = 3;
/// An address that a pod may use beside its own.
const BESIDE: &str = "10.9.0.1";

#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    Del(u8),
    /// A DEL that was queued before whatever came since.
    DelQueuedAgo(u8, u16),
    KillNamespace(u8),
    Gc(BTreeSet<u8>),
    Sweep,
    Settle,
    /// An ADD whose caller hangs up before the pod is wired, or before that is durable.
    AddHungUp(u8, Look),
    /// An ADD whose answer reaches nobody.
    AddUntold(u8),
    /// A second record of a container's addresses and interface number, under another name, as if two versions had written them.
    Twin(u8),
    DelTwin(u8),
    Wait(u32),
    CrashIn(CrashPoint),
    /// Inside of what an ADD holds.
    AddCrashes(u8, Look),
    Restart,
    LoseStore,
}

/// When an ADD looks whether its caller is there: it has its addresses, or its link too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Addressed,
    Wired,
}

/// Twins are numbered from here.
const TWINS: u8 = 20;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let container = 0..CONTAINERS;
    let point = prop_oneof![
        Just(CrashPoint::BeforeLink),
        Just(CrashPoint::BareLink),
        Just(CrashPoint::BeforeCommit),
        Just(CrashPoint::AfterCommit),
        Just(CrashPoint::BeforeRemoval),
    ];
    let look = prop_oneof![Just(Look::Addressed), Just(Look::Wired)];
    let step = prop_oneof![
        1 => (container.clone(), look.clone()).prop_map(|(id, look)| Step::AddHungUp(id, look)),
        1 => (container.clone(), look).prop_map(|(id, look)| Step::AddCrashes(id, look)),
        1 => container.clone().prop_map(Step::AddUntold),
        1 => container.clone().prop_map(Step::Twin),
        1 => container.clone().prop_map(Step::DelTwin),
        8 => container.clone().prop_map(Step::Add),
        6 => container.clone().prop_map(Step::Del),
        1 => (container.clone(), any::<u16>()).prop_map(|(id, ago)| Step::DelQueuedAgo(id, ago)),
        2 => container.clone().prop_map(Step::KillNamespace),
        1 => proptest::collection::btree_set(container, 0..4).prop_map(Step::Gc),
        1 => Just(Step::Sweep),
        2 => Just(Step::Settle),
        2 => (0_u32..400_000).prop_map(Step::Wait),
        3 => point.prop_map(Step::CrashIn),
        2 => Just(Step::Restart),
        1 => Just(Step::LoseStore),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What the runtime believes of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Belief {
    /// Its last ADD was answered with these addresses.
    Attached(Vec<IpAddr>),
    /// Its last ADD broke off, so the runtime must send a DEL.
    Unknown,
}

struct World {
    home: tempfile::TempDir,
    machine: Arc<Mutex<Machine>>,
    daemon: Option<Attachments<ModelKernel>>,
    now: BootMillis,
    beliefs: BTreeMap<u8, Belief>,
    released: HashMap<IpAddr, BootMillis>,
    namespaces: [u64; CONTAINERS as usize],
}

impl World {
    fn new() -> Self {
        let namespaces = std::array::from_fn(|index| index as u64 + 100);
        let machine = Machine { namespaces: namespaces.into_iter().collect(), ..Machine::default() };
        let mut world = Self {
            // In memory, as /run is: some ten thousand commits would wait for a disk otherwise.
            home: tempfile::tempdir_in("/dev/shm").unwrap(),
            machine: Arc::new(Mutex::new(machine)),
            daemon: None,
            now: BootMillis(1_000_000),
            beliefs: BTreeMap::new(),
            released: HashMap::new(),
            namespaces,
        };
        world.start();
        world
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn daemon(&self) -> &Attachments<ModelKernel> {
        self.daemon.as_ref().unwrap()
    }

    /// Starts the daemon as its `main` does.
    fn start(&mut self) {
        self.daemon = None;
        self.machine().crash_at = None;
        let (store, found) = Store::open(self.home.path(), "boot").unwrap();
        let numbers = Arc::new(LinkNumbers::default());
        let kernel = ModelKernel::new(Arc::clone(&self.machine), Arc::clone(&numbers));
        let links =
            barewired::kernel::Kernel::links(&kernel).unwrap().into_iter().map(|link| for_recovery(link, Limits::default())).collect();
        let plan = recovery::plan(found.into_contents(), links, &"pods".parse().unwrap(), self.now);
        let pool = Pool::new(&["10.0.0.0/29".parse().unwrap(), "fd00::/64".parse().unwrap()], COOLDOWN);
        let daemon = Attachments::recover(kernel, store, pool, numbers, Arc::new(Metrics::default()), plan);
        let uplink =
            Uplink { index: 0, ifindex: Ifindex(2), ifname: "eth1".into(), mtu: 9001, running: true, gateways: vec![], addresses: vec![] };
        daemon.set_uplinks(&[uplink]);
        daemon.set_allowed([("edge".to_owned(), vec!["10.9.0.0/24".parse().unwrap()])].into());
        self.daemon = Some(daemon);
    }

    /// Runs an operation; `None` where the daemon died in it and was started again.
    fn survive<T>(&mut self, operation: impl FnOnce(&Attachments<ModelKernel>, BootMillis) -> T) -> Option<T> {
        let now = self.now;
        let outcome = catch_unwind(AssertUnwindSafe(|| operation(self.daemon(), now)));
        match outcome {
            Ok(value) => Some(value),
            Err(panic) => {
                assert_eq!(panic.downcast_ref::<&str>(), Some(&"the daemon dies here"), "an honest panic");
                self.start();
                None
            }
        }
    }

    fn request(id: u8) -> AddRequest {
        AddRequest {
            network: "pods".parse().unwrap(),
            container_id: name(id).parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
            netns_path: format!("/run/netns/{id}"),
            pod: PodIdentity { namespace: "edge".to_owned(), ..PodIdentity::default() },
            ips: vec![],
            mac: None,
            bandwidth: None,
            internet_egress: None,
            allowed_addresses: (id >= FIRST_BESIDE).then(|| BESIDE.to_owned()),
        }
    }

    fn add(&mut self, id: u8) {
        let (request, namespace) = (Self::request(id), self.namespaces[usize::from(id)]);
        let outcome = self.survive(|daemon, now| daemon.add(&request, &namespace, &|| Ok(()), now).map(|attached| attached.result));
        let before = self.beliefs.get(&id).cloned();
        match outcome {
            Some(Ok(result)) => {
                let addresses: Vec<_> = result.ips.iter().map(|ip| ip.address.ip()).collect();
                assert_eq!(addresses.len(), 2, "one address of each family");
                let alive = self.machine().namespaces.contains(&namespace);
                if before == Some(Belief::Attached(addresses.clone())) && alive {
                    return;
                }
                for address in &addresses {
                    let early = self.released.remove(address).is_some_and(|at| self.now.since(at) < COOLDOWN);
                    assert!(!early, "{address} was handed out within its cooldown");
                }
                self.beliefs.insert(id, Belief::Attached(addresses));
            }
            Some(Err(error)) => {
                self.assert_reasonable(&error, namespace);
                // A refused ADD changed nothing, unless the container had lost its interface.
                if before.is_some() {
                    self.beliefs.insert(id, Belief::Unknown);
                }
            }
            None => {
                self.beliefs.insert(id, Belief::Unknown);
            }
        }
    }

    /// An ADD that ends, or the daemon with it, when it looks for its caller. What was answered before is there after it.
    fn add_to_nobody(&mut self, id: u8, look: Look, then: impl Fn() -> Error) {
        let (request, namespace) = (Self::request(id), self.namespaces[usize::from(id)]);
        let was_attached = self.recorded().contains_key(&id);
        let outcome = self.survive(|daemon, now| {
            let looks = Cell::new(if look == Look::Addressed { 1 } else { 2 });
            let awaited = || {
                looks.set(looks.get() - 1);
                if looks.get() == 0 { Err(then()) } else { Ok(()) }
            };
            daemon.add(&request, &namespace, &awaited, now).map(|attached| attached.result)
        });
        match outcome {
            Some(Ok(_)) => assert!(was_attached, "it was answered before, and nothing was done"),
            Some(Err(_)) | None => {
                assert!(was_attached || !self.recorded().contains_key(&id), "I3: nobody waited for it");
                self.beliefs.insert(id, Belief::Unknown);
            }
        }
    }

    fn add_untold(&mut self, id: u8) {
        let (request, namespace) = (Self::request(id), self.namespaces[usize::from(id)]);
        let before = self.recorded().get(&id).cloned();
        let outcome = self.survive(|daemon, now| daemon.add(&request, &namespace, &|| Ok(()), now).map(|attached| attached.undo(now)));
        let after = self.recorded().get(&id).cloned();
        match outcome {
            // Nothing of what this one made is left; one of before stays.
            Some(Ok(())) => assert!(after.is_none() || after == before, "I3: {after:?} was told to nobody"),
            Some(Err(_)) => {}
            None => {}
        }
        if after.is_none() || after != before {
            self.forget(id);
            self.beliefs.insert(id, Belief::Unknown);
        }
    }

    /// Writes a second record of a container's addresses and number, while no daemon runs.
    fn twin(&mut self, id: u8) {
        let of = self.daemon().records().into_iter().find(|record| record.key.container_id.as_str() == name(id));
        let Some(record) = of else { return };
        self.daemon = None;
        let (store, _) = Store::open(self.home.path(), "boot").unwrap();
        let key = AttachmentKey { container_id: name(TWINS + id).parse().unwrap(), ..record.key.clone() };
        store.commit(&Change::Attach(&Record { key, ..record })).unwrap();
        drop(store);
        self.start();
    }

    fn del_twin(&mut self, id: u8) {
        let request = DelRequest { container_id: name(TWINS + id).parse().unwrap(), ifname: "eth0".parse().unwrap() };
        if self.survive(|daemon, now| daemon.del(&request, now).unwrap()).is_none() {
            self.del_twin(id);
        }
    }

    fn assert_reasonable(&self, error: &Error, namespace: u64) {
        match error.code {
            Code::TryAgainLater => {
                let is_taken = error.msg.contains(&format!("{BESIDE} is in use by"));
                assert!(error.msg.contains("no free IPv4 address") || is_taken, "{error}");
            }
            Code::InvalidEnvironment => {
                assert!(!self.machine().namespaces.contains(&namespace), "{error}");
            }
            _ => panic!("unexpected: {error}"),
        }
    }

    fn forget(&mut self, id: u8) {
        if let Some(Belief::Attached(addresses)) = self.beliefs.remove(&id) {
            self.released.extend(addresses.into_iter().map(|address| (address, self.now)));
        }
    }

    fn del(&mut self, id: u8) {
        let request = DelRequest { container_id: name(id).parse().unwrap(), ifname: "eth0".parse().unwrap() };
        match self.survive(|daemon, now| daemon.del(&request, now)) {
            Some(outcome) => {
                outcome.unwrap();
                assert!(!self.recorded().contains_key(&id), "I4: a DEL that was answered was applied");
                self.forget(id);
            }
            // Whether it was applied is not known; the runtime sends it again.
            None => self.del(id),
        }
    }

    fn del_queued(&mut self, id: u8, queued_at: BootMillis) {
        let request = DelRequest { container_id: name(id).parse().unwrap(), ifname: "eth0".parse().unwrap() };
        let made = self.recorded().get(&id).map(|(_, made)| *made);
        if self.survive(|daemon, now| daemon.del_queued(&request, queued_at, now)).is_none() {
            return self.del_queued(id, queued_at);
        }
        let gone = !self.recorded().contains_key(&id);
        if made.is_some_and(|made| made > queued_at) {
            assert!(!gone, "a queued DEL removed an attachment that was made after it");
        } else {
            assert!(gone);
            self.forget(id);
        }
    }

    fn gc(&mut self, valid: &BTreeSet<u8>) {
        let attachment = |id: &u8| Attachment { container_id: name(*id).parse().unwrap(), ifname: "eth0".parse().unwrap() };
        let request = GcRequest { network: "pods".parse().unwrap(), valid: valid.iter().map(attachment).collect() };
        let before = self.recorded();
        let live: BTreeSet<u8> = before.keys().filter(|id| self.has_link(**id)).copied().collect();
        if let Some(outcome) = self.survive(|daemon, now| daemon.gc(&request, now)) {
            outcome.unwrap();
            for id in before.keys() {
                let stays = valid.contains(id) || (valid.is_empty() && live.contains(id));
                assert_eq!(self.recorded().contains_key(id), stays, "I5: container {id}, valid {valid:?}");
            }
        }
        self.notice_losses(&before);
    }

    /// What the daemon released of itself (GC, sweep) is no longer attached in the runtime's eyes either.
    fn notice_losses(&mut self, before: &BTreeMap<u8, (Vec<IpAddr>, BootMillis)>) {
        let after = self.recorded();
        for id in before.keys().filter(|id| !after.contains_key(id)) {
            self.forget(*id);
        }
    }

    fn recorded(&self) -> BTreeMap<u8, (Vec<IpAddr>, BootMillis)> {
        let id = |text: &str| text.trim_start_matches('c').parse::<u8>().unwrap();
        let records = self.daemon().records();
        let records = records.into_iter().map(|record| (id(record.key.container_id.as_str()), (record.addresses, record.attached_at)));
        records.filter(|(id, _)| *id < TWINS).collect()
    }

    fn has_link(&self, id: u8) -> bool {
        let namespace = self.namespaces[usize::from(id)];
        self.machine().links.values().any(|(link, home, _)| *home == namespace && link.owner.is_some())
    }

    /// A container whose namespace is gone gets a new sandbox.
    fn renew(&mut self, id: u8) {
        let alive = self.machine().namespaces.contains(&self.namespaces[usize::from(id)]);
        if !alive {
            self.namespaces[usize::from(id)] += 100;
            let fresh = self.namespaces[usize::from(id)];
            self.machine().namespaces.insert(fresh);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Add(id) => {
                self.renew(id);
                self.add(id);
            }
            Step::AddHungUp(id, look) => {
                self.renew(id);
                self.add_to_nobody(id, look, || Error::new(Code::TryAgainLater, "nobody waits"));
            }
            Step::AddCrashes(id, look) => {
                self.renew(id);
                self.add_to_nobody(id, look, || std::panic::panic_any("the daemon dies here"));
            }
            Step::AddUntold(id) => {
                self.renew(id);
                self.add_untold(id);
            }
            Step::Twin(id) => self.twin(id),
            Step::DelTwin(id) => self.del_twin(id),
            Step::Del(id) => self.del(id),
            Step::DelQueuedAgo(id, ago) => self.del_queued(id, BootMillis(self.now.0.saturating_sub(ago.into()))),
            Step::KillNamespace(id) => {
                let namespace = self.namespaces[usize::from(id)];
                self.machine().kill_namespace(namespace);
            }
            Step::Gc(valid) => self.gc(&valid),
            Step::Sweep => {
                let before = self.recorded();
                self.survive(|daemon, now| daemon.sweep(now));
                self.notice_losses(&before);
            }
            Step::Settle => {
                barewired::kernel::Kernel::flush_removals(self.daemon().kernel(), Duration::ZERO);
            }
            Step::Wait(millis) => self.now = self.now.plus(millis.into()),
            Step::CrashIn(point) => self.machine().crash_at = Some(point),
            Step::Restart => self.start(),
            Step::LoseStore => {
                self.daemon = None;
                let path = self.home.path().join("store.redb");
                let length = std::fs::metadata(&path).unwrap().len();
                std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
                // Only the kernel is left to tell: pods without a link, and cooldowns, are forgotten with the store.
                self.released.clear();
                self.start();
                let known = self.recorded();
                self.beliefs.retain(|id, _| known.contains_key(id));
            }
        }
        self.now = self.now.plus(1);
        self.assert_invariants();
    }

    fn assert_invariants(&self) {
        let recorded = self.recorded();
        let mut owners = BTreeMap::new();
        for (id, (addresses, _)) in &recorded {
            for address in addresses {
                assert_eq!(owners.insert(*address, id), None, "I1: {address} has two owners");
            }
        }
        let records = self.daemon().records();
        let beside = records.iter().filter(|record| !record.key.container_id.as_str().starts_with("c2") && !record.allowed.is_empty());
        assert!(beside.count() <= 1, "I1: {BESIDE} has two owners");
        for (id, belief) in &self.beliefs {
            if let Belief::Attached(addresses) = belief {
                let known = recorded.get(id).map(|(addresses, _)| addresses);
                assert_eq!(known, Some(addresses), "I3: container {id} was answered and is lost");
            }
        }
    }

    /// After everything that was due is done, kernel and records agree.
    fn assert_clean(&mut self) {
        self.start();
        barewired::kernel::Kernel::flush_removals(self.daemon().kernel(), Duration::ZERO);
        let recorded: BTreeSet<IpAddr> = self.recorded().into_values().flat_map(|(addresses, _)| addresses).collect();
        for address in self.machine().addresses() {
            assert!(recorded.contains(&address), "I3: a link with {address} belongs to nobody");
        }
        let bare = self.machine().links.values().filter(|(link, _, _)| link.owner.is_none()).count();
        assert_eq!(bare, 0, "I3: an unfinished link was left");
        for id in 0..CONTAINERS {
            self.del(id);
            self.del_twin(id);
        }
        barewired::kernel::Kernel::flush_removals(self.daemon().kernel(), Duration::ZERO);
        assert!(self.recorded().is_empty() && self.machine().links.is_empty(), "I4: after every DEL nothing is left");
        let held: usize = self.daemon().summary(self.now).pool.iter().map(|(_, counts)| counts.held).sum();
        assert_eq!(held, 0, "no address leaks");
        let owner = self.daemon().look_at_pool(|pool| pool.owner_of(BESIDE.parse().unwrap()).cloned());
        assert_eq!(owner, None, "nobody has {BESIDE} any more");
    }
}

fn name(id: u8) -> String {
    format!("c{id}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_under_crashes(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.assert_clean();
    }
}

/// Each crash point by itself, so that none depends on luck to be met.
#[test]
fn every_crash_point_is_survived() {
    let points =
        [CrashPoint::BeforeLink, CrashPoint::BareLink, CrashPoint::BeforeCommit, CrashPoint::AfterCommit, CrashPoint::BeforeRemoval];
    for point in points {
        let mut world = World::new();
        for step in [Step::Add(0), Step::CrashIn(point), Step::Add(1), Step::Del(0), Step::Add(1), Step::Restart, Step::Add(2)] {
            world.take(step);
        }
        world.assert_clean();
    }
}
