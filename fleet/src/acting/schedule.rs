//! When the next patch may be sent, and to which node. Pure: times are arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use fleet_plans::bucket::Bucket;
use fleet_plans::health::Millis;

use super::request::Outcome;

/// After a first failure at a node; twice as long after each further one.
const FIRST: Millis = 1_000;
/// And at most.
const LONGEST: Millis = 60_000;

/// A rate for all, one at a time for a node, and pauses after failures.
#[derive(Debug)]
pub(super) struct Schedule {
    bucket: Bucket,
    /// Before, none is sent.
    not_before: Millis,
    failures: u32,
    nodes: BTreeMap<String, Place>,
}

#[derive(Debug, Default)]
struct Place {
    is_in_flight: bool,
    failures: u32,
    not_before: Millis,
}

impl Schedule {
    pub(super) fn new(per_second: u32) -> Self {
        Self { bucket: Bucket::new(per_second), not_before: 0, failures: 0, nodes: BTreeMap::new() }
    }

    /// May anything be sent now?
    pub(super) const fn is_open(&self, now: Millis) -> bool {
        now >= self.not_before
    }

    /// May this node be written now?
    pub(super) fn is_free(&self, node: &str, now: Millis) -> bool {
        self.nodes.get(node).is_none_or(|place| !place.is_in_flight && now >= place.not_before)
    }

    /// A node is written.
    pub(super) fn begin(&mut self, node: &str, now: Millis) {
        self.spend(now);
        self.nodes.entry(node.to_owned()).or_default().is_in_flight = true;
    }

    /// Something else is.
    pub(super) fn spend(&mut self, now: Millis) {
        self.not_before = self.not_before.max(now + self.bucket.take(now));
    }

    /// What has come of it. `chance` is between 0 and 1.
    pub(super) fn end(&mut self, node: &str, outcome: &Outcome, now: Millis, chance: f64) {
        self.heed(outcome, now, chance);
        let Some(place) = self.nodes.get_mut(node) else { return };
        place.is_in_flight = false;
        match outcome {
            Outcome::Done(_) | Outcome::Gone => drop(self.nodes.remove(node)),
            Outcome::Conflict(_) | Outcome::Refused(_) => {
                place.not_before = now + backoff(place.failures, chance);
                place.failures += 1;
            }
            // All are paused.
            Outcome::Later { .. } | Outcome::Lost(_) => {}
        }
    }

    /// What an answer means for all that is sent after it.
    pub(super) fn heed(&mut self, outcome: &Outcome, now: Millis, chance: f64) {
        let pause = match outcome {
            Outcome::Later { after, is_budget: false } => millis(*after).max(backoff(self.failures, chance)),
            Outcome::Lost(_) => backoff(self.failures, chance),
            _ => {
                self.failures = 0;
                return;
            }
        };
        self.failures += 1;
        self.not_before = self.not_before.max(now + pause);
    }

    /// Forgets nodes that are not there any more.
    pub(super) fn forget(&mut self, node: &str) {
        if self.nodes.get(node).is_some_and(|place| !place.is_in_flight) {
            self.nodes.remove(node);
        }
    }

    /// Nodes with something under way.
    #[cfg(test)]
    fn in_flight(&self) -> usize {
        self.nodes.values().filter(|place| place.is_in_flight).count()
    }
}

fn backoff(failures: u32, chance: f64) -> Millis {
    let longest = FIRST.saturating_mul(1 << failures.min(6)).min(LONGEST);
    millis(Duration::from_millis(longest).mul_f64(0.5 + chance / 2.0))
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_faster_than_the_rate_and_one_at_a_time_for_a_node() {
        let mut schedule = Schedule::new(5);
        let mut sent = Vec::new();
        for now in (0..10_000).step_by(10) {
            let name = format!("n{}", sent.len());
            if schedule.is_open(now) && schedule.is_free(&name, now) {
                schedule.begin(&name, now);
                assert!(!schedule.is_free(&name, now));
                sent.push(now);
            }
        }
        assert!((50..=56).contains(&sent.len()), "{}", sent.len());
        assert_eq!(schedule.in_flight(), sent.len());
        schedule.end("n0", &Outcome::Done(serde_json::Value::Null), 10_000, 1.0);
        assert!(schedule.is_free("n0", 10_000) && !schedule.is_free("n1", 10_000));
    }

    #[test]
    fn the_api_server_says_how_long_and_a_conflict_is_of_one_node() {
        let mut schedule = Schedule::new(100);
        schedule.begin("a", 0);
        schedule.end("a", &Outcome::Later { after: Duration::from_secs(7), is_budget: false }, 0, 1.0);
        assert!(!schedule.is_open(6_999) && schedule.is_open(7_000) && schedule.is_free("a", 7_000));
        schedule.heed(&Outcome::Later { after: Duration::from_secs(70), is_budget: true }, 7_000, 1.0);
        assert!(schedule.is_open(7_000), "a disruption budget is of one pod");
        for wait in [1_000, 2_000, 4_000] {
            schedule.begin("a", 10_000);
            schedule.end("a", &Outcome::Conflict(String::new()), 10_000, 1.0);
            assert!(schedule.is_open(10_010) && schedule.is_free("b", 10_000));
            assert!(!schedule.is_free("a", 10_000 + wait - 1) && schedule.is_free("a", 10_000 + wait), "{wait}");
        }
        schedule.forget("a");
        assert!(schedule.is_free("a", 10_000));
    }
}
