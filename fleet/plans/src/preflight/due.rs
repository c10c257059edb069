//! Whose turn it is to be checked again.

use std::collections::BTreeMap;

use crate::health::Millis;
use crate::node::{Change, Node};

/// The taint of a node that is to be checked again. Without a run beside it somebody has ended on the way, and it goes.
pub const AGAIN: &str = "preflight.barewire.cloud/again";
/// Between two nodes that are looked at.
pub(super) const PACE: Millis = 10_000;
/// A node that had something to do is looked at again after that.
pub(super) const LATER: Millis = 3_600_000;

/// What is remembered of it.
#[derive(Debug, Default)]
pub(super) struct Again {
    pub(super) next: Millis,
    /// Nodes that were found busy, and until when they are left alone.
    pub(super) later: BTreeMap<String, Millis>,
    /// The node whose turn it is.
    pub(super) under_way: Option<String>,
}

/// A node whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub node: Node,
    /// Keeps pods away, where nothing else does yet.
    pub taint: Option<Change>,
    /// Takes that away, where the node has pods after all.
    pub back: Change,
    /// Tells it to begin; the taint stays until it has ended.
    pub run: Change,
}
