//! Readiness and metrics of a replica.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use fleet_api::Kind;
use tokio::sync::watch;

use crate::acting::{self, Counters, TeamsFile};
use crate::forwarding;
use crate::hub::Hub;
use crate::metrics::{self, Declared, Metric, counter, gauge};
use crate::server::{self, Server};
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
        metrics::write(&METRICS, self, &mut text);
        metrics::write(&acting::METRICS, &*self.acts, &mut text);
        metrics::write(&webhook::METRICS, &*self.admission, &mut text);
        text
    }

    fn count(&self, which: fn(&server::Counters) -> &AtomicU64) -> u64 {
        which(self.server.counters()).load(Ordering::Relaxed)
    }

    fn entries(&self, kind: Kind) -> u64 {
        self.hub.replica().log(kind).table().len() as u64
    }

    fn resource_version(&self, kind: Kind) -> u64 {
        self.hub.replica().log(kind).position().resource_version
    }

    fn encodes(&self, kind: Kind) -> u64 {
        self.hub.replica().log(kind).snapshot_encodes()
    }
}

/// What is told of nodes, tables and files.
const METRICS: [Metric<Told>; 21] = [
    gauge("nodes", "Nodes that are connected to this replica", |told| told.server.connected() as u64),
    counter("connections_total", "Connections that were accepted", |told| told.count(|of| &of.accepted)),
    counter("connections_crowded_total", "Of these, closed without a handshake: their address had too many", |told| {
        told.count(|of| &of.crowded)
    }),
    counter("connections_refused_total", "Connections that ended before they were served", |told| told.count(|of| &of.refused)),
    counter("sent_bytes_total", "Bytes of frames that were sent to nodes", |told| told.count(|of| &of.sent_bytes)),
    counter("snapshots_sent_total", "Snapshots of tables that were begun for nodes", |told| told.count(|of| &of.snapshots)),
    counter("health_reports_total", "Reports of nodes' health that were taken", |told| told.count(|of| &of.reports)),
    counter("health_reports_refused_total", "Reports of nodes' health that could not be read", |told| told.count(|of| &of.bad_reports)),
    counter("health_reports_received_total", "Reports of nodes' health that other replicas have forwarded to this one", |told| {
        told.count(|of| &of.forwarded_reports)
    }),
    counter("health_reports_forwarded_total", "Reports of nodes' health that this replica has forwarded to the leader", |told| {
        told.forwarding.forwarded.load(Ordering::Relaxed)
    }),
    gauge(
        "reports_reach_leader",
        "1 while reports of this replica's nodes reach who leads; always 0 where the leader acts on nothing",
        |told| told.forwarding.reaches().into(),
    ),
    gauge("replicas_forwarding", "Replicas that forward reports to this one", |told| told.server.forwarding() as u64),
    gauge("nodes_elsewhere", "Nodes that are connected to them", |told| told.server.connected_elsewhere() as u64),
    gauge("leader", "1 while this replica leads", |told| (*told.leads.borrow()).into()),
    gauge("services_entries", "Entries of the table of services", |told| told.entries(Kind::Services)),
    gauge("services_resource_version", "As of which resourceVersion the table of services is", |told| {
        told.resource_version(Kind::Services)
    }),
    counter("services_snapshot_encodes_total", "How often the table of services was encoded as a snapshot", |told| {
        told.encodes(Kind::Services)
    }),
    gauge("endpoints_entries", "Entries of the table of endpoints", |told| told.entries(Kind::Endpoints)),
    gauge("endpoints_resource_version", "As of which resourceVersion the table of endpoints is", |told| {
        told.resource_version(Kind::Endpoints)
    }),
    counter("endpoints_snapshot_encodes_total", "How often the table of endpoints was encoded as a snapshot", |told| {
        told.encodes(Kind::Endpoints)
    }),
    gauge("teams_faults", "What is wrong with the file of teams, alone and on the nodes that there are", |told| {
        (told.teams.borrow().faults.len() + told.acts.faults().len()) as u64
    }),
];

/// Every metric of a replica.
pub fn declared() -> impl Iterator<Item = Declared> {
    let (acts, admission) = (acting::METRICS.iter().map(Metric::declared), webhook::METRICS.iter().map(Metric::declared));
    METRICS.iter().map(Metric::declared).chain(acts).chain(admission)
}
