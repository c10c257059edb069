//! Metrics of the Services that barewired serves.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::{Seconds, gauge};
use crate::services::ServicesReport;

pub(super) fn register(registry: &mut Registry, report: &ServicesReport) {
    gauge(registry, "services_applied", "1 where all that the fleet has told of Services is in force", i64::from(report.applied));
    gauge(registry, "services", "Services that are served", report.services as i64);
    gauge(
        registry,
        "service_endpoints",
        "Endpoints of services that are used, those of several ports several times",
        report.endpoints as i64,
    );
    gauge(
        registry,
        "service_problems",
        "What the services contradict each other or themselves in; /status tells some",
        report.problem_count as i64,
    );
    for (name, help, value) in [
        ("service_changes_applied", "Transactions of rules of services since start", report.changes_applied),
        (
            "service_udp_flows_forgotten",
            "Flows of UDP that were forgotten since start because their endpoint was gone",
            report.udp_flows_forgotten,
        ),
    ] {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    if let Some(last) = report.last_apply_seconds {
        let seconds = Seconds::default();
        seconds.set(last);
        registry.register("service_last_apply_seconds", "How long the last transaction of rules of services took", seconds);
    }
}
