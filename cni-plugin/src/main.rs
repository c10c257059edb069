//! barewire-cni: the binary that a container runtime executes.
//!
//! It validates what it was given, asks the node daemon, and prints one JSON result. Everything that takes privilege,
//! memory or time is the daemon's; this process is executed twice in the life of every pod and should hardly be noticed.

use std::io::Write;
use std::process::ExitCode;

use barewire_cni::Stdin;

fn main() -> ExitCode {
    // Not `vars()`: a variable of somebody else's that is not UTF-8 is none of our business.
    let environment = std::env::vars_os().map(|(key, value)| (key.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
    let stdin = Stdin::read(std::io::stdin());
    let (text, code) = match barewire_cni::execute(environment, &stdin) {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.to_json(cni_spec::version_asked(stdin.as_it_came()).as_deref()), ExitCode::FAILURE),
    };
    // A runtime that no longer reads has given up on the answer.
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}
