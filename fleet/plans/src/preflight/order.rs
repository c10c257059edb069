//! What each node is told of its checks. It follows from the nodes alone, so all replicas tell alike, whoever leads.

use std::collections::BTreeMap;

use super::{Run, gate::has_key};
use crate::health::Millis;
use crate::node::Node;

/// What one node is told. Of most nodes it is nothing: they do as they would without a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Order {
    /// Its turn will come: until then it does not begin.
    pub waits: bool,
    /// The run that it is to make, once; 0 is none.
    pub run: Millis,
    /// Nodes to measure the network with.
    pub with: Vec<String>,
    /// Nodes that may measure with it.
    pub measured_by: Vec<String>,
}

/// Of all nodes at `now`; `key` is the taint of new ones.
#[must_use]
pub fn orders(nodes: &BTreeMap<String, Node>, key: &str, now: Millis) -> BTreeMap<String, Order> {
    let mut orders = BTreeMap::<String, Order>::new();
    for (name, node) in nodes {
        let open = Run::of(node).filter(|run| run.is_open(now));
        for partner in open.iter().flat_map(|run| &run.with).filter(|partner| nodes.contains_key(*partner)) {
            orders.entry(partner.clone()).or_default().measured_by.push(name.clone());
        }
        let order = orders.entry(name.clone()).or_default();
        match open {
            Some(run) => (order.run, order.with) = (run.at, run.with),
            None => order.waits = has_key(node, key),
        }
    }
    orders
}

#[cfg(test)]
mod tests {
    use super::super::KEY;
    use super::*;
    use crate::node::Taint;

    #[test]
    fn a_new_node_waits_until_it_is_its_turn_and_its_partners_know() {
        let node = |name: &str, taints: &[&str]| {
            let taints = taints.iter().map(|key| Taint::no_schedule(key, "")).collect();
            Node { name: name.to_owned(), boot: "b".to_owned(), taints, ..Node::default() }
        };
        let run = Run { at: 5, boot: "b".to_owned(), by: "fleet".to_owned(), with: vec!["a".to_owned(), "gone".to_owned()], ended: None };
        let told = |of_run: Node| {
            let nodes = [of_run, node("a", &[]), node("new", &[KEY])];
            orders(&nodes.into_iter().map(|node| (node.name.clone(), node)).collect(), KEY, 6)
        };
        let running = told(run.stamp().applied_to(&node("z", &[KEY])));
        assert_eq!(running["z"], Order { run: 5, with: run.with.clone(), ..Order::default() });
        assert_eq!(running["a"], Order { measured_by: vec!["z".to_owned()], ..Order::default() });
        assert_eq!(running["new"], Order { waits: true, ..Order::default() });
        assert_eq!(running.len(), 3);
        let ended = told(run.ended(6, true).stamp().applied_to(&node("z", &[])));
        assert!(ended["z"] == Order::default() && ended["a"] == Order::default());
    }
}
