//! Metrics and health over HTTP: `/metrics` (Prometheus text), `/healthz` (the process serves), `/readyz` (an ADD would
//! succeed), `/status` (all conditions), `/debug/latency` (quantiles), `/debug/fast_path` and `/debug/supply` (what the cloud has
//! assigned), as JSON. For loopback: it has no authentication. Nothing that is asked here changes or commits anything.

mod server;
mod status;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use datapath::fast_path::{FastPath, NotedFlows, Traffic, TrafficOf};
use datapath::{Ifindex, RulesError, stack};
use node_api::BootMillis;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Series;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use crate::accounts::{Holder, Statement};
use crate::attachments::Attachments;
use crate::conditions::NodeConditions;
use crate::conflist::publisher::{ListReport, SharedReport};
use crate::driver::{Count, Driver, SupplyReport};
use crate::kernel::Linux;
use crate::metrics::{AddRefusal, Metrics, Operation};
use crate::record::Record;
use crate::slow_path::SlowPath;

type Labels = Vec<(&'static str, String)>;
type CountOf = fn(&Count) -> u64;
type TotalSeconds = Counter<f64, std::sync::atomic::AtomicU64>;
type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;

/// What there is to tell of.
#[derive(Clone)]
pub(crate) struct Watched {
    /// `node.name`
    pub(crate) node: String,
    pub(crate) attachments: Arc<Attachments<Linux>>,
    /// Where addresses come from a cloud.
    pub(crate) driver: Option<Arc<Driver<Linux>>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) conditions: Arc<NodeConditions>,
    pub(crate) list: SharedReport,
    pub(crate) slow_path: Arc<SlowPath>,
}

impl Watched {
    /// Whether a runtime's ADD would succeed: what attachments know at this moment, and what was found out about the chain.
    fn ready(&self) -> Result<(), String> {
        self.attachments.ready(BootMillis::now().unwrap_or_default()).map_err(|error| error.to_string())?;
        // Those that attachments tell may just be over.
        if let Some(condition) = self.conditions.failing_adds_beside(&crate::readiness::KINDS) {
            return Err(format!("{}; {}", condition.message, condition.remedy));
        }
        let ListReport { stands, file, .. } = &*self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if *stands { Ok(()) } else { Err(format!("the network configuration list {} is not there yet", file.display())) }
    }
}

/// Serves until the task is dropped.
pub(crate) async fn serve(listen: SocketAddr, watched: Watched) -> Infallible {
    let conditions = Arc::clone(&watched.conditions);
    // Reading all accounts takes a thread and perhaps a process: one scrape at a time.
    let scrape = Arc::new(Semaphore::new(1));
    let exposition = move |state: State<Watched>| exposition(state, Arc::clone(&scrape));
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(|State(watched): State<Watched>| async move { Json(status::of(&watched)) }))
        .route("/metrics", get(exposition))
        .route("/debug/latency", get(latency))
        .route("/debug/fast_path", get(fast_path))
        .route("/debug/supply", get(supply))
        .with_state(watched);
    server::serve(listen, router, &conditions).await
}

async fn ready(State(watched): State<Watched>) -> (StatusCode, String) {
    match watched.ready() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn latency(State(watched): State<Watched>) -> Json<Value> {
    let figures = Operation::ALL.map(|(operation, name)| (format!("{name}_us"), json!(watched.metrics.quantiles(operation))));
    Json(Value::Object(Map::from_iter(figures)))
}

/// `attached` where every uplink carries what it is to carry; each with how its hooks stand; what takes the slow path all the same.
async fn fast_path(State(watched): State<Watched>) -> Json<Value> {
    let uplinks = watched.attachments.kernel().fast_path().map(FastPath::uplink_hooks).unwrap_or_default();
    let attached = !uplinks.is_empty() && uplinks.iter().all(|uplink| uplink.open);
    Json(json!({ "attached": attached, "uplinks": uplinks, "slow_path": watched.slow_path.lines() }))
}

/// `null` where addresses come from no cloud.
async fn supply(State(watched): State<Watched>) -> Json<Option<SupplyReport>> {
    Json(watched.driver.map(|driver| driver.report()))
}

async fn exposition(State(watched): State<Watched>, scrape: Arc<Semaphore>) -> Result<String, StatusCode> {
    let _one = scrape.acquire().await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let written = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        encode(&mut text, &registry(&watched)).map(|()| text)
    });
    written.await.ok().and_then(Result::ok).ok_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Everything is read at the scrape; between scrapes nothing is kept twice.
fn registry(watched: &Watched) -> Registry {
    let mut registry = Registry::with_prefix("barewire");
    let summary = watched.attachments.summary(BootMillis::now().unwrap_or_default());
    gauge(&mut registry, "attachments", "Pods attached on this node", summary.attachments as i64);
    gauge(&mut registry, "uncommitted_dels", "DELs answered that are not on disk yet", summary.uncommitted as i64);

    let addresses = Series::<Labels, Gauge>::default();
    let exhausted = Series::<Labels, Gauge>::default();
    for (family, counts) in summary.pool {
        exhausted.get_or_create(&vec![("family", family.to_string().to_lowercase())]).set(i64::from(counts.free() == 0));
        let states = [
            ("free", i64::try_from(counts.free()).unwrap_or(i64::MAX)),
            ("held", counts.held as i64),
            ("cooling", counts.cooling as i64),
            ("quarantined", counts.quarantined as i64),
        ];
        for (state, count) in states {
            addresses.get_or_create(&vec![("family", family.to_string().to_lowercase()), ("state", state.to_owned())]).set(count);
        }
    }
    registry.register("addresses", "Pod addresses of this node by state", addresses);
    registry.register("addresses_exhausted", "1 where no pod could have an address of this family now", exhausted);

    let refused = Series::<Labels, Counter>::default();
    for (reason, name) in AddRefusal::ALL {
        refused.get_or_create(&vec![("reason", name.to_owned())]).inc_by(watched.metrics.refused_adds(reason));
    }
    registry.register("adds_refused", "ADDs refused since start, by reason", refused);
    let conditions = Series::<Labels, Gauge>::default();
    for condition in watched.conditions.all() {
        let labels = vec![("type", condition.kind.as_str().to_owned()), ("reason", condition.reason.to_owned())];
        conditions.get_or_create(&labels).set(1);
    }
    registry.register("condition", "1 for each condition that holds; see /status", conditions);

    if let Some(driver) = &watched.driver {
        register_supply(&mut registry, &driver.report());
    }

    let kernel = watched.attachments.kernel();
    match kernel.fast_path() {
        Some(fast_path) => {
            let of = |of| fast_path.traffic(of).unwrap_or_default();
            let counted = |links: &[Ifindex]| Ok::<_, Infallible>(links.iter().map(|link| (*link, of(TrafficOf::Pod(*link)))).collect());
            let Ok(statement) = kernel.accounts().state(counted);
            traffic(&mut registry, &statement, &of(TrafficOf::Host));
            not_carried(&mut registry, fast_path.reasons().unwrap_or_default());
            flows_noted(&mut registry, &watched.attachments.records(), &fast_path.noted_flows());
        }
        None => {
            let mut beside_pods = (Traffic::default(), 0);
            let counted = |_: &[Ifindex]| {
                let accounts = stack::accounts()?;
                beside_pods = (accounts.host, accounts.spoofed);
                Ok::<_, RulesError>(accounts.pods)
            };
            match kernel.accounts().state(counted) {
                Ok(statement) => {
                    traffic(&mut registry, &statement, &beside_pods.0);
                    not_carried(&mut registry, vec![("spoofed_address", beside_pods.1)]);
                }
                Err(error) => tracing::warn!(%error, "no traffic in metrics"),
            }
        }
    }

    let seconds = Series::<Labels, Seconds>::default();
    let sums = Series::<Labels, TotalSeconds>::default();
    let counts = Series::<Labels, Counter>::default();
    let failures = Series::<Labels, Counter>::default();
    for (operation, name) in Operation::ALL {
        let figures = watched.metrics.quantiles(operation);
        let labels = vec![("operation", name.to_owned())];
        counts.get_or_create(&labels).inc_by(figures.n);
        failures.get_or_create(&labels).inc_by(figures.failed);
        sums.get_or_create(&labels).inc_by(watched.metrics.total_seconds(operation));
        for (quantile, micros) in [("0.5", figures.p50), ("0.99", figures.p99)] {
            let labels = vec![("operation", name.to_owned()), ("quantile", quantile.to_owned())];
            seconds.get_or_create(&labels).set(micros as f64 / 1e6);
        }
    }
    registry.register("operation_seconds", "Time of an operation since start, by quantile", seconds);
    registry.register("operations_seconds", "Time spent in an operation since start", sums);
    registry.register("operations", "Operations since start", counts);
    registry.register("operations_failed", "Failed operations since start", failures);
    registry
}

fn register_supply(registry: &mut Registry, report: &SupplyReport) {
    let stance = Series::<Labels, Gauge>::default();
    for name in ["normal", "no_releases", "no_calls"] {
        stance.get_or_create(&vec![("stance", name.to_owned())]).set(i64::from(name == report.stance));
    }
    registry.register("supply_stance", "How freely the cloud is called: 1 for the stance that holds", stance);
    let blocks = Series::<Labels, Gauge>::default();
    for usage in ["open", "last_resort", "closed"] {
        let count = report.blocks.iter().filter(|block| block.usage == usage).count();
        blocks.get_or_create(&vec![("use", usage.to_owned())]).set(count as i64);
    }
    registry.register("supply_blocks", "Blocks of addresses that the cloud has assigned, by use", blocks);
    let counts: [(&str, &str, CountOf); 4] = [
        ("supply_calls", "Calls to the cloud since start", |count| count.made),
        ("supply_calls_refused", "Calls that the cloud has refused, or that did not reach it", |count| count.refused),
        ("supply_calls_throttled", "Calls that the cloud has refused because the account made too many", |count| count.throttled),
        ("supply_calls_unknown", "Calls without an answer", |count| count.unknown),
    ];
    for (name, help, value) in counts {
        let calls = Series::<Labels, Counter>::default();
        for (call, count) in &report.calls.0 {
            calls.get_or_create(&vec![("call", call.name().to_owned())]).inc_by(value(count));
        }
        registry.register(name, help, calls);
    }
    gauge(registry, "supply_calls_left", "Calls of the API that the node may make at once", report.budget.calls_left.cast_signed());
    gauge(registry, "supply_interfaces", "Interfaces to the cloud network", report.interfaces.len() as i64);
    gauge(registry, "supply_troubles", "What is wrong with the supply of addresses now; /debug/supply tells", report.troubles.len() as i64);
    gauge(registry, "pods_waiting", "Pods that wait for an address", report.waiting.cast_signed());
}

/// Traffic by pod, by namespace and by host, direction and scope, as programs or stack have counted it.
fn traffic(registry: &mut Registry, statement: &Statement, host: &Traffic) {
    let (packets, bytes) = (Series::<Labels, Counter>::default(), Series::<Labels, Counter>::default());
    let of_pod = |Holder { namespace, pod, container_id }: &Holder| {
        vec![("namespace", namespace.clone()), ("pod", pod.clone()), ("container_id", container_id.clone())]
    };
    // A pod with several interfaces has one account: its figures add up.
    statement.pods.iter().for_each(|(holder, traffic)| add(&packets, &bytes, &of_pod(holder), traffic));
    add(&packets, &bytes, &of_pod(&Holder::default()), host);
    registry.register("packets", "Packets by owner (the host's has no pod), direction and scope of the other end", packets);
    registry.register("bytes", "Bytes of frames, likewise", bytes);

    let (packets, bytes) = (Series::<Labels, Counter>::default(), Series::<Labels, Counter>::default());
    for (namespace, traffic) in &statement.namespaces {
        add(&packets, &bytes, &vec![("namespace", namespace.clone())], traffic);
    }
    registry.register("namespace_packets", "Packets by namespace, its pods that have ended included", packets);
    registry.register("namespace_bytes", "Bytes of frames, likewise", bytes);
}

fn add(packets: &Series<Labels, Counter>, bytes: &Series<Labels, Counter>, owner: &Labels, traffic: &Traffic) {
    for (direction, counters) in [("sent", traffic.sent), ("received", traffic.received)] {
        for (scope, counter) in SCOPES.iter().zip(counters).filter(|(_, counter)| counter.packets > 0) {
            let mut labels = owner.clone();
            labels.extend([("direction", direction.to_owned()), ("scope", (*scope).to_owned())]);
            packets.get_or_create(&labels).inc_by(counter.packets);
            bytes.get_or_create(&labels).inc_by(counter.bytes);
        }
    }
}

fn not_carried(registry: &mut Registry, by_reason: Vec<(&'static str, u64)>) {
    let reasons = Series::<Labels, Counter>::default();
    for (reason, count) in by_reason {
        reasons.get_or_create(&vec![("reason", reason.to_owned())]).inc_by(count);
    }
    registry.register("not_carried_packets", "Packets that were dropped, or that the programs left to the stack, by reason", reasons);
}

/// Flows that the host's stack has in its hands, as the last sweep counted them.
fn flows_noted(registry: &mut Registry, records: &[Record], noted: &NotedFlows) {
    let by_pod = Series::<Labels, Gauge>::default();
    for (link, notes) in &noted.pods {
        if let Some(record) = records.iter().find(|record| record.host_ifindex == link.0) {
            let pod = vec![("namespace", record.pod.namespace.clone()), ("pod", record.pod.name.clone())];
            by_pod.get_or_create(&pod).inc_by(i64::from(*notes));
        }
    }
    registry.register("flows_noted", "Flows through the host's stack that are noted, by the pod that they are charged to", by_pod);
    gauge(registry, "flows_noted_share", "How many one pod may have", noted.share.into());
}

/// In the order of `datapath::fast_path::Scope`.
const SCOPES: [&str; 5] = ["same-node", "vpc", "service", "node", "internet"];

fn gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}
