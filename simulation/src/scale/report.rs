//! All scenarios, their figures beside what is promised, as a table and as JSON.

use std::fmt;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cloudsim::cloud::Tally;
use serde_json::{Map, Value, json};

use super::Scale;
use super::churn::{Churned, churn};
use super::entry::{Entered, enter, tainted};
use super::join::{Joined, join};
use super::memory::pool_kb;
use super::outage::{Outage, outage};
use super::peers::{PeerHour, Policy, hour};

/// All scenarios together take a few minutes on two cores; what takes longer hangs. Of virtual time each has its own bound.
const AT_MOST: Duration = Duration::from_secs(20 * 60);

/// What came out.
#[derive(Debug, Clone)]
pub struct Report {
    scale: Scale,
    rows: Vec<Row>,
    raw: Map<String, Value>,
}

/// A figure.
#[derive(Debug, Clone)]
struct Row {
    what: &'static str,
    key: &'static str,
    value: f64,
    must: Must,
}

/// What is promised of a figure.
#[derive(Debug, Clone, Copy)]
enum Must {
    AtMost(f64),
    /// It says too little of a cluster of this size to be judged.
    NotJudged(f64),
    /// Reported beside others.
    Nothing,
}

impl Row {
    fn is_missed(&self) -> bool {
        matches!(self.must, Must::AtMost(limit) if self.value > limit)
    }
}

/// Runs everything, on two threads; `tell` is told of what begins and ends.
///
/// # Errors
/// Where the system does not tell how much memory is used, or a simulation has panicked or hangs.
pub fn run(scale: Scale, tell: fn(&str)) -> Result<Report> {
    let begun = Instant::now();
    // First: nothing has left freed memory behind yet.
    let pool_kb = pool_kb().context("cannot measure the memory of a pool: is /proc mounted?")?;
    let one = in_background(move || {
        (
            told(tell, "churn", || churn(scale)),
            told(tell, "churn with a warm interface", || hour(scale, Policy::WarmInterface)),
            told(tell, "churn with five warm addresses", || hour(scale, Policy::PerAddress)),
        )
    });
    let other = in_background(move || {
        let joined = told(tell, "joining", || join(scale, 0));
        let with_prefixes = told(tell, "joining with launch-time prefixes", || join(scale, 1));
        let entered = told(tell, "…: the fleet and preflight", || enter(&with_prefixes.ready, scale.seed));
        let tainted = told(tell, "…: health", || tainted(&with_prefixes.ready, scale.seed));
        (joined, with_prefixes, (entered, tainted), told(tell, "API away", || outage(scale)))
    });
    let (churned, warm_interface, per_address) = ended(&one, begun)?;
    let (joined, with_prefixes, entered, away) = ended(&other, begun)?;
    let mut rows = joining(scale, &joined, &with_prefixes);
    rows.extend(entering(&entered.0, entered.1));
    rows.extend(churning(scale, &churned, &warm_interface, &per_address, &away));
    rows.extend(being_away(&away));
    rows.push(at_most("memory of a node's pool with 250 pods, KB", "pool_kb_at_250_pods", pool_kb, 1024.0));
    rows.push(at_most("all of this, s", "wall_s", begun.elapsed().as_secs_f64(), 300.0));
    Ok(Report { scale, rows, raw: raw(scale, &joined, &with_prefixes, &churned, &warm_interface, &per_address, &away) })
}

fn told<T>(tell: fn(&str), scenario: &str, run: impl FnOnce() -> T) -> T {
    tell(&format!("{scenario} …"));
    let begun = Instant::now();
    let outcome = run();
    tell(&format!("{scenario}: {:.0} s", begun.elapsed().as_secs_f64()));
    outcome
}

/// On a thread that nobody has to wait for.
fn in_background<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    // Nobody listens any more where the other thread has failed.
    std::thread::spawn(move || _ = sender.send(run()));
    receiver
}

fn ended<T>(outcome: &Receiver<T>, begun: Instant) -> Result<T> {
    match outcome.recv_timeout(AT_MOST.saturating_sub(begun.elapsed())) {
        Ok(outcome) => Ok(outcome),
        Err(RecvTimeoutError::Disconnected) => bail!("a simulation has panicked: its message is above"),
        Err(RecvTimeoutError::Timeout) => bail!("given up after {} s: a scenario that began above has not ended", AT_MOST.as_secs()),
    }
}

const fn at_most(what: &'static str, key: &'static str, value: f64, limit: f64) -> Row {
    Row { what, key, value, must: Must::AtMost(limit) }
}

const fn beside(what: &'static str, key: &'static str, value: f64) -> Row {
    Row { what, key, value, must: Must::Nothing }
}

fn throttled_percent(tally: Tally) -> f64 {
    100.0 * tally.throttled as f64 / tally.calls.max(1) as f64
}

fn joining(scale: Scale, joined: &Joined, with_prefixes: &Joined) -> Vec<Row> {
    // The minute of launching and the bucket's burst hide the rest of a small cluster's time.
    let ratio = if scale.bucket_limit() > 1000.0 { Must::AtMost(1.10) } else { Must::NotJudged(1.10) };
    let missing = |joined: &Joined| (scale.nodes - joined.ready.len() as u64) as f64;
    vec![
        Row {
            what: "joining: time until all are ready, of the bucket's limit",
            key: "join_time_ratio_limit",
            value: joined.seconds / scale.bucket_limit(),
            must: ratio,
        },
        at_most("joining: calls throttled, %", "join_throttled_percent", throttled_percent(joined.calls), 1.0),
        at_most("joining: nodes not ready in the end", "join_nodes_missing", missing(joined) + missing(with_prefixes), 0.0),
        at_most("joining with launch-time prefixes: calls", "prefix_join_api_calls", with_prefixes.calls.calls as f64, 0.0),
        at_most("…: from a daemon's start until it is ready, s", "prefix_join_ready_s", with_prefixes.slowest, 1.0),
    ]
}

fn entering(entered: &Entered, tainted: usize) -> Vec<Row> {
    let ratio = entered.seconds / entered.limit;
    // What one node takes hides the rate in a small cluster's time.
    let must = if entered.limit > 1000.0 { Must::AtMost(1.10) } else { Must::NotJudged(1.10) };
    vec![
        at_most("…: handshakes of the fleet within a second", "join_handshakes_per_second", entered.handshakes_per_second as f64, 2000.0),
        at_most("…: longest wait for one, s", "join_handshake_wait_s", entered.handshake_wait_s, 15.0),
        at_most("…: preflights begun within a second", "join_preflights_per_second", entered.begun_per_second as f64, 4.0),
        Row { what: "…: until all are schedulable, of the rate's limit", key: "join_schedulable_ratio_limit", value: ratio, must },
        at_most("…: nodes never schedulable", "join_nodes_left_out", entered.left_out as f64, 0.0),
        at_most("…: nodes tainted as sick", "join_nodes_tainted", tainted as f64, 0.0),
    ]
}

fn churning(scale: Scale, churned: &Churned, warm_interface: &PeerHour, per_address: &PeerHour, away: &Outage) -> Vec<Row> {
    let per_node = |tally: Tally| tally.calls as f64 / scale.nodes as f64;
    vec![
        at_most("churn: conflicts", "conflicts", churned.conflicts as f64, 0.0),
        at_most("churn and outage: leaks", "leaks", (churned.leaks + away.leaks) as f64, 0.0),
        at_most("churn: longest wait of a pod, s", "max_pod_wait_s", churned.waits.longest as f64 / 1000.0, 5.0),
        beside("churn: calls per node and hour", "calls_per_node_hour", per_node(churned.calls)),
        beside("…with a warm interface (AWS's default)", "calls_per_node_hour_warm_eni", per_node(warm_interface.calls)),
        beside("…with five warm addresses", "calls_per_node_hour_per_address", per_node(per_address.calls)),
        beside("churn: calls throttled, %", "churn_throttled_percent", throttled_percent(churned.calls)),
        beside("…with a warm interface (AWS's default)", "churn_throttled_percent_warm_eni", throttled_percent(warm_interface.calls)),
        beside("…with five warm addresses", "churn_throttled_percent_per_address", throttled_percent(per_address.calls)),
        beside("churn: addresses a node holds for 27 pods", "addresses_per_node", churned.addresses),
        beside("…with a warm interface (AWS's default)", "addresses_per_node_warm_eni", warm_interface.addresses),
        beside("…with five warm addresses", "addresses_per_node_per_address", per_address.addresses),
    ]
}

fn being_away(away: &Outage) -> Vec<Row> {
    vec![
        at_most("API away: running pods affected", "outage_pods_affected", away.affected as f64, 0.0),
        at_most("API away: nodes that have not recovered", "outage_nodes_unrecovered", away.unrecovered as f64, 0.0),
        at_most("API back: calls throttled until all have recovered, %", "outage_throttled_percent", throttled_percent(away.calls), 5.0),
        beside("API back: time until all have recovered, s", "outage_recovery_s", away.recovery),
        beside("API back: new pods that waited for an address by then", "outage_pods_waiting", away.waiting as f64),
    ]
}

fn raw(
    scale: Scale,
    joined: &Joined,
    with_prefixes: &Joined,
    churned: &Churned,
    warm_interface: &PeerHour,
    per_address: &PeerHour,
    away: &Outage,
) -> Map<String, Value> {
    let raw = json!({
        "nodes": scale.nodes, "pods": scale.pods, "seed": scale.seed,
        "join": {
            "seconds": joined.seconds, "bucket_limit_s": scale.bucket_limit(), "slowest_s": joined.slowest,
            "calls": joined.calls, "assigns": joined.assigns,
        },
        "prefix_join": { "seconds": with_prefixes.seconds, "calls": with_prefixes.calls },
        "churn": {
            "pods_replaced": churned.replaced.0, "nodes_replaced": churned.replaced.1,
            "pods_served": churned.waits.served, "pods_waited": churned.waits.waited, "calls": churned.calls,
        },
        "warm_eni": { "calls": warm_interface.calls, "longest_wait_s": warm_interface.longest_wait },
        "per_address": { "calls": per_address.calls, "longest_wait_s": per_address.longest_wait },
        "outage": {
            "calls_unheard": away.unheard, "nodes_short": away.short, "calls": away.calls,
            "peak_calls_per_second": away.peak_calls_per_second,
        },
    });
    if let Value::Object(raw) = raw { raw } else { Map::new() }
}

impl Report {
    /// Whether a promise was missed.
    #[must_use]
    pub fn has_missed(&self) -> bool {
        self.rows.iter().any(Row::is_missed)
    }

    /// A figure by its key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.key == key).map(|row| row.value)
    }

    /// One line.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut line: Map<_, _> = self.rows.iter().map(|row| (row.key.to_owned(), json!(rounded(row.value)))).collect();
        let missed: Vec<_> = self.rows.iter().filter(|row| row.is_missed()).map(|row| row.key).collect();
        line.insert("missed".to_owned(), json!(missed));
        line.insert("raw".to_owned(), Value::Object(self.raw.clone()));
        Value::Object(line)
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scale { nodes, pods, seed } = self.scale;
        writeln!(formatter, "{nodes} nodes, {pods} pods, seed {seed}")?;
        for row in &self.rows {
            let (must, verdict) = match row.must {
                Must::AtMost(limit) => (format!("≤ {limit}"), if row.is_missed() { "MISSED" } else { "kept" }),
                Must::NotJudged(limit) => (format!("≤ {limit}"), "not judged: too few nodes"),
                Must::Nothing => (String::new(), ""),
            };
            let line = format!("{:<56} {:<36} {:>10} {must:>7}  {verdict}", row.what, row.key, rounded(row.value));
            writeln!(formatter, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
