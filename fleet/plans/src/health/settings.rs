//! How much is needed, and how much is done at most.

use super::Millis;

/// So many bad verdicts within a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// Verdicts.
    pub bad: usize,
    /// Within so long.
    pub within: Millis,
}

/// All of it. Shares are of the nodes that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Acts are told and nothing is written: the default of the first week.
    pub dry_run: bool,
    /// Of what a node sees of itself: carrier, disks.
    pub own: Threshold,
    /// Of what goes over the network, where packets are lost.
    pub probe: Threshold,
    /// Nodes that have to say so of a node that does not.
    pub witnesses: usize,
    /// Between being sick and being tainted: whether many are is known then.
    pub settle: Millis,
    /// Without a bad verdict, and with a good one, so long: longer than it takes to be sick.
    pub recover: Millis,
    /// What a node has said of another and not said again for so long is over: it may itself have gone.
    pub stale: Millis,
    /// Still sick so long after the taint: its pods are evicted, as their budgets allow.
    pub drain_after: Millis,
    /// Still not empty or well so long after that: somebody is told.
    pub overdue_after: Millis,
    /// Overdue nodes are handed to a hook that ends them.
    pub force: bool,
    /// Of a pool's nodes, newly tainted within [`Self::window`], in thousandths.
    pub pool_permille: u64,
    /// Of all nodes, tainted at a time, in thousandths.
    pub total_permille: u64,
    /// Both budgets are this many nodes at least.
    pub floor: u64,
    /// More suspects at a time than this, in thousandths and never fewer than [`Self::floor`]: the breaker trips.
    pub breaker_permille: u64,
    /// Of the budget of a pool.
    pub window: Millis,
    /// Nothing is done so long after a leader has started, or many streams have broken at once.
    pub quiet: Millis,
    /// How many streams are many, in thousandths.
    pub mass_permille: u64,
    /// A relapse counts so long.
    pub relapses_within: Millis,
    /// So many relapses are a lemon: somebody is told.
    pub lemon: usize,
}

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;
const DAY: Millis = 24 * 60 * MINUTE;

impl Default for Settings {
    fn default() -> Self {
        Self {
            dry_run: true,
            own: Threshold { bad: 2, within: 1_500 },
            probe: Threshold { bad: 3, within: 2_000 },
            witnesses: 2,
            settle: 750,
            recover: MINUTE,
            stale: 10 * MINUTE,
            drain_after: 5 * MINUTE,
            overdue_after: 7 * DAY,
            force: false,
            pool_permille: 10,
            total_permille: 50,
            floor: 2,
            breaker_permille: 50,
            window: 10 * MINUTE,
            quiet: 10 * MINUTE,
            mass_permille: 100,
            relapses_within: 30 * DAY,
            lemon: 3,
        }
    }
}

impl Settings {
    /// So many thousandths of `nodes`, the floor at least.
    pub(super) fn share(&self, permille: u64, nodes: usize) -> usize {
        let share = (nodes as u64).saturating_mul(permille) / 1_000;
        usize::try_from(share.max(self.floor)).unwrap_or(usize::MAX)
    }
}
