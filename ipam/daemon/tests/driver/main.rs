//! The driver with the real source, store and pool against a simulated EC2 on sockets; the kernel and the clock are models.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../model/kernel.rs"]
#[expect(dead_code, reason = "nothing crashes in the midst of an ADD here")]
mod kernel;
mod node;
mod surroundings;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudsim::cloud::Action;
use cloudsim::faults::Latency;
use cloudsim::time::Millis;
use ipnetwork::IpNetwork;
use node::{Burst, Lab, Node, leap};

#[tokio::test]
async fn a_node_starts_from_nothing_grows_over_two_interfaces_and_gives_back() {
    let lab = Lab::new("m5.large", "");
    let node = Node::start(&lab);
    assert!(node.status().contains("metadata has not been read yet"), "{}", node.status());
    node.settle().await;
    assert_eq!(node.status(), "ok");
    assert_eq!(node.report().blocks.len(), 1);

    // Nine places on the first interface; the tenth block takes another.
    let mut pods = BTreeSet::new();
    for pod in 0..150 {
        pods.extend(node.add(pod).unwrap());
        if pod % 7 == 0 {
            leap(Duration::from_secs(25));
            node.settle().await;
        }
    }
    assert_eq!(pods.len(), 150, "each has an address of its own");
    let report = node.report();
    assert_eq!(report.interfaces.len(), 2, "{report:#?}");
    assert_eq!(lab.networks(), report.blocks.iter().map(|block| block.block.parse().unwrap()).collect());
    assert_eq!(report.conditions, []);

    (3..150).for_each(|pod| node.del(pod));
    let mut on_record = BTreeSet::new();
    for _ in 0..80 {
        leap(Duration::from_secs(30));
        node.settle().await;
        on_record.extend(node.stored());
    }
    let report = node.report();
    let kept: BTreeSet<_> = report.blocks.iter().filter(|block| block.state == "open").map(|block| block.block.parse().unwrap()).collect();
    assert_eq!(lab.networks(), kept, "{report:#?}");
    assert!(kept.len() <= 4, "{report:#?}");
    assert!(on_record.len() >= 6 && on_record.is_disjoint(&kept), "what was given back was on record: {on_record:?}");
    assert_eq!(node.stored(), BTreeSet::new(), "until no reader can lag as far behind");
}

#[tokio::test]
async fn no_pod_gets_an_address_that_the_nodes_network_does_not_know() {
    let lab = Lab::launch("m5.large", "wait_seconds = 0", 1);
    let node = Node::start(&lab);
    while node.driver.round().await {}
    assert_eq!(node.report().blocks[0].state, "closed");
    let error = node.add(1).unwrap_err().to_string();
    // The uplink is missing before the keeper has looked.
    assert!(error.contains("uplink"), "{error}");
    node.look();
    assert_eq!(node.add(1).unwrap().len(), 1);
    // Its interface goes under load: nothing else is taken back or forgotten, and it is told.
    node.driver.set_network(BTreeSet::new(), BTreeSet::new());
    let error = node.add(2).unwrap_err().to_string();
    assert!(error.contains("its interface has not appeared on the node"), "{error}");
    let report = node.report();
    assert_eq!((report.blocks[0].state, report.blocks[0].held), ("closed", 1));
    assert!(report.conditions[0].message.contains("is lost"), "{report:#?}");
    node.look();
    assert_eq!(node.add(2).unwrap().len(), 1);
    assert_eq!(node.report().conditions, []);
}

#[tokio::test]
async fn a_pod_waits_for_the_cloud_and_no_longer_than_it_takes() {
    let lab = Lab::new("m5.large", "");
    let node = Node::start(&lab);
    let (driver, attachments) = (Arc::clone(&node.driver), Arc::clone(&node.attachments));
    let begun = Instant::now();
    let add = std::thread::spawn(move || node::add(&attachments, 1, node::now()));
    let running = driver.run(async || node.look());
    let stopped = async {
        while !add.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        driver.stop();
    };
    tokio::join!(running, stopped);
    assert_eq!(add.join().unwrap().unwrap().len(), 1);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_pod_that_waits_is_heard_at_once() {
    let lab = Lab::new("m5.large", "wait_seconds = 15");
    let node = Node::start(&lab);
    let attachments = Arc::clone(&node.attachments);
    let add = std::thread::spawn(move || node::add(&attachments, 1, node::now()));
    tokio::time::timeout(Duration::from_secs(10), node.attachments.shortage()).await.unwrap();
    assert_eq!(node.report().waiting, 1);
    node.attachments.drain();
    assert!(add.join().unwrap().is_err(), "nobody has driven the supply");
}

#[tokio::test]
async fn pods_that_wait_do_not_hold_up_the_end() {
    const PODS: usize = 20;
    let lab = Lab::new("m5.large", "wait_seconds = 15");
    let node = Node::start(&lab);
    let begun = Instant::now();
    let burst = Burst::begin(&node, 0..PODS as u64);
    all_wait(&node, PODS as u64).await;
    assert_eq!(burst.ended(), 0, "none is refused while it may wait");
    node.attachments.drain();
    let errors: Vec<_> = burst.end(&node).await.into_iter().map(|outcome| outcome.unwrap_err().to_string()).collect();
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert!(errors.iter().all(|error| error.contains("shutting down")), "{errors:?}");
}

/// Until so many pods want an address and have none; within five seconds.
async fn all_wait(node: &Node, pods: u64) {
    let begun = Instant::now();
    while node.report().waiting < pods {
        assert!(begun.elapsed() < Duration::from_secs(5), "{} wait", node.report().waiting);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An empty node of which nine addresses are free.
#[tokio::test]
async fn sixty_pods_at_once_are_one_call_of_four_blocks_and_none_is_refused() {
    let lab = Lab::new("m5.2xlarge", "");
    let node = Node::start(&lab);
    node.settle().await;
    (0..7).for_each(|pod| drop(node.add(pod).unwrap()));
    node.settle().await;
    assert_eq!(node.report().blocks.iter().map(|block| block.free).sum::<u64>(), 9);
    lab.set_faults(|faults| faults.api.latency = Latency::exactly(Millis(1000)));
    let calls = lab.calls(Action::AssignPrivateIpAddresses);
    let burst = Burst::begin(&node, 10..70);
    all_wait(&node, 51).await;
    let outcomes = burst.end(&node).await;
    let addresses: BTreeSet<_> = outcomes.into_iter().flat_map(|outcome| outcome.unwrap()).collect();
    assert_eq!(addresses.len(), 60, "each has an address of its own");
    assert_eq!((lab.calls(Action::AssignPrivateIpAddresses) - calls, node.report().blocks.len()), (1, 5));
}

/// The same while the driver runs: what comes within a moment is one demand.
#[tokio::test]
async fn a_burst_is_gathered_before_the_cloud_is_asked() {
    let lab = Lab::new("m5.2xlarge", "");
    let node = Node::start(&lab);
    node.settle().await;
    lab.set_faults(|faults| faults.api.latency = Latency::exactly(Millis(300)));
    let calls = lab.calls(Action::AssignPrivateIpAddresses);
    let burst = Burst::begin(&node, 0..60);
    let outcomes = burst.end(&node).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    // The tick of a second may have come between the first pods: then that was a call of its own.
    assert!(lab.calls(Action::AssignPrivateIpAddresses) - calls <= 2);
}

/// What was refused comes back, and is asked for until then.
#[tokio::test]
async fn pods_that_were_told_to_try_again_are_asked_for() {
    let lab = Lab::new("m5.2xlarge", "wait_seconds = 0");
    let node = Node::start(&lab);
    node.settle().await;
    let outcomes: Vec<_> = (0..60).map(|pod| node.add(pod)).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 16);
    let error = outcomes[59].as_ref().unwrap_err().to_string();
    assert!(error.contains("there is room for 13 blocks"), "{error}");
    assert_eq!(node.report().waiting, 44);
    let calls = lab.calls(Action::AssignPrivateIpAddresses);
    node.settle().await;
    assert_eq!(lab.calls(Action::AssignPrivateIpAddresses) - calls, 1);
    (16..60).for_each(|pod| drop(node.add(pod).unwrap()));
    assert_eq!(node.report().waiting, 0);
}

#[tokio::test]
async fn where_others_assign_pods_that_wait_are_served_as_soon_as_the_cloud_has_given() {
    for kind in ["azure", "gcp"] {
        let lab = Lab::of_others(kind, 8);
        let node = Node::start(&lab);
        node.settle().await;
        (0..8).for_each(|pod| drop(node.add(pod).unwrap()));
        let burst = Burst::begin(&node, 8..28);
        all_wait(&node, 20).await;
        let given = async {
            // The first reading that the pods have caused has found nothing.
            tokio::time::sleep(Duration::from_millis(500)).await;
            lab.give(20);
            Instant::now()
        };
        let (given, outcomes) = tokio::join!(given, burst.end(&node));
        assert!(outcomes.iter().all(Result::is_ok), "{kind}: {outcomes:?}");
        assert!(given.elapsed() < Duration::from_millis(3500), "{kind}: {:?}", given.elapsed());
        let error = node.add(28).unwrap_err().to_string();
        assert!(error.contains("whoever owns the machine"), "{error}");
    }
}

/// Five addresses for ten pods that wait.
#[tokio::test]
async fn addresses_go_to_those_who_have_waited_longest() {
    let lab = Lab::of_others("azure", 8);
    let node = Node::start(&lab);
    node.settle().await;
    (0..8).for_each(|pod| drop(node.add(pod).unwrap()));
    let mut bursts = Vec::new();
    for waiting in 1..=10 {
        bursts.push(Burst::begin(&node, 7 + waiting..8 + waiting));
        all_wait(&node, waiting).await;
    }
    lab.give(5);
    let outcomes = Burst::of(bursts).end(&node).await;
    let served: Vec<_> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(served, [[true; 5], [false; 5]].concat(), "{outcomes:?}");
}

#[tokio::test]
async fn a_pod_that_waits_in_vain_is_told_why() {
    let lab = Lab::new("m5.large", "wait_seconds = 0");
    lab.set_faults(|faults| faults.api.credentials_rejected = true);
    let node = Node::start(&lab);
    node.settle().await;
    let error = node.add(1).unwrap_err().to_string();
    assert!(error.contains("no free IPv4 address") && error.contains("AuthFailure") && error.contains("check credentials"), "{error}");
}

#[tokio::test]
async fn a_block_on_its_way_back_when_the_daemon_dies_is_nobodys_until_readers_have_told_what_became_of_it() {
    for has_been_called in [true, false] {
        let lab = Lab::new("m5.large", "");
        let mut node = Node::start(&lab);
        node.settle().await;
        for pod in 0..60 {
            node.add(pod).unwrap();
            node.settle().await;
        }
        (0..60).for_each(|pod| node.del(pod));
        let before = lab.networks();
        // Between call and reply there is time to die.
        lab.set_faults(|faults| faults.api.latency = Latency::exactly(Millis(300)));
        let unassigned = || lab.calls(Action::UnassignPrivateIpAddresses) > 0;
        let dies = async {
            while !(if has_been_called { unassigned() } else { !node.report().released.is_empty() }) {
                tokio::task::yield_now().await;
            }
        };
        let lives = async {
            loop {
                leap(Duration::from_secs(25));
                node.settle().await;
            }
        };
        tokio::select! {
            // In this order, or the call is on its way before anybody looks.
            biased;
            () = lives => {}
            () = dies => {}
        }
        assert_eq!(unassigned(), has_been_called);
        let leaving = node.stored();
        let said: BTreeSet<IpNetwork> = node.report().released.iter().map(|block| block.parse().unwrap()).collect();
        assert!(!leaving.is_empty() && leaving == said, "all of it is on record before the call: {leaving:?} {said:?}");
        assert_eq!(lab.networks().is_superset(&before), !has_been_called);

        lab.set_faults(|_| {});
        node = node.restart(&lab);
        node.settle().await;
        let known: BTreeSet<_> = node.report().blocks.iter().map(|block| block.block.parse().unwrap()).collect();
        assert!(!known.is_empty() && known.is_disjoint(&leaving) && known.is_subset(&before), "{:#?}", node.report());
        for _ in 0..60 {
            leap(Duration::from_secs(30));
            node.settle().await;
        }
        let report = node.report();
        let open = report.blocks.iter().filter(|block| block.state == "open").map(|block| block.block.parse().unwrap());
        assert_eq!(open.collect::<BTreeSet<_>>(), lab.networks(), "nothing is lost and nothing leaks: {report:#?}");
    }
}

#[tokio::test]
async fn a_restart_keeps_pods_and_asks_for_nothing() {
    let lab = Lab::new("m5.large", "");
    let mut node = Node::start(&lab);
    node.settle().await;
    let mut addresses = BTreeSet::new();
    (0..7).for_each(|pod| addresses.extend(node.add(pod).unwrap()));
    node.settle().await;
    let calls = lab.calls(Action::AssignPrivateIpAddresses);
    node = node.restart(&lab);
    assert!(node.add(100).is_err(), "no range is known yet");
    node.settle().await;
    assert_eq!(lab.calls(Action::AssignPrivateIpAddresses), calls);
    for pod in 7..16 {
        assert!(addresses.is_disjoint(&node.add(pod).unwrap().into_iter().collect()), "an address has one owner");
    }
}

#[tokio::test]
async fn after_a_restart_pods_start_though_no_reader_answers() {
    let lab = Lab::new("m5.large", "wait_seconds = 0");
    let node = Node::start(&lab);
    node.settle().await;
    node.add(1).unwrap();
    lab.set_faults(|faults| {
        faults.metadata.off = true;
        faults.api.credentials_rejected = true;
    });
    let node = node.restart(&lab);
    node.look();
    node.settle().await;
    let [address] = node.add(2).unwrap()[..] else { panic!("not one address") };
    assert!(lab.networks().iter().any(|block| block.contains(address)), "{address}");
    assert!(
        node.report().conditions.iter().any(|condition| condition.message.starts_with("read_metadata")),
        "{:?}",
        node.report().conditions
    );
}

#[tokio::test]
async fn after_a_reboot_every_address_is_free_and_nothing_is_asked_for() {
    let lab = Lab::new("m5.large", "");
    let mut node = Node::start(&lab);
    node.settle().await;
    for pod in 0..40 {
        node.add(pod).unwrap();
        node.settle().await;
    }
    let (networks, calls) = (lab.networks(), lab.calls(Action::AssignPrivateIpAddresses));
    node = node.reboot(&lab);
    node.settle().await;
    let blocks = node.report().blocks;
    assert_eq!(blocks.iter().map(|block| block.block.parse().unwrap()).collect::<BTreeSet<IpNetwork>>(), networks);
    assert!(blocks.iter().all(|block| (block.state, block.held) == ("open", 0)), "{blocks:#?}");
    let pods: BTreeSet<_> = (100..140).flat_map(|pod| node.add(pod).unwrap()).collect();
    assert!(pods.len() == 40 && pods.iter().all(|address| networks.iter().any(|network| network.contains(*address))));
    node.settle().await;
    assert_eq!(lab.calls(Action::AssignPrivateIpAddresses), calls);
}

/// A firewall's interface, or one of another plugin: it is in the same instance, has addresses, and nobody has tagged it for us.
#[tokio::test]
async fn an_interface_of_somebody_else_is_neither_used_nor_changed() {
    let lab = Lab::new("m5.xlarge", "");
    let theirs = lab.attach_theirs(5);
    let node = Node::start(&lab);
    node.settle().await;
    let ours = node.add(1).unwrap();
    assert!(ours.iter().all(|address| !theirs.contains(address)));
    for pod in 2..40 {
        leap(Duration::from_secs(60));
        node.settle().await;
        let addresses = node.add(pod).unwrap();
        assert!(addresses.iter().all(|address| !theirs.contains(address)), "{addresses:?} of {theirs:?}");
    }
    (1..40).for_each(|pod| node.del(pod));
    for _ in 0..30 {
        leap(Duration::from_secs(60));
        node.settle().await;
    }
    assert_eq!(lab.theirs(), theirs, "all that was there is there");
    assert!(node.report().blocks.iter().all(|block| !theirs.iter().any(|address| block.block.starts_with(&format!("{address}/")))));
}

#[tokio::test]
async fn launch_time_prefixes_take_no_call() {
    let lab = Lab::launch("m5.large", "api = false", 2);
    let node = Node::start(&lab);
    node.settle().await;
    assert_eq!(node.status(), "ok");
    assert_eq!((node.add(1).unwrap().len(), lab.total_calls()), (1, 0));
    for _ in 0..50 {
        leap(Duration::from_secs(60));
        node.settle().await;
    }
    assert_eq!(lab.total_calls(), 0);
}
