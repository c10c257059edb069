//! Pods that want an address and have none: those whose ADD waits, and those that were told to try again a moment ago. Both are what the
//! cloud has to be asked for; a runtime that was refused comes back. Pure.

use std::collections::{HashMap, VecDeque};

use cni_spec::PodIdentity;
use node_api::BootMillis;

/// How long a refused pod counts, in milliseconds: kubelet tries again 10 to 15 seconds after a sandbox has failed (`backOffPeriod` in
/// its `kubelet.go`), and twice that where its node is busy.
const REFUSED_COUNTS: u64 = 30_000;
/// More than a node has pods: refusals are for anybody to cause, and memory is not.
const REFUSED_MAX: usize = 1024;

/// Which pods want an address.
#[derive(Debug, Default)]
pub struct Demand {
    /// Turns of the ADDs that wait, who came first in front.
    waiting: VecDeque<Turn>,
    last: u64,
    refused: HashMap<String, BootMillis>,
}

/// The place of an ADD among those that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn(u64);

/// What tells a pod from others over several tries: each has a container of its own, and without a pod that is all there is.
pub(super) fn pod_of(pod: &PodIdentity, container_id: &str) -> String {
    if pod.name.is_empty() { container_id.to_owned() } else { format!("{}/{}", pod.namespace, pod.name) }
}

impl Demand {
    /// How many ADDs wait.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// How many pods want an address and have none.
    #[must_use]
    pub fn pods(&self, now: BootMillis) -> u64 {
        self.waiting() + self.refused.values().filter(|at| counts(**at, now)).count() as u64
    }

    /// A pod's ADD waits from now on.
    pub(super) fn begin(&mut self, pod: &str) -> Turn {
        self.last += 1;
        self.waiting.push_back(Turn(self.last));
        self.refused.remove(pod);
        Turn(self.last)
    }

    /// How many that wait came before it: as many addresses are theirs.
    pub(super) fn ahead(&self, turn: Turn) -> u64 {
        self.waiting.iter().take_while(|other| **other != turn).count() as u64
    }

    /// It waits no more.
    pub(super) fn end(&mut self, turn: Turn) {
        self.waiting.retain(|other| *other != turn);
    }

    /// A pod has its addresses.
    pub(super) fn served(&mut self, pod: &str) {
        self.refused.remove(pod);
    }

    /// A pod has none, and was told to try again.
    pub(super) fn refused(&mut self, pod: String, now: BootMillis) {
        self.refused.retain(|_, at| counts(*at, now));
        if self.refused.len() < REFUSED_MAX {
            self.refused.insert(pod, now);
        }
    }
}

fn counts(refused: BootMillis, now: BootMillis) -> bool {
    now.since(refused) < REFUSED_COUNTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_counts_once_however_often_it_tries() {
        let mut demand = Demand::default();
        let named = PodIdentity { namespace: "a".into(), name: "b".into(), uid: String::new() };
        for (container, at) in [("c1", 0), ("c2", 10_000), ("c3", 20_000)] {
            let pod = pod_of(&named, container);
            let turn = demand.begin(&pod);
            assert_eq!((demand.waiting(), demand.pods(BootMillis(at))), (1, 1));
            demand.end(turn);
            demand.refused(pod, BootMillis(at + 5000));
            assert_eq!((demand.waiting(), demand.pods(BootMillis(at + 5000))), (0, 1));
        }
        demand.refused(pod_of(&PodIdentity::default(), "c4"), BootMillis(25_000));
        assert_eq!(demand.pods(BootMillis(25_000)), 2);
        demand.served(&pod_of(&named, "c5"));
        assert_eq!(demand.pods(BootMillis(25_000)), 1);
    }

    #[test]
    fn who_leaves_makes_room_for_who_came_later() {
        let mut demand = Demand::default();
        let turns = ["a", "b", "c"].map(|pod| demand.begin(pod));
        assert_eq!(turns.map(|turn| demand.ahead(turn)), [0, 1, 2]);
        demand.end(turns[1]);
        assert_eq!((demand.ahead(turns[0]), demand.ahead(turns[2]), demand.waiting()), (0, 1, 2));
    }

    #[test]
    fn what_was_refused_is_forgotten_and_bounded() {
        let mut demand = Demand::default();
        (0..5000).for_each(|pod| demand.refused(pod.to_string(), BootMillis(1)));
        assert_eq!(demand.pods(BootMillis(30_000)), REFUSED_MAX as u64);
        assert_eq!(demand.pods(BootMillis(30_001)), 0);
        demand.refused("new".into(), BootMillis(40_000));
        assert_eq!((demand.refused.len(), demand.pods(BootMillis(40_000))), (1, 1));
    }
}
