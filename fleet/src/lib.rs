//! The fleet (ADR 21): a server that tells each node what it needs. What nodes hear it with is `fleet-client`.
#![forbid(unsafe_code)]

pub mod acting;
pub mod admission;
pub mod forwarding;
pub mod hub;
pub mod leader;
pub mod manifest;
pub mod metrics;
pub mod nodes;
pub mod objects;
pub mod orders;
pub mod peers;
pub mod reports;
pub mod retry_after;
pub mod rights;
pub mod server;
pub mod status;
pub mod telemetry;
pub mod top;
pub mod watches;
pub mod webhook;

pub use fleet_client::{backoff, client, identity, last, tls};
