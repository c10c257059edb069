//! Metrics and health over HTTP: `/metrics` (Prometheus text), `/healthz` (the process serves), `/readyz` (an ADD would
//! succeed), `/status` (all conditions), `/health` (what the node's checks
//! of itself have found), `/pods`, `/addresses` (what there is), `/traffic` (counters), `/drops` (packets that the programs
//! drop, one by one), `/trace` (what would become of a packet), `/debug/latency` (quantiles), `/debug/fast_path` and `/debug/supply` (what the cloud has
//! assigned), as JSON. For loopback: it has no authentication. Nothing that is asked here
//! changes or commits anything, but that the programs tell of single drops for some seconds after `/drops` was asked.

mod drops;
mod fleet;
mod health;
mod inventory;
pub(crate) mod metrics;
mod services;
mod status;
mod trace;
mod traffic;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode, Uri};
use axum::routing::get;
use axum::{Json, Router};
use datapath::fast_path::{FastPath, NotedFlows, Reason, Traffic};
use datapath::repairs;
use ipam_state::record::Record;
use node_api::BootMillis;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
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
use traffic::Counted;
pub(crate) use traffic::SCOPES;

type CountOf = fn(&Count) -> u64;

/// `state` of addresses.
pub(crate) const ADDRESS_STATES: [&str; 4] = ["free", "held", "cooling", "quarantined"];
/// `quantile` of operations.
const QUANTILES: [&str; 2] = ["0.5", "0.99"];
/// `mode` of the cloud's API.
pub(crate) const API_MODES: [&str; 3] = ["normal", "releases_paused", "circuit_open"];
/// `state` of blocks.
pub(crate) const BLOCK_STATES: [&str; 3] = ["open", "suspect", "closed"];
/// `direction` of traffic, as seen by its pod.
pub(crate) const DIRECTIONS: [&str; 2] = ["sent", "received"];

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
        self.attachments.ready(BootMillis::now()).map_err(|error| error.to_string())?;
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
    let recent = Arc::new(Mutex::new(drops::Recent::default()));
    let dropped = move |state: State<Watched>, uri: Uri| dropped(state, uri, Arc::clone(&recent));
    let exposition = move |state: State<Watched>| exposition(state, Arc::clone(&scrape));
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(|State(watched): State<Watched>| async move { Json(status::of(&watched)) }))
        .route("/health", get(checks))
        .route("/pods", get(pods))
        .route("/addresses", get(|State(watched): State<Watched>| async move { Json(inventory::addresses(&watched)) }))
        .route("/traffic", get(counted))
        .route("/drops", get(dropped))
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

async fn dropped(
    State(watched): State<Watched>,
    uri: Uri,
    recent: Arc<Mutex<drops::Recent>>,
) -> Result<Json<drops::Page>, (StatusCode, String)> {
    let after = drops::after(uri.query().unwrap_or_default()).map_err(|why| (StatusCode::BAD_REQUEST, format!("{why}\n")))?;
    let internal = |why: String| (StatusCode::INTERNAL_SERVER_ERROR, why);
    let read = tokio::task::spawn_blocking(move || drops::page(&watched, &recent, after)).await;
    read.map_err(|error| internal(error.to_string()))?.map(Json).map_err(|error| internal(format!("{error}\n")))
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
    let mut registry = Registry::with_prefix(metrics::PREFIX);
    let summary = watched.attachments.summary(BootMillis::now());
    gauge(&mut registry, &metrics::ATTACHMENTS, summary.attachments as i64);
    gauge(&mut registry, &metrics::UNCOMMITTED_DELS, summary.uncommitted as i64);

    let (addresses, exhausted) = (metrics::ADDRESSES.series(), metrics::ADDRESSES_EXHAUSTED.series());
    for (family, counts) in summary.pool {
        let family = family.to_string().to_lowercase();
        exhausted.at([&family]).set(i64::from(counts.free() == 0));
        let free = i64::try_from(counts.free()).unwrap_or(i64::MAX);
        let by_state = [free, counts.held as i64, counts.cooling as i64, counts.quarantined as i64];
        for (state, count) in ADDRESS_STATES.iter().zip(by_state) {
            addresses.at([&family, state]).set(count);
        }
    }
    addresses.register(&mut registry);
    exhausted.register(&mut registry);

    let refused = metrics::ADDS_REFUSED.series();
    for (reason, name) in AddRefusal::ALL {
        refused.at([name]).inc_by(watched.metrics.refused_adds(reason));
    }
    refused.register(&mut registry);
    gauge(&mut registry, &metrics::KERNEL_CALLS_HELD_UP, watched.attachments.kernel().held_up().len() as i64);
    let repaired = metrics::REPAIRS.series();
    for (kind, name) in repairs::Kind::ALL {
        repaired.at([name]).inc_by(repairs::count(kind));
    }
    repaired.register(&mut registry);
    let conditions = metrics::CONDITION.series();
    for condition in watched.conditions.all() {
        conditions.at([condition.kind.as_str(), condition.reason]).set(1);
    }
    conditions.register(&mut registry);

    if let Some(driver) = &watched.driver {
        register_supply(&mut registry, &driver.report());
    }

    if let Some(hearing) = &watched.fleet {
        fleet::register(&mut registry, &hearing.report());
    }

    if let Some(report) = &watched.services {
        services::register(&mut registry, &report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    health::register(&mut registry, &watched.health);

    match Counted::read(watched) {
        Ok(Counted { statement, host, reasons }) => {
            traffic(&mut registry, &statement, &host);
            not_carried(&mut registry, &reasons);
        }
        Err(error) => tracing::warn!(%error, "traffic counters not read for metrics"),
    }
    if let Some(fast_path) = watched.attachments.kernel().fast_path() {
        flows_noted(&mut registry, &watched.attachments.records(), &fast_path.noted_flows());
        // By a clock that is before 1970, or a file that is, nothing true can be told.
        if let Ok(since) = fast_path.counted_since().duration_since(SystemTime::UNIX_EPOCH) {
            gauge(&mut registry, &metrics::COUNTED_SINCE, i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        }
    }

    let (seconds, sums) = (metrics::OPERATION_SECONDS.series(), metrics::OPERATIONS_SECONDS.series());
    let (counts, failures) = (metrics::OPERATIONS.series(), metrics::OPERATIONS_FAILED.series());
    for (operation, name) in Operation::ALL {
        let figures = watched.metrics.quantiles(operation);
        counts.at([name]).inc_by(figures.n);
        failures.at([name]).inc_by(figures.failed);
        sums.at([name]).inc_by(watched.metrics.total_seconds(operation));
        for (quantile, micros) in QUANTILES.iter().zip([figures.p50, figures.p99]) {
            seconds.at([name, quantile]).set(micros as f64 / 1e6);
        }
    }
    seconds.register(&mut registry);
    sums.register(&mut registry);
    counts.register(&mut registry);
    failures.register(&mut registry);
    registry
}

fn register_supply(registry: &mut Registry, report: &SupplyReport) {
    let mode = metrics::CLOUD_API_MODE.series();
    for name in API_MODES {
        mode.at([name]).set(i64::from(name == report.api_mode));
    }
    mode.register(registry);
    let blocks = metrics::CLOUD_BLOCKS.series();
    for state in BLOCK_STATES {
        let count = report.blocks.iter().filter(|block| block.state == state).count();
        blocks.at([state]).set(count as i64);
    }
    blocks.register(registry);
    let counts: [(&'static metrics::Metric<Counter, 1>, CountOf); 4] = [
        (&metrics::CLOUD_API_CALLS, |count| count.made),
        (&metrics::CLOUD_API_CALLS_REFUSED, |count| count.refused),
        (&metrics::CLOUD_API_CALLS_THROTTLED, |count| count.throttled),
        (&metrics::CLOUD_API_CALLS_UNKNOWN, |count| count.unknown),
    ];
    for (metric, value) in counts {
        let calls = metric.series();
        for (call, count) in &report.calls.0 {
            calls.at([call.name()]).inc_by(value(count));
        }
        calls.register(registry);
    }
    gauge(registry, &metrics::CLOUD_API_TOKENS, report.budget.tokens.cast_signed());
    gauge(registry, &metrics::CLOUD_INTERFACES, report.interfaces.len() as i64);
    let conditions = metrics::CLOUD_CONDITION.series();
    for condition in &report.conditions {
        conditions.at([condition.kind]).inc();
    }
    conditions.register(registry);
    gauge(registry, &metrics::PODS_WAITING, report.waiting.cast_signed());
}

/// Traffic by pod, by namespace and by host, direction and scope, as programs or stack have counted it.
fn traffic(registry: &mut Registry, statement: &Statement, host: &Traffic) {
    let (packets, bytes) = (metrics::PACKETS.series(), metrics::BYTES.series());
    // A pod with several interfaces has one account: its figures add up.
    for (Holder { namespace, pod, container_id }, traffic) in statement.pods.iter().chain([&(Holder::default(), *host)]) {
        for (direction, scope, counter) in counted_by(traffic) {
            let labels = [namespace, pod, container_id, direction, scope];
            packets.at(labels).inc_by(counter.packets);
            bytes.at(labels).inc_by(counter.bytes);
        }
    }
    packets.register(registry);
    bytes.register(registry);

    let (packets, bytes) = (metrics::NAMESPACE_PACKETS.series(), metrics::NAMESPACE_BYTES.series());
    for (namespace, traffic) in &statement.namespaces {
        for (direction, scope, counter) in counted_by(traffic) {
            packets.at([namespace, direction, scope]).inc_by(counter.packets);
            bytes.at([namespace, direction, scope]).inc_by(counter.bytes);
        }
    }
    packets.register(registry);
    bytes.register(registry);
}

/// Direction, scope and figures, where there are packets.
fn counted_by(traffic: &Traffic) -> impl Iterator<Item = (&'static str, &'static str, datapath::fast_path::Counter)> {
    let both = DIRECTIONS.into_iter().zip([traffic.sent, traffic.received]);
    let each =
        both.flat_map(|(direction, counters)| SCOPES.into_iter().zip(counters).map(move |(scope, counter)| (direction, scope, counter)));
    each.filter(|(_, _, counter)| counter.packets > 0)
}

fn not_carried(registry: &mut Registry, by_reason: &[(Reason, u64)]) {
    let (dropped, passed) = (metrics::FAST_PATH_DROPPED.series(), metrics::FAST_PATH_PASSED_TO_STACK.series());
    for (reason, count) in by_reason {
        let counted = if reason.drops() { &dropped } else { &passed };
        counted.at([reason.name()]).inc_by(*count);
    }
    dropped.register(registry);
    passed.register(registry);
}

/// Flows that the host's stack has in its hands, as the last sweep counted them.
fn flows_noted(registry: &mut Registry, records: &[Record], noted: &NotedFlows) {
    let by_pod = metrics::SLOW_PATH_FLOWS.series();
    for (link, notes) in &noted.pods {
        if let Some(record) = records.iter().find(|record| record.host_ifindex == link.0) {
            by_pod.at([&record.pod.namespace, &record.pod.name]).inc_by(i64::from(*notes));
        }
    }
    by_pod.register(registry);
    gauge(registry, &metrics::SLOW_PATH_FLOWS_LIMIT, noted.share.into());
}

fn gauge(registry: &mut Registry, metric: &metrics::Metric<Gauge, 0>, value: i64) {
    metric.tell(registry, |gauge| {
        gauge.set(value);
    });
}
