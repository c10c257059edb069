//! The state machine: nodes begin and are let in at a rate. Pure: times are arguments.

use std::collections::{BTreeMap, BTreeSet};

use super::due::Again;
use super::partners::{Choice, Pools};
use super::{AGAIN, KEY, Run, UNREGISTERED};
use crate::health::Millis;
use crate::node::{Change, Node, Taint};

/// How much is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Acts are told and nothing is written.
    pub dry_run: bool,
    /// The taint's key; effect and value are of no interest.
    pub key: String,
    /// Nodes that begin, and nodes that are let in, within a second: a herd of new nodes does not begin at once.
    pub per_second: usize,
    /// How long after its last run a node that has nothing to do is checked again; never, if nothing.
    pub every: Option<Millis>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { dry_run: true, key: KEY.to_owned(), per_second: 4, every: None }
    }
}

/// How far a node's checks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// They begin when the node is told.
    Waiting,
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
    /// Which [`Run`] that is, by when it was told; 0 where the node has begun by itself.
    pub run: Millis,
    /// It begins when it is told.
    pub hears: bool,
}

/// Why something is done: the reason of the Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is told to begin.
    PreflightTold,
    /// The taint is lifted.
    PreflightPassed,
    /// It stays.
    PreflightFailed,
    /// A taint of ours is lifted whose run has been lost.
    PreflightGivenUp,
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
/// The rates are of so long.
const SECOND: Millis = 1_000;
/// Nodes for which partners are looked for at a time.
const LOOKS: usize = 16;

/// One leader's memory.
#[derive(Debug)]
pub struct Gate {
    pub(super) settings: Settings,
    /// The newest of each node.
    pub(super) said: BTreeMap<String, Said>,
    /// Nodes with the taint.
    tainted: BTreeSet<String>,
    /// Nodes with [`AGAIN`].
    again_tainted: BTreeSet<String>,
    /// Runs of nodes that have not passed.
    runs: BTreeMap<String, Run>,
    /// What has been decided and not been seen on the node yet: since when.
    in_flight: BTreeMap<String, Millis>,
    /// What has been told of a node, or would have been written: of which boot and run.
    told: BTreeMap<String, (State, String, Millis)>,
    /// When nodes were let in within the last second.
    lately: Vec<Millis>,
    /// When nodes were told to begin within the last second.
    begun: Vec<Millis>,
    /// The last node that partners were looked for, so that none is passed over for ever.
    looked_for: String,
    pub(super) again: Again,
}

/// Does the node have a taint of this key?
pub(super) fn has_key(node: &Node, key: &str) -> bool {
    node.taints.iter().any(|taint| taint.key == key)
}

/// Who has no time for another while `name` makes this run.
pub(super) fn busy<'a>(name: &'a str, run: &'a Run, now: Millis) -> impl Iterator<Item = String> + 'a {
    let open = run.is_open(now).then(|| std::iter::once(name).chain(run.with.iter().map(String::as_str)));
    open.into_iter().flatten().map(str::to_owned)
}

impl Gate {
    /// With the nodes that there are: never with a cache that is not filled.
    #[must_use]
    pub fn new(settings: Settings, nodes: &BTreeMap<String, Node>) -> Self {
        let mut gate = Self {
            settings,
            said: BTreeMap::new(),
            tainted: BTreeSet::new(),
            again_tainted: BTreeSet::new(),
            runs: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            told: BTreeMap::new(),
            lately: Vec::new(),
            begun: Vec::new(),
            looked_for: String::new(),
            again: Again::default(),
        };
        nodes.iter().for_each(|(name, node)| gate.node_changed(name, Some(node)));
        gate
    }

    /// A node has said how far it is.
    pub fn hear(&mut self, node: &str, said: Said) {
        if matches!(said.state, State::Waiting | State::Running) {
            self.told.remove(node);
        }
        self.said.insert(node.to_owned(), said);
    }

    /// A node is as given, or gone. What a node has said stays: it may speak before the API server shows it, and it is of one boot.
    pub fn node_changed(&mut self, name: &str, node: Option<&Node>) {
        self.in_flight.remove(name);
        let has = |key: &str| node.is_some_and(|node| has_key(node, key));
        for (all, is) in [(&mut self.tainted, has(&self.settings.key)), (&mut self.again_tainted, has(AGAIN))] {
            if is {
                all.insert(name.to_owned());
            } else {
                all.remove(name);
            }
        }
        match node.and_then(Run::of).filter(|run| !run.has_passed()) {
            Some(run) => drop(self.runs.insert(name.to_owned(), run)),
            None => drop(self.runs.remove(name)),
        }
        if node.is_none() {
            self.said.remove(name);
            self.told.remove(name);
        }
    }

    /// The taints that go when the checks have passed; [`AGAIN`] with its run alone.
    fn taints(&self, node: &Node, has_run: bool) -> Vec<Taint> {
        let goes = |taint: &&Taint| taint.key == self.settings.key || (has_run && taint.key == AGAIN);
        node.taints.iter().filter(goes).cloned().collect()
    }

    fn is_told(&self, name: &str, said: &Said) -> bool {
        self.told.get(name).is_some_and(|(state, boot, run)| (*state, boot, *run) == (said.state, &said.boot, said.run))
    }

    fn tell(&mut self, name: &str, said: &Said) {
        self.told.insert(name.to_owned(), (said.state, said.boot.clone(), said.run));
    }

    /// Is there anything that time alone may change? Then [`Self::acts`] is called some ten times a second; otherwise once soon after news.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let is_open = |name: &String| match self.said.get(name).map(|said| (said.state, said)) {
            Some((State::Passed, said)) => !self.is_told(name, said),
            Some((State::Waiting, _)) => !self.settings.dry_run,
            _ => false,
        };
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
        self.in_flight.retain(|_, since| now.saturating_sub(*since) < IN_FLIGHT);
        for times in [&mut self.lately, &mut self.begun] {
            times.retain(|at| now.saturating_sub(*at) < SECOND);
        }
        // Most of those that wait have nothing to say.
        let has_ended = |name: &&String| match self.said.get(*name) {
            Some(said) if said.state == State::Failed => !self.is_told(name, said),
            said => said.is_some_and(|said| said.state == State::Passed),
        };
        let ended = self.tainted.iter().chain(self.runs.keys()).filter(has_ended);
        let concerned: BTreeSet<_> = ended.chain(&self.again_tainted).cloned().collect();
        let mut acts = Vec::new();
        for name in concerned {
            let Some(node) = nodes.get(&name) else { continue };
            // A node that does not say its boot has not started.
            if node.boot.is_empty() || self.in_flight.contains_key(&name) {
                continue;
            }
            acts.extend(self.end(now, node).or_else(|| self.give_up(now, node)));
        }
        acts.extend(self.begin(now, nodes));
        acts
    }

    /// What has come of a node's checks.
    fn end(&mut self, now: Millis, node: &Node) -> Option<Act> {
        let name = &node.name;
        // Another boot's checks are no news of this one.
        let said = self.said.get(name).filter(|said| said.boot == node.boot)?.clone();
        let run = self.runs.get(name).filter(|run| run.boot == node.boot && (run.ended.is_some() || run.is_open(now))).cloned();
        // It may not have heard of the newest yet.
        if run.as_ref().is_some_and(|run| run.at != said.run) {
            return None;
        }
        let before = run.as_ref().and_then(|run| run.ended).map(|ended| ended.passed);
        let is_told = self.is_told(name, &said);
        let ended = |passed: bool| match &run {
            Some(run) if before != Some(passed) => run.clone().ended(now, passed).stamp(),
            _ => Change::default(),
        };
        let (reason, change) = match said.state {
            State::Waiting | State::Running => return None,
            State::Failed if is_told || before == Some(false) => return None,
            State::Failed => (Reason::PreflightFailed, ended(false)),
            State::Passed => {
                let taints_gone = self.taints(node, run.is_some());
                if taints_gone.is_empty() && run.is_none() {
                    return None;
                }
                let is_registering = has_key(node, UNREGISTERED);
                if is_registering || self.lately.len() >= self.settings.per_second.max(1) || (self.settings.dry_run && is_told) {
                    return None;
                }
                self.lately.push(now);
                (Reason::PreflightPassed, Change { taints_gone, ..ended(true) })
            }
        };
        let change = (!self.settings.dry_run && change != Change::default()).then_some(change);
        if change.is_none() || said.state == State::Failed {
            self.tell(name, &said);
        }
        if change.is_some() {
            self.in_flight.insert(name.clone(), now);
        }
        Some(Act { at: now, node: name.clone(), reason, evidence: said.evidence, change })
    }

    /// A taint of ours that nothing will lift any more: its run is not there, or nothing was heard of it for too long.
    fn give_up(&mut self, now: Millis, node: &Node) -> Option<Act> {
        let name = &node.name;
        let is_lost = Run::of(node).is_none_or(|run| run.has_passed() || (run.ended.is_none() && !run.is_open(now)));
        if self.settings.dry_run || !has_key(node, AGAIN) || !is_lost || self.again.under_way.as_ref() == Some(name) {
            return None;
        }
        let taints_gone = node.taints.iter().filter(|taint| taint.key == AGAIN).cloned().collect();
        self.in_flight.insert(name.clone(), now);
        let change = Some(Change { taints_gone, ..Change::default() });
        Some(Act { at: now, node: name.clone(), reason: Reason::PreflightGivenUp, evidence: Vec::new(), change })
    }

    /// Nodes to measure with.
    pub(super) fn pools<'a>(&self, nodes: &'a BTreeMap<String, Node>) -> Pools<'a> {
        let failed = self.runs.iter().filter(|(_, run)| run.has_failed()).map(|(name, _)| name.as_str()).collect();
        Pools::of(nodes, &failed)
    }

    /// Who has no time for another just now.
    pub(super) fn busy(&self, now: Millis) -> BTreeSet<String> {
        self.runs.iter().flat_map(|(name, run)| busy(name, run, now)).collect()
    }

    /// New nodes that wait have their turn, as many as the rate allows and there are partners for.
    fn begin(&mut self, now: Millis, nodes: &BTreeMap<String, Node>) -> Vec<Act> {
        let mut acts = Vec::new();
        let may_begin = |gate: &Self, name: &&String| {
            let waits = |said: &Said, node: &Node| said.state == State::Waiting && said.boot == node.boot && !node.boot.is_empty();
            let is_open = gate.runs.get(*name).is_some_and(|run| run.is_open(now));
            let asks = gate.said.get(*name).zip(nodes.get(*name)).is_some_and(|(said, node)| waits(said, node));
            asks && !is_open && !gate.in_flight.contains_key(*name)
        };
        let left = self.settings.per_second.max(1).saturating_sub(self.begun.len());
        if self.settings.dry_run || left == 0 {
            return acts;
        }
        let after = self.tainted.iter().filter(|name| **name > self.looked_for);
        let before = self.tainted.iter().filter(|name| **name <= self.looked_for);
        let waiting: Vec<_> = after.chain(before).filter(|name| may_begin(self, name)).take(LOOKS).cloned().collect();
        if waiting.is_empty() {
            return acts;
        }
        let (pools, mut busy) = (self.pools(nodes), self.busy(now));
        for name in waiting {
            let Some(node) = nodes.get(&name).filter(|_| acts.len() < left) else { break };
            self.looked_for.clone_from(&name);
            let (false, Choice::With(with)) = (busy.contains(&name), pools.choose(node, &busy)) else { continue };
            busy.extend(with.iter().cloned().chain([name.clone()]));
            let run = Run { at: now, boot: node.boot.clone(), by: "fleet".to_owned(), with, ended: None };
            let partners = if run.with.is_empty() { "nobody: it is alone in its pool".to_owned() } else { run.with.join(", ") };
            let evidence = vec![format!("measured with {partners}")];
            acts.push(Act { at: now, node: name.clone(), reason: Reason::PreflightTold, evidence, change: Some(run.stamp()) });
            self.begun.push(now);
            self.in_flight.insert(name.clone(), now);
            // Until the node shows it.
            self.runs.insert(name, run);
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
        Said { state, boot: boot.to_owned(), evidence: vec!["dns: no answer".to_owned()], run: 0, hears: true }
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

    /// What is written is seen at once.
    fn carried_out(acts: &[Act], nodes: &mut BTreeMap<String, Node>, gate: &mut Gate) {
        for act in acts {
            let after = act.change.as_ref().map(|change| change.applied_to(&nodes[&act.node]));
            if let Some(after) = after {
                gate.node_changed(&act.node, Some(&after));
                nodes.insert(act.node.clone(), after);
            }
        }
    }

    #[test]
    fn new_nodes_begin_at_a_rate_each_with_partners_of_its_own_and_only_their_run_lets_them_in() {
        let ready = |name: String| Node { is_ready: true, addresses: vec![[10, 0, 0, 1].into()], ..node(&name, "b", &[KEY]) };
        let mut nodes = nodes((0..31).map(|number| ready(format!("n{number:02}"))));
        let mut gate = Gate::new(apply(), &nodes);
        nodes.keys().for_each(|name| gate.hear(name, said(State::Waiting, "b")));
        assert!(gate.is_busy());
        let mut begun = Vec::new();
        for now in (1_000..20_000).step_by(100) {
            let acts = gate.acts(now, &nodes);
            assert!(acts.iter().all(|act| act.reason == Reason::PreflightTold));
            begun.extend(acts.iter().map(|act| act.at));
            carried_out(&acts, &mut nodes, &mut gate);
        }
        assert!(begun.len() == 10 && begun.windows(5).all(|five| five[4] - five[0] >= SECOND), "ten with two others each: {begun:?}");
        let runs: BTreeMap<_, _> = nodes.iter().filter_map(|(name, node)| Some((name.clone(), Run::of(node)?))).collect();
        let mut taken: Vec<_> = runs.iter().flat_map(|(name, run)| run.with.iter().chain([name])).collect();
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 30, "nobody is measured with by two");
        // What was not said of the run that was told is of no interest.
        let (first, run) = runs.iter().next().unwrap();
        gate.hear(first, said(State::Passed, "b"));
        assert_eq!(gate.acts(30_000, &nodes), []);
        let of_run = |state| Said { run: run.at, ..said(state, "b") };
        gate.hear(first, of_run(State::Failed));
        let acts = gate.acts(30_000, &nodes);
        assert_eq!((acts.len(), acts[0].reason), (1, Reason::PreflightFailed), "{acts:?}");
        carried_out(&acts, &mut nodes, &mut gate);
        assert!(has_key(&nodes[first], KEY) && Run::of(&nodes[first]).unwrap().ended.is_some_and(|ended| !ended.passed));
        // A leader that follows does not tell it again, and partners are free for the next.
        let mut gate = Gate::new(apply(), &nodes);
        nodes.keys().filter(|name| *name != first).for_each(|name| gate.hear(name, said(State::Waiting, "b")));
        gate.hear(first, of_run(State::Failed));
        let acts = gate.acts(40_000, &nodes);
        assert_eq!((acts.len(), acts[0].reason), (1, Reason::PreflightTold), "{acts:?}");
        carried_out(&acts, &mut nodes, &mut gate);
        // Mended.
        gate.hear(first, of_run(State::Passed));
        let acts = gate.acts(50_000, &nodes);
        carried_out(&acts, &mut nodes, &mut gate);
        assert!(!has_key(&nodes[first], KEY) && Run::of(&nodes[first]).unwrap().has_passed());
        assert_eq!(gate.acts(60_000, &nodes), []);
    }

    #[test]
    fn a_run_that_nothing_is_heard_of_holds_nobody_up() {
        let run = Run { at: 1, boot: "b".to_owned(), by: "fleet".to_owned(), with: Vec::new(), ended: None };
        let nodes = nodes([run.stamp().applied_to(&node("a", "b", &[KEY]))]);
        let mut gate = Gate::new(apply(), &nodes);
        gate.hear("a", said(State::Waiting, "b"));
        assert_eq!(gate.acts(10_000, &nodes), [], "it may not have heard yet");
        let late = 5 * 3_600_000;
        assert_eq!(gate.acts(late, &nodes)[0].reason, Reason::PreflightTold);
        let mut gate = Gate::new(apply(), &nodes);
        gate.hear("a", said(State::Passed, "b"));
        assert_eq!(gate.acts(10_000, &nodes), []);
        assert_eq!(gate.acts(late, &nodes)[0].reason, Reason::PreflightPassed, "it has begun by itself at last");
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
