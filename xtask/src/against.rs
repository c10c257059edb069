//! `cargo xtask bench against <revision>`: the same benchmarks on what nodes ran at a revision and on what they run now, in turns.
//!
//! The programs that measure are today's for both, so that only what is measured differs; the simulation is each revision's own.
//! What is printed are ratios: on another machine, or under other work, both are slower.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};

use crate::binaries::{self, Kind};
use crate::bootstrap::{self, Purpose};
use crate::earlier;
use crate::process;
use crate::workspace::Workspace;

/// Measure an earlier revision and this one in turns, and print ratios
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench against")]
pub(crate) struct Against {
    /// A tag or a commit of this clone's history, e.g. v0.1.0
    revision: String,
    /// Turns; a figure is the median over them
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these (may be repeated)
    #[arg(long, value_enum)]
    only: Vec<Benchmark>,
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
    /// 7,500 nodes and their cloud, simulated
    Scale,
}

impl Benchmark {
    const ALL: [Self; 3] = [Self::Add, Self::Datapath, Self::Scale];

    const fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Datapath => "datapath",
            Self::Scale => "scale",
        }
    }

    /// One run with the programs of a folder.
    fn command(self, dist: &Path) -> Command {
        let (program, arguments): (_, &[&str]) = match self {
            Self::Add => ("barewire-bench", &["add", "--json"]),
            // The turns here are its rounds.
            Self::Datapath => ("barewire-bench", &["datapath", "--json", "--rounds", "1"]),
            Self::Scale => ("barewire-scale", &["--json"]),
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
    if benchmarks.contains(&Benchmark::Datapath) {
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
        let [mut of_then, mut of_now] = [Vec::new(), Vec::new()];
        for round in 0..against.rounds {
            eprintln!("{}: turn {} of {}", benchmark.name(), round + 1, against.rounds);
            of_then.push(measure(benchmark, &then).with_context(|| format!("{} at {}", benchmark.name(), against.revision))?);
            of_now.push(measure(benchmark, &now).with_context(|| format!("{} now", benchmark.name()))?);
        }
        told.insert(benchmark.name().to_owned(), compared(&of_then, &of_now));
    }
    if against.json {
        println!("{}", json!({ "against": against.revision, "rounds": against.rounds, "benchmarks": told }));
    } else {
        print(&against.revision, &told);
    }
    Ok(())
}

fn measure(benchmark: Benchmark, dist: &Path) -> Result<Figures> {
    let text = process::stdout_of(&mut benchmark.command(dist))?;
    let line = text.lines().rfind(|line| line.starts_with('{')).context("it printed no object")?;
    let mut figures = Figures::new();
    flatten("", &serde_json::from_str(line)?, &mut figures);
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

/// What both have, each with its ratio; where then was nothing, there is none. Pure.
fn compared(then: &[Figures], now: &[Figures]) -> Value {
    let median_of = |rounds: &[Figures], key: &str| {
        let mut values: Vec<f64> = rounds.iter().filter_map(|figures| figures.get(key).copied()).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let keys = now.iter().flat_map(Figures::keys).map(String::as_str);
    let rows = keys.filter_map(|key| {
        let (then, now) = (median_of(then, key)?, median_of(now, key)?);
        let ratio = (then != 0.0).then(|| (now / then * 1000.0).round() / 1000.0);
        Some((key.to_owned(), json!({ "then": then, "now": now, "ratio": ratio })))
    });
    Value::Object(rows.collect())
}

fn print(revision: &str, told: &Map<String, Value>) {
    for (benchmark, rows) in told {
        println!("{benchmark}, now against {revision}:");
        for (key, row) in rows.as_object().into_iter().flatten() {
            let ratio = row["ratio"].as_f64().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
            println!("  {ratio:>8}  {key}  ({} -> {})", row["then"], row["now"]);
        }
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
    fn what_both_have_is_compared_by_medians() {
        let then = [1.0, 9.0, 2.0].map(|p50| figures(&json!({ "add": { "p50_ms": p50, "was": 1 }, "name": "x", "list": [4] })));
        let now = [3.0, 1.0, 1.0].map(|p50| figures(&json!({ "add": { "p50_ms": p50, "is": 1 }, "list": [0] })));
        let told = compared(&then, &now);
        assert_eq!(told["add.p50_ms"], json!({ "then": 2.0, "now": 1.0, "ratio": 0.5 }));
        assert_eq!(told["list.0"]["ratio"], json!(0.0));
        assert_eq!(told.as_object().map(Map::len), Some(2), "{told}");
        let from_nothing = compared(&[figures(&json!({ "a": 0 }))], &[figures(&json!({ "a": 1 }))]);
        assert!(from_nothing["a"]["ratio"].is_null());
    }
}
