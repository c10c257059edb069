//! `cargo xtask …`: the one entry to building, testing, measuring and showing Barewire.
//!
//! `build`, `demo`, `test`, `lab`, `bench` and `scale` first install what they need, so that each works as the very first command
//! on a fresh Debian machine with a stable Rust. Progress goes to stderr; stdout belongs to the results.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program: stderr is its progress, stdout its results")]

mod admission;
mod against;
#[cfg(test)]
mod arrows;
mod binaries;
#[cfg(test)]
mod book;
mod bootstrap;
mod bpf;
#[cfg(test)]
mod circles;
mod compiler;
mod deny;
mod dist;
mod earlier;
mod herd;
mod initramfs;
mod kernels;
mod many_services;
mod plugin;
mod process;
mod reference;
mod reproduce;
mod suite;
mod summary;
#[cfg(test)]
mod tokens;
mod workspace;
mod world;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};

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
    /// Build all binaries and collect them in the folder `dist` of the target directory
    Build,
    /// Build a release: a tarball, a Debian package, a bill of materials, digests
    Dist {
        /// Pack what the last `build` has built
        #[arg(long)]
        as_built: bool,
    },
    /// Build the plugin a second time, in another place, and compare the bytes
    Reproduce,
    /// Format, lints, licences and every tier of tests; the last line is `N passed, N failed`
    Test {
        /// Only these tiers (may be repeated)
        #[arg(long = "tier", value_enum)]
        tiers: Vec<Tier>,
        /// With `--tier paths` alone: the last line is an object with the cells that were compared and those that differ
        #[arg(long)]
        json: bool,
    },
    /// Write the tables of docs that are written from the code
    Docs,
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
    /// Measure beside a peer: `bench add`, `bench datapath`; limits of bandwidth: `bench shape`; with many nodes: `bench fleet`; with many Services: `bench services`; of a service's address: `bench clusterip`; what the leader decides: `bench teams`,
    /// `bench health`; beside an earlier revision: `bench against v0.1.0`; write docs/benchmarks.md from the runs: `bench report`
    Bench {
        /// Passed on to `barewire-bench`, e.g. datapath --json --rounds 5
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Somebody else's tests on Barewire: `conformance kubernetes` runs Kubernetes' own and writes docs/kubernetes.md's table
    Conformance {
        /// Whose
        #[arg(value_enum)]
        whose: Whose,
        /// Passed on to `barewire-lab conformance`, e.g. --focus REGEX
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

/// Whose tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Whose {
    /// `[sig-network]` conformance tests of Kubernetes' `e2e.test`
    Kubernetes,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let workspace = Workspace::load()?;
    match cli.task {
        Task::Bootstrap => {
            bootstrap::run_with_world(&workspace, Purpose::Contenders)?;
            earlier::for_tests(&workspace).map(drop)
        }
        Task::Build => {
            bootstrap::run(&workspace, Purpose::Building)?;
            let dist = binaries::build(&workspace, &Kind::ALL)?;
            eprintln!("binaries are in {}", dist.display());
            Ok(())
        }
        Task::Dist { as_built } => {
            bootstrap::run(&workspace, Purpose::Building)?;
            dist::run(&workspace, as_built)
        }
        Task::Reproduce => {
            bootstrap::run(&workspace, Purpose::Building)?;
            reproduce::run(&workspace)
        }
        Task::Test { tiers, json } => suite::run(&workspace, &tiers, json),
        Task::Docs => {
            bootstrap::run(&workspace, Purpose::Building)?;
            reference::write(&workspace)
        }
        Task::Deny { what } => {
            bootstrap::run(&workspace, Purpose::Checks)?;
            deny::check(&workspace, &what)
        }
        Task::Demo { args } => {
            let needs = Needs::of_cluster(args.iter().any(|argument| argument == "--kubernetes"));
            hand_over(&workspace, needs, &Kind::OF_NODES, "barewire-lab", Some("demo"), &args)
        }
        Task::Lab { args } => {
            let needs = Needs::of_cluster(args.first().is_some_and(|first| first == "cluster"));
            hand_over(&workspace, needs, &Kind::OF_NODES, "barewire-lab", None, &args)
        }
        Task::Bench { args } if args.first().is_some_and(|first| first == "against") => {
            against::run(&workspace, &against::Against::parse_from(args))
        }
        // No measurement of nodes: the leader's code under a virtual clock.
        Task::Bench { args } if args.first().is_some_and(|first| first == "teams" || first == "health") => {
            hand_over(&workspace, Needs::Building, &[Kind::Leader], "barewire-fleet-sim", None, &args)
        }
        Task::Bench { args } if args.first().is_some_and(|first| first == "fleet") => herd::run(&workspace, &herd::Herd::parse_from(args)),
        Task::Bench { args } if args.first().is_some_and(|first| first == "admission") => {
            admission::run(&workspace, &admission::Admission::parse_from(args))
        }
        Task::Bench { args } if args.first().is_some_and(|first| first == "services") => {
            many_services::run(&workspace, &many_services::ManyServices::parse_from(args))
        }
        Task::Bench { args } => {
            // What writes a report measures nothing.
            let is_report = args.first().is_some_and(|first| first == "report");
            let kinds = if is_report { &[Kind::Bench][..] } else { &Kind::ALL };
            let needs = match args.first().and_then(|first| first.to_str()) {
                Some("pods") => Needs::Cluster,
                Some("datapath") => Needs::Contenders,
                _ => Needs::Nodes,
            };
            hand_over(&workspace, needs, kinds, "barewire-bench", None, &args)
        }
        Task::Conformance { whose: Whose::Kubernetes, args } => {
            let page = [OsString::from("--document"), workspace.root.join("docs/kubernetes.md").into()];
            hand_over(&workspace, Needs::Cluster, &Kind::OF_NODES, "barewire-lab", Some("conformance"), &[&page[..], &args].concat())
        }
        Task::Scale { args } => hand_over(&workspace, Needs::Building, &[Kind::Simulation], "barewire-scale", None, &args),
    }
}

/// What a program needs that this one hands over to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Nothing but its being built.
    Building,
    /// Nodes of the lab.
    Nodes,
    /// A Kubernetes cluster.
    Cluster,
    /// What other people run in our place.
    Contenders,
}

impl Needs {
    const fn of_cluster(cluster: bool) -> Self {
        if cluster { Self::Cluster } else { Self::Nodes }
    }
}

/// Installs and builds what `program` needs, then becomes it: its signals, its output and its exit code are its own.
fn hand_over(workspace: &Workspace, needs: Needs, kinds: &[Kind], program: &str, verb: Option<&str>, args: &[OsString]) -> Result<()> {
    match needs {
        Needs::Building => bootstrap::run(workspace, Purpose::Building)?,
        Needs::Nodes => bootstrap::run(workspace, Purpose::Nodes)?,
        Needs::Cluster => bootstrap::run_with_world(workspace, Purpose::Nodes)?,
        Needs::Contenders => bootstrap::run_with_world(workspace, Purpose::Contenders)?,
    }
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
