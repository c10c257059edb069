//! Drives the [supply](ipam_supply) with a real cloud: asks it what to call, calls, and tells it what became of the call.
//!
//! - One request is in flight, beside the ADDs and never on their way. An ADD that waits for an address is heard as soon as it ends.
//! - What is given back is in the store before the call: a crash in between leaves a block that nobody uses, not one that two use.
//! - Every wait is bounded. A call that is cut off may have been made, and readers tell what became of it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipam_clouds::Source;
use ipam_pool::Pool;
use ipam_pool::range::{AddressRange, Family};
use ipam_state::store::Change;
use ipam_supply::budget::Random;
use ipam_supply::evidence::Reader;
use ipam_supply::memory::{CloudMemory, Known};
use ipam_supply::sizing::Sizing;
use ipam_supply::{Interface, Outcome, Refusal, Report, Request, Settings, Supply};
use ipnetwork::IpNetwork;
use node_api::BootMillis;
use tokio::sync::Notify;

use super::conditions::{CloudConditions, Kind, outlook};
use super::native::NativeCidrs;
use super::report::{self, Call, Calls, SupplyReport};
use crate::attachments::Attachments;
use crate::conditions::Finding;
use crate::config::{Cloud, CloudSource};
use crate::kernel::Kernel;

/// How often the supply is asked what to do at least, where nobody begins to wait.
const TICK: Duration = Duration::from_secs(1);
/// ADDs that begin to wait one after the other within this are one demand, for so long at most: a burst of pods is one call, not one of
/// one block and then others. Beside the 300 ms that a call takes it is little.
const GATHER: Duration = Duration::from_millis(20);
const GATHER_LIMIT: Duration = Duration::from_millis(200);
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

pub(super) struct State {
    pub(super) supply: Supply,
    /// Blocks that the store says were given back.
    stored: BTreeSet<IpNetwork>,
    native: NativeCidrs,
    is_known: bool,
    pub(super) conditions: CloudConditions,
    pub(super) calls: Calls,
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
        exclude: source.exclude.clone(),
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
            stored: memory.released.iter().map(|(block, _)| *block).collect(),
            native: NativeCidrs::of(&known.native),
            is_known: !known.interfaces.is_empty(),
            conditions: CloudConditions::default(),
            calls: Calls::default(),
            // Over a cluster the sweeps are spread evenly.
            sweep_at: now.plus(Random::of_name(&settings.node).below(SWEEP_EVERY)),
            supply: Supply::new(settings, memory.released.iter().copied().collect(), now),
        };
        // What carries pods already is managed, whatever tags it has.
        source.manage(known.interfaces.iter().map(|interface| interface.id.as_str()));
        attachments.set_obstacle(Some("the cloud's metadata has not been read yet".to_owned()));
        let state = Mutex::new(state);
        let driver = Self { attachments, source, clock, state, stopping: AtomicBool::new(false), stirred: Notify::new() };
        // Before anything is carried, so that no pod gets an address of a block before the node's network is set up for it.
        driver.set_network(BTreeSet::new(), BTreeSet::new());
        driver.with_pool(|state, pool, _| {
            let blocks = known.blocks.iter().map(|(block, interface)| (block, interface.as_str()));
            let reports = state.supply.restore(&known.interfaces, blocks, &known.assigned_here, pool, now);
            state.hear(reports, pool);
        });
        driver
    }

    /// Makes calls as they are due until [`Driver::stop`]; `look` is called after each and brings the node's network up to date.
    pub async fn run(&self, look: impl AsyncFn()) {
        while !self.stopping.load(Ordering::Relaxed) {
            self.gather(Duration::ZERO).await;
            if self.round().await {
                look().await;
                continue;
            }
            let idle = async {
                self.sweep().await;
                tokio::time::sleep(self.rest()).await;
            };
            tokio::select! {
                () = self.attachments.shortage() => self.gather(GATHER).await,
                () = self.stirred.notified() => {}
                () = idle => {}
            }
        }
    }

    /// How long nothing is due, a tick at most.
    fn rest(&self) -> Duration {
        let now = (self.clock)();
        let due = self.with_pool(|state, pool, waiting| state.supply.next_deadline(pool, waiting, now));
        due.filter(|due| *due > now).map_or(TICK, |due| TICK.min(Duration::from_millis(due.since(now))))
    }

    /// Waits for as long as further ADDs begin to wait. Ends at once where none does within `first`.
    async fn gather(&self, first: Duration) {
        let begun = tokio::time::Instant::now();
        let mut quiet = first;
        while begun.elapsed() < GATHER_LIMIT && tokio::time::timeout(quiet, self.attachments.shortage()).await.is_ok() {
            quiet = GATHER;
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
            assigned_here: state.supply.assigned_here().copied().collect(),
        })
    }

    /// Tells which interfaces are ready, and for which blocks the node's network is set up: pods are given addresses of these alone.
    pub fn set_network(&self, interfaces: BTreeSet<String>, blocks: BTreeSet<IpNetwork>) {
        let now = (self.clock)();
        self.with_pool(|state, pool, _| {
            let mut reports = state.supply.set_programmed(blocks, pool, now);
            reports.extend(state.supply.set_present(interfaces, pool, now));
            state.hear(reports, pool);
        });
    }

    /// Makes the call that is due, if one is; tells whether it did.
    pub async fn round(&self) -> bool {
        let begun = (self.clock)();
        let Some(request) = self.with_pool(|state, pool, waiting| state.supply.poll_request(pool, waiting, begun)) else { return false };
        let outcome = match self.remember(&request, begun) {
            Ok(()) => self.call(&request).await,
            Err(why) => Outcome::Refused(Refusal::Other(why)),
        };
        let now = (self.clock)();
        let native = self.source.native_cidrs();
        let (obstacle, growth) = self.with_pool(|state, pool, waiting| {
            state.is_known |= matches!(outcome, Outcome::Read(_));
            state.calls.note(Call::of(&request), &outcome);
            state.conditions.note(Call::of(&request), &outcome, now);
            let lists_native = matches!(&outcome, Outcome::Read(reading) if reading.reader == Reader::Metadata);
            let reports = state.supply.handle_response(outcome, pool, now);
            state.hear(reports, pool);
            if lists_native {
                let State { native: known, supply, .. } = state;
                let is_in_use = |cidr: &IpNetwork| supply.blocks().any(|(block, _)| cidr.contains(block.network()));
                known.note(&native, is_in_use, now);
            }
            let growth = Family::ALL.map(|family| (family, state.supply.growth_of(family, now)));
            for (family, growth) in growth {
                let is_stuck = state.supply.is_stuck(family, pool, waiting, now);
                state.conditions.set_stuck(family, is_stuck.then_some(growth));
            }
            let growth = growth.into_iter().filter_map(|(family, growth)| Some((family, outlook(growth)?)));
            (state.conditions.told(), growth.collect())
        });
        self.attachments.set_obstacle(obstacle);
        self.attachments.set_growth(growth);
        self.forget_what_stays();
        true
    }

    /// Makes it durable that blocks are about to be released.
    fn remember(&self, request: &Request, now: BootMillis) -> Result<(), String> {
        let Request::Unassign { blocks, .. } = request else { return Ok(()) };
        for block in blocks {
            self.attachments.commit(&Change::Release(*block, now)).map_err(|error| format!("{block} is not released: {error}"))?;
            self.lock().stored.insert(*block);
        }
        Ok(())
    }

    /// Takes out of the store what was not released after all, or is assigned again, or went long ago.
    fn forget_what_stays(&self) {
        let stale: Vec<_> = {
            let State { supply, stored, .. } = &*self.lock();
            let released: BTreeSet<_> = supply.released().collect();
            stored.iter().filter(|block| !released.contains(block)).copied().collect()
        };
        for block in stale {
            match self.attachments.commit(&Change::CancelRelease(block)) {
                Ok(()) => drop(self.lock().stored.remove(&block)),
                Err(error) => tracing::warn!(%block, %error, "release stays on record; trying again after the next call"),
            }
        }
    }

    async fn call(&self, request: &Request) -> Outcome {
        let is_read = matches!(request, Request::Read(_));
        let limit = if is_read { READ_LIMIT } else { CHANGE_LIMIT };
        tracing::debug!(?request, "cloud API call begun");
        let outcome = tokio::time::timeout(limit, self.source.call(request)).await.unwrap_or_else(|_| {
            if is_read {
                Outcome::Refused(Refusal::Other(format!("no whole answer within {} s", limit.as_secs())))
            } else {
                Outcome::Unknown
            }
        });
        match &outcome {
            Outcome::Read(_) | Outcome::Refused(_) => tracing::debug!(?outcome, "cloud API call answered"),
            Outcome::Assigned(_) | Outcome::Added | Outcome::Unassigned | Outcome::Unknown => {
                tracing::info!(?request, ?outcome, "cloud API change made")
            }
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
            Err(refusal) => tracing::warn!(?refusal, "sweep of leaked interfaces incomplete; a later one goes on"),
        }
    }

    /// Everything that an operator may ask.
    #[must_use]
    pub fn report(&self) -> SupplyReport {
        let now = (self.clock)();
        let warnings = self.source.warnings();
        self.attachments.read_pool(|pool, demand| report::of(&self.lock(), pool, demand.pods(now), warnings, now))
    }

    /// All that is wrong between this node and its cloud, as one condition; nothing where all is well.
    #[must_use]
    pub fn finding(&self) -> Option<Finding> {
        let conditions = self.lock().conditions.all();
        let reason = conditions.first().map_or("SourceWarning", |condition| condition.kind);
        let all: Vec<_> = conditions.into_iter().map(|condition| condition.message).chain(self.source.warnings()).collect();
        let remedy = "see /debug/supply, and docs/clouds.md; pods that have addresses are served as before";
        (!all.is_empty()).then(|| Finding::new(reason, all.join("; "), remedy))
    }

    /// `work` is told how many pods want an address and have none.
    fn with_pool<T>(&self, work: impl FnOnce(&mut State, &mut Pool, u64) -> T) -> T {
        self.attachments.with_pool(|pool, demand| work(&mut self.lock(), pool, demand.pods((self.clock)())))
    }

    /// Always inside of the pool's lock, or without it: never the other way round.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn hear(&mut self, reports: Vec<Report>, pool: &Pool) {
        let Self { supply, conditions, .. } = self;
        let is_known = |block: &IpNetwork| supply.interface_of(block).is_some();
        conditions.end_blocks(
            |block| is_known(block) && state_of(pool, *block).1.is_some(),
            |block| !is_known(block) && supply.interfaces().iter().any(|interface| interface.blocks.contains(block)),
        );
        if !supply.is_unsure() {
            conditions.end_unanswered();
        }
        for report in reports {
            match report {
                Report::Lost { block, held: 0, why } => tracing::warn!(%block, %why, "block lost, no pod had an address of it"),
                Report::Lost { block, held, why } => {
                    let fate = format!("no pod gets an address of it, and the {held} that have one may be cut off: delete these pods");
                    conditions.set(Kind::Lost(block), format!("{block} is lost ({why}): {fate}"));
                }
                Report::Overlap(block) => conditions.set(
                    Kind::Overlap(block),
                    format!("{block} overlaps another block and is left alone; see to it that the two are not assigned together"),
                ),
            }
        }
    }
}

/// The state of a range, in a word, and why.
pub(super) fn state_of(pool: &Pool, block: IpNetwork) -> (&'static str, Option<String>) {
    use ipam_pool::RangeState;
    match pool.state_of(&AddressRange::from(block)) {
        Some(RangeState::Open) => ("open", None),
        Some(RangeState::Suspect) => ("suspect", None),
        Some(RangeState::Closed(why)) => ("closed", Some(why.to_string())),
        None => ("unknown", None),
    }
}
