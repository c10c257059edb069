//! The plugin as it is shipped, beside a daemon that is there, is away, is of another version, or breaks off, and under callers that
//! leave it without memory or streams: what a runtime is told.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

mod any_input;
mod del;
mod memory;
mod restart;
mod scripted;
mod shipped;
mod streams;

use cni_spec::Error;

use crate::shipped::Call;

/// Executes a verb on `c1`/`eth0`, with more variables.
fn run(verb: &str, more: &[(&str, &str)], stdin: &[u8]) -> Result<String, Error> {
    Call::new(verb).variables(more).run(stdin).outcome()
}
