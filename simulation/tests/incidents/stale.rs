//! Metadata is behind, or leaves something out, and is taken for the truth.

use cloudsim::time::Millis;
use simulation::{Violation, World, WorldSettings, run};

use crate::naive::Naive;
use crate::{
    HOUR, MINUTE, assert_all_is_well, grown_to, launched_with, misbehave, prefixes_of, restart, start_pods, until_one_is_given_back,
    well_behaved,
};

/// After a restart metadata left an attached interface out. Its pods were forgotten with it; when it was listed again it looked
/// unused, and was detached with all their addresses.
#[test]
fn amazon_vpc_cni_1967_an_interface_in_use_is_detached() {
    run(async || {
        let world = World::new(WorldSettings::default());
        let mut naive = Naive::launch(&world, launched_with(1)).await;
        naive.add_interface().await;
        assert!((0..20).all(|_| naive.start_pod().is_some()));
        misbehave(&world, |faults| faults.metadata.omissions = 1.0);
        naive.believe(naive.read().await);
        well_behaved(&world);
        naive.believe(naive.read().await);
        naive.detach_unused();
        assert!(matches!(world.violations()[..], [Violation::TakenAway { .. }, ..]), "{:?}", world.violations());
    });
    run(async || {
        let world = World::new(WorldSettings::default());
        // Three prefixes an interface: some of the pods are on a second one.
        let node = world.launch(simulation::NodeSettings { instance_type: "t3.small".to_owned(), ..launched_with(1) });
        start_pods(&world, &node, 60);
        world.pass(10 * MINUTE).await;
        assert!(world.with_cloud(|cloud, _| cloud.interfaces_of(node.borrow().instance()).len()) > 1);
        misbehave(&world, |faults| faults.metadata.omissions = 1.0);
        restart(&world, &node);
        world.pass(HOUR).await;
        well_behaved(&world);
        world.pass(HOUR).await;
        assert_all_is_well(&world, &node);
    });
}

/// Metadata had stopped following. A list of as many addresses as were on the books was believed without a question: pods on new
/// addresses were forgotten, and addresses that were gone were handed out.
#[test]
fn amazon_vpc_cni_3019_a_list_of_the_right_length_is_believed() {
    run(async || {
        let world = World::new(WorldSettings::default());
        let mut naive = Naive::launch(&world, launched_with(1)).await;
        misbehave(&world, |faults| {
            faults.metadata.additions_late = Millis::seconds(24 * 3600);
            faults.metadata.removals_late = Millis::seconds(24 * 3600);
        });
        let old = *naive.blocks.keys().next().unwrap();
        naive.grow().await;
        naive.give_back(old).await;
        naive.start_pod().unwrap();
        let listed = naive.read().await;
        if listed.len() == naive.blocks.len() {
            naive.believe(listed);
        }
        assert!(naive.pods.is_empty(), "a live pod is forgotten");
        naive.start_pod().unwrap();
        assert!(matches!(world.violations()[..], [Violation::NotAssigned { .. }]), "{:?}", world.violations());
    });
    run(async || {
        let world = World::new(WorldSettings::default());
        let node = grown_to(&world, 4).await;
        misbehave(&world, |faults| {
            faults.metadata.additions_late = Millis::seconds(24 * 3600);
            faults.metadata.removals_late = Millis::seconds(24 * 3600);
        });
        world.pass(HOUR).await;
        assert_eq!(prefixes_of(&world, &node), 3, "one was given back, and metadata still lists it");
        start_pods(&world, &node, 60);
        world.pass(HOUR).await;
        assert_eq!(prefixes_of(&world, &node), 5, "two came, and metadata lists neither");
        assert_eq!((world.violations(), node.borrow().waiting()), (vec![], 0));
        well_behaved(&world);
        world.pass(HOUR).await;
        assert_all_is_well(&world, &node);
    });
}

/// A prefix was missing from the books for two days, and the pod on it was taken for dead. When the prefix was there again it looked
/// unused, and was unassigned under the pod.
#[test]
fn amazon_vpc_cni_3824_a_prefix_in_use_is_given_back() {
    run(async || {
        let world = World::new(WorldSettings::default());
        let mut naive = Naive::launch(&world, launched_with(1)).await;
        naive.start_pod().unwrap();
        misbehave(&world, |faults| faults.metadata.omissions = 1.0);
        naive.believe(naive.read().await);
        naive.grow().await;
        naive.start_pod().unwrap();
        world.pass(46 * HOUR).await;
        well_behaved(&world);
        naive.believe(naive.read().await);
        naive.shrink().await;
        assert!(matches!(world.violations()[..], [Violation::TakenAway { .. }]), "{:?}", world.violations());
    });
    run(async || {
        let world = World::new(WorldSettings::default());
        let node = world.launch(launched_with(1));
        world.pass(MINUTE).await;
        start_pods(&world, &node, 1);
        misbehave(&world, |faults| faults.metadata.omissions = 1.0);
        restart(&world, &node);
        world.pass(46 * HOUR).await;
        well_behaved(&world);
        world.pass(HOUR).await;
        assert_all_is_well(&world, &node);
    });
}

/// At a restart metadata listed a prefix too few. Pods on it were taken for dead and erased from the checkpoint in the same moment, so
/// that nothing was left to know them by.
#[test]
fn amazon_vpc_cni_3876_a_short_list_at_a_restart_erases_live_pods() {
    run(async || {
        let world = World::new(WorldSettings::default());
        let mut naive = Naive::launch(&world, launched_with(1)).await;
        naive.start_pod().unwrap();
        misbehave(&world, |faults| faults.metadata.omissions = 1.0);
        naive.believe(naive.read().await);
        assert!(naive.pods.is_empty(), "a live pod is forgotten");
        well_behaved(&world);
        naive.believe(naive.read().await);
        naive.start_pod().unwrap();
        assert!(matches!(world.violations()[..], [Violation::TwoOwners { .. }]), "{:?}", world.violations());
    });
    run(async || {
        let world = World::new(WorldSettings::default());
        let node = world.launch(launched_with(1));
        world.pass(MINUTE).await;
        let pods = start_pods(&world, &node, 5);
        misbehave(&world, |faults| faults.metadata.omissions = 1.0);
        restart(&world, &node);
        world.pass(MINUTE).await;
        restart(&world, &node);
        well_behaved(&world);
        world.pass(MINUTE).await;
        assert!(pods.iter().all(|pod| node.borrow().address_of(*pod).is_some()));
        start_pods(&world, &node, 20);
        world.pass(HOUR).await;
        assert_all_is_well(&world, &node);
    });
}

/// At a restart metadata still listed an address that had been given back, and the next pod got it: its packets had no way back.
#[test]
fn amazon_vpc_cni_3887_a_dead_address_is_handed_out_after_a_restart() {
    run(async || {
        let world = World::new(WorldSettings::default());
        let mut naive = Naive::launch(&world, launched_with(2)).await;
        misbehave(&world, |faults| faults.metadata.removals_late = Millis::seconds(600));
        let first = *naive.blocks.keys().next().unwrap();
        naive.give_back(first).await;
        naive.believe(naive.read().await);
        naive.start_pod().unwrap();
        assert!(matches!(world.violations()[..], [Violation::NotAssigned { .. }]), "{:?}", world.violations());
    });
    run(async || {
        let world = World::new(WorldSettings::default());
        let node = grown_to(&world, 4).await;
        misbehave(&world, |faults| faults.metadata.removals_late = Millis::seconds(600));
        until_one_is_given_back(&world, &node, MINUTE / 6).await;
        restart(&world, &node);
        start_pods(&world, &node, 64);
        world.pass(HOUR).await;
        assert_all_is_well(&world, &node);
    });
}
