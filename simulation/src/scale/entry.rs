//! What a herd of nodes meets that have their addresses all at once: the fleet's rate of handshakes, preflight before the first pod, and whoever
//! looks at their health. With the code that a replica of the fleet decides by.

use fastrand::Rng;
use fleet_plans::bucket::Bucket;
use fleet_simulation::health::tainted_of_herd;
use fleet_simulation::preflight::{self, Herd, herd};

/// As a replica has it by default (`--handshakes`).
const HANDSHAKES: u32 = 1_000;
/// From a stream to the fleet to the first word of a node's preflight.
const SAYS: u64 = 1_000;

/// How a herd was let in.
#[derive(Debug, Clone, PartialEq)]
pub struct Entered {
    /// The most handshakes of a second.
    pub handshakes_per_second: usize,
    /// Seconds that the last node waited for its handshake.
    pub handshake_wait_s: f64,
    /// The most nodes that were told to begin their preflight within a second.
    pub begun_per_second: usize,
    /// Nodes that never were schedulable.
    pub left_out: usize,
    /// Seconds from the first node's being ready until the last was schedulable.
    pub seconds: f64,
    /// The same, if nothing but the rate of preflights and the longest of them took any time.
    pub limit: f64,
}

/// Of nodes that were ready at these times, in milliseconds.
#[must_use]
pub fn enter(ready: &[u64], seed: u64) -> Entered {
    let mut rng = Rng::with_seed(seed);
    let mut ready = ready.to_vec();
    ready.sort_unstable();
    let mut bucket = Bucket::new(HANDSHAKES);
    let connected: Vec<_> = ready.iter().map(|at| at + bucket.take(*at)).collect();
    let wait = ready.iter().zip(&connected).map(|(ready, connected)| connected - ready).max().unwrap_or_default();
    let asks: Vec<_> = connected.iter().map(|at| at + SAYS + rng.u64(0..SAYS)).collect();
    let Herd { let_in, begun_per_second } = herd(&asks, &mut rng);
    let first = ready.first().copied().unwrap_or_default();
    let last = let_in.iter().flatten().max().copied().unwrap_or_default();
    let millis = |millis: u64| millis as f64 / 1_000.0;
    Entered {
        handshakes_per_second: most_in_a_second(&connected),
        handshake_wait_s: millis(wait),
        begun_per_second,
        left_out: let_in.iter().filter(|at| at.is_none()).count(),
        seconds: millis(last.saturating_sub(first)),
        limit: ready.len() as f64 / preflight::per_second() as f64 + millis(preflight::CHECKS_MOST),
    }
}

/// Nodes of those that were ready at these times that are tainted as sick, for what nodes say of themselves while they start.
#[must_use]
pub fn tainted(ready: &[u64], seed: u64) -> usize {
    tainted_of_herd(ready, &mut Rng::with_seed(seed))
}

/// Of times in their order.
fn most_in_a_second(times: &[u64]) -> usize {
    times
        .iter()
        .enumerate()
        .map(|(first, at)| times[first..].iter().take_while(|time| *time - at < 1_000).count())
        .max()
        .unwrap_or_default()
}
