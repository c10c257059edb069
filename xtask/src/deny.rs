//! The policy of deny.toml, checked by cargo-deny.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result};

use crate::bootstrap;
use crate::process;
use crate::workspace::Workspace;

/// What needs no network. Advisories need a clone of their database: `cargo xtask deny advisories`.
const OFFLINE: [&str; 3] = ["licenses", "bans", "sources"];

/// The command line for `what`, or for all that needs no network.
pub(crate) fn command(workspace: &Workspace, what: &[OsString]) -> Result<Command> {
    let program = bootstrap::installed_crate(bootstrap::CARGO_DENY)?.context("cargo-deny is not installed: run `cargo xtask bootstrap`")?;
    let mut command = Command::new(program);
    command.args(["--workspace", "check"]).current_dir(&workspace.root);
    if what.is_empty() {
        command.args(OFFLINE);
    } else {
        command.args(what);
    }
    Ok(command)
}

pub(crate) fn check(workspace: &Workspace, what: &[OsString]) -> Result<()> {
    process::run(&mut command(workspace, what)?)
}
