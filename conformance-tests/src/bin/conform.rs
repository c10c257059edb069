//! `conform --plugin PATH --conf FILE`: does a CNI plugin do what the specification asks for?
//!
//! Exit status: 0 if nothing is unexpected, 1 if something is, 2 if the run could not be finished.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "its report goes to stdout")]
#![expect(clippy::print_stderr, reason = "its own errors go to stderr")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Parser;
use conformance_tests::{
    invocation::Plugin,
    known::Known,
    suite::{Suite, cases},
    version::SpecVersion,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Does a CNI plugin that creates an interface do what the CNI specification asks for? Needs root.
#[derive(Parser)]
#[command(name = "conform", version)]
struct Arguments {
    /// The plugin's executable file.
    #[arg(long, value_name = "PATH", required_unless_present = "list")]
    plugin: Option<PathBuf>,
    /// A network configuration for it: one plugin, as JSON; cniVersion is set by each case.
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    conf: Option<PathBuf>,
    /// Versions of the specification.
    #[arg(long, value_delimiter = ',', value_name = "VERSIONS", default_value = "0.3.1,0.4.0,1.0.0,1.1.0")]
    versions: Vec<SpecVersion>,
    /// Only cases with this in their name.
    #[arg(long, value_name = "SUBSTRING", default_value = "")]
    case: String,
    /// Print the cases with their requirements, and run none.
    #[arg(long)]
    list: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// Kill an execution of the plugin that takes longer.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Failures that are known of the plugin, as TOML; each must still fail.
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// Run the plugin in this network namespace instead of a fresh one for each case.
    #[arg(long, value_name = "PATH")]
    host_netns: Option<PathBuf>,
    /// How many addresses the configuration's pool holds: makes it possible to see that DEL releases them.
    #[arg(long, value_name = "ADDRESSES")]
    pool_size: Option<u32>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conform: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<bool> {
    let Arguments { plugin, conf, versions, case, list, json, timeout, known, host_netns, pool_size } = arguments;
    if list {
        for case in cases(&case) {
            println!("{} (since {})\n    {}", case.name, case.since, case.requirement);
        }
        return Ok(true);
    }
    let (plugin, conf) = plugin.zip(conf).context("--plugin and --conf are both needed")?;

    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("register for signals")?;
    }
    let suite = Suite {
        plugin: Plugin {
            path: fs::canonicalize(&plugin).with_context(|| format!("find the plugin {}", plugin.display()))?,
            timeout: Duration::from_secs(timeout),
            interrupted,
        },
        conf: read_json(&conf)?,
        versions,
        only: case,
        host_netns,
        pool_size,
        known: match known {
            Some(path) => Known::read(&path).with_context(|| format!("list of known failures {}", path.display()))?,
            None => Known::default(),
        },
    };
    let report = suite.run(|record| {
        if !json {
            println!("{record}");
        }
    })?;
    if json {
        println!("{}", report.to_json());
    } else {
        println!("\n{}", report.summary());
    }
    Ok(report.is_success())
}

fn read_json(path: &Path) -> Result<serde_json::Value> {
    let text = fs::read(path).with_context(|| format!("read the configuration {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("the configuration {} is no JSON", path.display()))
}
