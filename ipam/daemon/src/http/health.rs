//! What the node's checks of itself have found last.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Series;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Labels;
use crate::health::{Line, PreflightState};
use crate::health_check::Verdict;

/// As many series as there are checks and results; none where the node does not look at itself.
pub(super) fn register(registry: &mut Registry, lines: &[Line], preflight: Option<PreflightState>) {
    let Some(stands) = preflight else { return };
    let state = Series::<Labels, Gauge>::default();
    for (one, name) in PreflightState::ALL {
        state.get_or_create(&vec![("state", name.to_owned())]).set(i64::from(one == stands));
    }
    registry.register("health_preflight", "1 for how the preflight of this boot stands: running, passed or failed", state);
    let (found, runs) = (Series::<Labels, Gauge>::default(), Series::<Labels, Counter>::default());
    for line in lines {
        for result in Verdict::RESULTS {
            let labels = vec![("check", line.check.clone()), ("result", result.to_owned())];
            found.get_or_create(&labels).set(i64::from(line.verdict.result() == result));
        }
        runs.get_or_create(&vec![("check", line.check.clone())]).inc_by(line.runs);
    }
    registry.register("health_check", "1 for what a check of the node's health has found last: ok, failed or unknown", found);
    registry.register("health_check_runs", "Runs of a check of the node's health since start", runs);
}
