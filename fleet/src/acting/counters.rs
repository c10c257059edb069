//! What can be counted of the leader's acts, and what is wrong with its plans.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Part;
use super::request::Outcome;

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

    /// In Prometheus' text format. `file_faults` is what is wrong with the file alone.
    pub fn write(&self, text: &mut String, file_faults: usize) {
        let mut family = |name: &str, kind: &str, samples: &mut dyn Iterator<Item = (String, u64)>| {
            let _ = writeln!(text, "# TYPE barewire_fleet_{name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "barewire_fleet_{name}{labels} {value}");
            }
        };
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let of_part = |part: Part| {
            let counts = OUTCOMES.iter().zip(&self.acts[part as usize]);
            counts.map(move |(outcome, count)| (format!("{{part=\"{}\",outcome=\"{outcome}\"}}", part.name()), get(count)))
        };
        family("acts_total", "counter", &mut PARTS.into_iter().flat_map(of_part));
        let evictions = OUTCOMES[..DRY_RUN].iter().zip(&self.evictions);
        family("evictions_total", "counter", &mut evictions.map(|(outcome, count)| (format!("{{outcome=\"{outcome}\"}}"), get(count))));
        let mut one = |name, kind, value| family(name, kind, &mut std::iter::once((String::new(), value)));
        one("events_lost_total", "counter", get(&self.events_lost));
        one("reports_total", "counter", get(&self.reports));
        one("teams_moves", "gauge", get(&self.moves));
        one("teams_nodes_left_alone", "gauge", get(&self.left_alone));
        one("teams_faults", "gauge", (file_faults + self.faults().len()) as u64);
        one("preflight_nodes_waiting", "gauge", get(&self.preflight_waiting));
        one("preflight_nodes_failed", "gauge", get(&self.preflight_failed));
        one("health_breaker_tripped", "gauge", self.is_tripped.load(Ordering::Relaxed).into());
    }
}
