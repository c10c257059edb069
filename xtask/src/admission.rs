//! `cargo xtask bench admission`: how long the webhook of admission takes to answer (`fleet/examples/admission.rs`).

use std::process::Command;

use anyhow::Result;
use clap::Parser;

use crate::bootstrap::{self, Purpose};
use crate::process;
use crate::workspace::Workspace;

/// Measure the webhook of admission over TLS; the last line is JSON with `--json`.
#[derive(Debug, Parser)]
#[command(name = "admission")]
pub(crate) struct Admission {
    /// One object on one line
    #[arg(long)]
    json: bool,
}

/// Builds it with `--release` and runs it.
///
/// # Errors
/// Where it cannot be built, or fails.
pub(crate) fn run(workspace: &Workspace, admission: &Admission) -> Result<()> {
    bootstrap::run(workspace, Purpose::Building)?;
    process::run(&mut workspace.cargo(&["build", "--release", "-p", "fleet", "--example", "admission"]))?;
    process::run(Command::new(workspace.target_dir.join("release/examples/admission")).args(admission.json.then_some("--json")))
}
