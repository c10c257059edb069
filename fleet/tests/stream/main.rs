//! The real server and the real client over TLS, in a network namespace for each test: what arrives, what is kept, and everything wrong that
//! can be sent.
//!
//! Needs root. Where it cannot run it says `SKIP` and why; with `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and says what it skips")]

mod bad_input;
mod fixture;
mod forwarding;
mod health;
mod kept;
mod rotation;
mod skew;
mod status;
