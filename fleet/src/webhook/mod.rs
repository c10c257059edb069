//! Admission as a webhook (ADR 32): the same decision as the policies', for API servers that have no MutatingAdmissionPolicy.
//!
//! `/mutate` adds and never refuses; `/validate` refuses and never adds. Without a file of teams both admit. Connections, the time of each and the
//! size of a request are bounded; an API server that gets no answer goes on without `/mutate` (`failurePolicy: Ignore`).

mod issued;
mod kept;
mod review;
mod serve;
#[cfg(test)]
mod tests;

pub use kept::{Keeper, look};
pub use review::{Endpoint, answer};
pub use serve::{Counters, Files, METRICS, Shows, Webhook, router, tls};
