//! The `nft` program: scripts in, one transaction each.

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Why rules could not be set or read.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The `nft` program did not run.
    #[error("cannot run nft: {0}; install the package nftables")]
    Run(#[source] std::io::Error),
    /// It ran and refused.
    #[error("nft refused {what}: {why}")]
    Refused {
        /// What was asked of it.
        what: &'static str,
        /// Its own words.
        why: String,
    },
    /// Its answer has another form than expected.
    #[error("nft's list of {what} is not understood: {why}")]
    Unreadable {
        /// What was asked for.
        what: &'static str,
        /// Why.
        why: serde_json::Error,
    },
}

/// Runs a script, as one transaction: all of it or nothing.
pub(crate) fn run(what: &'static str, script: &str) -> Result<(), RulesError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(RulesError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).map_err(RulesError::Run)?;
    }
    accepted(what, child.wait_with_output().map_err(RulesError::Run)?).map(drop)
}

/// Removes a table, whether or not it is there: declared first, it is there to be deleted.
pub(crate) fn remove_table(what: &'static str, table: &str) -> Result<(), RulesError> {
    run(what, &format!("table {table}\ndelete table {table}\n"))
}

/// Lists a table as JSON (libnftables-json(5)).
pub(crate) fn list_table(what: &'static str, table: &str) -> Result<String, RulesError> {
    let output = Command::new("nft").args(["-j", "list", "table"]).args(table.split(' ')).output().map_err(RulesError::Run)?;
    Ok(String::from_utf8_lossy(&accepted(what, output)?.stdout).into_owned())
}

fn accepted(what: &'static str, output: Output) -> Result<Output, RulesError> {
    if output.status.success() {
        return Ok(output);
    }
    Err(RulesError::Refused { what, why: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

/// Elements of an anonymous set, `{ a, b }`.
pub(crate) fn anonymous_set<T: ToString>(elements: impl IntoIterator<Item = T>) -> String {
    let elements: Vec<_> = elements.into_iter().map(|element| element.to_string()).collect();
    format!("{{ {} }}", elements.join(", "))
}
