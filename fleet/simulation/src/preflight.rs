//! New nodes under a virtual clock: the real gate, a model of the API server, a provisioner that puts startup taints back, leaders that end. Nodes begin
//! when they are told, and each measures with two others that nobody else measures with.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use fastrand::Rng;
use fleet_plans::health::Millis;
use fleet_plans::node::{Node, Taint};
use fleet_plans::preflight::{Act, Gate, KEY, Reason, Run, Said, Settings, State, UNREGISTERED};

use crate::report::Figure;

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;
/// Between two looks of a leader, as the executor has it.
const LOOK: Millis = 100;
/// From a write to what the watches of the leaders show of it.
const WATCH: Millis = 50;
/// A node says again what it has said.
const HEARTBEAT: Millis = 30 * SECOND;
/// From what is written on a node until the node hears of it.
const HEARS: Millis = 1_500;
/// From a leader's end until the next has the Lease.
const LEASE: Millis = 15 * SECOND;

/// Something that happens to a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    /// It is there, with its taints.
    Joins,
    /// The provisioner has it registered; a startup taint that was lifted before is put back, and nobody is asked.
    Registered,
    /// It waits for its turn, in this boot.
    Waits(u8),
    /// Its checks begin, as the run that it was told.
    Begins { boot: u8, run: Millis },
    /// They are at their end.
    Ends { boot: u8, run: Millis },
    /// It says what it last said.
    Says,
    /// It is started again: what it said before is of another boot.
    Reboots,
    /// Somebody puts the taint back.
    Restored,
    /// The leaders see it as it is.
    Seen,
}

#[derive(Debug, Default)]
struct Machine {
    said: Option<Said>,
    /// How long its checks take.
    lasts: Millis,
    /// Which boot it is in.
    boot: u8,
    /// Whether its checks come to a good end.
    is_well: bool,
    /// The last run that it has heard of.
    heard: Millis,
    /// When its checks came to a good end, of this boot.
    passed: Option<Millis>,
    /// When the taint was lifted.
    lifted: Option<Millis>,
}

struct Replica {
    gate: Gate,
    nodes: BTreeMap<String, Node>,
    /// It has no Lease before.
    leads_from: Millis,
    /// Something was heard since it looked. Without news it looks where time alone may change something, as the executor does.
    is_heard: bool,
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    /// From the end of the checks to the lifted taint, of each node that passed.
    took: Vec<Millis>,
    /// Nodes that passed and have the taint, and those that would have passed and were never told to begin.
    orphans: usize,
    /// The most that were told to begin within a second.
    most_begun: usize,
    /// Nodes that were measured with by two at a time.
    shared: usize,
    /// Nodes that were let in without having passed in their boot.
    wrong: usize,
    /// The most that were let in within a second.
    most: usize,
    writes: usize,
}

struct World {
    now: Millis,
    nodes: BTreeMap<String, Node>,
    machines: Vec<Machine>,
    replicas: Vec<Replica>,
    queue: BinaryHeap<Reverse<(Millis, usize, Happens)>>,
    /// The leader ends instead of this write.
    crash_at: Option<usize>,
    lifted: Vec<Millis>,
    begun: Vec<Millis>,
    /// Nodes are started again in the middle or behind it, and it is looked whether two measure with the same one.
    is_troubled: bool,
    /// Between two looks of a leader.
    look: Millis,
    outcome: Outcome,
}

fn name(node: usize) -> String {
    format!("node-{node:05}")
}

fn settings() -> Settings {
    Settings { dry_run: false, ..Settings::default() }
}

fn boot(number: u8) -> String {
    format!("boot-{number}")
}

impl World {
    fn new(nodes: usize, leaders: usize, crash_at: Option<usize>) -> Self {
        let replica = |_| Replica { gate: Gate::new(settings(), &BTreeMap::new()), nodes: BTreeMap::new(), leads_from: 0, is_heard: false };
        Self {
            now: 0,
            nodes: BTreeMap::new(),
            machines: (0..nodes).map(|_| Machine::default()).collect(),
            replicas: (0..leaders).map(replica).collect(),
            queue: BinaryHeap::new(),
            crash_at,
            lifted: Vec::new(),
            begun: Vec::new(),
            is_troubled: true,
            look: LOOK,
            outcome: Outcome::default(),
        }
    }

    fn at(&mut self, at: Millis, node: usize, happens: Happens) {
        self.queue.push(Reverse((at, node, happens)));
    }

    /// A node that joins at `at`, registers, and is checked; some fail, and some are started again in the middle or behind it.
    fn join(&mut self, node: usize, at: Millis, lasts: Millis, rng: &mut Rng) {
        self.at(at, node, Happens::Joins);
        self.at(at + rng.u64(0..20 * SECOND), node, Happens::Registered);
        let is_well = node % 13 != 7;
        self.machines[node] = Machine { lasts, boot: 1, is_well, ..Machine::default() };
        self.at(at + rng.u64(SECOND..5 * SECOND), node, Happens::Waits(1));
    }

    fn run(&mut self, until: Millis) {
        while self.now < until {
            self.now += self.look;
            while let Some(Reverse((at, _, _))) = self.queue.peek()
                && *at <= self.now
                && let Some(Reverse((at, node, happens))) = self.queue.pop()
            {
                self.happen(at, node, happens);
            }
            for replica in 0..self.replicas.len() {
                self.lead(replica);
            }
        }
        for (number, machine) in self.machines.iter().enumerate() {
            let has_taint = self.nodes.get(&name(number)).is_some_and(has_key);
            match (machine.passed, machine.lifted) {
                (Some(passed), Some(lifted)) => self.outcome.took.push(lifted.saturating_sub(passed)),
                (Some(_), None) => self.outcome.orphans += 1,
                (None, _) => self.outcome.orphans += usize::from(machine.is_well),
            }
            self.outcome.orphans += usize::from(has_taint && machine.passed.is_some() && machine.lifted.is_some());
        }
    }

    fn happen(&mut self, at: Millis, number: usize, happens: Happens) {
        let name = name(number);
        let mut is_written = true;
        match happens {
            Happens::Joins => {
                let taints = [KEY, UNREGISTERED].map(|key| Taint::no_schedule(key, "")).to_vec();
                let (resource_version, addresses) = ("1".to_owned(), vec![[10, 0, 0, 1].into()]);
                let node =
                    Node { name: name.clone(), resource_version, taints, boot: boot(1), is_ready: true, addresses, ..Node::default() };
                self.nodes.insert(name, node);
            }
            Happens::Registered => {
                if let Some(node) = self.nodes.get_mut(&name) {
                    node.taints.retain(|taint| taint.key != UNREGISTERED);
                }
            }
            Happens::Waits(of) => {
                self.say(number, said(State::Waiting, of, 0));
                self.at(at + HEARTBEAT, number, Happens::Says);
                // Nobody keeps pods away from it: it is told that it need not wait.
                if self.nodes.get(&name).is_some_and(|node| !has_key(node)) {
                    self.at(at + HEARS, number, Happens::Begins { boot: of, run: 0 });
                }
                is_written = false;
            }
            Happens::Begins { boot: of, run } if of == self.machines[number].boot => {
                self.say(number, said(State::Running, of, run));
                let lasts = self.machines[number].lasts;
                self.at(at + lasts, number, Happens::Ends { boot: of, run });
                if self.is_troubled && number % 11 == 5 && of == 1 {
                    // Once before its end, once behind it.
                    let after = if number.is_multiple_of(2) { lasts / 2 } else { lasts + MINUTE };
                    self.at(at + after, number, Happens::Reboots);
                }
                is_written = false;
            }
            Happens::Ends { boot: of, run } if of == self.machines[number].boot => {
                let machine = &mut self.machines[number];
                let state = if machine.is_well { State::Passed } else { State::Failed };
                machine.passed = machine.is_well.then_some(at);
                self.say(number, said(state, of, run));
                is_written = false;
            }
            // Of the boot before.
            Happens::Begins { .. } | Happens::Ends { .. } => is_written = false,
            Happens::Says => {
                if let Some(said) = self.machines[number].said.clone() {
                    self.say(number, said);
                }
                self.at(at + HEARTBEAT, number, Happens::Says);
                is_written = false;
            }
            Happens::Reboots => {
                // Its daemon says once more what it had in its file, of the boot before.
                (self.machines[number].passed, self.machines[number].boot) = (None, 2);
                self.at(at + 30 * SECOND, number, Happens::Waits(2));
                if let Some(node) = self.nodes.get_mut(&name) {
                    node.boot = boot(2);
                }
            }
            Happens::Restored => {
                if let Some(node) = self.nodes.get_mut(&name).filter(|node| !has_key(node)) {
                    node.taints.push(Taint::no_schedule(KEY, ""));
                }
            }
            Happens::Seen => {
                let Some(node) = self.nodes.get(&name).cloned() else { return };
                for replica in &mut self.replicas {
                    replica.gate.node_changed(&name, Some(&node));
                    replica.nodes.insert(name.clone(), node.clone());
                    replica.is_heard = true;
                }
                return self.hear_of_run(number, &node);
            }
        }
        if is_written {
            self.written(number);
        }
    }

    /// The node is told of a run that is new.
    fn hear_of_run(&mut self, number: usize, node: &Node) {
        let machine = &mut self.machines[number];
        let waits = machine.said.as_ref().is_some_and(|said| said.state == State::Waiting && said.boot == node.boot);
        let new = Run::of(node).filter(|run| run.is_open(self.now) && run.at != machine.heard && waits);
        if let Some(run) = new {
            machine.heard = run.at;
            let begins = Happens::Begins { boot: machine.boot, run: run.at };
            self.at(self.now + HEARS, number, begins);
        }
    }

    /// Nodes that two runs have for themselves.
    fn shared(&self) -> usize {
        let open = self.nodes.iter().filter_map(|(name, node)| Some((name, Run::of(node).filter(|run| run.is_open(self.now))?)));
        let mut taken: Vec<_> = open.flat_map(|(name, run)| run.with.into_iter().chain([name.clone()])).collect();
        let all = taken.len();
        taken.sort_unstable();
        taken.dedup();
        all - taken.len()
    }

    /// The node has another version; leaders see it soon.
    fn written(&mut self, number: usize) {
        if let Some(node) = self.nodes.get_mut(&name(number)) {
            node.resource_version.push('1');
        }
        self.at(self.now + WATCH, number, Happens::Seen);
    }

    fn say(&mut self, number: usize, said: Said) {
        for replica in &mut self.replicas {
            replica.gate.hear(&name(number), said.clone());
            replica.is_heard = true;
        }
        self.machines[number].said = Some(said);
    }

    fn lead(&mut self, which: usize) {
        let replica = &mut self.replicas[which];
        if self.now < replica.leads_from || !(replica.is_heard || replica.gate.is_busy()) {
            return;
        }
        replica.is_heard = false;
        for act in replica.gate.acts(self.now, &replica.nodes) {
            if act.change.is_none() {
                continue;
            }
            if self.crash_at == Some(self.outcome.writes) {
                self.crash_at = None;
                self.restart(which);
                return;
            }
            self.write(which, &act);
        }
    }

    /// Another leads in its place, with a filled cache; all that nodes have said last is told to it.
    fn restart(&mut self, which: usize) {
        let mut gate = Gate::new(settings(), &self.nodes);
        for (number, machine) in self.machines.iter().enumerate() {
            if let Some(said) = &machine.said {
                gate.hear(&name(number), said.clone());
            }
        }
        self.replicas[which] = Replica { gate, nodes: self.nodes.clone(), leads_from: self.now + LEASE, is_heard: true };
    }

    /// The patch: all of it, or nothing where the node has changed.
    fn write(&mut self, which: usize, act: &Act) {
        let Some(change) = &act.change else { return };
        self.outcome.writes += 1;
        let seen = self.replicas[which].nodes.get(&act.node).map(|node| node.resource_version.clone());
        let Some(node) = self.nodes.get_mut(&act.node).filter(|node| seen.as_ref() == Some(&node.resource_version)) else {
            // Read again.
            let node = self.nodes.get(&act.node).cloned();
            let replica = &mut self.replicas[which];
            replica.gate.node_changed(&act.node, node.as_ref());
            if let Some(node) = node {
                replica.nodes.insert(act.node.clone(), node);
            }
            return;
        };
        let is_registering = node.taints.iter().any(|taint| taint.key == UNREGISTERED);
        *node = change.applied_to(node);
        let number = act.node.trim_start_matches("node-").parse().unwrap_or(0);
        if act.reason == Reason::PreflightTold {
            self.begun.retain(|at| self.now - at < SECOND);
            self.begun.push(self.now);
            self.outcome.most_begun = self.outcome.most_begun.max(self.begun.len());
            if self.is_troubled {
                self.outcome.shared = self.outcome.shared.max(self.shared());
            }
        }
        if act.reason != Reason::PreflightPassed {
            return self.written(number);
        }
        let machine = &mut self.machines[number];
        self.outcome.wrong += usize::from(machine.passed.is_none() || is_registering);
        machine.lifted.get_or_insert(self.now);
        self.lifted.retain(|at| self.now - at < SECOND);
        self.lifted.push(self.now);
        self.outcome.most = self.outcome.most.max(self.lifted.len());
        self.written(number);
    }
}

fn said(state: State, of: u8, run: Millis) -> Said {
    Said { state, boot: boot(of), evidence: Vec::new(), run, hears: true }
}

fn has_key(node: &Node) -> bool {
    node.taints.iter().any(|taint| taint.key == KEY)
}

/// Nodes that join one after the other, and thirty at once, each checked for one to three minutes.
fn joins(nodes: usize, rng: &mut Rng) -> Outcome {
    let mut world = World::new(nodes, 1, None);
    for node in 0..nodes {
        let at = if node < 30 { SECOND } else { node as Millis * SECOND };
        // The thirty are of one image: they end together.
        let lasts = if node < 30 { 2 * MINUTE } else { rng.u64(MINUTE..3 * MINUTE) };
        world.join(node, at, lasts, rng);
    }
    world.run(nodes as Millis * SECOND + 20 * MINUTE);
    world.outcome
}

/// Nodes that ask for their turn at these times, all of them well, each checked for two to three minutes: when each was let in, and the most that
/// were told to begin within a second.
#[must_use]
pub fn herd(asks: &[Millis], rng: &mut Rng) -> Herd {
    let mut world = World::new(asks.len(), 1, None);
    // A look costs something for each node that waits, and of an hour of them no tenth of a second counts.
    (world.is_troubled, world.look) = (false, SECOND);
    for (node, at) in asks.iter().enumerate() {
        world.at(at.saturating_sub(10 * SECOND), node, Happens::Joins);
        world.at(*at, node, Happens::Registered);
        world.at(*at, node, Happens::Waits(1));
        world.machines[node] = Machine { lasts: rng.u64(2 * MINUTE..CHECKS_MOST), boot: 1, is_well: true, ..Machine::default() };
    }
    let last = asks.iter().max().copied().unwrap_or_default();
    // In a small cluster it is not the rate that takes the time: a third of the nodes are checked at once, as each takes two others up.
    world.run(last + asks.len() as Millis * SECOND / settings().per_second as Millis + 8 * CHECKS_MOST);
    let let_in = world.machines.iter().map(|machine| machine.lifted).collect();
    Herd { let_in, begun_per_second: world.outcome.most_begun }
}

/// The longest that a node's checks take.
pub const CHECKS_MOST: Millis = 3 * MINUTE;

/// How many new nodes are told to begin within a second.
#[must_use]
pub fn per_second() -> usize {
    settings().per_second
}

/// What became of a herd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Herd {
    /// When each was let in; `None` for one that was not.
    pub let_in: Vec<Option<Millis>>,
    /// The most that were told to begin within a second.
    pub begun_per_second: usize,
}

/// Over every point at which a leader may end, with one and with two of them, and with taints that are put back.
fn crashes(seed: u64) -> Outcome {
    let run = |leaders: usize, crash_at: Option<usize>| {
        let (mut world, mut rng) = (World::new(18, leaders, crash_at), Rng::with_seed(seed));
        for node in 0..18 {
            world.join(node, SECOND + node as Millis * 500, MINUTE, &mut rng);
            if node % 7 == 1 {
                world.at(8 * MINUTE, node, Happens::Restored);
            }
        }
        world.run(15 * MINUTE);
        world.outcome
    };
    let mut all = Outcome::default();
    for leaders in [1, 2] {
        let writes = run(leaders, None).writes;
        for crash_at in (0..writes).map(Some).chain([None]) {
            let outcome = run(leaders, crash_at);
            all.orphans += outcome.orphans;
            all.wrong += outcome.wrong;
            // Two leaders may begin twice as many, and choose alike; what they write is decided from the same nodes.
            all.shared = all.shared.max(if leaders == 1 { outcome.shared } else { 0 });
        }
    }
    all
}

/// Figures of so many new nodes.
#[must_use]
pub fn run(nodes: usize, seed: u64) -> Vec<Figure> {
    let mut rng = Rng::with_seed(seed);
    let (joined, crashed) = (joins(nodes, &mut rng), crashes(seed));
    let slowest = joined.took.iter().max().map_or(f64::INFINITY, |slowest| *slowest as f64 / 1e3);
    vec![
        Figure::at_most("preflight_to_schedulable_s", slowest, 10.0),
        Figure::at_most("preflight_lifted_per_second", joined.most as f64, settings().per_second as f64),
        Figure::at_most("preflight_begun_per_second", joined.most_begun as f64, settings().per_second as f64),
        Figure::at_most("preflight_shared_partners", (joined.shared + crashed.shared) as f64, 0.0),
        Figure::at_most("preflight_wrongly_lifted", (joined.wrong + crashed.wrong) as f64, 0.0),
        Figure::at_most("preflight_orphan_taints", (joined.orphans + crashed.orphans) as f64, 0.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_nodes_are_let_in_soon_and_no_leaders_end_leaves_one_out() {
        let figures = run(150, 1);
        let missed: Vec<_> = figures.iter().filter(|figure| !figure.is_kept).collect();
        assert!(missed.is_empty(), "{missed:?}");
    }
}
