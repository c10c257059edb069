//! What the node's checks of itself have found last.

use prometheus_client::registry::Registry;

use super::metrics;
use crate::health::{Line, PreflightState};
use crate::health_check::Verdict;

/// As many series as there are checks and results; none where the node does not look at itself.
pub(super) fn register(registry: &mut Registry, lines: &[Line], preflight: Option<PreflightState>) {
    let Some(stands) = preflight else { return };
    let state = metrics::HEALTH_PREFLIGHT.series();
    for (one, name) in PreflightState::ALL {
        state.at([name]).set(i64::from(one == stands));
    }
    let (found, runs) = (metrics::HEALTH_CHECK.series(), metrics::HEALTH_CHECK_RUNS.series());
    for line in lines {
        for result in Verdict::RESULTS {
            found.at([&line.check, result]).set(i64::from(line.verdict.result() == result));
        }
        runs.at([&line.check]).inc_by(line.runs);
    }
    state.register(registry);
    found.register(registry);
    runs.register(registry);
}
