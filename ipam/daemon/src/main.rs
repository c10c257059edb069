//! barewired: the node daemon's command line.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use barewired::config::ConfigFile;
use barewired::max_pods::max_pods;
use barewired::{check, logs, start};
use clap::Parser;

/// The node daemon of Barewire: gives pods addresses of the cloud network and wires them.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file. Drop-ins are in the folder of its name with `.d` behind it.
    #[arg(long, default_value = "/etc/barewire/barewired.toml")]
    config: PathBuf,
    /// Only judge the configuration, and say what is found of the plugins that it chains.
    #[arg(long)]
    check: bool,
    /// Only print what the file and its drop-ins say together, each key with the file that it is from.
    #[arg(long, conflicts_with_all = ["check", "max_pods", "uninstall"])]
    show_config: bool,
    /// Only print how many pods addresses can serve at once, for kubelet's `maxPods`. The daemon need not run.
    #[arg(long, conflicts_with_all = ["check", "uninstall"])]
    max_pods: bool,
    /// Take away programs, rules and the network configuration list, and end. The daemon must not run.
    #[arg(long, conflicts_with = "check")]
    uninstall: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let hostname = nix::unistd::gethostname().context("hostname")?.to_string_lossy().into_owned();
    let file = ConfigFile { path: arguments.config, hostname };
    if arguments.show_config {
        return write!(std::io::stdout(), "{}", file.layers()?).context("standard output");
    }
    let config = file.read()?;
    logs::start(&config.log_levels, config.log_format).map_err(anyhow::Error::msg)?;
    file.warn(&config);
    if arguments.check {
        tracing::info!(file = %file.path.display(), "valid");
        let lines: String = check::findings(&config).into_iter().map(|line| line + "\n").collect();
        return std::io::stdout().write_all(lines.as_bytes()).context("standard output");
    }
    if arguments.max_pods {
        return writeln!(std::io::stdout(), "{}", max_pods(&config)?).context("standard output");
    }
    if arguments.uninstall {
        return Ok(start::uninstall(&config)?);
    }
    Ok(start::run(file, &config)?)
}
