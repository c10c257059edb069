//! All nodes of a cluster are launched within a minute, and each needs a prefix before its first pod.

use std::time::Duration;

use cloudsim::cloud::{Action, Tally};

use super::Scale;

/// In which all nodes are launched.
const LAUNCHING: Duration = Duration::from_secs(60);
/// Watched for as long, though all were ready earlier.
const AT_LEAST: Duration = Duration::from_secs(300);
/// Given up after as long.
const AT_MOST: Duration = Duration::from_secs(3 * 3600);

/// How a cluster has joined.
#[derive(Debug, Clone, PartialEq)]
pub struct Joined {
    /// When each was ready that was in the end: milliseconds from the first launch.
    pub ready: Vec<u64>,
    /// Seconds from the first launch until all nodes were ready.
    pub seconds: f64,
    /// The longest that a node took from its daemon's start.
    pub slowest: f64,
    /// All calls of the API.
    pub calls: Tally,
    /// Those of them that assign addresses.
    pub assigns: Tally,
}

/// Nodes with `prefixes` from their launch on.
#[must_use]
pub fn join(scale: Scale, prefixes: u32) -> Joined {
    crate::run(async || {
        let world = scale.world();
        let begun = world.clock().node();
        let between = LAUNCHING / u32::try_from(scale.nodes).unwrap_or(u32::MAX);
        let mut nodes = Vec::new();
        for _ in 0..scale.nodes {
            nodes.push(world.launch(scale.node(prefixes)));
            world.pass(between).await;
        }
        let since = |passed: &Duration| world.clock().node().since(begun) < passed.as_millis() as u64;
        while since(&AT_LEAST) || (since(&AT_MOST) && nodes.iter().any(|node| node.borrow().ready_at().is_none())) {
            world.pass(Duration::from_secs(1)).await;
        }
        let ready: Vec<_> = nodes.iter().filter_map(|node| Some(node.borrow().ready_at()?.since(begun))).collect();
        let took = nodes.iter().filter_map(|node| Some(node.borrow().ready_at()?.since(node.borrow().started_at()?)));
        let seconds = |millis: Option<u64>| millis.unwrap_or(0) as f64 / 1000.0;
        let (calls, assigns) = world.with_cloud(|cloud, _| (cloud.calls().total(), cloud.calls().of(Action::AssignPrivateIpAddresses)));
        Joined { seconds: seconds(ready.iter().max().copied()), ready, slowest: seconds(took.max()), calls, assigns }
    })
}
