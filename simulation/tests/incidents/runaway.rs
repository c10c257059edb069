//! A want that no address can still.

use cloudsim::cloud::Request;
use simulation::{Violation, World, WorldSettings, run};

use crate::naive::Naive;
use crate::{HOUR, MINUTE, launched_with, prefixes_of, start_pods};

/// Pods had addresses that their node did not have any more, as after it was deleted and added again. They counted as pods without an
/// address, whatever came: so more and more was assigned.
#[test]
fn terway_1030_pods_of_lost_addresses_want_for_ever() {
    run(async || {
        let world = World::new(WorldSettings::default());
        let mut naive = Naive::launch(&world, launched_with(1)).await;
        let pods: Vec<_> = (0..10).map(|_| naive.start_pod().unwrap()).collect();
        let lost = *naive.blocks.keys().next().unwrap();
        naive.give_back(lost).await;
        for _ in 0..60 {
            let unserved = pods.iter().filter(|address| !naive.blocks.keys().any(|block| block.contains(**address)));
            if unserved.count() > 0 {
                naive.grow().await;
            }
            world.pass(MINUTE).await;
        }
        assert!(naive.blocks.len() > 10, "as many as the interface can have: {}", naive.blocks.len());
    });
    run(async || {
        let world = World::new(WorldSettings::default());
        let node = world.launch(launched_with(1));
        world.pass(MINUTE).await;
        start_pods(&world, &node, 5);
        let instance = node.borrow().instance();
        world.with_cloud(|cloud, now| {
            let interface = cloud.interfaces_of(instance)[0].clone();
            let prefixes = interface.ipv4_prefixes;
            cloud.apply(now, &Request::UnassignPrivateIpAddresses { interface: interface.id, addresses: vec![], prefixes }).unwrap();
        });
        let by_the_operator = world.violations();
        assert!(matches!(by_the_operator[..], [Violation::TakenAway { .. }, ..]));
        world.pass(2 * HOUR).await;
        assert_eq!(prefixes_of(&world, &node), 1, "one for new pods");
        world.pass(22 * HOUR).await;
        assert_eq!(prefixes_of(&world, &node), 1);
        start_pods(&world, &node, 5);
        assert_eq!((node.borrow().waiting(), world.violations()), (0, by_the_operator));
    });
}
