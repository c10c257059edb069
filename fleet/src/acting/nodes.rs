//! The nodes as they are, as far as plans need them.
//!
//! Filled by a watch, and by the answers to the leader's own patches, which come first. The version of a node never goes back. Who follows is
//! told of changes that a plan could see: kubelets' heartbeats are none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fleet_plans::node::Node;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::watches::{Event, NODES, Target, Watched};

/// The cache, shared by the watch that fills it and the leader that reads it.
#[derive(Debug)]
pub struct Nodes {
    state: Mutex<State>,
    is_synced: watch::Sender<bool>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<String, Node>,
    /// Of whom something has changed since it was last asked; nothing where nobody follows.
    changed: Option<BTreeSet<String>>,
    /// How often a node has come or gone, or is reached elsewhere than before.
    moved: u64,
    /// How often anything but a heartbeat has changed.
    changes: u64,
}

impl Default for Nodes {
    fn default() -> Self {
        Self { state: Mutex::default(), is_synced: watch::Sender::new(false), changed: Notify::new() }
    }
}

impl Nodes {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Once all nodes have been listed.
    pub async fn synced(&self) {
        let mut synced = self.is_synced.subscribe();
        // The sender is in `self`: it does not go.
        drop(synced.wait_for(|is| *is).await);
    }

    /// Have all nodes been listed?
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.is_synced.borrow()
    }

    /// Looks at the nodes. The look must not wait.
    pub fn view<R>(&self, look: impl FnOnce(&BTreeMap<String, Node>) -> R) -> R {
        look(&self.lock().nodes)
    }

    /// Those that can be reached by others, with where; nothing where that is as it was at `before`. A node that is not Ready is known to be
    /// out of order, and nobody needs to say so.
    pub(crate) fn reachable(&self, before: Option<u64>) -> Option<(u64, BTreeMap<String, Vec<IpAddr>>)> {
        let state = self.lock();
        let reachable = || {
            let there = state.nodes.values().filter(|node| node.is_ready && !node.addresses.is_empty());
            there.map(|node| (node.name.clone(), node.addresses.clone())).collect()
        };
        (before != Some(state.moved)).then(|| (state.moved, reachable()))
    }

    /// What follows from the nodes, unless they are as they were at `before`. The look must not wait.
    pub(crate) fn if_changed<R>(&self, before: Option<u64>, look: impl FnOnce(&BTreeMap<String, Node>) -> R) -> Option<(u64, R)> {
        let state = self.lock();
        (before != Some(state.changes)).then(|| (state.changes, look(&state.nodes)))
    }

    /// Follows changes from now on. There is one follower: the leader.
    pub(super) fn follow(&self) -> Follower<'_> {
        self.lock().changed = Some(BTreeSet::new());
        Follower { nodes: self }
    }

    /// A node as the API server has just answered, unless something newer is known.
    pub(super) fn put(&self, node: Node) {
        let mut state = self.lock();
        state.put(node);
        self.tell(&state);
    }

    /// A node says how many pods it has. No plan is made for that; the next one goes by it.
    pub(super) fn has_pods(&self, name: &str, pods: u32) {
        if let Some(node) = self.lock().nodes.get_mut(name) {
            node.pods = Some(pods);
        }
    }

    fn tell(&self, state: &State) {
        if state.changed.as_ref().is_some_and(|changed| !changed.is_empty()) {
            self.changed.notify_one();
        }
    }
}

impl State {
    fn put(&mut self, mut node: Node) {
        let before = self.nodes.get(&node.name);
        node.pods = before.and_then(|before| before.pods);
        if before.is_some_and(|before| version(&before.resource_version) > version(&node.resource_version)) {
            return;
        }
        let is_same = before.is_some_and(|before| is_same(before, &node));
        let is_there = before.is_some_and(|before| (before.is_ready, &before.addresses) == (node.is_ready, &node.addresses));
        self.moved += u64::from(!is_there);
        self.changes += u64::from(!is_there || !is_same);
        if let Some(changed) = self.changed.as_mut().filter(|_| !is_same) {
            changed.insert(node.name.clone());
        }
        self.nodes.insert(node.name.clone(), node);
    }

    fn remove(&mut self, name: &str) {
        if self.nodes.remove(name).is_none() {
            return;
        }
        self.moved += 1;
        self.changes += 1;
        if let Some(changed) = &mut self.changed {
            changed.insert(name.to_owned());
        }
    }
}

/// Alike but for the version, and for what moves nothing by itself?
fn is_same(one: &Node, other: &Node) -> bool {
    let Node { name: _, resource_version: _, labels, annotations, taints, pods: _, is_ready, boot, addresses: _ } = one;
    (labels, annotations, taints, is_ready, boot) == (&other.labels, &other.annotations, &other.taints, &other.is_ready, &other.boot)
}

/// Versions are numbers, since 1.35 by promise; the watch refuses others.
fn version(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}

/// Who is told of changes; until it is dropped.
#[derive(Debug)]
pub(super) struct Follower<'a> {
    nodes: &'a Nodes,
}

impl Follower<'_> {
    /// Once something has changed.
    pub(super) async fn changed(&self) {
        self.nodes.changed.notified().await;
    }

    /// Takes what has changed, and looks at the nodes as they are then.
    pub(super) fn take<R>(&self, look: impl FnOnce(BTreeSet<String>, &BTreeMap<String, Node>) -> R) -> R {
        let mut state = self.nodes.lock();
        let changed = state.changed.as_mut().map(std::mem::take).unwrap_or_default();
        look(changed, &state.nodes)
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        self.nodes.lock().changed = None;
    }
}

/// The watch's end of it.
impl Target for std::sync::Arc<Nodes> {
    type List = BTreeMap<String, Node>;

    fn watched(&self) -> Watched {
        NODES
    }

    fn read(&self, list: &mut Self::List, event: Event) {
        match event {
            Event::Applied(object) => drop(node(&object).map(|node| list.insert(node.name.clone(), node))),
            Event::Deleted(object) => drop(list.remove(name(&object))),
        }
    }

    fn listed(&mut self, version_of_list: u64, list: Self::List) {
        tracing::info!(resource = "nodes", entries = list.len(), resource_version = version_of_list, "listed");
        let mut state = self.lock();
        let is_gone = |node: &&Node| !list.contains_key(&node.name) && version(&node.resource_version) <= version_of_list;
        let gone: Vec<_> = state.nodes.values().filter(is_gone).map(|node| node.name.clone()).collect();
        gone.iter().for_each(|name| state.remove(name));
        list.into_values().for_each(|node| state.put(node));
        self.tell(&state);
        drop(state);
        self.is_synced.send_replace(true);
    }

    fn changed(&mut self, _: u64, event: Option<Event>) {
        let mut state = self.lock();
        match event {
            Some(Event::Applied(object)) => drop(node(&object).map(|node| state.put(node))),
            Some(Event::Deleted(object)) => state.remove(name(&object)),
            None => {}
        }
        self.tell(&state);
    }
}

/// A bad object is told and skipped.
fn node(object: &Value) -> Option<Node> {
    Node::of_object(object).inspect_err(|error| tracing::warn!(resource = "nodes", name = name(object), %error, "object skipped")).ok()
}

fn name(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn object(name: &str, version: u64, label: &str) -> Value {
        json!({ "metadata": { "name": name, "resourceVersion": version.to_string(), "labels": { "a": label } } })
    }

    #[test]
    fn a_version_never_goes_back_and_heartbeats_are_no_change() {
        let mut nodes = Arc::new(Nodes::default());
        let mut list = BTreeMap::new();
        nodes.read(&mut list, Event::Applied(object("a", 5, "x")));
        nodes.read(&mut list, Event::Applied(object("b", 5, "x")));
        nodes.read(&mut list, Event::Applied(json!({ "metadata": {} })));
        nodes.read(&mut list, Event::Deleted(object("b", 6, "x")));
        assert!(!nodes.is_synced());
        nodes.listed(6, list);
        assert!(nodes.is_synced());
        let shared = Arc::clone(&nodes);
        let follower = shared.follow();
        let mut after = |event| {
            nodes.changed(0, event);
            follower.take(|changed, nodes| (changed.len(), nodes.get("a").map(|node| node.resource_version.clone())))
        };
        let version = |version: u64| Some(version.to_string());
        assert_eq!(after(Some(Event::Applied(object("a", 7, "x")))), (0, version(7)), "a heartbeat");
        shared.has_pods("a", 3);
        shared.has_pods("nobody", 3);
        assert_eq!(after(None), (0, version(7)), "more pods are no change");
        assert_eq!(after(Some(Event::Applied(object("a", 9, "y")))), (1, version(9)));
        assert_eq!(shared.view(|nodes| nodes["a"].pods), Some(3), "kept over changes of the object");
        assert_eq!(after(Some(Event::Applied(object("a", 8, "x")))), (0, version(9)), "an old event");
        assert_eq!(after(Some(Event::Deleted(object("a", 10, "x")))), (1, None));
        assert_eq!(after(Some(Event::Deleted(object("a", 10, "x")))), (0, None));
        // A list that is older than what a patch has answered.
        shared.put(Node::of_object(&object("c", 20, "x")).unwrap());
        nodes.listed(15, BTreeMap::new());
        assert_eq!(shared.view(BTreeMap::len), 1);
        nodes.listed(21, BTreeMap::new());
        assert_eq!(shared.view(BTreeMap::len), 0);
    }
}
