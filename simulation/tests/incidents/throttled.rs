//! Everybody calls at once.

use cloudsim::cloud::{Action, Tally};
use ipam_supply::Outcome;
use simulation::{NodeSettings, World, WorldSettings, run};

use crate::naive::Naive;
use crate::{MINUTE, launched_with};

const NODES: usize = 150;

fn assigns(world: &World) -> Tally {
    world.with_cloud(|cloud, _| cloud.calls().of(Action::AssignPrivateIpAddresses))
}

/// An autoscaler brought up 150 nodes. All called at once and, refused, again: it took fifteen minutes until every container ran.
#[test]
fn amazon_vpc_cni_405_nodes_that_start_together_call_together() {
    run(async || {
        let world = World::new(WorldSettings::default());
        let mut nodes = Vec::new();
        for _ in 0..NODES {
            nodes.push(Naive::launch(&world, launched_with(0)).await);
        }
        while !nodes.is_empty() {
            let mut refused = Vec::new();
            for mut node in nodes {
                if !matches!(node.grow().await, Outcome::Assigned(_)) {
                    refused.push(node);
                }
            }
            nodes = refused;
            world.pass(MINUTE / 60).await;
        }
        let Tally { calls, throttled, .. } = assigns(&world);
        assert!(throttled * 2 > calls, "more than half of {calls} calls were for nothing: {throttled}");
    });
    run(async || {
        let world = World::new(WorldSettings::default());
        let nodes: Vec<_> = (0..NODES).map(|_| world.launch(NodeSettings { cluster_nodes: NODES as u64, ..launched_with(0) })).collect();
        world.pass(2 * MINUTE).await;
        assert!(nodes.iter().all(|node| node.borrow().ready_at().is_some()));
        assert_eq!(assigns(&world).throttled, 0);
    });
}
