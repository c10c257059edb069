//! `cargo xtask …`: the one entry to building, testing, measuring and showing Barewire.
//!
//! `build`, `demo`, `test`, `lab`, `bench` and `scale` first install what they need, so that each works as the very first command
//! on a fresh Debian machine with a stable Rust. Progress goes to stderr; stdout belongs to the results.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program: stderr is its progress, stdout its results")]

mod binaries;
mod bootstrap;
mod bpf;
mod deny;
mod initramfs;
mod kernels;
mod process;
mod suite;
mod summary;
mod workspace;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::binaries::Kind;
use crate::bootstrap::Purpose;
use crate::suite::Tier;
use crate::workspace::Workspace;

/// Build, test, measure and show Barewire.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building, testing and the lab need; does nothing where nothing is missing
    Bootstrap,
    /// Build all binaries and collect them in <target directory>/dist
    Build,
    /// Format, lints, licences and every tier of tests; the last line is `N passed, N failed`
    Test {
        /// Only these tiers (may be repeated)
        #[arg(long = "tier", value_enum)]
        tiers: Vec<Tier>,
    },
    /// Check licences, duplicate crates and sources of all dependencies
    Deny {
        /// What to check, in cargo-deny's words [default: licenses bans sources]
        what: Vec<OsString>,
    },
    /// Bring up the two-node lab, start four pods through containerd, show them talk, tear down
    Demo {
        /// Passed on to `barewire-lab demo`, e.g. --keep, --json
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Work with the lab: up, down, exec, inspect
    Lab {
        /// Passed on to `barewire-lab`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Measure beside a peer: `bench add`, `bench datapath`; write docs/benchmarks.md from the runs: `bench report`
    Bench {
        /// Passed on to `barewire-bench`, e.g. datapath --json --rounds 5
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Simulate 7,500 nodes and their cloud on a virtual clock; the exit code tells whether promises were kept
    Scale {
        /// Passed on to `barewire-scale`: --json, --seed N, --nodes N
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let workspace = Workspace::load()?;
    match cli.task {
        Task::Bootstrap => bootstrap::run(&workspace, Purpose::Checks),
        Task::Build => {
            bootstrap::run(&workspace, Purpose::Building)?;
            let dist = binaries::build(&workspace, &Kind::ALL)?;
            eprintln!("binaries are in {}", dist.display());
            Ok(())
        }
        Task::Test { tiers } => suite::run(&workspace, &tiers),
        Task::Deny { what } => {
            bootstrap::run(&workspace, Purpose::Checks)?;
            deny::check(&workspace, &what)
        }
        Task::Demo { args } => hand_over(&workspace, Purpose::Nodes, &Kind::OF_NODES, "barewire-lab", Some("demo"), &args),
        Task::Lab { args } => hand_over(&workspace, Purpose::Nodes, &Kind::OF_NODES, "barewire-lab", None, &args),
        Task::Bench { args } => {
            // What writes a report measures nothing.
            let is_report = args.first().is_some_and(|first| first == "report");
            let kinds = if is_report { &[Kind::Node][..] } else { &Kind::ALL };
            hand_over(&workspace, Purpose::Nodes, kinds, "barewire-bench", None, &args)
        }
        Task::Scale { args } => hand_over(&workspace, Purpose::Building, &[Kind::Simulation], "barewire-scale", None, &args),
    }
}

/// Installs and builds what `program` needs, then becomes it: its signals, its output and its exit code are its own.
fn hand_over(workspace: &Workspace, purpose: Purpose, kinds: &[Kind], program: &str, verb: Option<&str>, args: &[OsString]) -> Result<()> {
    bootstrap::run(workspace, purpose)?;
    let dist = binaries::build(workspace, kinds)?;
    let failure = Command::new(dist.join(program))
        .args(verb)
        .args(args)
        .env(binaries::BIN_DIR, &dist)
        // Set by `cargo run` for itself; it would slow the start of every dynamically linked child.
        .env_remove("LD_LIBRARY_PATH")
        .exec();
    Err(failure).with_context(|| format!("cannot execute {}", dist.join(program).display()))
}
