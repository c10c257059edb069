//! `barewire-fleet-sim`: what the fleet's leader decides, at the size of a large cluster.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command-line program: its results are what it prints")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fleet_simulation::report::{json, text};
use fleet_simulation::{health, preflight, teams};

/// Nodes that join, one a second, after a herd.
const NEW: usize = 1_000;

/// Have the fleet's leader decide about a large cluster
///
/// The exit code is 1 where a promise was missed.
#[derive(Parser)]
#[command(name = "barewire-fleet-sim", version)]
struct Cli {
    /// One line of JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    /// Nodes of the cluster
    #[arg(long, global = true, default_value_t = 7_500, value_parser = clap::value_parser!(u32).range(200..=50_000))]
    nodes: u32,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Which node is sick: how soon it is tainted, and who is tainted that should not be; which new node may take pods; under a virtual clock
    Health {
        /// Days of the week without a fault
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=60))]
        days: u64,
        /// Which history
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Which node is whose: how long a plan takes, how much it moves
    Teams {
        /// Teams
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=200))]
        teams: u32,
    },
}

fn main() -> ExitCode {
    let Cli { json: as_json, nodes, what } = Cli::parse();
    let figures = match what {
        What::Health { days, seed } => {
            let mut figures = health::run(nodes as usize, days, seed);
            figures.extend(preflight::run(NEW.min(nodes as usize), seed));
            figures
        }
        What::Teams { teams } => teams::run(nodes as usize, teams as usize),
    };
    match as_json {
        true => println!("{}", json(&figures)),
        false => print!("{}", text(&figures)),
    }
    if figures.iter().all(|figure| figure.is_kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
