//! The `nft` program: scripts in, one transaction each.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netlink::NetlinkError;

/// Why rules could not be set or read.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// There is no `nft` program.
    #[error("there is no nft in PATH; install the package nftables")]
    Missing,
    /// The `nft` program did not run.
    #[error("cannot run nft: {0}")]
    Run(#[source] std::io::Error),
    /// It ran and refused.
    #[error("nft refused {what}: {why}")]
    Refused {
        /// What was asked of it.
        what: &'static str,
        /// Its own words.
        why: String,
    },
    /// The kernel does not tell which rules it has.
    #[error("{0}")]
    Unread(#[from] NetlinkError),
    /// Its answer has another form than expected.
    #[error("nft's list of {what} is not understood: {why}")]
    Unreadable {
        /// What was asked for.
        what: &'static str,
        /// Why.
        why: serde_json::Error,
    },
}

/// Rules for thousands of pods take some milliseconds; seconds mean that something is broken.
const LIMIT: Duration = Duration::from_secs(10);

/// Runs a script, as one transaction: all of it or nothing.
pub(crate) fn run(what: &'static str, script: &str) -> Result<(), RulesError> {
    run_within(what, script, LIMIT)
}

/// Likewise, where it may take longer.
pub(crate) fn run_within(what: &'static str, script: &str, limit: Duration) -> Result<(), RulesError> {
    accepted(what, bounded(Command::new("nft").args(["-f", "-"]), script.to_owned(), limit).map_err(not_run)?).map(drop)
}

/// Removes a table, whether or not it is there: declared first, it is there to be deleted.
pub(crate) fn remove_table(what: &'static str, table: &str) -> Result<(), RulesError> {
    run(what, &format!("table {table}\ndelete table {table}\n"))
}

/// Lists a table as JSON (libnftables-json(5)).
pub(crate) fn list_table(what: &'static str, table: &str) -> Result<String, RulesError> {
    let output = bounded(Command::new("nft").args(["-j", "list", "table"]).args(table.split(' ')), String::new(), LIMIT);
    Ok(String::from_utf8_lossy(&accepted(what, output.map_err(not_run)?)?.stdout).into_owned())
}

/// What another program prints; `None` where there is no such program, and its own words where it fails.
pub(crate) fn output_of(mut command: Command) -> Result<Option<String>, String> {
    match bounded(&mut command, String::new(), LIMIT) {
        Ok(output) if output.status.success() => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Gives another program its input; `None` where there is no such program, and its own words where it fails.
pub(crate) fn fed(mut command: Command, input: &str) -> Result<Option<()>, String> {
    match bounded(&mut command, input.to_owned(), LIMIT) {
        Ok(output) if output.status.success() => Ok(Some(())),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// That there is no such program is one thing; no descriptor, memory or time for it is another.
fn not_run(error: std::io::Error) -> RulesError {
    if error.kind() == std::io::ErrorKind::NotFound { RulesError::Missing } else { RulesError::Run(error) }
}

/// Runs a program that reads all of its input before it answers, as nft does, and kills it when it takes longer than `limit`.
fn bounded(command: &mut Command, input: String, limit: Duration) -> std::io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let process = Pid::from_raw(child.id().cast_signed());
    let (told, outcome) = channel();
    std::thread::spawn(move || {
        let fed = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
        // What it says of itself tells more than a pipe that broke; nobody may be waiting any more.
        let _ =
            told.send(child.wait_with_output().and_then(|output| if output.status.success() { fed.map(|()| output) } else { Ok(output) }));
    });
    outcome.recv_timeout(limit).unwrap_or_else(|_| {
        // The thread has not reaped it, so the number is still its own; at the worst it has just ended.
        let _ = kill(process, Signal::SIGKILL);
        Err(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("it took longer than {limit:?}")))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_ended() {
        let error = bounded(Command::new("sleep").arg("60"), String::new(), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }

    #[test]
    fn only_a_missing_program_is_to_be_installed() {
        let missing = bounded(&mut Command::new("/nowhere/nft"), String::new(), LIMIT).map_err(not_run).unwrap_err();
        assert!(missing.to_string().contains("install the package nftables"), "{missing}");
        let out_of_descriptors = not_run(std::io::Error::from_raw_os_error(nix::libc::EMFILE)).to_string();
        assert!(out_of_descriptors.contains("Too many open files") && !out_of_descriptors.contains("install"), "{out_of_descriptors}");
    }

    #[test]
    fn input_longer_than_a_pipe_holds_arrives_whole() {
        let output = bounded(Command::new("wc").arg("-l"), "line\n".repeat(100_000), LIMIT).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "100000");
    }
}
