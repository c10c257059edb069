//! The plugin beside a daemon that is there, is away, is of another version, or breaks off: what a runtime is told.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod del;
mod restart;
mod scripted;

use barewire_cni::{Stdin, execute};
use cni_spec::Error;

/// Executes a verb on `c1`/`eth0`, with more variables.
fn run(verb: &str, more: &[(&str, &str)], stdin: &[u8]) -> Result<String, Error> {
    let variables = [("CNI_COMMAND", verb), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")];
    let environment = variables.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    execute(environment, &Stdin::from(stdin))
}
