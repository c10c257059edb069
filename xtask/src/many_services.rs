//! `cargo xtask bench services`: what many Services cost a node (`ipam/services/examples/many.rs`).

use std::process::Command;

use anyhow::{Result, ensure};
use clap::Parser;

use crate::bootstrap::{self, Purpose};
use crate::process;
use crate::workspace::Workspace;

/// Measure how long many services take to be in force, and a change of one; the last line is JSON with `--json`.
#[derive(Debug, Parser)]
#[command(name = "services")]
pub(crate) struct ManyServices {
    /// Services
    #[arg(long, default_value_t = 10_000)]
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
pub(crate) fn run(workspace: &Workspace, many: &ManyServices) -> Result<()> {
    let ManyServices { services, endpoints, json } = many;
    bootstrap::run(workspace, Purpose::Building)?;
    process::run(&mut workspace.cargo(&["build", "--release", "-p", "services", "--example", "many"]))?;
    let mut command = Command::new("unshare");
    command.arg("--net").arg(workspace.target_dir.join("release/examples/many")).args([services, endpoints].map(ToString::to_string));
    command.args(json.then_some("--json"));
    let status = command.status()?;
    ensure!(status.success(), "`{}` failed: {status}", process::line(&command));
    Ok(())
}
