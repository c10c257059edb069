//! Readiness and metrics of a replica.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use fleet_api::Kind;
use tokio::sync::watch;

use crate::acting::{Counters, TeamsFile};
use crate::forwarding;
use crate::hub::Hub;
use crate::server::Server;
use crate::webhook;

/// What is told of.
#[derive(Debug, Clone)]
pub struct Told {
    /// The stream's state.
    pub hub: Arc<Hub>,
    /// Its server.
    pub server: Arc<Server>,
    /// Whether this replica leads.
    pub leads: watch::Receiver<bool>,
    /// The leader's acts.
    pub acts: Arc<Counters>,
    /// Reports on their way to the leader.
    pub forwarding: Arc<forwarding::Counters>,
    /// The file of teams.
    pub teams: watch::Receiver<TeamsFile>,
    /// The webhook of admission.
    pub admission: Arc<webhook::Counters>,
}

/// `/readyz` and `/metrics`.
pub fn router(told: Told) -> Router {
    let readiness = told.clone();
    Router::new()
        .route("/readyz", get(move || async move { readiness.ready() }))
        .route("/metrics", get(move || async move { told.metrics() }))
}

impl Told {
    /// A bad file of teams is told and is no reason to be taken for dead: nodes are served all the same.
    fn ready(&self) -> (StatusCode, String) {
        let (status, mut text) = if self.hub.replica().is_ready() {
            (StatusCode::OK, "ready\n".to_owned())
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not all kinds have been listed\n".to_owned())
        };
        let file = self.teams.borrow().faults.clone();
        for fault in file.iter().chain(&self.acts.faults()) {
            let _ = writeln!(text, "teams: {fault}");
        }
        (status, text)
    }

    /// Prometheus' text format.
    fn metrics(&self) -> String {
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, value: u64| {
            let _ = writeln!(text, "# TYPE barewire_fleet_{name} {kind}\nbarewire_fleet_{name} {value}");
        };
        let counters = self.server.counters();
        metric("nodes", "gauge", self.server.connected() as u64);
        for (name, counter) in [
            ("connections_total", &counters.accepted),
            ("connections_crowded_total", &counters.crowded),
            ("connections_refused_total", &counters.refused),
            ("sent_bytes_total", &counters.sent_bytes),
            ("snapshots_sent_total", &counters.snapshots),
            ("health_reports_total", &counters.reports),
            ("health_reports_refused_total", &counters.bad_reports),
            ("health_reports_received_total", &counters.forwarded_reports),
            ("health_reports_forwarded_total", &self.forwarding.forwarded),
        ] {
            metric(name, "counter", counter.load(Ordering::Relaxed));
        }
        metric("leader", "gauge", (*self.leads.borrow()).into());
        metric("replicas_forwarding", "gauge", self.server.forwarding() as u64);
        metric("nodes_elsewhere", "gauge", self.server.connected_elsewhere() as u64);
        metric("reports_reach_leader", "gauge", self.forwarding.reaches().into());
        let replica = self.hub.replica();
        for (kind, name) in [(Kind::Services, "services"), (Kind::Endpoints, "endpoints")] {
            let log = replica.log(kind);
            metric(&format!("{name}_entries"), "gauge", log.table().len() as u64);
            metric(&format!("{name}_resource_version"), "gauge", log.position().resource_version);
            metric(&format!("{name}_snapshot_encodes_total"), "counter", log.snapshot_encodes());
        }
        drop(replica);
        self.acts.write(&mut text, self.teams.borrow().faults.len());
        self.admission.write(&mut text);
        text
    }
}
