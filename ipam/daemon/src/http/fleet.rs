//! Metrics of how the node stands with the fleet.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Series;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Labels, Seconds, gauge};
use crate::fleet::FleetReport;

pub(super) fn register(registry: &mut Registry, report: &FleetReport) {
    gauge(registry, "fleet_connected", "1 while a replica of the fleet is heard", i64::from(report.connected));
    if let Some(age) = report.age_seconds {
        let seconds = Seconds::default();
        seconds.set(age);
        registry.register("fleet_age_seconds", "How old what is known of the fleet is; absent where nothing is known", seconds);
    }
    let (entries, versions) = (Series::<Labels, Gauge>::default(), Series::<Labels, Gauge>::default());
    for (name, table) in &report.tables {
        let labels = vec![("table", (*name).to_owned())];
        entries.get_or_create(&labels).set(table.entries as i64);
        versions.get_or_create(&labels).set(table.resource_version.cast_signed());
    }
    registry.register("fleet_entries", "Entries of a table that the fleet tells", entries);
    registry.register("fleet_resource_version", "As of which resourceVersion a table is; 0: never told", versions);
    for (name, help, value) in [
        ("fleet_resyncs", "Tables that differed from the replica's and were told anew, since the file was begun", report.resyncs),
        ("fleet_attempts", "Connections to replicas that were tried since start", report.attempts),
        ("fleet_received_bytes", "Bytes of frames from replicas since start", report.received_bytes),
    ] {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
}
