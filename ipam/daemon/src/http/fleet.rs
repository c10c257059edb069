//! Metrics of how the node stands with the fleet.

use prometheus_client::registry::Registry;

use super::{gauge, metrics};
use crate::fleet::FleetReport;

pub(super) fn register(registry: &mut Registry, report: &FleetReport) {
    gauge(registry, &metrics::FLEET_CONNECTED, i64::from(report.connected));
    if let Some(age) = report.age_seconds {
        metrics::FLEET_AGE.tell(registry, |gauge| {
            gauge.set(age);
        });
    }
    let (entries, versions) = (metrics::FLEET_ENTRIES.series(), metrics::FLEET_RESOURCE_VERSION.series());
    for (name, table) in &report.tables {
        entries.at([name]).set(table.entries as i64);
        versions.at([name]).set(table.resource_version.cast_signed());
    }
    entries.register(registry);
    versions.register(registry);
    for (metric, value) in [
        (&metrics::FLEET_RESYNCS, report.resyncs),
        (&metrics::FLEET_ATTEMPTS, report.attempts),
        (&metrics::FLEET_RECEIVED_BYTES, report.received_bytes),
    ] {
        metric.tell(registry, |counter| {
            counter.inc_by(value);
        });
    }
}
