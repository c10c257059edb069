//! The fleet (ADR 21): a server that tells each node what it needs. What nodes hear it with is `fleet-client`.
#![forbid(unsafe_code)]

pub mod admission;
pub mod hub;
pub mod leader;
pub mod manifest;
pub mod metrics;
pub mod objects;
pub mod server;
pub mod watches;

pub use fleet_client::{backoff, client, identity, last, tls};
