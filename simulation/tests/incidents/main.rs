//! What has happened to other people's clusters, each incident twice: to a small honest version of the policy that it happened to, and
//! to ours. docs/incidents.md is the list.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod naive;
mod runaway;
mod stale;
mod stuck;
mod throttled;

use std::time::Duration;

use cloudsim::faults::Faults;
use simulation::{NodeHandle, NodeSettings, PodId, World};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn misbehave(world: &World, change: impl FnOnce(&mut Faults)) {
    let mut faults = Faults::default();
    change(&mut faults);
    world.with_cloud(|cloud, _| cloud.set_faults(faults));
}

fn well_behaved(world: &World) {
    misbehave(world, |_| {});
}

fn launched_with(prefixes: u32) -> NodeSettings {
    NodeSettings { prefixes, ..NodeSettings::default() }
}

/// A node that has asked for so many prefixes, four at least, and has no pods any more: nothing else is given back. It will give some back
/// ten minutes later.
async fn grown_to(world: &World, prefixes: usize) -> NodeHandle {
    let node = world.launch(launched_with(0));
    world.pass(MINUTE).await;
    // Half a prefix is free beside them.
    let pods = start_pods(world, &node, prefixes * 16 - 10);
    world.pass(MINUTE).await;
    pods.into_iter().for_each(|pod| world.stop_pod(&node, pod));
    assert_eq!(prefixes_of(world, &node), prefixes);
    node
}

/// Until the node has given one back; within an hour.
async fn until_one_is_given_back(world: &World, node: &NodeHandle, step: Duration) {
    let before = prefixes_of(world, node);
    let mut left = HOUR;
    while prefixes_of(world, node) == before {
        left = left.checked_sub(step).unwrap_or_else(|| panic!("{before} prefixes after an hour"));
        world.pass(step).await;
    }
}

fn start_pods(world: &World, node: &NodeHandle, count: usize) -> Vec<PodId> {
    (0..count).map(|_| world.start_pod(node)).collect()
}

fn restart(world: &World, node: &NodeHandle) {
    world.crash(node);
    world.start(node);
}

/// Prefixes that the cloud has assigned to a node.
fn prefixes_of(world: &World, node: &NodeHandle) -> usize {
    let instance = node.borrow().instance();
    world.with_cloud(|cloud, _| cloud.interfaces_of(instance).iter().map(|interface| interface.ipv4_prefixes.len()).sum())
}

/// All pods have an address, and no promise was broken.
fn assert_all_is_well(world: &World, node: &NodeHandle) {
    assert_eq!((world.violations(), world.leaks(), node.borrow().waiting()), (vec![], vec![], 0));
}
