//! Random pools, teams, histories of nodes and files: plans are the same for the same, are done when they are done, and move as little as can be.

use std::collections::{BTreeMap, BTreeSet};

use fleet_plans::node::{Node, Taint};
use fleet_plans::teams::{ASSIGNED, Claim, DOMAIN_LABEL, Fault, Plan, Pool, RESERVED, TEAM, Team, Teams, plan};
use proptest::prelude::*;

fn node(number: usize) -> Node {
    let zone = ["a", "b", "c"][number % 3];
    Node {
        name: format!("node-{number}"),
        labels: [("pool".to_owned(), "p".to_owned()), (DOMAIN_LABEL.to_owned(), zone.to_owned())].into(),
        // Some do not say.
        pods: Some((number * 7 % 5) as u32).filter(|pods| *pods != 3),
        is_ready: true,
        ..Node::default()
    }
}

fn pool() -> Pool {
    Pool { name: "p".to_owned(), match_labels: [("pool".to_owned(), "p".to_owned())].into() }
}

fn teams(claims: &[(bool, u32, u32)]) -> Teams {
    let team = |(index, (is_count, amount, min)): (usize, &(bool, u32, u32))| Team {
        name: format!("team-{index}"),
        namespaces: vec![format!("namespace-{index}")],
        lend: index % 2 == 0,
        nodes: vec![Claim {
            pool: "p".to_owned(),
            count: is_count.then_some(*amount),
            percent: (!is_count).then_some(*amount),
            min: Some((*min).min(*amount)),
        }],
    };
    Teams { pools: vec![pool()], teams: claims.iter().enumerate().map(team).collect(), preemptible_priority: -1, exempt_namespaces: vec![] }
}

fn carry_out(plan: &Plan, nodes: &mut [Node]) {
    let moves: BTreeMap<_, _> = plan.moves.iter().map(|step| (step.node.clone(), step)).collect();
    for node in nodes {
        if let Some(step) = moves.get(&node.name) {
            assert!(step.change.patch(node).len() > 1, "a move writes something: {step:?}");
            *node = step.change.applied_to(node);
        }
    }
}

fn assigned(nodes: &[Node]) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for node in nodes {
        let taints: Vec<_> = node.taints.iter().filter(|taint| [TEAM, RESERVED].contains(&taint.key.as_str())).collect();
        assert_eq!(node.annotations.get(ASSIGNED), node.labels.get(TEAM));
        assert_eq!(taints.first().map(|taint| &taint.value), node.labels.get(TEAM));
        assert!(taints.len() <= 1);
        if let Some(team) = node.labels.get(TEAM) {
            *count.entry(team.clone()).or_default() += 1;
        }
    }
    count
}

/// Claims that fit 12 nodes.
fn claims() -> impl Strategy<Value = Vec<(bool, u32, u32)>> {
    proptest::collection::vec((any::<bool>(), 0..16_u32, 0..3_u32), 0..5)
        .prop_filter("fits", |claims| claims.iter().map(|(_, amount, min)| (*min).min(*amount)).sum::<u32>() <= 6)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_is_deterministic_idempotent_and_minimal(before in claims(), after in claims(), count in 12..60_usize, seed in any::<u64>()) {
        let mut nodes: Vec<_> = (0..count).map(node).collect();
        carry_out(&plan(&teams(&before), &nodes).unwrap(), &mut nodes);
        let had = assigned(&nodes);
        let file = teams(&after);
        let first = plan(&file, &nodes).unwrap();

        let mut shuffled = nodes.clone();
        shuffled.sort_by_key(|node| node.name.len() as u64 ^ seed ^ u64::from(node.fullness()));
        let mut turned = file.clone();
        turned.teams.reverse();
        prop_assert_eq!(&plan(&turned, &shuffled).unwrap(), &first, "neither order says anything");

        let reassigned = first.moves.iter().filter(|step| step.from != step.to).count();
        carry_out(&first, &mut nodes);
        let has = assigned(&nodes);
        let names: BTreeSet<_> = had.keys().chain(has.keys()).collect();
        let of = |count: &BTreeMap<String, usize>, name: &str| count.get(name).copied().unwrap_or(0);
        let gained: usize = names.iter().map(|name| of(&has, name).saturating_sub(of(&had, name))).sum();
        let lost: usize = names.iter().map(|name| of(&had, name).saturating_sub(of(&has, name))).sum();
        prop_assert_eq!(reassigned, gained.max(lost), "no fewer moves lead there");
        prop_assert_eq!(plan(&file, &nodes).unwrap().moves, vec![], "what is done is done");
    }

    #[test]
    fn a_node_that_joins_or_leaves_moves_one_at_most(claims in claims(), count in 12..60_usize, which in any::<prop::sample::Index>()) {
        let file = teams(&claims);
        let mut nodes: Vec<_> = (0..count).map(node).collect();
        carry_out(&plan(&file, &nodes).unwrap(), &mut nodes);
        nodes.push(node(count));
        let joined = plan(&file, &nodes).unwrap();
        prop_assert!(joined.moves.len() <= 1, "{joined:?}");
        carry_out(&joined, &mut nodes);
        nodes.remove(which.index(nodes.len()));
        let left = plan(&file, &nodes).unwrap();
        prop_assert!(left.moves.len() <= 1, "{left:?}");
        carry_out(&left, &mut nodes);
        let sick = which.index(nodes.len());
        nodes[sick].is_ready = false;
        prop_assert!(plan(&file, &nodes).map_or(true, |plan| plan.moves.len() <= 1), "a sick node is as one that left");
    }

    #[test]
    fn what_others_have_made_stays(claims in claims(), which in any::<prop::sample::Index>(), is_label in any::<bool>()) {
        let file = teams(&claims);
        let mut nodes: Vec<_> = (0..20).map(node).collect();
        let theirs = which.index(nodes.len());
        if is_label {
            nodes[theirs].labels.insert(TEAM.to_owned(), "team-0".to_owned());
        } else {
            nodes[theirs].taints.push(Taint::no_schedule(TEAM, "team-0"));
        }
        let plan = plan(&file, &nodes).unwrap();
        prop_assert!(plan.moves.iter().all(|step| step.node != nodes[theirs].name));
        prop_assert_eq!(plan.told.len(), 1);
        prop_assert_eq!(&plan.told[0].node, &nodes[theirs].name);
    }

    #[test]
    fn what_is_altered_by_hand_is_made_again(claims in claims(), which in any::<prop::sample::Index>(), what in 0..2) {
        let file = teams(&claims);
        let mut nodes: Vec<_> = (0..20).map(node).collect();
        carry_out(&plan(&file, &nodes).unwrap(), &mut nodes);
        let ours: Vec<_> = (0..nodes.len()).filter(|at| nodes[*at].labels.contains_key(TEAM)).collect();
        prop_assume!(!ours.is_empty());
        let altered = ours[which.index(ours.len())];
        let before = nodes.clone();
        let other = Taint::no_schedule("dedicated", "somebody");
        nodes[altered].taints.push(other.clone());
        match what {
            0 => drop(nodes[altered].labels.insert(TEAM.to_owned(), "else".to_owned())),
            _ => nodes[altered].taints.retain(|taint| taint == &other),
        }
        let again = plan(&file, &nodes).unwrap();
        prop_assert_eq!(again.moves.len(), 1);
        carry_out(&again, &mut nodes);
        prop_assert_eq!(assigned(&nodes), assigned(&before));
        prop_assert!(nodes[altered].taints.contains(&other));
    }
}

#[test]
fn a_file_that_does_not_fit_the_nodes_changes_nothing_and_says_why() {
    let mut file = teams(&[(true, 15, 15), (true, 10, 10)]);
    file.pools.push(Pool { name: "q".to_owned(), match_labels: [(DOMAIN_LABEL.to_owned(), "a".to_owned())].into() });
    let nodes: Vec<_> = (0..20).map(node).collect();
    let faults = plan(&file, &nodes).unwrap_err();
    assert!(faults.contains(&Fault::AboveThePool { pool: "p".to_owned(), minima: 25, nodes: 20 }), "{faults:?}");
    let shared = Fault::SharedNodes { one: "p".to_owned(), other: "q".to_owned(), nodes: 7, example: "node-0".to_owned() };
    assert!(faults.contains(&shared), "{faults:?}");
}

#[test]
fn a_node_that_leaves_its_pool_is_nobodys() {
    let file = teams(&[(true, 5, 5)]);
    let mut nodes: Vec<_> = (0..20).map(node).collect();
    carry_out(&plan(&file, &nodes).unwrap(), &mut nodes);
    let one = nodes.iter().position(|node| node.labels.contains_key(TEAM)).unwrap();
    nodes[one].labels.remove("pool");
    let next = plan(&file, &nodes).unwrap();
    carry_out(&next, &mut nodes);
    assert!(nodes[one].taints.is_empty() && !nodes[one].annotations.contains_key(ASSIGNED));
    assert_eq!(assigned(&nodes)["team-0"], 5);
    assert_eq!(next.moves.len(), 2);
    let zones: BTreeSet<_> = nodes.iter().filter(|node| node.labels.contains_key(TEAM)).map(|node| &node.labels[DOMAIN_LABEL]).collect();
    assert_eq!(zones.len(), 1, "in one failure domain while there is room");
}
