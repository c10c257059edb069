//! One daemon, what runtimes believe of it, and what happens to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use barewired::attachments::Attachments;
use barewired::attachments::link::for_recovery;
use barewired::kernel::Kernel;
use barewired::kernel::link_numbers::LinkNumbers;
use barewired::latencies::Metrics;
use cni_spec::{Attachment, Code, Error, PodIdentity};
use datapath::fast_path::Limits;
use datapath::{Ifindex, PodRange, Uplink};
use ipam_pool::range::AddressRange;
use ipam_pool::{Closed, Pool, RangeState};
use ipam_state::recovery;
use ipam_state::store::Store;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use node_api::{AddRequest, BootMillis, DelRequest, GcRequest};
use shuttle::rand::{Rng, thread_rng};

use crate::kernel::{Machine, ModelKernel};

/// Few, so that they are used again at once; none of them cools down.
const RANGE: &str = "10.0.0.0/29";
/// Comes and goes, as a cloud's do.
const BLOCK: &str = "10.0.1.0/30";
const CONTAINERS: u8 = 4;
/// An attachment that no runtime knows of: a GC removes it.
const STALE: u8 = 9;
/// Longer than the sweep gives an attachment without a link.
const LONG: u64 = 6 * 60 * 1000;
const OPERATIONS: usize = 4;

/// To be done once: a write beyond a limit of file sizes is an error, and not the end of the process.
pub(crate) fn prepare() {
    let mut beyond = SigSet::empty();
    beyond.add(Signal::SIGXFSZ);
    beyond.thread_block().unwrap();
}

pub(crate) struct World {
    home: tempfile::TempDir,
    machine: Arc<Mutex<Machine>>,
    daemon: Attachments<ModelKernel>,
    clock: AtomicU64,
    /// What the runtimes have been answered, and have not taken back.
    attached: Mutex<BTreeMap<u8, Vec<IpAddr>>>,
}

impl World {
    pub(crate) fn new() -> Self {
        full_disk(false);
        let home = tempfile::tempdir_in("/dev/shm").unwrap();
        let namespaces = (0..u64::from(CONTAINERS)).chain([STALE.into()]).collect();
        let machine = Arc::new(Mutex::new(Machine { namespaces, ..Machine::default() }));
        let daemon = daemon(&home, &machine);
        let uplink =
            |mtu| Uplink { index: 0, ifindex: Ifindex(2), ifname: "eth1".into(), mtu, running: true, gateways: vec![], addresses: vec![] };
        daemon.set_uplinks(&[uplink(9001)]);
        let world = Self { home, machine, daemon, clock: AtomicU64::new(1_000_000), attached: Mutex::default() };
        world.add(STALE).unwrap();
        world
    }

    fn now(&self) -> BootMillis {
        BootMillis(self.clock.fetch_add(1, Ordering::Relaxed))
    }

    fn attached(&self) -> std::sync::MutexGuard<'_, BTreeMap<u8, Vec<IpAddr>>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: u8) -> Result<Vec<IpAddr>, Error> {
        let request = AddRequest {
            network: "pods".parse().unwrap(),
            container_id: name(id).parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
            netns_path: format!("/run/netns/{id}"),
            pod: PodIdentity::default(),
            ips: vec![],
            mac: None,
            bandwidth: None,
            internet_egress: None,
            allowed_addresses: None,
        };
        let is_awaited = id == STALE || thread_rng().gen_ratio(7, 8);
        let awaited = || if is_awaited { Ok(()) } else { Err(Error::new(Code::TryAgainLater, "nobody waits")) };
        let attached = self.daemon.add(&request, &id.into(), &awaited, self.now())?;
        let addresses: Vec<_> = attached.result.ips.iter().map(|ip| ip.address.ip()).collect();
        // What an earlier ADD was answered for stays.
        if id != STALE && !self.attached().contains_key(&id) && thread_rng().gen_ratio(1, 8) {
            attached.undo(self.now());
            return Err(Error::new(Code::TryAgainLater, "the answer reached nobody"));
        }
        if id != STALE {
            // Before any other operation on it can begin.
            let others = self.attached().insert(id, addresses.clone());
            assert!(others.is_none_or(|before| before == addresses), "an ADD that is repeated is answered alike");
            for (other, theirs) in self.attached().iter().filter(|(other, _)| **other != id) {
                assert!(!addresses.iter().any(|address| theirs.contains(address)), "I1: {id} and {other} have {addresses:?}");
            }
        }
        Ok(addresses)
    }

    fn del(&self, id: u8) {
        // From now on nobody relies on it.
        self.attached().remove(&id);
        let request = DelRequest { container_id: name(id).parse().unwrap(), ifname: "eth0".parse().unwrap() };
        self.daemon.del(&request, self.now()).unwrap();
    }

    pub(crate) fn daemon(&self) -> &Attachments<ModelKernel> {
        &self.daemon
    }

    /// An ADD that its caller waits for.
    pub(crate) fn attach(&self, id: u8) {
        while self.add(id).is_err() {}
    }

    /// A pod has ended, and its link goes soon.
    pub(crate) fn begin_removal(&self) {
        self.attach(0);
        self.del(0);
    }

    pub(crate) fn del_on_full_disk(&self) {
        self.attach(0);
        full_disk(true);
        self.del(0);
        full_disk(false);
        self.daemon.kernel().flush_removals(Duration::ZERO);
        assert_eq!(self.daemon.summary(self.now()).uncommitted, 1, "the disk was full");
    }

    /// A pod's interface goes without a DEL, and the sweep has seen that.
    pub(crate) fn die(&self) {
        self.attach(0);
        self.machine.lock().unwrap().links.retain(|_, (_, home, _)| *home != 0);
        self.attached().remove(&0);
        self.daemon.sweep(self.now());
    }

    /// A sweep long after the last.
    pub(crate) fn sweep(&self) {
        self.daemon.sweep(self.now().plus(LONG));
    }

    /// What a runtime does with its containers.
    pub(crate) fn runtime(&self, containers: [u8; 2]) {
        for _ in 0..OPERATIONS {
            let id = containers[thread_rng().gen_range(0..2)];
            if thread_rng().gen_ratio(2, 3) {
                let is_attached = self.attached().contains_key(&id);
                if let Err(error) = self.add(id) {
                    assert!([Code::TryAgainLater, Code::IoFailure].contains(&error.code), "{error}");
                    assert!(!is_attached, "an ADD that was answered is answered again: {error}");
                }
            } else {
                self.del(id);
            }
        }
    }

    /// What the daemon does by itself.
    pub(crate) fn keep_house(&self) {
        let valid = (0..CONTAINERS).map(|id| Attachment { container_id: name(id).parse().unwrap(), ifname: "eth0".parse().unwrap() });
        let gc = GcRequest { network: "pods".parse().unwrap(), valid: valid.collect() };
        for _ in 0..OPERATIONS {
            match thread_rng().gen_range(0..4) {
                0 => self.daemon.settle(),
                1 => self.daemon.gc(&gc, self.now()).unwrap(),
                2 => self.daemon.look_after_fresh(self.now()),
                _ => {
                    let now = self.now();
                    self.daemon.sweep(now);
                    self.daemon.sweep(now.plus(LONG));
                }
            }
        }
    }

    pub(crate) fn remove_links(&self) {
        for _ in 0..2 * OPERATIONS {
            self.daemon.kernel().flush_removals(Duration::ZERO);
            shuttle::thread::yield_now();
        }
    }

    /// A reload, a cloud that gives and takes, an address on the host.
    pub(crate) fn change_network(&self) {
        let block: AddressRange = BLOCK.parse().unwrap();
        let moved = PodRange { first: [10, 0, 0, 0].into(), last: [10, 0, 0, 7].into(), uplink: 0 };
        for _ in 0..OPERATIONS {
            let now = self.now();
            match thread_rng().gen_range(0..6) {
                0 => self.daemon.with_pool(|pool, _| pool.add_range(block).unwrap()),
                // Refused while a pod has an address of it.
                1 => drop(self.daemon.with_pool(|pool, _| pool.remove_range(&block, now))),
                2 => drop(self.daemon.with_pool(|pool, _| pool.set_state(&block, RangeState::Closed(Closed::Lost)))),
                3 => drop(self.daemon.with_pool(|pool, _| pool.set_host_addresses(&["10.0.0.3".parse().unwrap()], now))),
                4 => self.daemon.follow(std::slice::from_ref(&moved)),
                _ => self.daemon.adopt().unwrap(),
            }
        }
    }

    pub(crate) fn fill_disk(&self) {
        if thread_rng().gen_ratio(1, 2) {
            full_disk(true);
            for _ in 0..thread_rng().gen_range(1..20) {
                shuttle::thread::yield_now();
            }
            full_disk(false);
        }
    }

    /// When nobody is at work any more, runtimes, daemon, store and kernel agree.
    pub(crate) fn assert_settled(&self) {
        self.daemon.settle();
        self.daemon.sweep(self.now());
        self.daemon.kernel().flush_removals(Duration::ZERO);
        assert_eq!(self.daemon.summary(self.now()).uncommitted, 0);

        let records = self.daemon.records();
        let recorded: BTreeMap<_, _> = records.iter().map(|record| (record.key.to_string(), record.addresses.clone())).collect();
        for (id, addresses) in self.attached().iter() {
            assert_eq!(recorded.get(&format!("{}/eth0", name(*id))), Some(addresses), "I3: {id} was answered and is lost");
        }
        let linked: BTreeMap<_, _> = {
            let machine = self.machine.lock().unwrap();
            let name = |owner: &Option<(String, String)>| owner.as_ref().map_or_else(String::new, |(id, ifname)| format!("{id}/{ifname}"));
            machine.links.values().map(|(link, _, _)| (name(&link.owner), link.addresses.clone())).collect()
        };
        assert_eq!(linked, recorded, "links and records");
        let addresses: BTreeSet<_> = recorded.values().flatten().collect();
        assert_eq!(addresses.len(), records.len(), "I1: each has an address of its own");
        let held: usize = self.daemon.summary(self.now()).pool.iter().map(|(_, counts)| counts.held).sum();
        assert_eq!(held, records.len(), "no address leaks");

        // What is durable is what is known.
        let copy = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::copy(self.home.path().join("store.redb"), copy.path().join("store.redb")).unwrap();
        let durable = Store::open(copy.path(), "boot").unwrap().1.into_contents().unwrap();
        let durable: BTreeMap<_, _> = durable.records.into_iter().map(|record| (record.key.to_string(), record.addresses)).collect();
        assert_eq!(durable, recorded, "store and records");

        for id in (0..CONTAINERS).chain([STALE]) {
            self.del(id);
        }
        self.daemon.kernel().flush_removals(Duration::ZERO);
        let held: usize = self.daemon.summary(self.now()).pool.iter().map(|(_, counts)| counts.held).sum();
        assert!(held == 0 && self.machine.lock().unwrap().links.is_empty(), "I4: after every DEL nothing is left");
    }
}

fn daemon(home: &tempfile::TempDir, machine: &Arc<Mutex<Machine>>) -> Attachments<ModelKernel> {
    let (store, found) = Store::open(home.path(), "boot").unwrap();
    let numbers = Arc::new(LinkNumbers::default());
    let kernel = ModelKernel::new(Arc::clone(machine), Arc::clone(&numbers));
    let links = kernel.links().unwrap().into_iter().map(|link| for_recovery(link, Limits::default())).collect();
    let plan = recovery::plan(found.into_contents(), links, &"pods".parse().unwrap(), BootMillis(1));
    let pool = Pool::new(&[RANGE.parse().unwrap()], 0);
    Attachments::recover(kernel, store, pool, numbers, Arc::new(Metrics::default()), plan)
}

/// No file grows or changes while the disk is full.
fn full_disk(is_full: bool) {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, if is_full { 0 } else { hard }, hard).unwrap();
}

fn name(id: u8) -> String {
    format!("c{id}")
}
