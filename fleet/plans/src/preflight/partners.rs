//! Whom a node measures the network with: others of its pool that nobody else measures with meanwhile, the emptiest first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::health::{is_marked, pool};
use crate::node::Node;
use crate::peers::fit;

/// What is measured with one alone may be the other's fault.
const PARTNERS: usize = 2;

/// Whom to measure with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// These; nobody, where the pool has no other node.
    With(Vec<String>),
    /// Those that there are are taken: later.
    Later,
}

/// Nodes that may be measured with, by pool.
#[derive(Debug)]
pub(super) struct Pools<'a>(BTreeMap<&'a str, Vec<&'a Node>>);

impl<'a> Pools<'a> {
    /// Of nodes that are in order; the preflights of `failed` were the last to say that they are not.
    pub(super) fn of(nodes: &'a BTreeMap<String, Node>, failed: &BTreeSet<&str>) -> Self {
        let mut pools = BTreeMap::<_, Vec<_>>::new();
        let has_failed = |node: &Node| failed.contains(node.name.as_str());
        let is_of_use = |node: &&Node| node.is_ready && !node.addresses.is_empty() && !is_marked(node) && !has_failed(node);
        for node in nodes.values().filter(is_of_use) {
            pools.entry(pool(node)).or_default().push(node);
        }
        Self(pools)
    }

    /// Those for `node`, beside nodes that are `busy`.
    pub(super) fn choose(&self, node: &Node, busy: &BTreeSet<String>) -> Choice {
        let others = || self.0.get(pool(node)).into_iter().flatten().filter(|other| other.name != node.name);
        let wanted = others().count().min(PARTNERS);
        let mut best = Vec::with_capacity(wanted + 1);
        for other in others().filter(|other| !busy.contains(&other.name)) {
            // A herd has thousands of others: none is weighed twice, and two of them need no order of all.
            best.push((other.fullness(), Reverse(fit(&node.name, &other.name)), &other.name));
            best.sort_unstable();
            best.truncate(wanted);
        }
        if best.len() < wanted {
            return Choice::Later;
        }
        Choice::With(best.into_iter().map(|(_, _, name)| name.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_are_of_the_pool_free_and_the_emptiest_there_are() {
        let node = |name: &str, pool: &str, pods| Node {
            name: name.to_owned(),
            labels: [("node.kubernetes.io/instance-type".to_owned(), pool.to_owned())].into(),
            pods,
            is_ready: true,
            addresses: vec![[10, 0, 0, 1].into()],
            ..Node::default()
        };
        let mut all =
            vec![node("a", "p", None), node("b", "p", Some(9)), node("c", "p", Some(0)), node("d", "p", None), node("e", "q", None)];
        all.push(Node { is_ready: false, ..node("f", "p", Some(0)) });
        all.push(Node { addresses: Vec::new(), ..node("g", "p", Some(0)) });
        all.push(node("h", "p", Some(0)));
        let nodes: BTreeMap<_, _> = all.into_iter().map(|node| (node.name.clone(), node)).collect();
        let failed = BTreeSet::from(["h"]);
        let pools = Pools::of(&nodes, &failed);
        let choose = |name: &str, busy: &[&str]| pools.choose(&nodes[name], &busy.iter().map(|name| (*name).to_owned()).collect());
        let with = |names: &[&str]| Choice::With(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(choose("a", &[]), with(&["c", "b"]));
        assert_eq!(choose("a", &["c"]), with(&["b", "d"]));
        assert_eq!(choose("a", &["c", "b"]), Choice::Later, "one alone would not do");
        assert_eq!(choose("e", &["a"]), with(&[]), "it is alone in its pool");

        // Of many: the first two of the order of all.
        let many = (0..300_u32).map(|number| node(&format!("n{number}"), "p", (number % 7 > 0).then_some(number * 31 % 5)));
        let nodes: BTreeMap<_, _> = many.map(|node| (node.name.clone(), node)).collect();
        let pools = Pools::of(&nodes, &BTreeSet::new());
        for who in nodes.values().step_by(17) {
            let mut order: Vec<_> = nodes.values().filter(|other| other.name != who.name).collect();
            order.sort_by_key(|other| (other.fullness(), Reverse(fit(&who.name, &other.name)), other.name.clone()));
            assert_eq!(pools.choose(who, &BTreeSet::new()), with(&[&order[0].name, &order[1].name]));
        }
    }
}
