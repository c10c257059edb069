//! Every metric of `/metrics`, declared once: what is served goes by this table, and docs/metrics.md is written from it.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Series;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric as Registered, Registry};

/// What all names begin with.
pub(crate) const PREFIX: &str = "barewire";

type Labels = Vec<(&'static str, String)>;
type Seconds = Gauge<f64, AtomicU64>;
type TotalSeconds = Counter<f64, AtomicU64>;

/// A metric of type `M` with `N` labels.
pub(super) struct Metric<M, const N: usize> {
    name: &'static str,
    labels: [&'static str; N],
    help: &'static str,
    of: PhantomData<fn() -> M>,
}

impl<M: TypedMetric + Registered + Default> Metric<M, 0> {
    /// Its only value: what `set` makes of nothing.
    pub(super) fn tell(&self, registry: &mut Registry, set: impl FnOnce(&M)) {
        let metric = M::default();
        set(&metric);
        registry.register(self.name, self.help, metric);
    }
}

impl<M: TypedMetric + Registered + Default, const N: usize> Metric<M, N> {
    /// No value yet.
    pub(super) fn series(&'static self) -> Measured<M, N> {
        Measured { metric: self, series: Series::default() }
    }
}

/// Values of a metric, by those of its labels.
pub(super) struct Measured<M: 'static, const N: usize> {
    metric: &'static Metric<M, N>,
    series: Series<Labels, M>,
}

impl<M, const N: usize> Measured<M, N>
where
    M: TypedMetric + Registered + Default,
    Series<Labels, M>: Registered,
{
    /// The value for these labels, in the order in which they were declared.
    pub(super) fn at(&self, values: [&str; N]) -> impl Deref<Target = M> {
        let labels = self.metric.labels.iter().zip(values).map(|(label, value)| (*label, value.to_owned()));
        self.series.get_or_create(&labels.collect())
    }

    /// Served from now on.
    pub(super) fn register(self, registry: &mut Registry) {
        registry.register(self.metric.name, self.metric.help, self.series);
    }
}

/// What documentation says of a metric.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Declared {
    /// Without the prefix, and without a counter's `_total`.
    pub(crate) name: &'static str,
    /// `counter` or `gauge`.
    pub(crate) kind: &'static str,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

macro_rules! metrics {
    ($($when:literal { $($id:ident: $of:ty, $name:literal [$($label:literal),*], $help:literal;)* })*) => {
        $($(pub(super) static $id: Metric<$of, { <[&str]>::len(&[$($label),*]) }> =
            Metric { name: $name, labels: [$($label),*], help: $help, of: PhantomData };)*)*

        /// Every metric, under when it is served.
        pub(crate) fn declared() -> Vec<(&'static str, Vec<Declared>)> {
            vec![$(($when, vec![$(
                Declared { name: $name, kind: kind::<$of>(), labels: &[$($label),*], help: $help }
            ),*])),*]
        }
    };
}

fn kind<M: TypedMetric>() -> &'static str {
    use prometheus_client::metrics::MetricType;
    match M::TYPE {
        MetricType::Counter => "counter",
        MetricType::Gauge => "gauge",
        MetricType::Histogram => "histogram",
        MetricType::Info => "info",
        MetricType::Unknown => "unknown",
    }
}

metrics! {
    "On every node" {
        ATTACHMENTS: Gauge, "attachments" [], "Pods attached on this node";
        UNCOMMITTED_DELS: Gauge, "uncommitted_dels" [], "DELs answered that are not on disk yet";
        ADDRESSES: Gauge, "addresses" ["family", "state"], "Pod addresses of this node by state";
        ADDRESSES_EXHAUSTED: Gauge, "addresses_exhausted" ["family"], "1 where no pod could have an address of this family now";
        ADDS_REFUSED: Counter, "adds_refused" ["reason"], "ADDs refused since start, by reason";
        KERNEL_CALLS_HELD_UP: Gauge, "kernel_calls_held_up" [],
            "Calls of the kernel that have not come back for more than a second: somebody holds RTNL";
        REPAIRS: Counter, "repairs" ["kind"], "What somebody had removed or altered and was set again, by kind";
        CONDITION: Gauge, "condition" ["type", "reason"], "1 for each condition that holds; see /status";
        OPERATION_SECONDS: Seconds, "operation_seconds" ["operation", "quantile"], "Time of an operation since start, by quantile";
        OPERATIONS_SECONDS: TotalSeconds, "operations_seconds" ["operation"], "Time spent in an operation since start";
        OPERATIONS: Counter, "operations" ["operation"], "Operations since start";
        OPERATIONS_FAILED: Counter, "operations_failed" ["operation"], "Failed operations since start";
    }
    "Traffic, where it can be counted" {
        PACKETS: Counter, "packets" ["namespace", "pod", "container_id", "direction", "scope"],
            "Packets by owner (the host's has no pod), direction and scope of the other end";
        BYTES: Counter, "bytes" ["namespace", "pod", "container_id", "direction", "scope"], "Bytes of frames, likewise";
        NAMESPACE_PACKETS: Counter, "namespace_packets" ["namespace", "direction", "scope"],
            "Packets by namespace, its pods that have ended included";
        NAMESPACE_BYTES: Counter, "namespace_bytes" ["namespace", "direction", "scope"], "Bytes of frames, likewise";
        FAST_PATH_DROPPED: Counter, "fast_path_dropped" ["reason"], "Packets that were dropped, by reason";
        FAST_PATH_PASSED_TO_STACK: Counter, "fast_path_passed_to_stack" ["reason"],
            "Packets that the programs left to the host's stack, by reason";
    }
    "With the kernel programs" {
        SLOW_PATH_FLOWS: Gauge, "slow_path_flows" ["namespace", "pod"],
            "Flows that keep to the slow path, by the pod that they are charged to";
        SLOW_PATH_FLOWS_LIMIT: Gauge, "slow_path_flows_limit" [], "How many of them one pod may have";
        COUNTED_SINCE: Gauge, "traffic_counted_since_timestamp_seconds" [],
            "When the counters of running pods began; later than before where a version with other maps had to begin anew";
    }
    "Where addresses come from a cloud" {
        CLOUD_API_MODE: Gauge, "cloud_api_mode" ["mode"], "How freely the cloud is called: 1 for the mode that holds";
        CLOUD_BLOCKS: Gauge, "cloud_blocks" ["state"], "Blocks of addresses that the cloud has assigned, by state";
        CLOUD_API_CALLS: Counter, "cloud_api_calls" ["call"], "Calls to the cloud since start";
        CLOUD_API_CALLS_REFUSED: Counter, "cloud_api_calls_refused" ["call"],
            "Calls that the cloud has refused, or that did not reach it";
        CLOUD_API_CALLS_THROTTLED: Counter, "cloud_api_calls_throttled" ["call"],
            "Calls that the cloud has refused because the account made too many";
        CLOUD_API_CALLS_UNKNOWN: Counter, "cloud_api_calls_unknown" ["call"], "Calls without an answer: their outcome is not known";
        CLOUD_API_TOKENS: Gauge, "cloud_api_tokens" [], "Tokens of the node's bucket: calls of the API that it may make at once";
        CLOUD_INTERFACES: Gauge, "cloud_interfaces" [], "Interfaces to the cloud network";
        CLOUD_CONDITION: Gauge, "cloud_condition" ["type"], "What is wrong between the node and its cloud, by type; /debug/supply tells";
        PODS_WAITING: Gauge, "pods_waiting" [],
            "Pods that want an address and have none: waiting, or told to try again in the last 30 seconds";
    }
    "Where the configuration names a fleet" {
        FLEET_CONNECTED: Gauge, "fleet_connected" [], "1 while a replica of the fleet is heard";
        FLEET_AGE: Seconds, "fleet_age_seconds" [], "How old what is known of the fleet is; absent where nothing is known";
        FLEET_ENTRIES: Gauge, "fleet_entries" ["table"], "Entries of a table that the fleet tells";
        FLEET_RESOURCE_VERSION: Gauge, "fleet_resource_version" ["table"], "As of which resourceVersion a table is; 0: never told";
        FLEET_RESYNCS: Counter, "fleet_resyncs" [], "Tables that differed from the replica's and were told anew, since the file was begun";
        FLEET_ATTEMPTS: Counter, "fleet_attempts" [], "Connections to replicas that were tried since start";
        FLEET_RECEIVED_BYTES: Counter, "fleet_received_bytes" [], "Bytes of frames from replicas since start";
    }
    "With `services.mode = \"on\"`" {
        SERVICES_APPLIED: Gauge, "services_applied" [], "1 where all that the fleet has told of Services is in force";
        SERVICES: Gauge, "services" [], "Services that are served";
        SERVICE_ENDPOINTS: Gauge, "service_endpoints" [], "Endpoints of services that are used, those of several ports several times";
        SERVICE_TRANSLATED_PORTS: Gauge, "service_translated_ports" [], "Ports of services' cluster addresses that the kernel programs translate";
        SERVICE_PROBLEMS: Gauge, "service_problems" [], "What the services contradict each other or themselves in; /status tells some";
        SERVICE_CHANGES_APPLIED: Counter, "service_changes_applied" [], "Transactions of rules of services since start";
        SERVICE_UDP_FLOWS_FORGOTTEN: Counter, "service_udp_flows_forgotten" [],
            "Flows of UDP that were forgotten since start because their endpoint was gone";
        SERVICE_LAST_APPLY_SECONDS: Seconds, "service_last_apply_seconds" [], "How long the last transaction of rules of services took";
    }
    "With `health.enabled = true`" {
        HEALTH_CHECK: Gauge, "health_check" ["check", "result"],
            "1 for what a check of the node's health has found last: ok, failed or unknown";
        HEALTH_CHECK_RUNS: Counter, "health_check_runs" ["check"], "Runs of a check of the node's health since start";
        HEALTH_PEERS: Gauge, "health_peers" ["result"], "Other nodes that this one looks at, by what was found last: ok, failed or unknown";
        HEALTH_PREFLIGHT: Gauge, "health_preflight" ["state"],
            "1 for how the preflight of this boot stands: waiting, running, passed or failed";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn what_is_declared_is_what_is_served() {
        let mut registry = Registry::with_prefix(PREFIX);
        let addresses = ADDRESSES.series();
        addresses.at(["ipv4", "held"]).set(3);
        addresses.register(&mut registry);
        FLEET_RESYNCS.tell(&mut registry, |counter| {
            counter.inc_by(2);
        });
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "# HELP barewire_addresses Pod addresses of this node by state.",
            "# TYPE barewire_addresses gauge",
            "barewire_addresses{family=\"ipv4\",state=\"held\"} 3",
            "barewire_fleet_resyncs_total 2",
        ] {
            assert!(text.lines().any(|written| written == line), "{line}\n{text}");
        }
    }

    #[test]
    fn no_name_is_declared_twice() {
        let all: Vec<_> = declared().into_iter().flat_map(|(_, group)| group).map(|metric| metric.name).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }
}
