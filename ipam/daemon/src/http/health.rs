//! What the node's checks of itself have found last.

use prometheus_client::registry::Registry;

use super::metrics;
use crate::health::{Board, PreflightState};
use crate::health_check::Verdict;

/// As many series as there are checks and results; none where the node does not look at itself.
pub(super) fn register(registry: &mut Registry, board: &Board) {
    let Some(stands) = board.preflight() else { return };
    let state = metrics::HEALTH_PREFLIGHT.series();
    for (one, name) in PreflightState::ALL {
        state.at([name]).set(i64::from(one == stands));
    }
    let (found, runs) = (metrics::HEALTH_CHECK.series(), metrics::HEALTH_CHECK_RUNS.series());
    for line in board.lines() {
        for result in Verdict::RESULTS {
            found.at([&line.check, result]).set(i64::from(line.verdict.result() == result));
        }
        runs.at([&line.check]).inc_by(line.runs);
    }
    let peers = metrics::HEALTH_PEERS.series();
    for result in Verdict::RESULTS {
        peers.at([result]).set(i64::try_from(board.peers(result)).unwrap_or(i64::MAX));
    }
    state.register(registry);
    peers.register(registry);
    found.register(registry);
    runs.register(registry);
}
