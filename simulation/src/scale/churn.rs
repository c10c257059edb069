//! An hour of an ordinary large cluster: pods end and begin, nodes are replaced.

use std::time::Duration;

use cloudsim::cloud::Tally;

use super::Scale;
use super::pods::Pods;
use crate::node::Waits;

/// Pods that are replaced each minute, and nodes in the hour.
pub(super) const PODS_PERCENT: u64 = 5;
const NODES_PERCENT: u64 = 1;
/// In which all pods begin.
pub(super) const FILLING: Duration = Duration::from_secs(120);
const HOUR: Duration = Duration::from_secs(3600);
/// Until nothing is in flight any more.
pub(super) const QUIET: Duration = Duration::from_secs(300);
/// Prefixes of a node at its launch: what its share of the pods takes.
const PREFIXES: u32 = 3;

/// How the hour went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Churned {
    /// Pods and nodes that were replaced.
    pub replaced: (u64, u64),
    /// Promises that were broken.
    pub conflicts: u64,
    /// What nobody will give back.
    pub leaks: u64,
    /// How long pods waited for addresses, the beginning included.
    pub waits: Waits,
    /// Calls of the API in the hour.
    pub calls: Tally,
    /// Addresses for pods that a node has in the end, on average.
    pub addresses: f64,
}

/// The hour.
#[must_use]
pub fn churn(scale: Scale) -> Churned {
    crate::run(async || {
        let world = scale.world();
        (0..scale.nodes).for_each(|_| _ = world.launch(scale.node(PREFIXES)));
        world.pass(2 * FILLING).await;
        let mut pods = Pods::new(&world, scale.seed);
        pods.pass(FILLING, scale.pods, 0).await;
        world.with_cloud(|cloud, _| cloud.clear_calls());
        let nodes = (scale.nodes * NODES_PERCENT).div_ceil(100);
        let between = HOUR / u32::try_from(nodes).unwrap_or(u32::MAX);
        for _ in 0..nodes {
            pods.pass(between, scale.pods, PODS_PERCENT).await;
            pods.replace_node(|| world.launch(scale.node(PREFIXES)));
        }
        let calls = world.with_cloud(|cloud, _| cloud.calls().total());
        world.pass(QUIET).await;
        let sizes = world.nodes().iter().filter_map(|node| Some(super::counts(&node.borrow())?.size)).sum::<u64>();
        Churned {
            replaced: (pods.replaced(), nodes),
            conflicts: world.violations().len() as u64,
            leaks: world.leaks().len() as u64,
            waits: world.waits(),
            calls,
            addresses: sizes as f64 / scale.nodes as f64,
        }
    })
}
