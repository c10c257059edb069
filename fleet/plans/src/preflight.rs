//! Which new nodes may take pods: those whose checks before the first pod have passed (ADR 37).
//!
//! A node comes with a taint that keeps pods away; a kubelet may register with taints and never change them. The leader lifts it once the node says
//! that its checks have passed in the boot that the API server knows, so nothing that was said before a restart counts. It never puts the taint
//! there: what it has lifted and somebody has put back is lifted again. All that it decides from is the node and what the node says, so nothing
//! is lost with a leader.

use std::collections::{BTreeMap, BTreeSet};

use crate::health::Millis;
use crate::node::{Change, Node, Taint};

/// The taint, where no other key is configured. Cluster autoscalers take a node with a key that begins so for one that is starting.
pub const KEY: &str = "startup-taint.cluster-autoscaler.kubernetes.io/barewire-preflight";
/// Karpenter's, until it has the node registered. It puts back startup taints that are lifted before.
pub const UNREGISTERED: &str = "karpenter.sh/unregistered";

/// How much is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Acts are told and nothing is written.
    pub dry_run: bool,
    /// The taint's key; effect and value are of no interest.
    pub key: String,
    /// Nodes that are let in within a second: a herd of new nodes does not begin at once.
    pub per_second: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { dry_run: true, key: KEY.to_owned(), per_second: 4 }
    }
}

/// How far a node's checks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not at their end.
    Running,
    /// All is well.
    Passed,
    /// Something is not.
    Failed,
}

/// What a node says of its checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// How far they are.
    pub state: State,
    /// In which boot, as the kernel calls it.
    pub boot: String,
    /// What was seen.
    pub evidence: Vec<String>,
}

/// Why something is done: the reason of the Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The taint is lifted.
    PreflightPassed,
    /// It stays.
    PreflightFailed,
}

/// Something that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// When.
    pub at: Millis,
    /// To which node.
    pub node: String,
    /// What.
    pub reason: Reason,
    /// What was seen.
    pub evidence: Vec<String>,
    /// What is written; nothing where it is only told.
    pub change: Option<Change>,
}

/// What a patch takes at most until it is seen: then it is decided anew.
const IN_FLIGHT: Millis = 10_000;
/// The rate is of so long.
const SECOND: Millis = 1_000;

/// One leader's memory.
#[derive(Debug)]
pub struct Gate {
    settings: Settings,
    /// The newest of each node.
    said: BTreeMap<String, Said>,
    /// Nodes with the taint.
    tainted: BTreeSet<String>,
    /// What has been decided and not been seen on the node yet: since when.
    in_flight: BTreeMap<String, Millis>,
    /// What has been told of a node, or would have been written: of which boot.
    told: BTreeMap<String, (State, String)>,
    /// When nodes were let in within the last second.
    lately: Vec<Millis>,
}

impl Gate {
    /// With the nodes that there are: never with a cache that is not filled.
    #[must_use]
    pub fn new(settings: Settings, nodes: &BTreeMap<String, Node>) -> Self {
        let mut gate = Self {
            settings,
            said: BTreeMap::new(),
            tainted: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            told: BTreeMap::new(),
            lately: Vec::new(),
        };
        nodes.iter().for_each(|(name, node)| gate.node_changed(name, Some(node)));
        gate
    }

    /// A node has said how far it is.
    pub fn hear(&mut self, node: &str, said: Said) {
        if said.state == State::Running {
            self.told.remove(node);
        }
        self.said.insert(node.to_owned(), said);
    }

    /// A node is as given, or gone. What a node has said stays: it may speak before the API server shows it, and it is of one boot.
    pub fn node_changed(&mut self, name: &str, node: Option<&Node>) {
        self.in_flight.remove(name);
        match node {
            Some(node) if self.taints(node).next().is_some() => drop(self.tainted.insert(name.to_owned())),
            _ => drop(self.tainted.remove(name)),
        }
        if node.is_none() {
            self.said.remove(name);
            self.told.remove(name);
        }
    }

    fn taints<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Taint> {
        node.taints.iter().filter(|taint| taint.key == self.settings.key)
    }

    fn is_told(&self, name: &str, said: &Said) -> bool {
        self.told.get(name).is_some_and(|(state, boot)| (*state, boot) == (said.state, &said.boot))
    }

    /// Is there anything that time alone may change? Then [`Self::acts`] is called some ten times a second; otherwise once soon after news.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let is_open = |name: &String| self.said.get(name).is_some_and(|said| said.state == State::Passed && !self.is_told(name, said));
        self.tainted.iter().any(is_open)
    }

    /// Nodes that wait with the taint.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.tainted.len()
    }

    /// Of these, nodes whose checks have failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        let has_failed = |name: &&String| self.said.get(*name).is_some_and(|said| said.state == State::Failed);
        self.tainted.iter().filter(has_failed).count()
    }

    /// What is to be done at `now`; see [`Self::is_busy`].
    pub fn acts(&mut self, now: Millis, nodes: &BTreeMap<String, Node>) -> Vec<Act> {
        self.lately.retain(|at| now.saturating_sub(*at) < SECOND);
        self.in_flight.retain(|_, since| now.saturating_sub(*since) < IN_FLIGHT);
        let mut acts = Vec::new();
        for name in &self.tainted {
            let (Some(node), Some(said)) = (nodes.get(name), self.said.get(name)) else { continue };
            // Another boot's checks are no news of this one; and a node that does not say its boot has not started.
            if node.boot.is_empty() || node.boot != said.boot || self.in_flight.contains_key(name) {
                continue;
            }
            let is_told = self.is_told(name, said);
            let act = |reason, change| Act { at: now, node: name.clone(), reason, evidence: said.evidence.clone(), change };
            match said.state {
                State::Running => {}
                State::Failed if is_told => {}
                State::Failed => {
                    self.told.insert(name.clone(), (said.state, said.boot.clone()));
                    acts.push(act(Reason::PreflightFailed, None));
                }
                State::Passed => {
                    let is_registering = node.taints.iter().any(|taint| taint.key == UNREGISTERED);
                    if is_registering || self.lately.len() >= self.settings.per_second.max(1) || (self.settings.dry_run && is_told) {
                        continue;
                    }
                    self.lately.push(now);
                    let change = Change { taints_gone: self.taints(node).cloned().collect(), ..Change::default() };
                    acts.push(act(Reason::PreflightPassed, (!self.settings.dry_run).then_some(change)));
                    if self.settings.dry_run {
                        self.told.insert(name.clone(), (said.state, said.boot.clone()));
                    } else {
                        self.in_flight.insert(name.clone(), now);
                    }
                }
            }
        }
        acts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, boot: &str, taints: &[&str]) -> Node {
        let taints = taints.iter().map(|key| Taint::no_schedule(key, "")).collect();
        Node { name: name.to_owned(), boot: boot.to_owned(), taints, ..Node::default() }
    }

    fn said(state: State, boot: &str) -> Said {
        Said { state, boot: boot.to_owned(), evidence: vec!["dns: no answer".to_owned()] }
    }

    fn apply() -> Settings {
        Settings { dry_run: false, ..Settings::default() }
    }

    fn nodes(of: impl IntoIterator<Item = Node>) -> BTreeMap<String, Node> {
        of.into_iter().map(|node| (node.name.clone(), node)).collect()
    }

    #[test]
    fn only_what_was_said_in_this_boot_of_a_registered_node_counts() {
        use Reason::{PreflightFailed, PreflightPassed};
        use State::{Failed, Passed, Running};
        for (taints, boot, of, expected) in [
            (&[KEY, "theirs"][..], "b1", said(Passed, "b1"), Some(PreflightPassed)),
            (&[KEY], "b1", said(Running, "b1"), None),
            (&[KEY], "b1", said(Failed, "b1"), Some(PreflightFailed)),
            (&[KEY], "b2", said(Passed, "b1"), None),
            (&[KEY], "", said(Passed, ""), None),
            (&[KEY, UNREGISTERED], "b1", said(Passed, "b1"), None),
            (&["theirs"], "b1", said(Passed, "b1"), None),
            (&["theirs"], "b1", said(Failed, "b1"), None),
        ] {
            let nodes = nodes([node("a", boot, taints)]);
            let mut gate = Gate::new(apply(), &nodes);
            assert_eq!(gate.acts(0, &nodes), [], "nothing was said");
            gate.hear("a", of.clone());
            let acts = gate.acts(1, &nodes);
            assert_eq!(acts.iter().map(|act| act.reason).next(), expected, "{taints:?} {boot} {of:?}");
            assert_eq!(gate.acts(2, &nodes), [], "once");
            if let Some(change) = acts.first().and_then(|act| act.change.as_ref()) {
                let after = change.applied_to(&nodes["a"]);
                assert_eq!(after.taints, [Taint::no_schedule("theirs", "")], "others' stay");
                assert!(change.patch(&nodes["a"])[0]["op"] == "test");
            }
        }
    }

    #[test]
    fn a_herd_is_let_in_at_a_rate_and_a_patch_that_was_lost_is_decided_again() {
        let nodes = nodes((0..20).map(|number| node(&format!("n{number:02}"), "b", &[KEY])));
        let mut gate = Gate::new(apply(), &nodes);
        nodes.keys().for_each(|name| gate.hear(name, said(State::Passed, "b")));
        let (mut times, mut now) = (Vec::new(), 0);
        while times.len() < 20 {
            times.extend(gate.acts(now, &nodes).iter().map(|act| act.at));
            now += 100;
        }
        assert!(times.windows(5).all(|five| five[4] - five[0] >= SECOND) && now <= 5_000, "{times:?}");
        assert!(gate.is_busy() && gate.waiting() == 20);
        assert_eq!(gate.acts(9_900, &nodes), []);
        assert_eq!(gate.acts(10_000, &nodes).len(), 4, "none of them was seen on its node");
    }

    #[test]
    fn a_taint_that_is_put_back_is_lifted_again_and_a_node_of_the_same_name_begins_anew() {
        let tainted = node("a", "b", &[KEY]);
        let before = nodes([tainted.clone()]);
        let mut gate = Gate::new(apply(), &before);
        gate.hear("a", said(State::Passed, "b"));
        assert_eq!(gate.acts(0, &before).len(), 1);
        gate.node_changed("a", Some(&node("a", "b", &[])));
        assert!(!gate.is_busy() && gate.waiting() == 0);
        gate.node_changed("a", Some(&tainted));
        assert!(gate.is_busy());
        assert_eq!(gate.acts(5_000, &before).len(), 1);
        gate.node_changed("a", None);
        gate.node_changed("a", Some(&tainted));
        assert_eq!(gate.acts(10_000, &before), [], "another machine, which has said nothing");
        // A dry run says it once, and writes nothing.
        let mut gate = Gate::new(Settings::default(), &before);
        gate.hear("a", said(State::Passed, "b"));
        let acts = gate.acts(0, &before);
        assert!(acts.len() == 1 && acts[0].change.is_none() && !gate.is_busy());
        assert_eq!(gate.acts(60_000, &before), []);
        gate.hear("a", said(State::Failed, "b"));
        assert_eq!((gate.acts(60_000, &before)[0].reason, gate.failed()), (Reason::PreflightFailed, 1));
    }
}
