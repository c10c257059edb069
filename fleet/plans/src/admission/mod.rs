//! What of a pod is added or refused, so that teams' nodes are for teams' pods: as a function, and as policies of the API server that say the same.

mod decision;
mod policies;

pub use decision::{Decision, decide};
pub use policies::policies;

/// Namespaces whose pods are left alone.
pub const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
