//! ADD, DEL, CHECK, GC and STATUS as transactions over pool, kernel and store.
//!
//! ADD: take addresses (in memory), wire the pod, commit, answer. One commit is enough: until it, the link itself, which
//! the kernel keeps with its owner's name, is the record of what was begun, and recovery removes links without a record
//! (docs/adr/0004). Until it, too, one guard holds all that was done, and undoes it where the ADD fails (`reservation`).
//!
//! DEL: forget, put the addresses into cooldown, commit, answer; the link goes soon after, in company.
//!
//! Operations on one attachment come one after the other (`lock`); operations on different ones run side by side. Addresses and
//! interface numbers have owners (docs/adr/0019): whatever two records say, what one gives back is its own.

mod add;
mod adoption;
pub(crate) mod aftercare;
mod beside;
mod check;
mod del;
mod demand;
mod differences;
mod durable;
mod gc;
pub mod link;
mod living;
mod lock;
mod pool;
mod readiness;
mod release_address;
mod reservation;
mod result;
mod sweep;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use datapath::{FoundLink, Ifindex, Uplink};
use ipam_pool::range::Family;
use ipam_pool::{Counts, Pool};
use ipam_state::record::{AttachmentKey, LaterRecord, Record};
use ipam_state::recovery::Plan;
use ipam_state::store::{Change, Store};
use node_api::BootMillis;
use tokio::sync::Notify;

pub use self::add::Attached;
use self::del::Ended;
pub use self::demand::Demand;
use self::link::pod_link;
use self::sweep::Dead;
use crate::allowed::Ranges;
use crate::kernel::Kernel;
use crate::kernel::link_numbers::LinkNumbers;
use crate::latencies::Metrics;
use crate::readiness::StatusPolicy;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// What is called when an ADD begins to wait.
type Relief = Box<dyn Fn() + Send + Sync>;

/// All attachments of this node.
pub struct Attachments<K: Kernel> {
    kernel: K,
    store: Store,
    numbers: Arc<LinkNumbers>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// An operation on an attachment has ended.
    unlocked: Condvar,
    /// The pool may have more than before.
    pool_changed: Condvar,
    /// An ADD has begun to wait for an address.
    shortage: Notify,
    /// Sees to it that others are served while ADDs wait.
    relief: OnceLock<Relief>,
    /// Why the last commit failed, or the last probe; nothing where it did not.
    store_fault: Mutex<Option<String>>,
}

#[derive(Debug)]
struct State {
    pool: Pool,
    records: BTreeMap<AttachmentKey, Record>,
    /// Attachments that are on record in a form that this version does not understand. They keep what they have until a DEL.
    later: BTreeMap<AttachmentKey, LaterRecord>,
    /// Attachments that an operation is at work on.
    locked: HashSet<AttachmentKey>,
    /// DELs that could not be committed (a full disk): they are done in memory and tried again.
    uncommitted: Vec<Ended>,
    /// How long an ADD waits for the cloud to give an address; nothing where addresses come from no cloud.
    patience: Option<Duration>,
    /// Pods that want an address and have none.
    demand: Demand,
    /// Why there are no more addresses, where somebody knows.
    obstacle: Option<String>,
    /// Whether and how the node can have more, by family.
    growth: BTreeMap<Family, String>,
    /// Attachments whose link is gone.
    dead: HashMap<AttachmentKey, Dead>,
    /// MAC addresses that pods have now and had not before, and that are not followed yet.
    changed_macs: HashMap<AttachmentKey, [u8; 6]>,
    /// Those that are there. None where the node's own is not, or is not known yet.
    uplinks: Vec<Uplink>,
    /// Why the node's own uplink is not there, once it was looked for.
    no_uplink: Option<String>,
    /// Why the kernel forwards no packets of pods.
    not_forwarding: Option<String>,
    status_policy: StatusPolicy,
    /// What pods may ask to use beside their own addresses.
    allowed: Ranges,
    draining: bool,
}

/// What the daemon can tell of itself.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Attachments, those that this version does not understand among them.
    pub attachments: usize,
    /// DELs that wait for their commit.
    pub uncommitted: usize,
    /// Addresses by family.
    pub pool: Vec<(Family, Counts)>,
}

impl<K: Kernel> Attachments<K> {
    /// Takes up what a start has planned: see [`ipam_state::recovery`].
    pub fn recover(kernel: K, store: Store, mut pool: Pool, numbers: Arc<LinkNumbers>, metrics: Arc<Metrics>, plan: Plan) -> Self {
        let Plan { records, adopted, later, held, numbers: taken, repair, freed, cloud: _, quarantine, remove, remarks: _ } = plan;
        for record in &adopted {
            if let Err(error) = store.commit(&Change::Attach(record)) {
                tracing::error!(attachment = %record.key, %error, "adopted attachment not on record; the next start rebuilds it from its link again");
            }
        }
        taken.into_iter().for_each(|(number, owner)| numbers.restore(number, owner));
        for (address, owner) in &held {
            pool.restore_held(*address, owner);
        }
        quarantine.into_iter().for_each(|(address, why)| pool.quarantine(address, why));
        pool.restore_freed(freed);
        let records: BTreeMap<_, _> = records.into_iter().chain(adopted).map(|record| (record.key.clone(), record)).collect();
        records
            .values()
            .filter(|record| numbers.is_of(Ifindex(record.host_ifindex), &record.key))
            .for_each(|record| kernel.open_account(record));
        for link in repair.iter().filter_map(pod_link) {
            if let Err(error) = kernel.repair(&link) {
                tracing::error!(link = link.host_ifname, %error, "host route not repaired");
            }
        }
        remove.into_iter().for_each(|link| kernel.remove_soon(Ifindex(link)));
        let state = State {
            pool,
            records,
            later: later.into_iter().filter_map(|record| Some((record.key.clone()?, record))).collect(),
            locked: HashSet::new(),
            uncommitted: Vec::new(),
            patience: None,
            demand: Demand::default(),
            obstacle: None,
            growth: BTreeMap::new(),
            dead: HashMap::new(),
            changed_macs: HashMap::new(),
            uplinks: Vec::new(),
            no_uplink: None,
            not_forwarding: None,
            status_policy: StatusPolicy::default(),
            allowed: Ranges::new(),
            draining: false,
        };
        Self {
            kernel,
            store,
            numbers,
            metrics,
            state: Mutex::new(state),
            unlocked: Condvar::new(),
            pool_changed: Condvar::new(),
            shortage: Notify::new(),
            relief: OnceLock::new(),
            store_fault: Mutex::new(None),
        }
    }

    /// The kernel underneath.
    pub const fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Looks at the pool and changes nothing.
    pub fn look_at_pool<T>(&self, look: impl FnOnce(&Pool) -> T) -> T {
        look(&self.state().pool)
    }

    /// Every attachment.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.state().records.values().cloned().collect()
    }

    /// Counts for telemetry.
    #[must_use]
    pub fn summary(&self, now: BootMillis) -> Summary {
        let state = self.state();
        let pool = state.pool.families().map(|family| (family, state.pool.counts(family, now))).collect();
        Summary { attachments: state.records.len() + state.later.len(), uncommitted: state.uncommitted.len(), pool }
    }

    /// Whether the interface number that a record names is its own: of two records of one number, one is wrong.
    fn has_number(&self, record: &Record) -> bool {
        self.numbers.is_of(Ifindex(record.host_ifindex), &record.key)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held left at worst an address held that nobody has; going on beats refusing all pods.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `link` is the host end of `record`'s pod.
fn owns(record: &Record, link: &FoundLink) -> bool {
    link.ifindex.0 == record.host_ifindex && link::is_of(link, &record.key)
}
