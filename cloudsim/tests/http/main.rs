//! The services as clients meet them: over real sockets, with an HTTP client that we did not write.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "says why it is skipped")]

mod aws_metadata;
mod azure_metadata;
mod boto;
mod client;
mod control;
mod ec2;
mod gcp_metadata;
mod moto;
mod python;
