//! What can be counted of the leader's acts, and what is wrong with its plans.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Part;
use super::request::Outcome;
use crate::metrics::{Metric, Series, counter, counters, gauge};

/// What became of an act, as the metric names it.
const OUTCOMES: [&str; 7] = ["done", "conflict", "gone", "later", "refused", "lost", "dry_run"];
const DRY_RUN: usize = OUTCOMES.len() - 1;
const PARTS: [Part; 3] = [Part::Teams, Part::Health, Part::Preflight];

/// Of one replica. Gauges are nothing where it does not lead.
#[derive(Debug, Default)]
pub struct Counters {
    acts: [[AtomicU64; OUTCOMES.len()]; PARTS.len()],
    evictions: [AtomicU64; OUTCOMES.len()],
    pub(super) events_lost: AtomicU64,
    pub(super) reports: AtomicU64,
    pub(super) moves: AtomicU64,
    pub(super) left_alone: AtomicU64,
    pub(super) is_tripped: AtomicBool,
    pub(super) preflight_waiting: AtomicU64,
    pub(super) preflight_failed: AtomicU64,
    faults: Mutex<Vec<String>>,
}

fn index(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Done(_) => 0,
        Outcome::Conflict(_) => 1,
        Outcome::Gone => 2,
        Outcome::Later { .. } => 3,
        Outcome::Refused(_) => 4,
        Outcome::Lost(_) => 5,
    }
}

impl Counters {
    pub(super) fn acted(&self, part: Part, outcome: &Outcome) {
        self.acts[part as usize][index(outcome)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn pretended(&self, part: Part) {
        self.acts[part as usize][DRY_RUN].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn evicted(&self, outcome: &Outcome) {
        self.evictions[index(outcome)].fetch_add(1, Ordering::Relaxed);
    }

    /// What is wrong with the file of teams on the nodes that there are.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says each fault that was not there before.
    pub(super) fn found(&self, faults: Vec<String>) {
        let mut known = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        for fault in faults.iter().filter(|fault| !known.contains(fault)) {
            tracing::error!(fault, "teams cannot be planned: nothing changes");
        }
        *known = faults;
    }

    /// The replica leads no longer.
    pub(super) fn ended(&self) {
        self.moves.store(0, Ordering::Relaxed);
        self.left_alone.store(0, Ordering::Relaxed);
        self.is_tripped.store(false, Ordering::Relaxed);
        self.preflight_waiting.store(0, Ordering::Relaxed);
        self.preflight_failed.store(0, Ordering::Relaxed);
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn acts(&self) -> Series {
        let of_part = |part: Part| {
            let counts = OUTCOMES.iter().zip(&self.acts[part as usize]);
            counts.map(move |(outcome, count)| (vec![part.name(), outcome], get(count)))
        };
        PARTS.into_iter().flat_map(of_part).collect()
    }

    fn evictions(&self) -> Series {
        OUTCOMES[..DRY_RUN].iter().zip(&self.evictions).map(|(outcome, count)| (vec![*outcome], get(count))).collect()
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What is told of the leader's acts.
pub const METRICS: [Metric<Counters>; 9] = [
    counters("acts_total", &["part", "outcome"], "Writes of the leader by what became of them; dry_run: not made", Counters::acts),
    counters("evictions_total", &["outcome"], "Evictions that were asked for, by what became of them", Counters::evictions),
    counter("events_lost_total", "Events that could not be written", |of| get(&of.events_lost)),
    counter("reports_total", "Reports of nodes' health that the leader has judged", |of| get(&of.reports)),
    gauge("teams_moves", "Nodes that change their team by the plan that holds", |of| get(&of.moves)),
    gauge("teams_nodes_left_alone", "Nodes of pools that the plan leaves as they are: somebody else's taint or label", |of| {
        get(&of.left_alone)
    }),
    gauge("health_breaker_tripped", "1 while too many nodes look sick at once, and nothing is done", |of| {
        of.is_tripped.load(Ordering::Relaxed).into()
    }),
    gauge("preflight_nodes_waiting", "Nodes that have the preflight's taint", |of| get(&of.preflight_waiting)),
    gauge("preflight_nodes_failed", "Of these, nodes whose preflight has failed", |of| get(&of.preflight_failed)),
];
