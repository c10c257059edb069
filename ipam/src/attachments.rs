//! ADD, DEL, CHECK, GC and STATUS as transactions over pool, kernel and store.
//!
//! ADD: take addresses (in memory), wire the pod, commit, answer. One commit is enough: until it, the link itself, which
//! the kernel keeps with its owner's name, is the record of what was begun, and recovery removes links without a record
//! (docs/adr/0004). Any failure undoes its own steps in reverse, and the addresses cool down.
//!
//! DEL: forget, put the addresses into cooldown, commit, answer; the link goes soon after, in company.
//!
//! Operations on one attachment take turns; operations on different ones run side by side.

mod aftercare;
mod check;
mod turn;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cni_spec::{AddResult, Code, Error};
use datapath::netlink::NetlinkError;
use datapath::{FoundLink, Ifindex, PodLink, PodRange, Uplink, WiringError, host_ifname};
use node_api::{AddRequest, BootMillis, CheckRequest, DelRequest, GcRequest};
use tokio::sync::Notify;

use self::check::Found;
use crate::failure;
use crate::kernel::Kernel;
use crate::link_numbers::LinkNumbers;
use crate::metrics::{AddRefusal, Metrics};
use crate::pool::{Counts, Pool, PoolError, Use};
use crate::range::Family;
use crate::readiness::{self, Fault, StatusPolicy};
use crate::record::{AttachmentKey, RECORD_FORMAT, Record};
use crate::recovery::Plan;
use crate::server::WORKERS;
use crate::store::{Change, Store, StoreError};

/// How long an ADD waits for removals that hold the name it needs. They take some 30 ms.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// A host end's number can be taken by somebody else's link; each try takes another number.
const NUMBER_ATTEMPTS: u32 = 8;
/// How long a pod's link must have been gone before its attachment is released without a DEL. A runtime that is going to
/// send the DEL has done so by then.
const DEAD_AFTER_MILLIS: u64 = 5 * 60 * 1000;

/// ADDs that wait for addresses at a time: half of the workers that serve requests.
const WAITING_MAX: u64 = WORKERS as u64 / 2;

/// All attachments of this node.
pub struct Attachments<K: Kernel> {
    kernel: K,
    store: Store,
    numbers: Arc<LinkNumbers>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    turn_over: Condvar,
    /// The pool may have more than before.
    pool_changed: Condvar,
    /// An ADD has begun to wait for an address.
    shortage: Notify,
    /// Why the last commit failed, or the last probe; nothing where it did not.
    store_trouble: Mutex<Option<String>>,
}

#[derive(Debug)]
struct State {
    pool: Pool,
    records: BTreeMap<AttachmentKey, Record>,
    /// Attachments that an operation is at work on.
    busy: HashSet<AttachmentKey>,
    /// DELs that could not be committed (a full disk): they are done in memory and tried again.
    uncommitted: Vec<(Record, BootMillis)>,
    /// How long an ADD waits for the cloud to give an address; nothing where addresses come from no cloud.
    patience: Option<Duration>,
    /// ADDs that wait.
    waiting: u64,
    /// Why there are no more addresses, where somebody knows.
    trouble: Option<String>,
    /// Attachments whose link is gone, and since when.
    dead_since: HashMap<AttachmentKey, BootMillis>,
    /// MAC addresses that pods have now and had not before, and that are not followed yet.
    changed_macs: HashMap<AttachmentKey, [u8; 6]>,
    /// Those that are there. None where the node's own is not, or is not known yet.
    uplinks: Vec<Uplink>,
    /// Why the node's own uplink is not there, once it was looked for.
    no_uplink: Option<String>,
    /// Why the kernel forwards no packets of pods.
    not_forwarding: Option<String>,
    status_policy: StatusPolicy,
    draining: bool,
}

/// What the daemon can tell of itself.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Attachments.
    pub attachments: usize,
    /// DELs that wait for their commit.
    pub uncommitted: usize,
    /// Addresses by family.
    pub pool: Vec<(Family, Counts)>,
}

impl<K: Kernel> Attachments<K> {
    /// Takes up what a start has planned: see [`crate::recovery`].
    pub fn recover(kernel: K, store: Store, mut pool: Pool, numbers: Arc<LinkNumbers>, metrics: Arc<Metrics>, plan: Plan) -> Self {
        plan.numbers.iter().for_each(|number| numbers.claim(*number));
        for record in &plan.adopted {
            // The link itself is the record until it can be written: the next start rebuilds it again.
            if let Err(error) = store.commit(&Change::Attach(record)) {
                tracing::error!(attachment = %record.key, %error, "was rebuilt from its link, and is not on disk");
            }
        }
        let records: BTreeMap<_, _> = plan.records.into_iter().chain(plan.adopted).map(|record| (record.key.clone(), record)).collect();
        for record in records.values() {
            numbers.claim(Ifindex(record.host_ifindex));
            kernel.open_account(record);
            record.addresses.iter().for_each(|address| pool.restore_held(*address));
        }
        plan.quarantine.into_iter().for_each(|(address, why)| pool.quarantine(address, why));
        pool.restore_freed(plan.freed);
        for link in plan.repair.iter().filter_map(Record::link) {
            if let Err(error) = kernel.repair(&link) {
                tracing::error!(link = link.host_ifname, %error, "a host route could not be repaired");
            }
        }
        plan.remove.iter().for_each(|link| kernel.remove_soon(*link));
        let state = State {
            pool,
            records,
            busy: HashSet::new(),
            uncommitted: Vec::new(),
            patience: None,
            waiting: 0,
            trouble: None,
            dead_since: HashMap::new(),
            changed_macs: HashMap::new(),
            uplinks: Vec::new(),
            no_uplink: None,
            not_forwarding: None,
            status_policy: StatusPolicy::default(),
            draining: false,
        };
        Self {
            kernel,
            store,
            numbers,
            metrics,
            state: Mutex::new(state),
            turn_over: Condvar::new(),
            pool_changed: Condvar::new(),
            shortage: Notify::new(),
            store_trouble: Mutex::new(None),
        }
    }

    /// Has the kernel take up the pods that run already. Once, before any ADD, and when the kernel knows the node's network: that
    /// tells which uplink is a pod's.
    ///
    /// # Errors
    /// Where the kernel's tables cannot be read.
    pub fn adopt(&self) -> Result<(), NetlinkError> {
        self.look_after_all();
        let links = self.kernel.links()?;
        let living = |record: &&Record| links.iter().any(|link| owns(record, link));
        let adopted: Vec<_> = self.lock().records.values().filter(living).filter_map(Record::link).collect();
        self.kernel.forget_all_but(&adopted);
        self.kernel.adopt(&adopted);
        for link in &adopted {
            if let Err(error) = self.kernel.repair(link) {
                tracing::error!(link = link.host_ifname, %error, "a host end could not be repaired");
            }
        }
        Ok(())
    }

    /// Has the kernel follow pods whose addresses have moved to another uplink.
    pub fn follow(&self, moved: &[PodRange]) {
        // Under the lock: a pod that is detached meanwhile is stopped after this, and not before.
        let state = self.lock();
        let has_moved = |address: &IpAddr| moved.iter().any(|range| (range.first..=range.last).contains(address));
        let links: Vec<_> =
            state.records.values().filter(|record| record.addresses.iter().any(has_moved)).filter_map(Record::link).collect();
        if !links.is_empty() {
            tracing::warn!(pods = links.len(), "their addresses have moved to another interface; they follow, through the host's stack");
            self.kernel.adopt(&links);
        }
    }

    /// The kernel underneath.
    pub const fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Attaches a pod. An identical ADD that was answered before is answered alike.
    ///
    /// # Errors
    /// As the runtime is told; nothing is left behind.
    pub fn add(&self, request: &AddRequest, netns: &K::Netns, now: BootMillis) -> Result<AddResult, Error> {
        let outcome = self.try_add(request, netns, now);
        if let Err(error) = &outcome {
            self.metrics.refused_add(self.reason_of_refusal(error, now));
        }
        outcome
    }

    /// For the count of refused ADDs.
    fn reason_of_refusal(&self, error: &Error, now: BootMillis) -> AddRefusal {
        match error.code {
            Code::TryAgainLater => self.faults(now).iter().find_map(AddRefusal::of).unwrap_or(AddRefusal::Other),
            Code::IoFailure => AddRefusal::Store,
            Code::WiringFailed => AddRefusal::Wiring,
            _ => AddRefusal::Request,
        }
    }

    fn try_add(&self, request: &AddRequest, netns: &K::Netns, now: BootMillis) -> Result<AddResult, Error> {
        let key = AttachmentKey { container_id: request.container_id.clone(), ifname: request.ifname.clone() };
        let turn = self.take_turn(&key)?;
        let now = turn.since(now);
        let known = self.lock().records.get(&key).cloned();
        if let Some(known) = known {
            if self.is_alive(&known, netns)? {
                return Ok(self.looked_after(known).result(&request.netns_path));
            }
            // Its interface is gone: the ADD is a new one for a container that lost its network.
            self.release(&known, now);
        }
        let record = self.wire(request, key, netns, now)?;
        self.commit(&Change::Attach(&record)).map_err(|error| {
            self.kernel.remove_soon(Ifindex(record.host_ifindex));
            self.put_back(&record.addresses, record.attached_at);
            failure::store(&error)
        })?;
        self.kernel.open_account(&record);
        let result = record.result(&request.netns_path);
        tracing::info!(attachment = %record.key, addresses = ?record.addresses, namespace = record.pod.namespace, pod = record.pod.name, "attached");
        self.lock().records.insert(record.key.clone(), record);
        Ok(result)
    }

    /// Detaches a pod; one that is not attached counts as detached.
    ///
    /// # Errors
    /// Only where another operation on the same attachment does not end.
    pub fn del(&self, request: &DelRequest, now: BootMillis) -> Result<(), Error> {
        let key = AttachmentKey { container_id: request.container_id.clone(), ifname: request.ifname.clone() };
        self.del_if(&key, |_| true, now)
    }

    /// Applies a DEL that was queued at `queued_at`: an attachment made since is not the one that was meant.
    ///
    /// # Errors
    /// See [`Attachments::del`].
    pub fn del_queued(&self, request: &DelRequest, queued_at: BootMillis, now: BootMillis) -> Result<(), Error> {
        let key = AttachmentKey { container_id: request.container_id.clone(), ifname: request.ifname.clone() };
        self.del_if(&key, |record| record.attached_at <= queued_at, now)
    }

    /// Undoes an ADD that began at `since` and whose answer reached nobody. One that was answered before is not meant.
    ///
    /// # Errors
    /// See [`Attachments::del`].
    pub fn undo(&self, add: &DelRequest, since: BootMillis, now: BootMillis) -> Result<(), Error> {
        let key = AttachmentKey { container_id: add.container_id.clone(), ifname: add.ifname.clone() };
        self.del_if(&key, |record| record.attached_at >= since, now)
    }

    fn del_if(&self, key: &AttachmentKey, applies: impl FnOnce(&Record) -> bool, now: BootMillis) -> Result<(), Error> {
        let turn = self.take_turn(key)?;
        let known = self.lock().records.get(key).cloned();
        if let Some(record) = known.filter(applies) {
            self.release(&record, turn.since(now));
        }
        Ok(())
    }

    /// Compares an attachment with what was made of it.
    ///
    /// # Errors
    /// [`Code::UnknownContainer`] and [`Code::AttachmentChanged`]
    pub fn check(&self, request: &CheckRequest, netns: &K::Netns) -> Result<(), Error> {
        let key = AttachmentKey { container_id: request.container_id.clone(), ifname: request.ifname.clone() };
        let _turn = self.take_turn(&key)?;
        let Some(record) = self.lock().records.get(&key).cloned() else {
            return Err(Error::new(Code::UnknownContainer, format!("{key} is not attached; ADD it first")));
        };
        let record = self.looked_after(record);
        let pod = self.kernel.inspect(netns, key.ifname.as_str(), &record.addresses).map_err(|error| failure::wiring(&error))?;
        let host = self.kernel.inspect_host_end(Ifindex(record.host_ifindex), &record.addresses);
        let host = host.map_err(|error| failure::netlink(&error))?;
        let found = Found { netns: self.kernel.netns_id(netns), pod: pod.as_ref(), host: host.as_ref() };
        let mut changes = check::differences(&record, &request.expected, &found);
        if let Some(link) = record.link().filter(|_| host.is_some()) {
            let lacks = self.kernel.programs_lack(&link).map_err(|error| failure::wiring(&error))?;
            changes.extend(lacks.into_iter().map(str::to_owned));
        }
        if changes.is_empty() {
            return Ok(());
        }
        Err(Error::new(Code::AttachmentChanged, format!("{key}: {}; delete the pod to have it attached anew", changes.join("; "))))
    }

    /// Detaches every attachment of the network that is not in the list. An empty list is what a runtime sends that has
    /// lost its memory, too: then only attachments whose link is gone as well are detached (invariant I5).
    ///
    /// # Errors
    /// Those of the DELs, after all have been tried.
    pub fn gc(&self, request: &GcRequest, now: BootMillis) -> Result<(), Error> {
        let valid: HashSet<_> = request.valid.iter().map(|entry| (&entry.container_id, &entry.ifname)).collect();
        let mut stale: Vec<Record> = self.lock().records.values().filter(|record| record.network == request.network).cloned().collect();
        stale.retain(|record| !valid.contains(&(&record.key.container_id, &record.key.ifname)));
        if valid.is_empty() && !stale.is_empty() {
            let links = self.kernel.links().map_err(|error| failure::netlink(&error))?;
            let before = stale.len();
            stale.retain(|record| !links.iter().any(|link| owns(record, link)));
            if stale.len() < before {
                tracing::warn!(kept = before - stale.len(), "GC with an empty list: attachments whose interface exists are kept");
            }
        }
        let mut failed = Vec::new();
        for record in stale {
            // The list is as old as the request: what was attached since is not in it, and must stay.
            let made = record.attached_at;
            tracing::info!(attachment = %record.key, "GC: detaching");
            failed.extend(self.del_if(&record.key, |current| current.attached_at == made, now).err());
        }
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    /// Every reason why an ADD would fail now.
    #[must_use]
    pub fn faults(&self, now: BootMillis) -> Vec<Fault> {
        let mut faults = Vec::new();
        let state = self.lock();
        if state.draining {
            faults.push(Fault::Draining);
        }
        match (state.uplinks.iter().find(|uplink| uplink.index == 0), &state.no_uplink) {
            (Some(own), _) if own.running => {}
            (Some(own), _) => faults.push(Fault::UplinkDown(own.ifname.clone())),
            (None, Some(why)) => faults.push(Fault::NoUplink(why.clone())),
            (None, None) => {
                let why = state.trouble.clone().unwrap_or_else(|| "the interfaces could not be read".to_owned());
                faults.push(Fault::UplinkUnknown(why));
            }
        }
        faults.extend(state.not_forwarding.clone().map(Fault::NotForwarding));
        if let Some(lack) = state.pool.lacking(now) {
            let family = if let PoolError::Exhausted { family, .. } = lack { family } else { Family::V4 };
            faults.push(Fault::Exhausted(family, state.failure(&lack).msg));
        }
        drop(state);
        faults.extend(self.store_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone().map(Fault::Store));
        faults
    }

    /// STATUS, as `cni.status` has it answered: see [`readiness`].
    ///
    /// # Errors
    /// [`Code::NotAvailable`] or, where running pods suffer too, [`Code::LimitedConnectivity`].
    pub fn status(&self, now: BootMillis) -> Result<(), Error> {
        let policy = self.lock().status_policy;
        readiness::status(policy, &self.faults(now))
    }

    /// Whether an ADD would succeed.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self, now: BootMillis) -> Result<(), Error> {
        readiness::status(StatusPolicy::Strict, &self.faults(now))
    }

    /// How STATUS is answered from now on.
    pub fn set_status_policy(&self, policy: StatusPolicy) {
        self.lock().status_policy = policy;
    }

    /// Whether anything can be made durable: a commit, for those who look now and then. Between looks commits tell.
    pub fn probe_store(&self) {
        let outcome = self.store.probe();
        self.note_store(outcome.as_ref().err());
    }

    /// Whether the last commit failed, or the last probe.
    #[must_use]
    pub fn store_fails(&self) -> bool {
        self.store_trouble.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn note_store(&self, error: Option<&StoreError>) {
        *self.store_trouble.lock().unwrap_or_else(PoisonError::into_inner) = error.map(|error| failure::store(error).msg);
    }

    /// What the uplinks are now. New pods get the smallest MTU of them.
    pub fn set_uplinks(&self, uplinks: &[Uplink]) {
        let mut state = self.lock();
        state.no_uplink = None;
        if state.uplinks != uplinks {
            tracing::info!(?uplinks, "uplinks");
            uplinks.clone_into(&mut state.uplinks);
        }
    }

    /// The node's own uplink was looked for and is not there.
    pub fn set_no_uplink(&self, why: String) {
        let mut state = self.lock();
        state.uplinks.clear();
        state.no_uplink = Some(why);
    }

    /// Says why the kernel forwards no packets of pods, or that it does.
    pub fn set_not_forwarding(&self, why: Option<String>) {
        self.lock().not_forwarding = why;
    }

    /// Says why there are no more addresses, to those who ask in vain.
    pub fn set_trouble(&self, trouble: Option<String>) {
        self.lock().trouble = trouble;
    }

    /// Ends when an ADD has begun to wait for an address, perhaps since this was called last.
    pub async fn shortage(&self) {
        self.shortage.notified().await;
    }

    /// From now on an ADD waits that long for an address, where the pool has none: somebody gets more.
    pub fn wait_for_addresses(&self, patience: Duration) {
        self.lock().patience = Some(patience);
    }

    /// Works on the pool beside the ADDs; `work` is told how many of them wait for an address. They look again afterwards.
    pub fn with_pool<T>(&self, work: impl FnOnce(&mut Pool, u64) -> T) -> T {
        let mut state = self.lock();
        let waiting = state.waiting;
        let outcome = work(&mut state.pool, waiting);
        drop(state);
        self.pool_changed.notify_all();
        outcome
    }

    /// From now on ADDs are told to try again, those that wait for an address too. STATUS goes on telling of the node's network: the
    /// plugin waits for the next daemon, and nothing is wrong with pods that run.
    pub fn drain(&self) {
        self.lock().draining = true;
        self.pool_changed.notify_all();
    }

    /// Every attachment.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.values().cloned().collect()
    }

    /// Counts for telemetry.
    #[must_use]
    pub fn summary(&self, now: BootMillis) -> Summary {
        let state = self.lock();
        let pool = state.pool.families().map(|family| (family, state.pool.counts(family, now))).collect();
        Summary { attachments: state.records.len(), uncommitted: state.uncommitted.len(), pool }
    }

    /// Commits DELs that could not be committed when they were made.
    pub fn settle(&self) {
        let waiting = std::mem::take(&mut self.lock().uncommitted);
        for (record, at) in waiting {
            // A new ADD of the same name has overwritten the record since; then only the old addresses are concerned,
            // and the pool knows them as freed.
            let superseded = self.lock().records.contains_key(&record.key);
            if !superseded && self.commit(&Change::Detach(&record, at)).is_err() {
                self.lock().uncommitted.push((record, at));
            }
        }
    }

    /// Finds what nobody told us: pods whose link has been gone for five minutes are detached, links that belong to no
    /// attachment are removed; and all pods are looked after. containerd never sends GC; this is the daemon's own.
    pub fn sweep(&self, now: BootMillis) {
        self.look_after_all();
        let links = match self.kernel.links() {
            Ok(links) => links,
            Err(error) => {
                tracing::warn!(%error, "the sweep cannot read the kernel's links");
                return;
            }
        };
        for record in self.long_dead(&links, now) {
            tracing::warn!(attachment = %record.key, "its link is gone and no DEL came; detaching it");
            let made = record.attached_at;
            if let Err(error) = self.del_if(&record.key, |current| current.attached_at == made, now) {
                tracing::warn!(attachment = %record.key, %error, "could not be detached");
            }
        }
        for link in links.iter().filter(|link| !self.numbers.is_taken(link.ifindex)) {
            tracing::warn!(link = link.ifname, "belongs to no attachment; removing it");
            self.numbers.claim(link.ifindex);
            self.kernel.remove_soon(link.ifindex);
        }
    }

    fn long_dead(&self, links: &[FoundLink], now: BootMillis) -> Vec<Record> {
        let mut state = self.lock();
        let State { records, dead_since, .. } = &mut *state;
        dead_since.retain(|key, _| records.contains_key(key));
        let mut long_dead = Vec::new();
        for record in records.values() {
            if links.iter().any(|link| owns(record, link)) {
                dead_since.remove(&record.key);
                continue;
            }
            // A record younger than the list of links is not in it for that reason.
            let since = *dead_since.entry(record.key.clone()).or_insert(now);
            if now.since(since) >= DEAD_AFTER_MILLIS {
                long_dead.push(record.clone());
            }
        }
        long_dead
    }

    /// Whether the attachment is there as an ADD for this namespace would make it.
    fn is_alive(&self, known: &Record, netns: &K::Netns) -> Result<bool, Error> {
        if !known.is_in(self.kernel.netns_id(netns)) {
            let host = self.kernel.inspect_host_end(Ifindex(known.host_ifindex), &[]).map_err(|error| failure::netlink(&error))?;
            if host.is_some_and(|host| owns(known, &host.link)) {
                let msg = format!("{} is attached in another network namespace; DEL it first", known.key);
                return Err(Error::new(Code::AlreadyAttached, msg));
            }
            return Ok(false);
        }
        let pod = self.kernel.inspect(netns, known.key.ifname.as_str(), &[]).map_err(|error| failure::wiring(&error))?;
        Ok(pod.is_some_and(|pod| known.addresses.iter().all(|address| pod.addresses.contains(address))))
    }

    /// Takes addresses and makes the link. On failure neither is left.
    fn wire(&self, request: &AddRequest, key: AttachmentKey, netns: &K::Netns, now: BootMillis) -> Result<Record, Error> {
        let (now, reserved) = self.reserve(&request.ips, now);
        let (addresses, mtu) = reserved?;
        let netns_id = self.kernel.netns_id(netns);
        let mac = request.mac.unwrap_or_else(|| mac_for(&key));
        let mut record = Record {
            format: RECORD_FORMAT,
            key,
            network: request.network.clone(),
            pod: request.pod.clone(),
            netns: Some((netns_id.device, netns_id.inode)),
            host_ifname: String::new(),
            host_ifindex: 0,
            mtu,
            mac: Some(mac),
            addresses,
            attached_at: now,
        };
        match self.make_link(&mut record, mac, netns) {
            Ok(()) => Ok(record),
            Err(error) => {
                self.put_back(&record.addresses, now);
                Err(error)
            }
        }
    }

    fn make_link(&self, record: &mut Record, mac: [u8; 6], netns: &K::Netns) -> Result<(), Error> {
        let mut flushed = false;
        for _ in 0..NUMBER_ATTEMPTS {
            let Some(number) = self.numbers.take() else {
                return Err(Error::new(Code::TryAgainLater, "every interface number for pods is taken; try again later"));
            };
            record.host_ifindex = number.0;
            record.host_ifname = host_ifname(number);
            let link = PodLink {
                host_ifname: record.host_ifname.clone(),
                host_ifindex: number,
                pod_ifname: record.key.ifname.to_string(),
                pod_mac: mac,
                mtu: record.mtu,
                container_id: record.key.container_id.to_string(),
                addresses: record.addresses.clone(),
            };
            let error = match self.kernel.attach(netns, &link) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match &error {
                // Somebody else's link has the number; it stays taken here, and another is tried.
                WiringError::HostEndTaken(..) => tracing::warn!(%error, "trying another interface number"),
                // The name may be that of a link whose DEL was answered a moment ago.
                WiringError::NameTaken(_) if !flushed => {
                    self.numbers.give_back(number);
                    flushed = self.kernel.flush_removals(FLUSH_LIMIT);
                    if !flushed {
                        return Err(failure::wiring(&error));
                    }
                }
                _ => {
                    self.numbers.give_back(number);
                    return Err(failure::wiring(&error));
                }
            }
        }
        Err(Error::new(Code::WiringFailed, format!("{NUMBER_ATTEMPTS} interface numbers in a row are taken by other links")))
    }

    /// Addresses and MTU for a pod, and what time it is then: where the pool has none, somebody is about to get more. At most
    /// [`WAITING_MAX`] wait for that, so that there are always workers for DELs, which free addresses.
    fn reserve(&self, wanted: &[IpAddr], now: BootMillis) -> (BootMillis, Result<(Vec<IpAddr>, u32), Error>) {
        let mut state = self.lock();
        let may_wait = |state: &State| state.waiting < WAITING_MAX && state.pool.lacking(now).is_some();
        let Some(patience) = state.patience.filter(|_| may_wait(&state)) else { return (now, state.reserve(wanted, now)) };
        let begun = Instant::now();
        let clock = || now.plus(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        state.waiting += 1;
        self.shortage.notify_one();
        while let Some(left) = patience.checked_sub(begun.elapsed())
            && state.pool.lacking(clock()).is_some()
            && !state.draining
        {
            state = self.pool_changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.waiting -= 1;
        // Under the lock still: nobody else takes what was waited for.
        (clock(), state.reserve(wanted, clock()))
    }

    /// Addresses of an ADD that failed: the pod may have sent packets, so they cool down.
    fn put_back(&self, addresses: &[IpAddr], now: BootMillis) {
        let mut state = self.lock();
        addresses.iter().for_each(|address| state.pool.release(*address, now));
    }

    /// The second half of DEL, for a record that is known.
    fn release(&self, record: &Record, now: BootMillis) {
        {
            let mut state = self.lock();
            state.records.remove(&record.key);
            state.changed_macs.remove(&record.key);
            record.addresses.iter().for_each(|address| state.pool.release(*address, now));
        }
        if let Err(error) = self.commit(&Change::Detach(record, now)) {
            // A pod's deletion must not hang on a full disk. Until this is settled a crash brings the record back,
            // without a link, and the sweep finds it.
            tracing::error!(attachment = %record.key, %error, "detached, but not yet on disk");
            self.lock().uncommitted.push((record.clone(), now));
        }
        self.kernel.remove_soon(Ifindex(record.host_ifindex));
        tracing::info!(attachment = %record.key, addresses = ?record.addresses, "detached");
    }

    /// Makes a change durable.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn commit(&self, change: &Change<'_>) -> Result<(), StoreError> {
        let begun = Instant::now();
        let outcome = self.store.commit(change);
        self.metrics.commit(begun.elapsed(), outcome.is_ok());
        self.note_store(outcome.as_ref().err());
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held left at worst an address held that nobody has; going on beats refusing all pods.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// One address of each family that the node has, or the ones asked for; and the MTU.
    fn reserve(&mut self, wanted: &[IpAddr], now: BootMillis) -> Result<(Vec<IpAddr>, u32), Error> {
        if self.draining {
            return Err(Error::new(Code::TryAgainLater, "barewired is shutting down; try again when it is back"));
        }
        let Some(mtu) = self.uplinks.iter().map(|uplink| uplink.mtu).min() else {
            let why = self.trouble.as_ref().map_or_else(String::new, |trouble| format!(" ({trouble})"));
            return Err(Error::new(Code::TryAgainLater, format!("the node has no uplink yet{why}; try again later")));
        };
        let mut taken = Vec::new();
        let mut outcome = Ok(());
        for address in wanted {
            if taken.iter().any(|earlier| Family::of(*earlier) == Family::of(*address)) {
                let msg = format!("runtimeConfig.ips: {address} is a second {} address; ask for one of each family", Family::of(*address));
                outcome = Err(Error::new(Code::InvalidConfig, msg));
                break;
            }
            match self.pool.take_this(*address, now) {
                Ok(()) => taken.push(*address),
                Err(error) => {
                    outcome = Err(self.failure(&error));
                    break;
                }
            }
        }
        if outcome.is_ok() {
            let families: Vec<_> =
                self.pool.families().filter(|family| !taken.iter().any(|address| Family::of(*address) == *family)).collect();
            for family in families {
                match self.pool.take(family, now) {
                    Ok(address) => taken.push(address),
                    Err(error) => {
                        outcome = Err(self.failure(&error));
                        break;
                    }
                }
            }
        }
        taken.sort_unstable();
        match outcome {
            Ok(()) => Ok((taken, mtu)),
            Err(error) => {
                // Nobody has used them: they were taken at `now`, and a cooldown would starve the next ADD.
                taken.iter().for_each(|address| self.pool.untake(*address));
                Err(error)
            }
        }
    }

    /// What a pod is told that gets no address.
    fn failure(&self, error: &PoolError) -> Error {
        let mut told = failure::pool(error);
        if let PoolError::Exhausted { family, .. } = error {
            let closed = self.pool.ranges().filter_map(|(range, may_be_used)| match may_be_used {
                Use::Closed(why) if range.family() == *family => Some(why.as_str()),
                Use::Open | Use::LastResort | Use::Closed(_) => None,
            });
            let reasons: BTreeSet<_> = self.trouble.as_deref().into_iter().chain(closed).collect();
            if !reasons.is_empty() {
                told.msg = format!("{} ({})", told.msg, reasons.into_iter().collect::<Vec<_>>().join("; "));
            }
        }
        told
    }
}

/// Whether `link` is the host end of `record`'s pod.
fn owns(record: &Record, link: &FoundLink) -> bool {
    let owner = link.owner.as_ref().map(|(container, ifname)| (container.as_str(), ifname.as_str()));
    link.ifindex.0 == record.host_ifindex && owner == Some((record.key.container_id.as_str(), record.key.ifname.as_str()))
}

/// A locally administered address from the attachment's name: the same for the same pod, so that a repeated ADD agrees.
fn mac_for(key: &AttachmentKey) -> [u8; 6] {
    /// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): it need not resist anybody.
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let text = key.to_string();
    let hash = text.bytes().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    let [_, _, _, a, b, c, d, e] = hash.to_be_bytes();
    [0x0a, a, b, c, d, e]
}
