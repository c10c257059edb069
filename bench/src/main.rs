//! `barewire-bench`: measures Barewire beside a peer, on a node of its own inside namespaces.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command-line program: its results are what it prints")]

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, io};

use anyhow::{Context, Result};
use bench::add::{self, Options};
use bench::burst;
use bench::cluster_ip;
use bench::datapath::{self, load, load::Load};
use bench::machine;
use bench::page::{self, Sources};
use bench::pods;
use bench::shape;
use clap::{Args, Parser, Subcommand};
use lab::init;
use nix::unistd::alarm;
use serde_json::Value;

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
    /// Many ADDs at once, on a calm node and on a busy one: Barewire and the reference plugin in turns
    ///
    /// Some fifteen seconds a round.
    Burst {
        /// Rounds; a figure is the median over them
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// One line of JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// What this machine's kernel and the reference plugin take, without Barewire
    Machine {
        #[command(flatten)]
        size: Size,
    },
    /// Pod traffic: Barewire, the nodes themselves, a bridge, an overlay and the bare veth in turns
    ///
    /// Trust it on a quiet machine only: others' work shows as `noise_percent`. Some seven minutes as it stands.
    Datapath {
        /// Rounds; a figure is the median over them, so an odd number makes it one that was measured
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds that one figure of one contender is measured in one round
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// Only these contenders, by the keys of the JSON, and only the rows that all of them have: to try something out
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// One line of JSON instead of tables
        #[arg(long)]
        json: bool,
    },
    /// A real Kubernetes: until 200 pods are Ready and until they are gone, with Barewire and with ptp in turns
    ///
    /// Some four minutes a round and CNI.
    Pods {
        /// Clusters of each CNI; a figure is the median over them
        #[arg(long, default_value_t = 1)]
        rounds: usize,
        /// One line of JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// A service's address: what it costs a pod beside its endpoint's own, by the kernel programs and by kube-proxy's rules
    ///
    /// Some ten seconds a round.
    #[command(name = "clusterip")]
    ClusterIp {
        /// Rounds; a figure is the median over them
        #[arg(long, default_value_t = 9)]
        rounds: usize,
        /// Seconds that one figure is measured in one round
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// One line of JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Limits of bandwidth: how near to the rate traffic comes, and what they cost whom they do not hold
    ///
    /// Some five minutes as it stands.
    Shape {
        /// Rounds; a figure is the median over them
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds that one figure is measured in one round, after a warm-up of one and a half
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Only these errors, by the keys of the JSON: to try something out
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// One line of JSON instead of tables
        #[arg(long)]
        json: bool,
    },
    /// Write docs/benchmarks.md and its charts from the JSON of runs
    ///
    /// Without a file, from the run that is kept beside the page: then the page changes only if this program has.
    Report {
        /// What `datapath --json` printed [default: benchmarks/datapath.json in that folder]
        #[arg(long)]
        datapath: Option<PathBuf>,
        /// What `add --json` printed
        #[arg(long)]
        add: Option<PathBuf>,
        /// What `burst --json` printed
        #[arg(long)]
        burst: Option<PathBuf>,
        /// The folder of documents
        #[arg(long, default_value = "docs")]
        out: PathBuf,
    },
    /// One end of a load, as `datapath` starts it
    #[command(hide = true)]
    Load {
        #[command(subcommand)]
        end: End,
    },
    /// One of the processes that keep a processor busy, as `burst` starts them
    #[command(hide = true)]
    Spin,
}

#[derive(Subcommand)]
enum End {
    Serve {
        #[command(flatten)]
        work: Work,
    },
    Drive {
        #[command(flatten)]
        work: Work,
        #[arg(long)]
        streams: usize,
        #[arg(long)]
        millis: u64,
    },
}

#[derive(Args, Clone, Copy)]
struct Work {
    #[arg(long)]
    load: Load,
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    limit_seconds: u32,
    #[arg(long)]
    cpu: Option<usize>,
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
    // Nodes of the lab are started by executing this program again.
    init::become_init_if_asked();
    match Cli::parse().what {
        What::Add { size, crowd } => {
            let report = add::run(&begin()?, Options { pods: size.pods, rounds: size.rounds, crowd })?;
            show(size.json, &report.to_json(), &report);
        }
        What::Burst { rounds, json } => {
            let report = burst::run(&begin()?, rounds)?;
            show(json, &report.to_json(), &report);
        }
        What::Machine { size } => {
            let report = machine::run(&begin()?, size.pods, size.rounds)?;
            show(size.json, &report.to_json(), &report);
        }
        What::Datapath { rounds, seconds, only, json } => {
            let slot = Duration::try_from_secs_f64(seconds).with_context(|| format!("--seconds {seconds} is no duration"))?;
            let findings = datapath::run(&begin()?, datapath::Options { rounds, slot }, &only)?;
            show(json, &findings.to_json(), &findings);
        }
        What::Pods { rounds, json } => {
            // Its waits have bounds of their own.
            let report = pods::run(pods::Options { rounds })?;
            show(json, &report.to_json(), &report);
        }
        What::ClusterIp { rounds, seconds, json } => {
            let slot = Duration::try_from_secs_f64(seconds).with_context(|| format!("--seconds {seconds} is no duration"))?;
            let report = cluster_ip::run(&begin()?, rounds, slot)?;
            show(json, &report.to_json(), &report);
        }
        What::Shape { rounds, seconds, only, json } => {
            let slot = Duration::try_from_secs_f64(seconds).with_context(|| format!("--seconds {seconds} is no duration"))?;
            let findings = shape::run(&begin()?, shape::Options { rounds, slot }, &only)?;
            show(json, &findings.to_json(), &findings);
        }
        What::Report { datapath, add, burst, out } => {
            for path in page::write(&Sources { datapath, add, burst }, &out)? {
                println!("{}", path.display());
            }
        }
        What::Load { end } => run_load(end)?,
        What::Spin => burst::spin(),
    }
    Ok(())
}

/// Limits the time of a measurement; returns where the programs to be measured are: `BAREWIRE_BIN_DIR`, or where this one is.
fn begin() -> Result<PathBuf> {
    alarm::set(LIMIT_SECONDS);
    if let Some(folder) = env::var_os("BAREWIRE_BIN_DIR") {
        return Ok(PathBuf::from(folder));
    }
    let program = env::current_exe().context("cannot tell where this program is: set BAREWIRE_BIN_DIR")?;
    Ok(program.parent().context("this program is in no folder")?.to_owned())
}

fn show(json: bool, line: &Value, table: &dyn Display) {
    if json {
        println!("{line}");
    } else {
        print!("{table}");
    }
}

fn run_load(end: End) -> Result<()> {
    match end {
        End::Serve { work: Work { load, address, limit_seconds, cpu } } => {
            load::prepare(cpu, limit_seconds)?;
            load::serve(load, address, io::stdout())
        }
        End::Drive { work: Work { load, address, limit_seconds, cpu }, streams, millis } => {
            load::prepare(cpu, limit_seconds)?;
            println!("{}", load::drive(load, address, streams, Duration::from_millis(millis))?);
            Ok(())
        }
    }
}
