//! barewired: the node daemon's command line.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use ipam::config::ConfigFile;
use ipam::daemon;
use tracing_subscriber::EnvFilter;

/// The node daemon of Barewire: gives pods addresses of the cloud network and wires them.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, default_value = "/etc/barewire/barewired.toml")]
    config: PathBuf,
    /// Only judge the configuration.
    #[arg(long)]
    check: bool,
    /// Take away programs, rules and the network configuration list, and end. The daemon must not run.
    #[arg(long, conflicts_with = "check")]
    uninstall: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("BAREWIRE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();

    let hostname = nix::unistd::gethostname().context("hostname")?.to_string_lossy().into_owned();
    let file = ConfigFile { path: arguments.config, hostname };
    let config = file.read()?;
    if arguments.check {
        tracing::info!(file = %file.path.display(), "valid");
        return Ok(());
    }
    if arguments.uninstall {
        return Ok(daemon::uninstall(&config)?);
    }
    Ok(daemon::run(file, &config)?)
}
