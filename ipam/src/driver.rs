//! Drives the [supply](crate::supply) with a real cloud: asks it what to call, calls, and tells it what became of the call.
//!
//! - One request is in flight, beside the ADDs and never on their way. An ADD that waits for an address is heard as soon as it ends.
//! - What is given back is in the store before the call: a crash in between leaves a block that nobody uses, not one that two use.
//! - Every wait is bounded. A call that is cut off may have been made, and readers tell what became of it.

mod report;
mod troubles;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnetwork::IpNetwork;
use node_api::BootMillis;
use tokio::sync::Notify;

use crate::attachments::Attachments;
use crate::cloud_record::{CloudMemory, Known};
use crate::conditions::Finding;
use crate::config::{Cloud, CloudSource};
use crate::kernel::Kernel;
use crate::pool::Pool;
use crate::range::{AddressRange, Family};
use crate::sources::Source;
use crate::store::Change;
use crate::supply::budget::Random;
use crate::supply::sizing::Sizing;
use crate::supply::{Interface, Outcome, Refusal, Report, Request, Settings, Supply};
pub use report::{Call, Calls, Count, SupplyReport};
use troubles::{Topic, Troubles};

/// How often the supply is asked what to do, where nobody waits.
const TICK: Duration = Duration::from_secs(1);
/// A read asks several documents, one after the other; an interface is made, attached and set in one change (120 s at most).
const READ_LIMIT: Duration = Duration::from_secs(30);
const CHANGE_LIMIT: Duration = Duration::from_secs(150);
/// EC2's refill of the buckets that changes take (docs/clouds.md).
const AWS_CALLS_PER_SECOND: u64 = 5;
/// How often leaked interfaces are looked for, how soon again after a failure, and how old one must be: older than any is that is about to be attached.
const SWEEP_EVERY: u64 = 6 * 3600 * 1000;
const SWEEP_AGAIN: u64 = 10 * 60 * 1000;
const LEAKED_AFTER: Duration = Duration::from_secs(30 * 60);

/// The driver of one node's supply.
pub struct Driver<K: Kernel> {
    attachments: Arc<Attachments<K>>,
    source: Source,
    clock: fn() -> BootMillis,
    state: Mutex<State>,
    stopping: AtomicBool,
    stirred: Notify,
}

struct State {
    supply: Supply,
    /// Blocks that the store says were given back.
    stored: BTreeSet<IpNetwork>,
    /// The cloud network's own blocks. One reading may omit some, so what was told once stays.
    native: BTreeSet<IpNetwork>,
    is_known: bool,
    troubles: Troubles,
    calls: Calls,
    sweep_at: BootMillis,
}

/// What a node may ask of this cloud.
#[must_use]
pub fn settings(source: &CloudSource, node: &str) -> Settings {
    let changes = matches!(&source.cloud, Cloud::Aws { api: Some(_), .. });
    let sizing = Family::ALL.map(|family| {
        let sizing = match family {
            Family::V4 => Sizing { block: 16, min_free: source.min_free, max_free: source.max_free, release_after: 0 },
            // A /80: one is enough for any node.
            Family::V6 => Sizing::of_blocks(1 << 48),
        };
        let wanted = changes && source.families.contains(&family);
        wanted.then_some(Sizing { release_after: source.release_after_millis, ..sizing })
    });
    Settings {
        node: node.to_owned(),
        // Azure's second reader counts as one; Google Cloud has none.
        api: changes || matches!(source.cloud, Cloud::Azure { .. }),
        sizing,
        cluster_nodes: source.cluster_nodes,
        account_calls_per_second: AWS_CALLS_PER_SECOND,
    }
}

impl<K: Kernel> Driver<K> {
    /// A driver that has called nothing yet, and knows what the store remembers; `clock` has to be the one of the records.
    pub fn new(
        attachments: Arc<Attachments<K>>,
        source: Source,
        settings: Settings,
        memory: &CloudMemory,
        clock: fn() -> BootMillis,
    ) -> Self {
        let now = clock();
        let known = &memory.network.known;
        let state = State {
            stored: memory.given_back.iter().map(|(block, _)| *block).collect(),
            native: known.native.iter().copied().collect(),
            is_known: !known.interfaces.is_empty(),
            troubles: Troubles::default(),
            calls: Calls::default(),
            // Over a cluster the sweeps are spread evenly.
            sweep_at: now.plus(Random::of_name(&settings.node).below(SWEEP_EVERY)),
            supply: Supply::new(settings, memory.given_back.iter().copied().collect(), now),
        };
        attachments.set_trouble(Some("the cloud's metadata has not been read yet".to_owned()));
        let state = Mutex::new(state);
        let driver = Self { attachments, source, clock, state, stopping: AtomicBool::new(false), stirred: Notify::new() };
        // Before anything is carried, so that no pod gets an address of a block before the node's network is set up for it.
        driver.set_network(BTreeSet::new(), BTreeSet::new());
        driver.with_pool(|state, pool, _| {
            let blocks = known.blocks.iter().map(|(block, interface)| (block, interface.as_str()));
            let reports = state.supply.restore(&known.interfaces, blocks, pool, now);
            state.hear(reports, pool);
        });
        driver
    }

    /// Makes calls as they are due until [`Driver::stop`]; `look` is called after each and brings the node's network up to date.
    pub async fn run(&self, mut look: impl FnMut()) {
        while !self.stopping.load(Ordering::Relaxed) {
            if self.round().await {
                look();
                continue;
            }
            let idle = async {
                self.sweep().await;
                tokio::time::sleep(TICK).await;
            };
            tokio::select! {
                () = self.attachments.shortage() => {}
                () = self.stirred.notified() => {}
                () = idle => {}
            }
        }
    }

    /// Ends [`Driver::run`] after the call in flight.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.stirred.notify_one();
    }

    /// What is known of the node's network; nothing before the first reading.
    #[must_use]
    pub fn known(&self) -> Option<Known> {
        let state = self.lock();
        state.is_known.then(|| Known {
            interfaces: state.supply.interfaces().iter().map(Interface::lasting).collect(),
            blocks: state.supply.blocks().map(|(block, interface)| (*block, interface.to_owned())).collect(),
            native: state.native.iter().copied().collect(),
        })
    }

    /// Tells which interfaces are ready, and for which blocks the node's network is set up: pods are given addresses of these alone.
    pub fn set_network(&self, interfaces: BTreeSet<String>, blocks: BTreeSet<IpNetwork>) {
        let now = (self.clock)();
        self.with_pool(|state, pool, _| {
            let mut reports = state.supply.set_carried(blocks, pool, now);
            reports.extend(state.supply.set_present(interfaces, pool, now));
            state.hear(reports, pool);
        });
    }

    /// Makes the call that is due, if one is; tells whether it did.
    pub async fn round(&self) -> bool {
        let begun = (self.clock)();
        let Some(request) = self.with_pool(|state, pool, waiting| state.supply.next(pool, waiting, begun)) else { return false };
        let outcome = match self.remember(&request, begun) {
            Ok(()) => self.call(&request).await,
            Err(why) => Outcome::Refused(Refusal::Other(why)),
        };
        let now = (self.clock)();
        let native = self.source.native_cidrs();
        let trouble = self.with_pool(|state, pool, waiting| {
            state.is_known |= matches!(outcome, Outcome::Read(_));
            state.native.extend(native);
            state.calls.note(Call::of(&request), &outcome);
            state.troubles.note(Call::of(&request), &outcome, now);
            let reports = state.supply.done(outcome, pool, now);
            state.hear(reports, pool);
            for family in Family::ALL {
                state.troubles.set_stuck(family, state.supply.is_stuck(family, pool, waiting, now));
            }
            state.troubles.told()
        });
        self.attachments.set_trouble(trouble);
        self.forget_what_stays();
        true
    }

    /// Makes it durable that a block is about to be given back.
    fn remember(&self, request: &Request, now: BootMillis) -> Result<(), String> {
        let Request::Unassign { block, .. } = request else { return Ok(()) };
        self.attachments.commit(&Change::GiveBack(*block, now)).map_err(|error| format!("{block} is not given back: {error}"))?;
        self.lock().stored.insert(*block);
        Ok(())
    }

    /// Takes out of the store what was not given back after all, or is assigned again, or went long ago.
    fn forget_what_stays(&self) {
        let stale: Vec<_> = {
            let State { supply, stored, .. } = &*self.lock();
            let given_back: BTreeSet<_> = supply.given_back().collect();
            stored.iter().filter(|block| !given_back.contains(block)).copied().collect()
        };
        for block in stale {
            match self.attachments.commit(&Change::Keep(block)) {
                Ok(()) => drop(self.lock().stored.remove(&block)),
                Err(error) => tracing::warn!(%block, %error, "it stays on record as given back; trying again after the next call"),
            }
        }
    }

    async fn call(&self, request: &Request) -> Outcome {
        let is_read = matches!(request, Request::Read(_));
        let limit = if is_read { READ_LIMIT } else { CHANGE_LIMIT };
        tracing::debug!(?request, "calling the cloud");
        let outcome = tokio::time::timeout(limit, self.source.call(request)).await.unwrap_or_else(|_| {
            if is_read {
                Outcome::Refused(Refusal::Other(format!("no whole answer within {} s", limit.as_secs())))
            } else {
                Outcome::Unknown
            }
        });
        match &outcome {
            Outcome::Read(_) | Outcome::Refused(_) => tracing::debug!(?outcome, "the cloud has answered"),
            Outcome::Assigned(_) | Outcome::Added | Outcome::Unassigned | Outcome::Unknown => tracing::info!(?request, ?outcome, "called"),
        }
        outcome
    }

    /// Deletes interfaces that were made for a node and never attached, now and then. One that is cut off, for a pod that waits, is due
    /// again soon.
    async fn sweep(&self) {
        let now = (self.clock)();
        {
            let mut state = self.lock();
            if now < state.sweep_at || !state.supply.take_token(now) {
                return;
            }
            state.sweep_at = now.plus(SWEEP_AGAIN);
        }
        let swept = tokio::time::timeout(READ_LIMIT, self.source.sweep_leaked(LEAKED_AFTER)).await;
        let outcome = swept.unwrap_or_else(|_| Err(Refusal::Other(format!("no end within {} s", READ_LIMIT.as_secs()))));
        match outcome {
            Ok(_) => self.lock().sweep_at = now.plus(SWEEP_EVERY),
            Err(refusal) => tracing::warn!(?refusal, "not all leaked interfaces are cleaned up; a later sweep goes on"),
        }
    }

    /// Everything that an operator may ask.
    #[must_use]
    pub fn report(&self) -> SupplyReport {
        let now = (self.clock)();
        let warnings = self.source.warnings();
        self.with_pool(|state, pool, waiting| report::of(state, pool, waiting, warnings, now))
    }

    /// All that is wrong between this node and its cloud, as one condition; nothing where all is well.
    #[must_use]
    pub fn finding(&self) -> Option<Finding> {
        let mut all = self.lock().troubles.all();
        all.extend(self.source.warnings());
        let remedy = "see /debug/supply, and docs/clouds.md; pods that have addresses are served as before";
        (!all.is_empty()).then(|| Finding::new("CloudTrouble", all.join("; "), remedy))
    }

    fn with_pool<T>(&self, work: impl FnOnce(&mut State, &mut Pool, u64) -> T) -> T {
        self.attachments.with_pool(|pool, waiting| work(&mut self.lock(), pool, waiting))
    }

    /// Always inside of the pool's lock, or without it: never the other way round.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn hear(&mut self, reports: Vec<Report>, pool: &Pool) {
        let Self { supply, troubles, .. } = self;
        let is_known = |block: &IpNetwork| supply.interface_of(block).is_some();
        troubles.end_blocks(
            |block| is_known(block) && use_of(pool, *block).1.is_some(),
            |block| !is_known(block) && supply.interfaces().iter().any(|interface| interface.blocks.contains(block)),
        );
        if !supply.is_unsure() {
            troubles.end_unanswered();
        }
        for report in reports {
            match report {
                Report::Lost { block, held: 0, why } => tracing::warn!(%block, why, "is lost; no pod had an address of it"),
                Report::Lost { block, held, why } => {
                    let fate = format!("no pod gets an address of it, and the {held} that have one may be cut off: delete these pods");
                    troubles.set(Topic::Lost(block), format!("{block} is lost ({why}): {fate}"));
                }
                Report::Overlap(block) => troubles.set(
                    Topic::Overlap(block),
                    format!("{block} overlaps another block and is left alone; see to it that the two are not assigned together"),
                ),
            }
        }
    }
}

/// The use of a range, in a word, and why.
fn use_of(pool: &Pool, block: IpNetwork) -> (&'static str, Option<String>) {
    use crate::pool::Use;
    match pool.use_of(&AddressRange::from(block)) {
        Some(Use::Open) => ("open", None),
        Some(Use::LastResort) => ("last_resort", None),
        Some(Use::Closed(why)) => ("closed", Some(why.clone())),
        None => ("unknown", None),
    }
}
