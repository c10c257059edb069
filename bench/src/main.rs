//! `barewire-bench`: measures Barewire beside a peer, on a node of its own inside namespaces.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command-line program: its results are what it prints")]

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};
use bench::add::{self, Options};
use bench::machine;
use clap::{Args, Parser, Subcommand};
use nix::unistd::alarm;

#[derive(Parser)]
#[command(name = "barewire-bench", version)]
/// Measure Barewire beside a peer
///
/// Runs as root, in namespaces of its own; the exit code tells whether the measurement worked, not whether promises
/// were kept: read the verdicts.
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// ADD and DEL: Barewire, the reference plugin and the floor in turns
    Add {
        #[command(flatten)]
        size: Size,
        /// Pods on the full node
        #[arg(long, default_value_t = 1_000)]
        crowd: usize,
    },
    /// What this machine's kernel and the reference plugin take, without Barewire
    Machine {
        #[command(flatten)]
        size: Size,
    },
}

#[derive(Args, Clone, Copy)]
struct Size {
    /// Pods in a round
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// Rounds; a figure is the median over them
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// One line of JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// A measurement that takes longer hangs. The alarm ends the process, and with it its namespaces and its daemon.
const LIMIT_SECONDS: u32 = 20 * 60;

fn main() -> Result<()> {
    let cli = Cli::parse();
    alarm::set(LIMIT_SECONDS);
    let binaries = binaries()?;
    let (report, size) = match cli.what {
        What::Add { size, crowd } => (add::run(&binaries, Options { pods: size.pods, rounds: size.rounds, crowd })?, size),
        What::Machine { size } => (machine::run(&binaries, size.pods, size.rounds)?, size),
    };
    if size.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    Ok(())
}

/// `BAREWIRE_BIN_DIR`, or where this program is.
fn binaries() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("BAREWIRE_BIN_DIR") {
        return Ok(PathBuf::from(folder));
    }
    let program = env::current_exe().context("cannot tell where this program is: set BAREWIRE_BIN_DIR")?;
    Ok(program.parent().context("this program is in no folder")?.to_owned())
}
