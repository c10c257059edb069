//! Edits made one after the other lead where a full rendering leads; whatever the tables have is survived, and told.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod interpreter;
mod world;

use fleet_api::{Kind, Table};
use interpreter::Kernel;
use proptest::prelude::*;
use services::{Edit, Script, Services};
use world::{Step, node, step};

fn case(steps: Vec<Step>) {
    let mut tables = [Table::default(), Table::default()];
    let (mut services, mut script, mut kernel) = (Services::new(node()), Script::default(), Kernel::default());
    kernel.run(&script.install(services.node(), services.ruleset()));
    let mut now = 0;
    for step in steps {
        now += step.after_ms;
        if let Some(node) = step.node {
            services.set_node(node);
        }
        for (kind, change) in step.changes {
            tables[kind as usize - 1].apply(change.clone());
            services.change(kind, [change]);
        }
        let before = services.ruleset().clone();
        let edit = services.render();
        assert_eq!(edit, Edit::between(&before, services.ruleset()), "an edit is what differs");
        kernel.run(&script.sweep(now));
        kernel.run(&script.edit(&edit, now));

        let [of_services, of_endpoints] = &tables;
        let afresh = Services::of(services.node().clone(), of_services, of_endpoints);
        assert_eq!(services.ruleset(), afresh.ruleset(), "step by step is as all at once");
        assert_eq!(services.problems(usize::MAX), afresh.problems(usize::MAX));
        assert_eq!(services.health_checks(), afresh.health_checks());
        assert_eq!(services.frontends(), afresh.frontends());
        kernel.has(services.ruleset(), script.rests());
    }
    kernel.run(&script.sweep(now + 1_000));
    kernel.has(services.ruleset(), false);
    let mut installed = Kernel::default();
    installed.run(&Script::default().install(services.node(), services.ruleset()));
    assert_eq!(kernel, installed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_is_as_all_at_once(steps in proptest::collection::vec(step(), 1..24)) {
        case(steps);
    }
}

#[test]
fn five_thousand_endpoints_are_one_rule() {
    let service = world::service(|service| service.external_local = true);
    let mut services = Services::new(node());
    services.change(Kind::Services, [fleet_api::Change::put(*b"a/large", &service)]);
    services.change(Kind::Endpoints, world::slices("a/large", 5_000));
    services.render();
    let chain = &services.ruleset().chains[&(services::Family::V4, "cluster-a/large/tcp/".to_owned())];
    assert_eq!(chain.len(), 1);
    assert!(chain[0].contains("numgen random mod 5000 map"));
    assert_eq!(services.problems(10), (Vec::new(), 0));
    // One of them goes: one chain is written again.
    services.change(Kind::Endpoints, [fleet_api::Change::delete(world::endpoint_key(0, 0))]);
    let text = Script::default().edit(&services.render(), 0);
    assert_eq!(text.lines().filter(|line| line.starts_with("add rule")).count(), 1, "{text:.300}");
}

#[test]
fn contradictions_are_told_and_all_else_is_served() {
    let mut services = Services::new(node());
    let with = |change: fn(&mut fleet_api::message::Service)| world::service(change);
    services.change(
        Kind::Services,
        [
            fleet_api::Change::put(*b"a/first", &with(|service| service.ports[0].node_port = 30_000)),
            fleet_api::Change::put(*b"a/second", &with(|service| service.ports[0].node_port = 30_000)),
            fleet_api::Change::put(*b"a/ranges", &with(|service| service.source_ranges = vec!["the office".to_owned()])),
            fleet_api::Change::put(*b"a/address", &with(|service| service.cluster_ips = vec![vec![1, 2, 3]])),
            fleet_api::Change::put(*b"a/port", &with(|service| service.ports[0].port = 70_000)),
            fleet_api::Change::put(*b"a/label", &with(|service| service.ports[0].name = "x; flush ruleset".to_owned())),
            fleet_api::Change::put(*b"a/long", &with(|service| service.ports[0].name = "n".repeat(1 << 20))),
            fleet_api::Change::put(*b"a/b; flush ruleset", &with(|_| ())),
            fleet_api::Change { key: b"a/garbage".to_vec(), value: Some(vec![0xff; 9]) },
        ],
    );
    services.change(Kind::Endpoints, [fleet_api::Change { key: vec![1; 7], value: Some(Vec::new()) }]);
    let script = Script::default().edit(&services.render(), 0);
    assert!(!script.contains("flush ruleset") && script.contains("6 . 30000 : goto refuse"), "{script}");
    let (told, count) = services.problems(100);
    assert_eq!((told.len(), count), (told.len(), told.len()));
    for part in [
        "node-ports 6 . 30000 is of a/first and a/second; the first has it",
        "service a/ranges: loadBalancerSourceRanges has \"the office\", which is no range of addresses",
        "service a/address: an address of 3 bytes is none",
        "service a/port: 70000 is no port",
        "service a/label: port 80 has the name \"x; flush ruleset\", which is no DNS label",
        "service a/long: the names of port 80 have",
        "\"a/b; flush ruleset\" is no name of a service",
        "service a/garbage:",
        "a key of 7 bytes is no endpoint's",
    ] {
        assert!(told.iter().any(|line| line.contains(part)), "{part:?} is not in {told:#?}");
    }
    assert_eq!(services.problems(2).0.len(), 2);
    assert_eq!(services.problems(2).1, count);
}
