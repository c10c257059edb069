//! `cargo xtask bench against <revision>`: the same benchmarks on what nodes ran at a revision and on what they run now, in turns.
//!
//! The programs that measure are today's for both, so that only what is measured differs; the simulation is each revision's own.
//! What is printed are ratios, taken turn by turn: on another machine, or under other work, both are slower.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};

use crate::binaries::{self, Kind};
use crate::bootstrap::{self, Purpose};
use crate::earlier;
use crate::process;
use crate::workspace::Workspace;

/// Measure an earlier revision and this one in turns, and print ratios
///
/// Some six minutes beside what is built, which is kept. The exit code tells whether the measurement worked, not whether promises were kept.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench against")]
pub(crate) struct Against {
    /// A tag or a commit of this clone's history, e.g. v0.1.0
    revision: String,
    /// Turns; a figure is the median over them. Those of the simulation are all alike, so it has one
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Only these (may be repeated)
    #[arg(long, value_enum)]
    only: Vec<Benchmark>,
    /// All that the benchmarks have: full nodes, every contender, 7,500 nodes. Some fifteen minutes a turn
    #[arg(long)]
    full: bool,
    /// One line of JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Benchmark {
    /// ADD and DEL
    Add,
    /// Pod traffic
    Datapath,
    /// Nodes and their cloud, simulated
    Scale,
}

/// A figure of which less is better, and that is not to become worse.
struct Promise {
    benchmark: Benchmark,
    key: &'static str,
    meaning: &'static str,
}

/// How much more of such a figure there may be: what a quiet machine's turns differ by.
const MUST: f64 = 1.05;
const PROMISES: [Promise; 8] = {
    use Benchmark::{Add, Datapath, Scale};
    const fn promise(benchmark: Benchmark, key: &'static str, meaning: &'static str) -> Promise {
        Promise { benchmark, key, meaning }
    }
    [
        promise(Add, "add_p50_ms", "ADD, exec of the plugin included"),
        promise(Add, "del_p50_ms", "DEL until the answer"),
        promise(Datapath, "medians.rr_cross_us.fast_path", "TCP ping-pong across nodes"),
        promise(Datapath, "medians.rr_same_us.fast_path", "TCP ping-pong on one node"),
        promise(Scale, "join_time_ratio_limit", "time until all nodes are ready, of the bucket's limit"),
        promise(Scale, "max_pod_wait_s", "the longest wait of a pod for an address"),
        promise(Scale, "calls_per_node_hour", "calls a node and hour"),
        promise(Scale, "pool_kb_at_250_pods", "memory of a node's pool"),
    ]
};

/// One run of a benchmark; the longest takes a fourth of it.
const LIMIT: Duration = Duration::from_secs(20 * 60);

impl Benchmark {
    const ALL: [Self; 3] = [Self::Add, Self::Datapath, Self::Scale];

    const fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Datapath => "datapath",
            Self::Scale => "scale",
        }
    }

    /// The same seed is the same history.
    const fn turns(self, rounds: usize) -> usize {
        match self {
            Self::Add | Self::Datapath => rounds,
            Self::Scale => 1,
        }
    }

    /// One run with the programs of a folder. The turns here are its rounds.
    fn command(self, dist: &Path, full: bool) -> Command {
        let (program, arguments): (_, &[&str]) = match (self, full) {
            (Self::Add, false) => ("barewire-bench", &["add", "--json", "--rounds", "1", "--pods", "50", "--crowd", "100"]),
            (Self::Add, true) => ("barewire-bench", &["add", "--json"]),
            (Self::Datapath, false) => {
                ("barewire-bench", &["datapath", "--json", "--rounds", "1", "--seconds", "0.5", "--only", "fast_path"])
            }
            (Self::Datapath, true) => ("barewire-bench", &["datapath", "--json", "--rounds", "1"]),
            (Self::Scale, false) => ("barewire-scale", &["--json", "--nodes", "1500"]),
            (Self::Scale, true) => ("barewire-scale", &["--json"]),
        };
        let mut command = Command::new(dist.join(program));
        command.args(arguments).env(binaries::BIN_DIR, dist).env_remove("LD_LIBRARY_PATH");
        command
    }
}

/// Figures by their keys, joined by dots.
type Figures = BTreeMap<String, f64>;

/// Builds both, measures and prints.
///
/// # Errors
/// Where something does not build, or a benchmark does not work.
pub(crate) fn run(workspace: &Workspace, against: &Against) -> Result<()> {
    ensure!(against.rounds > 0, "--rounds 0: nothing would be measured");
    let wanted = |benchmark: &Benchmark| against.only.is_empty() || against.only.contains(benchmark);
    let benchmarks: Vec<_> = Benchmark::ALL.into_iter().filter(wanted).collect();
    if against.full && benchmarks.contains(&Benchmark::Datapath) {
        bootstrap::run_with_world(workspace, Purpose::Contenders)?;
    } else {
        bootstrap::run(workspace, Purpose::Nodes)?;
    }
    let is_simulated = benchmarks.contains(&Benchmark::Scale);
    let kinds = if is_simulated { [&Kind::ALL[..], &[Kind::Simulation]].concat() } else { Kind::ALL.to_vec() };
    let now = binaries::build(workspace, &kinds)?;
    let then = earlier::dist_beside(workspace, &against.revision, &now, is_simulated)?;
    let mut told = Map::new();
    for benchmark in benchmarks {
        let mut turns = Vec::new();
        let count = benchmark.turns(against.rounds);
        for turn in 0..count {
            eprintln!("{}: turn {} of {count}", benchmark.name(), turn + 1);
            let of_then =
                || measure(benchmark, &then, against.full).with_context(|| format!("{} at {}", benchmark.name(), against.revision));
            let of_now = || measure(benchmark, &now, against.full).with_context(|| format!("{} now", benchmark.name()));
            // Whoever goes first in a turn goes second in the next.
            turns.push(if turn % 2 == 0 {
                (of_then()?, of_now()?)
            } else {
                let of_now = of_now()?;
                (of_then()?, of_now)
            });
        }
        told.insert(benchmark.name().to_owned(), compared(&turns));
    }
    let verdicts = verdicts(&told);
    if against.json {
        let is_kept = verdicts.iter().all(|verdict| verdict["pass"] == true);
        let object = json!({
            "against": against.revision, "rounds": against.rounds, "full": against.full, "benchmarks": told, "verdicts": verdicts,
            "pass": is_kept,
        });
        println!("{object}");
    } else {
        print(&against.revision, &told, &verdicts);
    }
    Ok(())
}

/// A simulation that misses a promise says so by its exit code, and its figures are told all the same.
fn measure(benchmark: Benchmark, dist: &Path, full: bool) -> Result<Figures> {
    let mut command = benchmark.command(dist, full);
    let mut object = None;
    let status = process::each_line(&mut command, LIMIT, |line| object = line.starts_with('{').then(|| line.to_owned()).or(object.take()))?;
    let object = object.with_context(|| format!("`{}` printed no object: {status}", process::line(&command)))?;
    let mut figures = Figures::new();
    flatten("", &serde_json::from_str(&object)?, &mut figures);
    Ok(figures)
}

/// Pure.
fn flatten(prefix: &str, value: &Value, figures: &mut Figures) {
    let mut each = |key: &str, value: &Value| {
        let key = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
        flatten(&key, value, figures);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| each(key, value)),
        Value::Array(values) => values.iter().enumerate().for_each(|(at, value)| each(&at.to_string(), value)),
        other => figures.extend(other.as_f64().map(|figure| (prefix.to_owned(), figure))),
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// What both have in a turn, then and now: medians, and the median of the turns' ratios, as what hits a turn hits both. Where then was
/// nothing, there is no ratio. Pure.
fn compared(turns: &[(Figures, Figures)]) -> Value {
    let keys = turns.first().into_iter().flat_map(|(_, now)| now.keys());
    let rows = keys.filter_map(|key| {
        let pairs: Vec<(f64, f64)> = turns.iter().filter_map(|(then, now)| Some((*then.get(key)?, *now.get(key)?))).collect();
        let (then, now) = (median(pairs.iter().map(|pair| pair.0).collect())?, median(pairs.iter().map(|pair| pair.1).collect())?);
        let ratios = pairs.iter().filter(|(then, _)| *then != 0.0).map(|(then, now)| now / then);
        let ratio = median(ratios.collect()).map(|ratio| (ratio * 1000.0).round() / 1000.0);
        Some((key.clone(), json!({ "then": then, "now": now, "ratio": ratio })))
    });
    Value::Object(rows.collect())
}

/// What is promised of what was measured. Nothing that stays nothing is kept. Pure.
fn verdicts(told: &Map<String, Value>) -> Vec<Value> {
    let judged = |Promise { benchmark, key, meaning }: &Promise| {
        let row = told.get(benchmark.name())?.get(*key)?;
        let pass = match row["ratio"].as_f64() {
            Some(ratio) => ratio <= MUST,
            None => row["now"] == row["then"],
        };
        Some(json!({ "key": key, "promise": meaning, "ratio": row["ratio"], "must": format!("≤ {MUST}"), "pass": pass }))
    };
    PROMISES.iter().filter_map(judged).collect()
}

fn print(revision: &str, told: &Map<String, Value>, verdicts: &[Value]) {
    let ratio_of = |row: &Value| row["ratio"].as_f64().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
    for (benchmark, rows) in told {
        println!("{benchmark}, now against {revision}:");
        for (key, row) in rows.as_object().into_iter().flatten() {
            println!("  {:>8}  {key}  ({} -> {})", ratio_of(row), row["then"], row["now"]);
        }
    }
    println!("must be at most {MUST} of {revision}'s:");
    for verdict in verdicts {
        let judged = if verdict["pass"] == true { "pass" } else { "FAIL" };
        println!("  {:>8}  {judged}  {}", ratio_of(verdict), verdict["promise"].as_str().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(value: &Value) -> Figures {
        let mut figures = Figures::new();
        flatten("", value, &mut figures);
        figures
    }

    #[test]
    fn what_both_have_is_compared_turn_by_turn() {
        let then = [1.0, 8.0, 2.0].map(|p50| figures(&json!({ "add": { "p50_ms": p50, "was": 1 }, "name": "x", "list": [4] })));
        let now = [3.0, 4.0, 1.0].map(|p50| figures(&json!({ "add": { "p50_ms": p50, "is": 1 }, "list": [0] })));
        let turns: Vec<_> = then.into_iter().zip(now).collect();
        let told = compared(&turns);
        assert_eq!(told["add.p50_ms"], json!({ "then": 2.0, "now": 3.0, "ratio": 0.5 }));
        assert_eq!(told["list.0"]["ratio"], json!(0.0));
        assert_eq!(told.as_object().map(Map::len), Some(2), "{told}");
        let from_nothing = compared(&[(figures(&json!({ "a": 0 })), figures(&json!({ "a": 1 })))]);
        assert!(from_nothing["a"]["ratio"].is_null());
    }

    #[test]
    fn what_is_promised_is_judged_where_it_was_measured() {
        let told = |then: f64, now: f64| {
            let row = compared(&[(figures(&json!({ "add_p50_ms": then })), figures(&json!({ "add_p50_ms": now })))]);
            verdicts(&Map::from_iter([("add".to_owned(), row)]))
        };
        let pass = |then, now| {
            let told = told(then, now);
            assert_eq!(told.len(), 1, "{told:?}");
            told[0]["pass"] == true
        };
        assert!(pass(100.0, 105.0) && pass(2.0, 1.0) && pass(0.0, 0.0));
        assert!(!pass(100.0, 105.2) && !pass(0.0, 1.0));
    }
}
