//! Addresses are there, and pods wait for them.

use std::collections::BTreeSet;

use cloudsim::cloud::Action;
use ipam_supply::Outcome;
use ipnetwork::IpNetwork;
use simulation::{World, WorldSettings, run};

use crate::naive::Naive;
use crate::{
    HOUR, MINUTE, assert_all_is_well, grown_to, launched_with, misbehave, prefixes_of, start_pods, until_one_is_given_back, well_behaved,
};

/// An address that had been released was assigned again before the release was ticked off. It stayed "released" for ever, and pods
/// waited beside it.
#[test]
fn cilium_39981_what_is_assigned_again_stays_released() {
    run(async || {
        let world = World::new(WorldSettings::default());
        let mut naive = Naive::launch(&world, launched_with(1)).await;
        let block = *naive.blocks.keys().next().unwrap();
        leave_no_prefix(&world);
        naive.give_back(block).await;
        let released = BTreeSet::from([block]);
        assert_eq!(naive.grow().await, Outcome::Assigned(vec![block]));
        naive.blocks.retain(|block, _| !released.contains(block));
        assert_eq!(naive.start_pod(), None, "a pod waits, and sixteen addresses are free");
    });
    run(async || {
        let world = World::new(WorldSettings::default());
        let node = grown_to(&world, 4).await;
        leave_no_prefix(&world);
        until_one_is_given_back(&world, &node, MINUTE / 60).await;
        let before = node.borrow().pool().unwrap().ranges().count();
        start_pods(&world, &node, 48 + 8);
        world.pass(MINUTE).await;
        assert_eq!((before, prefixes_of(&world, &node)), (3, 4), "it has come back");
        assert_all_is_well(&world, &node);
    });
}

/// Of nine prefixes three were on the way out and were not used any more, but never went. Whoever counted saw room for dozens of pods
/// and asked for nothing; whoever handed out had nothing left.
#[test]
fn cilium_47910_what_is_counted_is_not_what_is_used() {
    run(async || {
        let world = World::new(WorldSettings::default());
        let mut naive = Naive::launch(&world, launched_with(9)).await;
        let leaving: Vec<IpNetwork> = naive.blocks.keys().take(3).copied().collect();
        let assigned = naive.blocks.len() * 16;
        naive.blocks.retain(|block, _| !leaving.contains(block));
        for _ in 0..6 * 16 {
            naive.start_pod().unwrap();
        }
        let is_enough = assigned - naive.pods.len() >= 8;
        assert!(is_enough && naive.start_pod().is_none(), "nothing is asked for, and a pod waits");
    });
    run(async || {
        let world = World::new(WorldSettings::default());
        let node = grown_to(&world, 9).await;
        misbehave(&world, |faults| faults.api.denied = [Action::UnassignPrivateIpAddresses].into());
        world.pass(HOUR).await;
        assert_eq!(prefixes_of(&world, &node), 9, "they are to go, and do not");
        start_pods(&world, &node, 9 * 16);
        assert_eq!(node.borrow().waiting(), 0, "what is here is used");
        start_pods(&world, &node, 16);
        well_behaved(&world);
        world.pass(HOUR).await;
        assert_all_is_well(&world, &node);
    });
}

/// But those that are given back.
fn leave_no_prefix(world: &World) {
    world.with_cloud(|cloud, _| {
        let subnet = cloud.interfaces().next().unwrap().subnet;
        cloud.fragment_subnet(subnet, 0).unwrap();
    });
}
