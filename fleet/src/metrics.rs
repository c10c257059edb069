//! Every metric of a replica, declared once: `/metrics` is written from this table, and so is docs/metrics.md.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use fleet_api::Kind;

use crate::hub::Hub;
use crate::server::{Counters, Server};

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The state.
    pub hub: &'a Hub,
    /// Who serves it.
    pub server: &'a Server,
    /// Whether this replica leads.
    pub leads: bool,
}

/// A metric of a replica; none has labels.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// As it is served.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// What it says.
    pub help: &'static str,
    value: fn(&Seen) -> u64,
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Seen) -> u64) -> Metric {
    Metric { name, kind: "gauge", help, value }
}

const fn counter(name: &'static str, help: &'static str, value: fn(&Seen) -> u64) -> Metric {
    Metric { name, kind: "counter", help, value }
}

/// All of them.
pub const METRICS: [Metric; 13] = [
    gauge("barewire_fleet_nodes", "Nodes that are connected to this replica", |seen| seen.server.nodes().len() as u64),
    counter("barewire_fleet_connections_total", "Connections that were accepted", |seen| seen.count(|of| &of.accepted)),
    counter("barewire_fleet_connections_crowded_total", "Of these, closed without a handshake: their address had too many", |seen| {
        seen.count(|of| &of.crowded)
    }),
    counter("barewire_fleet_connections_refused_total", "Connections that ended before they were served", |seen| {
        seen.count(|of| &of.refused)
    }),
    counter("barewire_fleet_sent_bytes_total", "Bytes of frames that were sent to nodes", |seen| seen.count(|of| &of.sent_bytes)),
    counter("barewire_fleet_snapshots_sent_total", "Snapshots of tables that were begun for nodes", |seen| seen.count(|of| &of.snapshots)),
    gauge("barewire_fleet_leader", "1 while this replica leads", |seen| seen.leads.into()),
    gauge("barewire_fleet_services_entries", "Entries of the table of services", |seen| seen.entries(Kind::Services)),
    gauge("barewire_fleet_services_resource_version", "As of which resourceVersion the table of services is", |seen| {
        seen.resource_version(Kind::Services)
    }),
    counter("barewire_fleet_services_snapshot_encodes_total", "How often the table of services was encoded as a snapshot", |seen| {
        seen.encodes(Kind::Services)
    }),
    gauge("barewire_fleet_endpoints_entries", "Entries of the table of endpoints", |seen| seen.entries(Kind::Endpoints)),
    gauge("barewire_fleet_endpoints_resource_version", "As of which resourceVersion the table of endpoints is", |seen| {
        seen.resource_version(Kind::Endpoints)
    }),
    counter("barewire_fleet_endpoints_snapshot_encodes_total", "How often the table of endpoints was encoded as a snapshot", |seen| {
        seen.encodes(Kind::Endpoints)
    }),
];

impl Seen<'_> {
    fn count(&self, which: fn(&Counters) -> &AtomicU64) -> u64 {
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

/// Prometheus' text format.
#[must_use]
pub fn text(seen: &Seen) -> String {
    METRICS.iter().fold(String::new(), |mut text, Metric { name, kind, help, value }| {
        let _infallible = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}", value(seen));
        text
    })
}
