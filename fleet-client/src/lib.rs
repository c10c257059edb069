//! A node's end of the fleet's stream (ADR 21), and what both ends share: TLS, who is who, the wait between attempts.
//!
//! What links this links no client of the API server: a node's daemon has none.
#![forbid(unsafe_code)]

pub mod backoff;
pub mod client;
pub mod identity;
pub mod last;
mod reporting;
pub mod tls;
