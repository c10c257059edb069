//! `barewire-scale`: how far Barewire scales, on a virtual clock.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program: stderr is its progress, stdout its results")]

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use simulation::scale::{Scale, report};

/// Simulate a cluster: the real pool, supply and clients, a simulated cloud and clock
///
/// The exit code is 1 where a promise was missed. The same seed is the same history.
#[derive(Parser)]
#[command(name = "barewire-scale", version)]
struct Cli {
    /// One line of JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Which history
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Nodes of the cluster; pods are 80 for every 3 nodes
    #[arg(long, default_value_t = 7500, value_parser = clap::value_parser!(u64).range(101..=50_000))]
    nodes: u64,
}

fn main() -> Result<ExitCode> {
    let Cli { json, seed, nodes } = Cli::parse();
    let report = report::run(Scale { nodes, pods: nodes * 80 / 3, seed }, |progress| eprintln!("{progress}"))?;
    if json {
        println!("{}", report.json());
    } else {
        print!("{report}");
    }
    Ok(if report.has_missed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
