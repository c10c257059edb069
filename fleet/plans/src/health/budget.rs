//! What of the budgets is spent. It is read from the nodes, so that a new leader has no new budget, and anybody can see what is left.

use std::collections::BTreeMap;

use serde::Serialize;

use super::record::{is_marked, relapses};
use super::{Millis, Settings};
use crate::node::Node;

/// Nodes with one value of this label are a pool, of which budgets are.
const POOL_LABEL: &str = "node.kubernetes.io/instance-type";

/// Which pool a node is of.
pub(crate) fn pool(node: &Node) -> &str {
    node.labels.get(POOL_LABEL).map_or("", String::as_str)
}

/// What is spent at a moment.
#[derive(Debug, Default)]
pub(super) struct Spent<'a> {
    /// Of each pool its nodes, and how many were tainted lately.
    pub(super) pools: BTreeMap<&'a str, (usize, usize)>,
    /// How many are tainted in all.
    pub(super) total: usize,
}

impl<'a> Spent<'a> {
    /// Of `nodes` at `now`; `pending` says since when a node is tainted that does not show it yet.
    pub(super) fn of(
        now: Millis,
        nodes: &'a BTreeMap<String, Node>,
        settings: &Settings,
        pending: impl Fn(&str) -> Option<Millis>,
    ) -> Self {
        let mut spent = Self::default();
        for node in nodes.values() {
            let pending = pending(&node.name);
            let is_lately = |at: &Millis| now.saturating_sub(*at) <= settings.window;
            let last = relapses(node, now, settings.window).pop().max(pending);
            let (of_pool, lately) = spent.pools.entry(pool(node)).or_default();
            *of_pool += 1;
            *lately += usize::from(last.as_ref().is_some_and(is_lately));
            spent.total += usize::from(is_marked(node) || pending.is_some());
        }
        spent
    }
}

/// The budgets that one node comes under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Budgets {
    /// Its pool; empty without the label `node.kubernetes.io/instance-type`.
    pub pool: String,
    /// Nodes of the pool that were tainted lately.
    pub pool_tainted: usize,
    /// As many as may be.
    pub pool_most: usize,
    /// Nodes that are tainted in all.
    pub tainted: usize,
    /// As many as may be.
    pub most: usize,
    /// More nodes than this that look sick at once trip the breaker.
    pub breaker: usize,
}

impl Budgets {
    /// Of one of `nodes` at `now`.
    #[must_use]
    pub fn of(node: &Node, nodes: &BTreeMap<String, Node>, now: Millis, settings: &Settings) -> Self {
        let spent = Spent::of(now, nodes, settings, |_| None);
        let (of_pool, lately) = spent.pools.get(pool(node)).copied().unwrap_or_default();
        Self {
            pool: pool(node).to_owned(),
            pool_tainted: lately,
            pool_most: settings.share(settings.pool_permille, of_pool),
            tainted: spent.total,
            most: settings.share(settings.total_permille, nodes.len()),
            breaker: settings.share(settings.breaker_permille, nodes.len()),
        }
    }

    /// May one more be tainted?
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.pool_tainted < self.pool_most && self.tainted < self.most
    }
}
