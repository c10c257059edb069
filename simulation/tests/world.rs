//! The harness itself: that it sees what goes wrong, that crashes lose what crashes lose, and that a seed is a history.

use std::time::Duration;

use cloudsim::cloud::{Action, Ipv4Wanted, Request};
use cloudsim::faults::{Faults, Latency};
use cloudsim::time::Millis;
use simulation::{Leak, NodeSettings, Violation, World, WorldSettings, run};

const MINUTE: Duration = Duration::from_secs(60);

fn slow_api() -> Faults {
    let mut faults = Faults::default();
    faults.api.latency = Latency { min: Millis(50), max: Millis(800) };
    faults
}

#[test]
fn a_node_grows_and_its_pods_outlive_its_daemon() {
    run(async || {
        let world = World::new(WorldSettings::default());
        world.with_cloud(|cloud, _| cloud.set_faults(slow_api()));
        let node = world.launch(NodeSettings::default());
        let pods: Vec<_> = (0..40).map(|_| world.start_pod(&node)).collect();
        assert_eq!(node.borrow().waiting(), 40);
        world.pass(MINUTE).await;
        let addresses: Vec<_> = pods.iter().map(|pod| node.borrow().address_of(*pod).unwrap()).collect();
        assert!(world.waits().longest > 0 && world.waits().waited == 40, "{:?}", world.waits());

        world.crash(&node);
        world.pass(MINUTE).await;
        let late = world.start_pod(&node);
        world.start(&node);
        world.pass(MINUTE).await;
        assert!(node.borrow().address_of(late).is_some_and(|address| !addresses.contains(&address)));
        assert_eq!((world.violations(), world.leaks()), (vec![], vec![]));
    });
}

#[test]
fn a_careless_operator_is_seen() {
    run(async || {
        let world = World::new(WorldSettings::default());
        let node = world.launch(NodeSettings { prefixes: 1, api: false, ..NodeSettings::default() });
        world.pass(MINUTE).await;
        let pod = world.start_pod(&node);
        let address = node.borrow().address_of(pod).unwrap();
        let instance = node.borrow().instance();
        let interface = world.with_cloud(|cloud, _| cloud.interfaces_of(instance)[0].clone());
        let (interface, prefix) = (interface.id, interface.ipv4_prefixes[0]);
        let unassign = Request::UnassignPrivateIpAddresses { interface, addresses: vec![], prefixes: vec![prefix] };
        world.with_cloud(|cloud, now| cloud.apply(now, &unassign).unwrap());
        assert_eq!(world.violations(), [Violation::TakenAway { address, node: instance }]);
        let wanted = Ipv4Wanted::Ipv4PrefixCount(1);
        world.with_cloud(|cloud, now| cloud.apply(now, &Request::AssignPrivateIpAddresses { interface, wanted }).unwrap());
        assert!(matches!(world.leaks()[..], [Leak::Block(of, _)] if of == instance), "{:?}", world.leaks());
        world.pass(MINUTE).await;
        assert_eq!(world.leaks(), []);
    });
}

#[test]
fn a_seed_is_a_history() {
    let history = |seed| {
        run(async || {
            let world = World::new(WorldSettings { seed, subnets: 2 });
            world.with_cloud(|cloud, _| cloud.set_faults(slow_api()));
            for _ in 0..50 {
                let node = world.launch(NodeSettings { cluster_nodes: 50, ..NodeSettings::default() });
                (0..20).for_each(|_| _ = world.start_pod(&node));
            }
            world.pass(5 * MINUTE).await;
            let ready: Vec<_> = world.nodes().iter().map(|node| node.borrow().ready_at()).collect();
            (ready, world.with_cloud(|cloud, _| (cloud.calls().of(Action::AssignPrivateIpAddresses), cloud.calls().total())))
        })
    };
    assert_eq!(history(1), history(1));
    assert_ne!(history(1).0, history(2).0);
}
