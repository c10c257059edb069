//! barewire-cni: the binary that a container runtime executes.
//!
//! It validates what it was given, asks the node daemon, and prints one JSON result. Everything that takes privilege,
//! memory or time is the daemon's; this process is executed twice in the life of every pod and should hardly be noticed.

use std::io::{Read, Write};
use std::process::ExitCode;

use cni_spec::{Code, Error};

/// A configuration with a large `prevResult` is some kilobytes.
const STDIN_MAX: u64 = 1 << 20;

fn main() -> ExitCode {
    // Not `vars()`: a variable of somebody else's that is not UTF-8 is none of our business.
    let environment = std::env::vars_os().map(|(key, value)| (key.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
    let (asked, outcome) = match read_stdin() {
        Ok(stdin) => (cni_spec::NetworkConfig::peek_version(&stdin), barewire_cni::execute(environment, &stdin)),
        Err(error) => (None, Err(error)),
    };
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.to_json(asked.as_deref()), ExitCode::FAILURE),
    };
    // A runtime that no longer reads has given up on the answer.
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}

fn read_stdin() -> Result<Vec<u8>, Error> {
    let mut stdin = Vec::with_capacity(4096);
    std::io::stdin()
        .take(STDIN_MAX + 1)
        .read_to_end(&mut stdin)
        .map_err(|why| Error::new(Code::IoFailure, format!("cannot read standard input: {why}")))?;
    if stdin.len() as u64 > STDIN_MAX {
        let msg = format!("standard input is larger than {STDIN_MAX} bytes; a network configuration is a few kilobytes");
        return Err(Error::new(Code::Undecodable, msg));
    }
    Ok(stdin)
}
