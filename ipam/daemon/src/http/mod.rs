//! Metrics and health over HTTP: `/metrics` (Prometheus text), `/healthz` (the process serves), `/readyz` (an ADD would
//! succeed), `/status` (all conditions), `/health` (what the node's checks
//! of itself have found), `/pods`, `/addresses` (what there is), `/traffic` (counters), `/trace` (what would become of a packet), `/debug/latency` (quantiles), `/debug/fast_path` and `/debug/supply` (what the cloud has
//! assigned), as JSON. For loopback: it has no authentication. Nothing that is asked here changes or commits anything.

mod fleet;
mod health;
mod inventory;
mod services;
mod status;
mod trace;
mod traffic;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode, Uri};
use axum::routing::get;
use axum::{Json, Router};
use datapath::fast_path::{FastPath, NotedFlows, Traffic};
use datapath::repairs;
use ipam_state::record::Record;
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
use crate::cloud::{Count, Driver, SupplyReport};
use crate::conditions::NodeConditions;
use crate::conflist::publisher::{ListReport, SharedReport};
use crate::fleet::Hearing;
use crate::health::{Board, PageLine};
use crate::http_server;
use crate::kernel::{Kernel, Linux};
use crate::latencies::{AddRefusal, Metrics, Operation};
use crate::reconcile::slow_path::SlowPath;
use crate::services::SharedReport as SharedServices;
use traffic::{Counted, SCOPES};

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
    /// Where they are served.
    pub(crate) services: Option<SharedServices>,
    /// Where the configuration names one.
    pub(crate) fleet: Option<Arc<Hearing>>,
    /// Where the node looks at itself.
    pub(crate) health: Arc<Board>,
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
    // Reading all accounts takes a thread and perhaps a process: one at a time.
    let scrape = Arc::new(Semaphore::new(1));
    let counted = {
        let scrape = Arc::clone(&scrape);
        move |state: State<Watched>| counted(state, Arc::clone(&scrape))
    };
    let exposition = move |state: State<Watched>| exposition(state, Arc::clone(&scrape));
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(|State(watched): State<Watched>| async move { Json(status::of(&watched)) }))
        .route("/health", get(checks))
        .route("/pods", get(pods))
        .route("/addresses", get(|State(watched): State<Watched>| async move { Json(inventory::addresses(&watched)) }))
        .route("/traffic", get(counted))
        .route("/trace", get(traced))
        .route("/metrics", get(exposition))
        .route("/debug/latency", get(latency))
        .route("/debug/fast_path", get(fast_path))
        .route("/debug/supply", get(supply))
        .with_state(watched);
    http_server::serve(listen, router, &conditions).await
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

/// `null` where the node does not look at itself.
async fn checks(State(watched): State<Watched>) -> Json<Option<Vec<PageLine>>> {
    Json(watched.health.page())
}

/// `null` where addresses come from no cloud.
async fn supply(State(watched): State<Watched>) -> Json<Option<SupplyReport>> {
    Json(watched.driver.map(|driver| driver.report()))
}

async fn pods(State(watched): State<Watched>) -> Result<Json<Vec<inventory::Pod>>, StatusCode> {
    let read = tokio::task::spawn_blocking(move || inventory::pods(&watched));
    read.await.map(Json).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn counted(State(watched): State<Watched>, scrape: Arc<Semaphore>) -> Result<Json<traffic::Page>, (StatusCode, String)> {
    let internal = |why: String| (StatusCode::INTERNAL_SERVER_ERROR, why);
    let _one = scrape.acquire().await.map_err(|error| internal(error.to_string()))?;
    let read = tokio::task::spawn_blocking(move || Counted::read(&watched).map(traffic::Page::from)).await;
    let read = read.map_err(|error| internal(error.to_string()))?;
    read.map(Json).map_err(|error| internal(format!("{error}\n")))
}

async fn traced(State(watched): State<Watched>, uri: Uri) -> Result<Json<trace::Trace>, (StatusCode, String)> {
    let question = trace::Question::parse(uri.query().unwrap_or_default()).map_err(|why| (StatusCode::BAD_REQUEST, format!("{why}\n")))?;
    let asked = tokio::task::spawn_blocking(move || trace::of(&watched, question)).await;
    let asked = asked.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    asked.map(Json).map_err(|why| (StatusCode::BAD_REQUEST, format!("{why}\n")))
}

/// What [`encode`] writes. A scraper that is told of plain text takes counters for metrics without a type.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn exposition(
    State(watched): State<Watched>,
    scrape: Arc<Semaphore>,
) -> Result<([(HeaderName, &'static str); 1], String), StatusCode> {
    let _one = scrape.acquire().await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let written = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        encode(&mut text, &registry(&watched)).map(|()| text)
    });
    let written = written.await.ok().and_then(Result::ok).ok_or(StatusCode::INTERNAL_SERVER_ERROR);
    written.map(|text| ([(CONTENT_TYPE, OPENMETRICS)], text))
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
    let held_up = watched.attachments.kernel().held_up();
    let help = "Calls of the kernel that have not come back for more than a second: somebody holds RTNL";
    gauge(&mut registry, "kernel_calls_held_up", help, held_up.len() as i64);
    let repaired = Series::<Labels, Counter>::default();
    for (kind, name) in repairs::Kind::ALL {
        repaired.get_or_create(&vec![("kind", name.to_owned())]).inc_by(repairs::count(kind));
    }
    registry.register("repairs", "What somebody had removed or altered and was set again, by kind", repaired);
    let conditions = Series::<Labels, Gauge>::default();
    for condition in watched.conditions.all() {
        let labels = vec![("type", condition.kind.as_str().to_owned()), ("reason", condition.reason.to_owned())];
        conditions.get_or_create(&labels).set(1);
    }
    registry.register("condition", "1 for each condition that holds; see /status", conditions);

    if let Some(driver) = &watched.driver {
        register_supply(&mut registry, &driver.report());
    }

    if let Some(hearing) = &watched.fleet {
        fleet::register(&mut registry, &hearing.report());
    }

    if let Some(report) = &watched.services {
        services::register(&mut registry, &report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    health::register(&mut registry, &watched.health.lines(), watched.health.preflight());

    match Counted::read(watched) {
        Ok(Counted { statement, host, reasons }) => {
            traffic(&mut registry, &statement, &host);
            not_carried(&mut registry, reasons);
        }
        Err(error) => tracing::warn!(%error, "traffic counters not read for metrics"),
    }
    if let Some(fast_path) = watched.attachments.kernel().fast_path() {
        flows_noted(&mut registry, &watched.attachments.records(), &fast_path.noted_flows());
        let since = fast_path.counted_since().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let help = "When the counters of running pods began; later than before where a version with other maps had to begin anew";
        gauge(&mut registry, "traffic_counted_since_timestamp_seconds", help, i64::try_from(since.as_secs()).unwrap_or_default());
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
    let mode = Series::<Labels, Gauge>::default();
    for name in ["normal", "releases_paused", "circuit_open"] {
        mode.get_or_create(&vec![("mode", name.to_owned())]).set(i64::from(name == report.api_mode));
    }
    registry.register("cloud_api_mode", "How freely the cloud is called: 1 for the mode that holds", mode);
    let blocks = Series::<Labels, Gauge>::default();
    for state in ["open", "suspect", "closed"] {
        let count = report.blocks.iter().filter(|block| block.state == state).count();
        blocks.get_or_create(&vec![("state", state.to_owned())]).set(count as i64);
    }
    registry.register("cloud_blocks", "Blocks of addresses that the cloud has assigned, by state", blocks);
    let counts: [(&str, &str, CountOf); 4] = [
        ("cloud_api_calls", "Calls to the cloud since start", |count| count.made),
        ("cloud_api_calls_refused", "Calls that the cloud has refused, or that did not reach it", |count| count.refused),
        ("cloud_api_calls_throttled", "Calls that the cloud has refused because the account made too many", |count| count.throttled),
        ("cloud_api_calls_unknown", "Calls without an answer: their outcome is not known", |count| count.unknown),
    ];
    for (name, help, value) in counts {
        let calls = Series::<Labels, Counter>::default();
        for (call, count) in &report.calls.0 {
            calls.get_or_create(&vec![("call", call.name().to_owned())]).inc_by(value(count));
        }
        registry.register(name, help, calls);
    }
    let tokens = report.budget.tokens.cast_signed();
    gauge(registry, "cloud_api_tokens", "Tokens of the node's bucket: calls of the API that it may make at once", tokens);
    gauge(registry, "cloud_interfaces", "Interfaces to the cloud network", report.interfaces.len() as i64);
    let conditions = Series::<Labels, Gauge>::default();
    for condition in &report.conditions {
        conditions.get_or_create(&vec![("type", condition.kind.to_owned())]).inc();
    }
    registry.register("cloud_condition", "What is wrong between the node and its cloud, by type; /debug/supply tells", conditions);
    gauge(
        registry,
        "pods_waiting",
        "Pods that want an address and have none: waiting, or told to try again in the last 30 seconds",
        report.waiting.cast_signed(),
    );
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
    registry.register("fast_path_exceptions", "Packets that were dropped, or that the programs left to the stack, by reason", reasons);
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
    registry.register("slow_path_flows", "Flows that keep to the slow path, by the pod that they are charged to", by_pod);
    gauge(registry, "slow_path_flows_limit", "How many of them one pod may have", noted.share.into());
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}
