//! barewired: the node daemon's command line.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use ipam::config::Config;
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

    let path = arguments.config.display();
    let text = std::fs::read_to_string(&arguments.config).with_context(|| format!("cannot read {path}"))?;
    let hostname = nix::unistd::gethostname().context("hostname")?;
    let config = Config::from_toml(&text, &hostname.to_string_lossy()).with_context(|| format!("{path} is not valid"))?;
    if arguments.check {
        tracing::info!(file = %path, "valid");
        return Ok(());
    }
    if arguments.uninstall {
        return Ok(daemon::uninstall(&config)?);
    }
    Ok(daemon::run(&config)?)
}
