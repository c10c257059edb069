//! What a person asks of a node: to make its checks again. The node is to be drained, as checks may take the machine for themselves.

use std::collections::{BTreeMap, BTreeSet};

use super::gate::busy;
use super::partners::{Choice, Pools};
use super::{CORDONED, Run, has_any_key};
use crate::health::Millis;
use crate::node::{Change, Node};

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// Pods may come.
    #[error("{0:?} takes pods, and checks may take the machine for themselves: `kubectl drain {0} --ignore-daemonsets` first")]
    TakesPods(String),
    /// Nobody knows which boot the run would be of.
    #[error("kubelet of {0:?} has not told which boot it is in (status.nodeInfo.bootID): wait until the node is Ready")]
    NoBoot(String),
    /// One at a time.
    #[error("{0:?} makes its checks already, told by {1:?}: wait until they have ended")]
    Runs(String, String),
    /// Nobody is free to be measured with.
    #[error("other nodes of the pool of {0:?} are measured with just now: try again in a minute")]
    Later(String),
}

/// A run that `by` asks for.
///
/// # Errors
/// See [`NotNow`].
pub fn asked(node: &Node, nodes: &BTreeMap<String, Node>, key: &str, by: &str, now: Millis) -> Result<Change, NotNow> {
    let name = || node.name.clone();
    if !has_any_key(node, &[CORDONED, key]) {
        return Err(NotNow::TakesPods(name()));
    }
    if node.boot.is_empty() {
        return Err(NotNow::NoBoot(name()));
    }
    if let Some(run) = Run::of(node).filter(|run| run.is_open(now)) {
        return Err(NotNow::Runs(name(), run.by));
    }
    let runs: Vec<_> = nodes.iter().filter_map(|(name, node)| Some((name.as_str(), Run::of(node)?))).collect();
    let busy: BTreeSet<_> = runs.iter().flat_map(|(name, run)| busy(name, run, now)).collect();
    let failed = runs.iter().filter(|(_, run)| run.has_failed()).map(|(name, _)| *name).collect();
    match Pools::of(nodes, &failed).choose(node, &busy) {
        Choice::Later => Err(NotNow::Later(name())),
        Choice::With(with) => Ok(Run { at: now, boot: node.boot.clone(), by: by.to_owned(), with, ended: None }.stamp()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::KEY;
    use super::*;
    use crate::node::Taint;

    #[test]
    fn a_person_is_told_why_not() {
        let cordoned = vec![Taint::no_schedule(CORDONED, "")];
        let node = Node { name: "a".to_owned(), boot: "b".to_owned(), taints: cordoned, ..Node::default() };
        let ask = |node: &Node| asked(node, &BTreeMap::new(), KEY, "ann", 9);
        let running = ask(&node).unwrap().applied_to(&node);
        assert_eq!(Run::of(&running), Some(Run { at: 9, boot: "b".to_owned(), by: "ann".to_owned(), with: Vec::new(), ended: None }));
        for (node, words) in [
            (Node { taints: Vec::new(), ..node.clone() }, "`kubectl drain a --ignore-daemonsets` first"),
            (Node { boot: String::new(), ..node.clone() }, "which boot"),
            (running, "told by \"ann\""),
        ] {
            assert!(ask(&node).unwrap_err().to_string().contains(words));
        }
        let other = |name: &str| Node { name: name.to_owned(), is_ready: true, addresses: vec![[10, 0, 0, 1].into()], ..node.clone() };
        let run = Run { at: 8, boot: "b".to_owned(), by: "fleet".to_owned(), with: vec!["c".to_owned()], ended: None };
        let nodes = [run.stamp().applied_to(&other("d")), other("c")].map(|node| (node.name.clone(), node)).into();
        assert_eq!(asked(&node, &nodes, KEY, "ann", 9), Err(NotNow::Later("a".to_owned())));
    }
}
