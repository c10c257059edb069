//! Random reports of nodes that may lie: what one node says alone of another does nothing, budgets hold, what is on a node is ours as a whole.

use std::collections::BTreeMap;

use fleet_plans::health::{About, Leader, Millis, RECORD, Reason, Record, Report, SICK, Settings, Stage, VALUE, Verdict};
use fleet_plans::node::{Node, Taint};
use proptest::prelude::*;

type Nodes = BTreeMap<String, Node>;

fn nodes(count: usize) -> Nodes {
    let node = |number| Node { name: format!("n{number}"), resource_version: "1".to_owned(), is_ready: true, ..Node::default() };
    (0..count).map(node).map(|node| (node.name.clone(), node)).collect()
}

fn bad(node: usize, about: About) -> Report {
    Report { node: format!("n{node}"), about, check: "check".to_owned(), verdict: Verdict::Bad("seen".to_owned()) }
}

fn settings() -> Settings {
    Settings { dry_run: false, quiet: 0, ..Settings::default() }
}

/// Hears what `says` at each tenth of a second and carries out what the leader does; what it did.
fn run(leader: &mut Leader, nodes: &mut Nodes, from: Millis, to: Millis, mut says: impl FnMut(Millis) -> Vec<Report>) -> Vec<Reason> {
    let mut done = Vec::new();
    for now in (from..to).step_by(100) {
        for report in says(now) {
            leader.hear(now, report);
        }
        for act in leader.acts(now, nodes) {
            assert!(act.reason == Reason::NodeReleased || !act.evidence.is_empty(), "an act without evidence: {act:?}");
            done.push(act.reason);
            if let (Some(name), Some(change)) = (act.node, act.change) {
                let node = change.applied_to(&nodes[&name]);
                let has_taint = node.taints.iter().any(|taint| taint.key == SICK && taint.value == VALUE);
                assert_eq!(has_taint, node.annotations.contains_key(RECORD), "a taint and its record go together");
                leader.node_changed(&name, Some(&node));
                nodes.insert(name, node);
            }
        }
    }
    done
}

fn tainted(nodes: &Nodes) -> Vec<&str> {
    nodes.values().filter(|node| node.taints.iter().any(|taint| taint.key == SICK)).map(|node| node.name.as_str()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_node_that_lies_about_others_taints_nobody(liar in 0..40_usize, others in proptest::collection::vec(0..40_usize, 1..3)) {
        let mut nodes = nodes(40);
        let mut leader = Leader::new(settings(), 0, &nodes);
        run(&mut leader, &mut nodes, 0, 10_000, |_| others.iter().map(|other| bad(liar, About::Peer(format!("n{other}")))).collect());
        prop_assert!(tainted(&nodes).is_empty());
    }

    #[test]
    fn whatever_is_said_no_more_than_the_budget_is_tainted(
        said in proptest::collection::vec((0..40_usize, 0..40_usize, 0..3_u8, 0..200_u64), 0..400),
    ) {
        let mut nodes = nodes(40);
        let mut leader = Leader::new(settings(), 0, &nodes);
        run(&mut leader, &mut nodes, 0, 20_000, |now| {
            let now_said = said.iter().filter(|(_, _, _, at)| at * 100 == now);
            now_said.map(|(node, other, kind, _)| bad(*node, match kind {
                0 => About::Own,
                1 => About::Probe,
                _ => About::Peer(format!("n{other}")),
            })).collect()
        });
        prop_assert!(tainted(&nodes).len() <= 2, "{:?}", tainted(&nodes));
    }

    #[test]
    fn a_clear_fault_is_tainted_then_drained_and_released_when_it_is_over(sick in 0..40_usize, lasts in prop_oneof![5_u64..400, 298..306_u64]) {
        let mut nodes = nodes(40);
        let mut leader = Leader::new(settings(), 0, &nodes);
        let end = lasts * 1_000;
        let mut done = run(&mut leader, &mut nodes, 0, end, |now| if now % 500 == 0 { vec![bad(sick, About::Own)] } else { vec![] });
        prop_assert_eq!(tainted(&nodes), vec![format!("n{sick}")]);
        let stage = Record::of(&nodes[&format!("n{sick}")]).map(|record| record.stage);
        // The second verdict comes after half a second; the leader looks at each tenth, for the last time one before the end.
        let Settings { settle, drain_after, .. } = settings();
        let drains = (500 + settle).next_multiple_of(100) + drain_after;
        prop_assert_eq!(stage, Some(if end - 100 < drains { Stage::Tainted } else { Stage::Draining }));
        prop_assert_eq!(leader.evicts(end, &nodes).len(), usize::from(stage == Some(Stage::Draining)));
        // Silence is no health.
        done.extend(run(&mut leader, &mut nodes, end, end + 120_000, |_| vec![]));
        prop_assert_eq!(tainted(&nodes).len(), 1);
        let over = Report { verdict: Verdict::Good, ..bad(sick, About::Own) };
        done.extend(run(&mut leader, &mut nodes, end + 120_000, end + 121_000, |_| vec![over.clone()]));
        prop_assert!(tainted(&nodes).is_empty());
        prop_assert_eq!(done.first(), Some(&Reason::NodeTainted));
        prop_assert_eq!(done.last(), Some(&Reason::NodeReleased));
    }
}

#[test]
fn of_two_nodes_that_accuse_each_other_the_one_is_believed_of_which_more_complain() {
    let mut nodes = nodes(40);
    let mut leader = Leader::new(settings(), 0, &nodes);
    // n0 is cut off: it complains of all its peers, and they of it.
    let done = run(&mut leader, &mut nodes, 0, 5_000, |now| {
        let pairs = [(0, 1), (0, 2), (1, 0), (2, 0), (3, 1)];
        let all = pairs.map(|(node, about)| bad(node, About::Peer(format!("n{about}"))));
        if now % 500 == 0 { all.to_vec() } else { vec![] }
    });
    assert_eq!((tainted(&nodes), done), (vec!["n0"], vec![Reason::NodeTainted]));
}

#[test]
fn a_storm_trips_the_breaker_and_a_person_resets_it() {
    let mut nodes = nodes(40);
    let mut leader = Leader::new(settings(), 0, &nodes);
    let all = |now: Millis| if now.is_multiple_of(500) { (0..20).map(|node| bad(node, About::Own)).collect() } else { vec![] };
    assert_eq!(run(&mut leader, &mut nodes, 0, 10_000, all), [Reason::BreakerTripped]);
    run(&mut leader, &mut nodes, 10_000, 20_000, |_| vec![]);
    assert!(leader.is_tripped());
    leader.reset_breaker(20_000);
    let one = |now: Millis| if now.is_multiple_of(500) { vec![bad(7, About::Own)] } else { vec![] };
    assert_eq!(run(&mut leader, &mut nodes, 20_000, 30_000, one), [Reason::NodeTainted]);
}

#[test]
fn a_dry_run_tells_once_and_writes_nothing() {
    let mut nodes = nodes(40);
    let before = nodes.clone();
    let mut leader = Leader::new(Settings { quiet: 0, ..Settings::default() }, 0, &nodes);
    let one = |now: Millis| if now.is_multiple_of(500) { vec![bad(7, About::Own)] } else { vec![] };
    assert_eq!(run(&mut leader, &mut nodes, 0, 10_000, one), [Reason::NodeTainted]);
    assert_eq!(nodes, before);
}

#[test]
fn a_persons_quarantine_stays_and_a_sick_node_is_not_released_by_a_new_leader() {
    let mut nodes = nodes(40);
    let by_hand = Taint::no_schedule(SICK, "operator");
    nodes.get_mut("n1").into_iter().for_each(|node| node.taints.push(by_hand.clone()));
    let mut leader = Leader::new(settings(), 0, &nodes);
    let two = |now: Millis| if now.is_multiple_of(500) { vec![bad(1, About::Own), bad(2, About::Own)] } else { vec![] };
    assert_eq!(run(&mut leader, &mut nodes, 0, 5_000, two), [Reason::NodeTainted]);
    assert_eq!(nodes["n1"].taints, [by_hand]);
    let mut next = Leader::new(settings(), 5_000, &nodes);
    assert_eq!(run(&mut next, &mut nodes, 5_000, 200_000, |_| vec![]), [], "it has heard nothing yet");
}
