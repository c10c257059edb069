//! `cargo xtask bench fleet`: what a replica of the fleet costs with many nodes, all of them real clients over TLS (`fleet/examples/herd.rs`).

use std::process::Command;

use anyhow::{Result, ensure};
use clap::Parser;

use crate::bootstrap::{self, Purpose};
use crate::process;
use crate::workspace::Workspace;

/// Measure a replica of the fleet with many nodes; the last line is JSON with `--json`.
#[derive(Debug, Parser)]
#[command(name = "fleet")]
pub(crate) struct Herd {
    /// Nodes; each is a client with tables of its own
    #[arg(long, default_value_t = 7_500)]
    nodes: u32,
    /// Services
    #[arg(long, default_value_t = 200)]
    services: u32,
    /// Endpoints of each
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// One object on one line
    #[arg(long)]
    json: bool,
}

/// Builds it with `--release` and runs it in a network namespace of its own.
///
/// # Errors
/// Where it cannot be built, or fails.
pub(crate) fn run(workspace: &Workspace, herd: &Herd) -> Result<()> {
    let Herd { nodes, services, endpoints, json } = herd;
    bootstrap::run(workspace, Purpose::Building)?;
    process::run(&mut workspace.cargo(&["build", "--release", "-p", "fleet", "--example", "herd"]))?;
    let program = workspace.target_dir.join("release/examples/herd");
    // A connection is a descriptor at both ends, which are two processes.
    let descriptors = nodes + 1_000;
    let script = format!("ip link set lo up && ulimit -n {descriptors} && exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script]).arg(program).args([nodes, services, endpoints].map(ToString::to_string));
    command.args(json.then_some("--json"));
    let status = command.status()?;
    ensure!(status.success(), "`{}` failed: {status}", process::line(&command));
    Ok(())
}
