//! Metrics of the Services that barewired serves.

use prometheus_client::registry::Registry;

use super::{gauge, metrics};
use crate::services::ServicesReport;

pub(super) fn register(registry: &mut Registry, report: &ServicesReport) {
    gauge(registry, &metrics::SERVICES_APPLIED, i64::from(report.applied));
    gauge(registry, &metrics::SERVICES, report.services as i64);
    gauge(registry, &metrics::SERVICE_ENDPOINTS, report.endpoints as i64);
    gauge(registry, &metrics::SERVICE_TRANSLATED_PORTS, report.translated_ports as i64);
    gauge(registry, &metrics::SERVICE_PROBLEMS, report.problem_count as i64);
    for (metric, value) in
        [(&metrics::SERVICE_CHANGES_APPLIED, report.changes_applied), (&metrics::SERVICE_UDP_FLOWS_FORGOTTEN, report.udp_flows_forgotten)]
    {
        metric.tell(registry, |counter| {
            counter.inc_by(value);
        });
    }
    if let Some(last) = report.last_apply_seconds {
        metrics::SERVICE_LAST_APPLY_SECONDS.tell(registry, |gauge| {
            gauge.set(last);
        });
    }
}
