//! How the node stands with the fleet, in status, metrics and conditions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fleet_api::{Kind as Table, NodeState};
use fleet_client::client::Status;
use serde::Serialize;

use crate::conditions::{Finding, Kind, NodeConditions};

/// So long a node may be without a replica before that is told: a replica that is replaced is no trouble.
const PATIENCE: Duration = Duration::from_secs(60);

/// A page's part about the fleet.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FleetReport {
    pub(crate) connected: bool,
    /// The replica that is heard.
    pub(crate) replica: Option<String>,
    /// All that are known of.
    replicas: Vec<String>,
    /// How old what is known is; nothing: nothing is known.
    pub(crate) age_seconds: Option<f64>,
    /// Why no replica is heard, or why the last one no longer was.
    last_error: Option<String>,
    /// What is wrong with the file of what is known.
    file_error: Option<String>,
    pub(crate) attempts: u64,
    pub(crate) received_bytes: u64,
    /// How often a table differed from the replica's and was told anew.
    pub(crate) resyncs: u64,
    pub(crate) tables: BTreeMap<&'static str, TableReport>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct TableReport {
    pub(crate) entries: usize,
    pub(crate) resource_version: u64,
}

impl FleetReport {
    pub(super) fn of(status: &Status, state: &NodeState) -> Self {
        let Status { replica, last_error, file_error, attempts, received_bytes, age } = status.clone();
        let table = |kind| TableReport { entries: state.table(kind).len(), resource_version: state.position(kind).resource_version };
        Self {
            connected: replica.is_some(),
            last_error: last_error.filter(|_| replica.is_none()),
            replica,
            replicas: state.replicas().to_vec(),
            age_seconds: age.map(|age| age.as_secs_f64()),
            file_error,
            attempts,
            received_bytes,
            resyncs: state.divergences(),
            tables: [("services", table(Table::Services)), ("endpoints", table(Table::Endpoints))].into(),
        }
    }
}

/// Since when no replica is heard.
#[derive(Debug, Default)]
pub(super) struct Silence(Option<Instant>);

pub(super) fn report(status: &Status, silence: &mut Silence, conditions: &NodeConditions, now: Instant) {
    let since = *silence.0.get_or_insert(now);
    if status.replica.is_some() {
        silence.0 = None;
    }
    let is_away = status.replica.is_none() && now.duration_since(since) >= PATIENCE;
    let away = is_away.then(|| {
        let why = status.last_error.as_deref().unwrap_or("no replica has answered yet");
        let message = format!("no replica of the fleet is heard: {why}");
        Finding::new("NoReplica", message, "what is known is served on, and ages; see docs/fleet.md, and the replicas in fleet.replicas")
    });
    conditions.report(Kind::FleetNotHeard, away);
    let file = status.file_error.clone();
    let file = file.map(|error| Finding::new("FileFailed", error, "what is heard is served; make room or permit it at fleet.state_file"));
    conditions.report(Kind::FleetStateNotKept, file);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_is_replaced_is_no_condition_and_one_that_stays_away_is() {
        let (conditions, mut silence, mut now) = (NodeConditions::default(), Silence::default(), Instant::now());
        let heard = Status { replica: Some("10.0.0.1:7443".to_owned()), ..Status::default() };
        let unheard = Status { last_error: Some("closed by the replica".to_owned()), ..Status::default() };
        for (status, wait, expected) in
            [(&heard, 0, 0), (&unheard, 59, 0), (&heard, 0, 0), (&unheard, 59, 0), (&unheard, 2, 1), (&heard, 0, 0)]
        {
            report(status, &mut silence, &conditions, now);
            now += Duration::from_secs(wait);
            report(status, &mut silence, &conditions, now);
            assert_eq!(conditions.all().len(), expected, "{:?}", conditions.all());
        }
        report(&Status { file_error: Some("fleet.state: no space".to_owned()), ..heard }, &mut silence, &conditions, now);
        assert_eq!(conditions.all()[0].message, "fleet.state: no space");
    }
}
