//! What the node's checks of itself have found last.

use prometheus_client::registry::Registry;

use super::metrics;
use crate::health::Line;
use crate::health_check::Verdict;

/// As many series as there are checks and results.
pub(super) fn register(registry: &mut Registry, lines: &[Line]) {
    let (found, runs) = (metrics::HEALTH_CHECK.series(), metrics::HEALTH_CHECK_RUNS.series());
    for line in lines {
        for result in Verdict::RESULTS {
            found.at([&line.check, result]).set(i64::from(line.verdict.result() == result));
        }
        runs.at([&line.check]).inc_by(line.runs);
    }
    found.register(registry);
    runs.register(registry);
}
