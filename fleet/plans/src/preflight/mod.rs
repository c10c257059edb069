//! Which new nodes may take pods: those whose checks before the first pod have passed (ADR 37); and when nodes make these checks (ADR 43).
//!
//! A node comes with a taint that keeps pods away; a kubelet may register with taints and never change them. The leader tells the node when to begin
//! and lifts the taint once the node says that its checks have passed in the boot that the API server knows, so nothing that was said before a
//! restart counts. What it has lifted and somebody has put back is lifted again. All that it decides from is the node and what the node says, so
//! nothing is lost with a leader.

mod again;
mod due;
mod gate;
mod order;
mod partners;
mod person;
mod run;

pub use due::{AGAIN, Due};
pub use gate::{Act, Gate, Reason, Said, Settings, State};
pub use order::{Order, orders};
pub use person::{NotNow, asked};
pub use run::{Ended, RUN, Run};

use crate::node::Node;

/// The taint, where no other key is configured. Cluster autoscalers take a node with a key that begins so for one that is starting.
pub const KEY: &str = "startup-taint.cluster-autoscaler.kubernetes.io/barewire-preflight";
/// Karpenter's, until it has the node registered. It puts back startup taints that are lifted before.
pub const UNREGISTERED: &str = "karpenter.sh/unregistered";
/// Of a node that is cordoned: the node lifecycle controller puts it there.
pub const CORDONED: &str = "node.kubernetes.io/unschedulable";

fn has_any_key(node: &Node, keys: &[&str]) -> bool {
    node.taints.iter().any(|taint| keys.contains(&taint.key.as_str()))
}
