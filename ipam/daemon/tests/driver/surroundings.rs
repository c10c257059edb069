//! Bad surroundings: each is told, tried again and less often, and survived on what there is.

use std::net::TcpListener;
use std::time::Duration;

use barewired::cloud::Call;
use cloudsim::cloud::{Action, Cloud, Settings};
use cloudsim::fabric::NoFabric;
use cloudsim::faults::{Faults, Latency, Refusal, Storm};
use cloudsim::http::{Role, Server};
use cloudsim::time::Millis;
use cni_spec::Code;
use ipam_pool::range::Family;

use crate::node::{self, Lab, Node, leap};

#[tokio::test]
async fn bad_surroundings_are_told_tried_again_and_survived() {
    type Set = fn(&mut Faults);
    let cases: [(Set, &str); 5] = [
        (|faults| faults.metadata.off = true, "instance metadata service is off"),
        (|faults| faults.metadata.html = true, "read_metadata: "),
        (|faults| faults.metadata.latency = Latency::exactly(Millis(2500)), "nothing within 2 s"),
        (|faults| faults.api.credentials_rejected = true, "check credentials"),
        (|faults| faults.api.denied = [Action::AssignPrivateIpAddresses].into(), "ec2:AssignPrivateIpAddresses"),
    ];
    for (set, told) in cases {
        let lab = Lab::new("m5.large", "");
        lab.set_faults(set);
        let node = Node::start(&lab);
        node.settle().await;
        assert!(node.status().contains(told), "{told:?} missing in {}", node.status());
        lab.set_faults(|_| {});
        for _ in 0..20 {
            leap(Duration::from_secs(5));
            node.settle().await;
        }
        assert_eq!(node.status(), "ok", "after {told}");
        // It comes back while pods are served from what there is.
        lab.set_faults(set);
        leap(Duration::from_secs(40));
        node.settle().await;
        assert_eq!(node.status(), "ok");
        node.add(1).unwrap();
    }
}

#[tokio::test]
async fn a_subnet_or_a_family_without_addresses_is_told() {
    let lab = Lab::new("m5.large", "");
    lab.server.with(|cloud, _| cloud.fill_subnet(lab.subnet, 0).unwrap());
    let node = Node::start(&lab);
    node.settle().await;
    assert!(node.status().contains("no room for more IPv4 addresses"), "{}", node.status());
    assert!(node.status().contains("source.subnets"), "{}", node.status());

    let lab = Lab::in_subnet_without_ipv6("families = [\"ipv4\", \"ipv6\"]");
    let node = Node::start(&lab);
    node.settle().await;
    leap(Duration::from_secs(60));
    node.settle().await;
    let (status, report) = (node.status(), node.report());
    assert!(status.contains("no free IPv6 address") && status.contains("IPv6"), "{status} {report:#?}");
    assert!(!report.conditions.is_empty());
    assert!(node.attachments.summary(node::now()).pool.iter().any(|(family, counts)| *family == Family::V4 && counts.free() > 0));
    assert_eq!(lab.interfaces(), 1, "no interface is made that would have none either: {report:#?}");
}

/// Full for a while: tried again, seldom, and used as soon as it has some.
#[tokio::test]
async fn a_full_subnet_is_asked_again_now_and_then_and_used_when_it_has_addresses() {
    let lab = Lab::new("m5.large", "");
    let release = lab.occupy(64);
    let node = Node::start(&lab);
    node.settle().await;
    let changes = || lab.calls(Action::AssignPrivateIpAddresses) + lab.calls(Action::CreateNetworkInterface);
    let before = changes();
    assert!(before <= 4, "{before}");
    for _ in 0..120 {
        leap(Duration::from_secs(30));
        node.settle().await;
    }
    let made = changes() - before;
    assert!((6..=30).contains(&made), "{made} calls in an hour");
    assert!(node.status().contains("the subnets have none left"), "{}", node.status());
    release();
    let mut minutes = 0;
    // The interface gives what it has places for; that another can be made is found out at its own time.
    while node.status() != "ok" || !node.report().conditions.is_empty() {
        assert!(minutes < 20, "{:#?}", node.report());
        leap(Duration::from_secs(60));
        node.settle().await;
        minutes += 1;
    }
}

#[tokio::test]
async fn an_api_of_another_region_is_told() {
    let elsewhere = Server::start(Cloud::new(Settings { region: "eu-west-1".to_owned(), ..Settings::default() }), Box::new(NoFabric));
    let elsewhere = elsewhere.unwrap();
    let api = elsewhere.listen(TcpListener::bind("127.0.0.1:0").unwrap(), Role::Api).unwrap();
    let lab = Lab::launch("m5.large", &format!("api_endpoint = \"http://{api}\""), 1);
    let node = Node::start(&lab);
    node.settle().await;
    (0..16).for_each(|pod| drop(node.add(pod).unwrap()));
    node.settle().await;
    let error = node.add(16).unwrap_err();
    assert_eq!(error.code, Code::TryAgainLater);
    assert!(error.msg.contains("no free IPv4 address") && error.msg.contains("endpoint is of the instance's region"), "{error}");
}

#[tokio::test]
async fn status_tells_how_freely_the_cloud_is_called() {
    let lab = Lab::launch("m5.large", "wait_seconds = 0", 1);
    lab.set_faults(|faults| faults.api.credentials_rejected = true);
    let node = Node::start(&lab);
    node.settle().await;
    (0..16).for_each(|pod| drop(node.add(pod).unwrap()));
    let mut stances = Vec::new();
    for _ in 0..120 {
        node.settle().await;
        stances.push(node.report().api_mode);
        leap(Duration::from_secs(15));
    }
    stances.dedup();
    assert_eq!(stances, ["normal", "releases_paused", "circuit_open"]);
    let report = node.report();
    let assigned = report.calls.0[&Call::Assign];
    assert!((9..20).contains(&assigned.made) && assigned.refused == assigned.made, "tried again, and less often: {report:#?}");
    assert_eq!(u64::from(report.budget.failures), assigned.made, "{report:#?}");

    let storm = Storm { from: Millis(0), until: Millis(u64::MAX), probability: 1.0, refusal: Refusal::RequestLimitExceeded };
    lab.set_faults(|faults| faults.api.storms = vec![storm]);
    let throttled = || node.report().calls.0[&Call::Assign].throttled;
    while throttled() == 0 {
        leap(Duration::from_secs(15));
        node.settle().await;
    }
    assert!(node.report().conditions.iter().any(|condition| condition.message.contains("fewer calls")), "{:#?}", node.report());
    lab.set_faults(|_| {});
    while node.report().api_mode != "normal" || !node.report().conditions.is_empty() {
        leap(Duration::from_secs(15));
        node.settle().await;
    }
    let report = node.report();
    assert_eq!((report.budget.failures, report.budget.wait_seconds), (0, 0));
    assert!(report.budget.tokens > 0 && report.blocks.len() == 2, "{report:#?}");
    let last = report.last_failures.iter().find(|failure| failure.call == Call::Assign).unwrap();
    assert!(last.what.contains("fewer calls") && last.seconds_ago > 0, "what is over is remembered: {report:#?}");
}

#[tokio::test]
async fn an_unknown_instance_type_is_given_a_little() {
    let lab = Lab::new("x9.nano", "");
    let node = Node::start(&lab);
    node.settle().await;
    assert_eq!(node.status(), "ok");
    (0..16).for_each(|pod| drop(node.add(pod)));
    for _ in 0..5 {
        leap(Duration::from_secs(60));
        node.settle().await;
    }
    let report = node.report();
    assert!(report.warnings.iter().any(|warning| warning.contains("x9.nano")), "{report:#?}");
}
