//! Nodes' health under a virtual clock: the real leader, a model of the API server, and nodes that are sick, cut off, or lose packets.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use fastrand::Rng;
use fleet_plans::health::{About, Act, Leader, Millis, RECORD, Reason, Report, SICK, Settings, Verdict};
use fleet_plans::node::{Node, Taint};
use fleet_plans::peers::{Circle, WITNESSES};

use crate::report::Figure;

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;
const HOUR: Millis = 60 * MINUTE;
const DAY: Millis = 24 * HOUR;
/// Between two rounds of checks of a node.
const ROUND: Millis = 500;
/// Between two looks of a leader that is busy.
const LOOK: Millis = 100;
/// From a write to what the watches of the leaders show of it.
const WATCH: Millis = 50;
/// Peers that a node looks at, in the middle.
const PEERS: usize = WITNESSES;
const POOLS: usize = 5;

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    /// A node's report arrives at the leaders.
    Says { node: usize, about: usize, kind: u8, is_bad: bool },
    /// The leaders see a node as it is.
    Seen(usize),
    /// Leaders end, and others begin.
    Restart,
    /// So many streams break at once.
    Broke(usize),
    /// A person resets the breaker.
    Reset,
    /// Somebody puts a taint back that was taken away.
    Restored(usize),
}

/// A replica that leads: what it knows, and its copy of the nodes.
struct Replica {
    leader: Leader,
    nodes: BTreeMap<String, Node>,
}

/// What came of it.
#[derive(Debug, Default, Clone)]
struct Outcome {
    /// When a node was tainted.
    tainted: BTreeMap<String, Vec<Millis>>,
    evictions: usize,
    has_tripped: bool,
    most_tainted: usize,
    writes: usize,
}

struct World {
    now: Millis,
    settings: Settings,
    /// The API server's.
    nodes: BTreeMap<String, Node>,
    replicas: Vec<Replica>,
    queue: BinaryHeap<Reverse<(Millis, Happens)>>,
    /// Each leader ends instead of this write.
    crash_at: Option<usize>,
    outcome: Outcome,
}

fn name(node: usize) -> String {
    format!("node-{node:05}")
}

fn node(number: usize) -> Node {
    let labels = [("node.kubernetes.io/instance-type".to_owned(), format!("type-{}", number % POOLS))].into();
    Node { name: name(number), resource_version: "1".to_owned(), labels, is_ready: true, ..Node::default() }
}

impl World {
    fn new(nodes: usize, leaders: usize, settings: Settings) -> Self {
        let nodes: BTreeMap<_, _> = (0..nodes).map(|number| (name(number), node(number))).collect();
        let mut world =
            Self { now: 0, settings, nodes, replicas: Vec::new(), queue: BinaryHeap::new(), crash_at: None, outcome: Outcome::default() };
        world.replicas = (0..leaders).map(|_| world.replica()).collect();
        world
    }

    /// A leader that has just started, with a filled cache.
    fn replica(&self) -> Replica {
        let leader = Leader::new(self.settings.clone(), self.now, &self.nodes);
        Replica { leader, nodes: self.nodes.clone() }
    }

    fn at(&mut self, at: Millis, happens: Happens) {
        self.queue.push(Reverse((at, happens)));
    }

    /// A node's check of itself fails from `from` to `to`: it says so each round, and that it is over.
    fn sick(&mut self, node: usize, from: Millis, to: Millis, rng: &mut Rng) {
        let mut at = from + rng.u64(0..ROUND);
        while at < to {
            self.at(at + rng.u64(20..100), Happens::Says { node, about: node, kind: 0, is_bad: true });
            at += ROUND;
        }
        self.at(at + 100, Happens::Says { node, about: node, kind: 0, is_bad: false });
    }

    fn run(&mut self, until: Millis) {
        loop {
            let next = self.queue.peek().map_or(until, |Reverse((at, _))| *at);
            let is_busy = self.replicas.iter().any(|replica| replica.leader.is_busy());
            // What arrives between two looks is looked at together.
            let look = self.now + LOOK;
            self.now = if is_busy { look } else { next.max(look) }.min(until);
            while let Some(Reverse((at, _))) = self.queue.peek()
                && *at <= self.now
                && let Some(Reverse((_, happens))) = self.queue.pop()
            {
                self.happen(happens);
            }
            for replica in 0..self.replicas.len() {
                self.lead(replica);
            }
            if self.now >= until {
                return;
            }
        }
    }

    fn happen(&mut self, happens: Happens) {
        let count = self.nodes.len();
        match happens {
            Happens::Says { node, about, kind, is_bad } => {
                let about = match kind {
                    0 => About::Own,
                    1 => About::Probe,
                    _ => About::Peer(name(about)),
                };
                let verdict = if is_bad { Verdict::Bad("seen".to_owned()) } else { Verdict::Good };
                for replica in &mut self.replicas {
                    let report =
                        Report { node: name(node), about: about.clone(), check: format!("check-{kind}"), verdict: verdict.clone() };
                    replica.leader.hear(self.now, report);
                }
            }
            Happens::Seen(node) => {
                let name = name(node);
                for replica in &mut self.replicas {
                    if let Some(node) = self.nodes.get(&name) {
                        replica.nodes.insert(name.clone(), node.clone());
                        replica.leader.node_changed(&name, Some(node));
                    }
                }
            }
            Happens::Restart => {
                for replica in 0..self.replicas.len() {
                    self.replicas[replica] = self.replica();
                    // Nodes connect, and those that are well say so.
                    for node in 0..count {
                        let report = Report { node: name(node), about: About::Own, check: "check-0".to_owned(), verdict: Verdict::Good };
                        self.replicas[replica].leader.hear(self.now, report);
                    }
                }
            }
            Happens::Broke(broke) => {
                for replica in &mut self.replicas {
                    replica.leader.streams_broke(self.now, broke, count);
                }
            }
            Happens::Reset => self.replicas.iter_mut().for_each(|replica| replica.leader.reset_breaker(self.now)),
            Happens::Restored(node) => {
                let at = self.now + WATCH;
                if let Some(node) = self.nodes.get_mut(&name(node)) {
                    node.taints.push(Taint::no_schedule(SICK, fleet_plans::health::VALUE));
                    node.resource_version.push('r');
                }
                self.at(at, Happens::Seen(node));
            }
        }
    }

    fn lead(&mut self, which: usize) {
        let replica = &mut self.replicas[which];
        let acts = replica.leader.acts(self.now, &replica.nodes);
        self.outcome.has_tripped |= replica.leader.is_tripped();
        self.outcome.evictions += replica.leader.evicts(self.now, &replica.nodes).len();
        for act in acts {
            if self.crash_at == Some(self.outcome.writes) {
                self.crash_at = None;
                self.happen(Happens::Restart);
                return;
            }
            self.write(which, &act);
        }
    }

    /// The patch: all of it, or nothing where the node has changed.
    fn write(&mut self, which: usize, act: &Act) {
        let (Some(name), Some(change)) = (&act.node, &act.change) else { return };
        self.outcome.writes += 1;
        let seen = self.replicas[which].nodes.get(name).map(|node| node.resource_version.clone());
        let Some(node) = self.nodes.get_mut(name).filter(|node| seen.as_ref() == Some(&node.resource_version)) else { return };
        let version = node.resource_version.len();
        *node = change.applied_to(node);
        node.resource_version = "1".repeat(version + 1);
        if act.reason == Reason::NodeTainted {
            self.outcome.tainted.entry(name.clone()).or_default().push(self.now);
        }
        let number = name.trim_start_matches("node-").parse().unwrap_or(0);
        self.at(self.now + WATCH, Happens::Seen(number));
        let tainted = self.nodes.values().filter(|node| node.taints.iter().any(|taint| taint.key == SICK)).count();
        self.outcome.most_tainted = self.outcome.most_tainted.max(tainted);
    }
}

fn settings() -> Settings {
    Settings { dry_run: false, ..Settings::default() }
}

/// Of each node those that it looks at, as the fleet chooses them.
fn peers(nodes: usize) -> Vec<Vec<usize>> {
    let mut circle = Circle::default();
    (0..nodes).for_each(|node| drop(circle.add(&name(node))));
    let number = |name: &str| name.trim_start_matches("node-").parse().unwrap_or(0);
    (0..nodes).map(|node| circle.targets_of(&name(node)).map(number).collect()).collect()
}

/// Nodes that are cut off one after the other: each is complained of by its witnesses, and every second one's own complaints of all that it looks at
/// are heard as well. Those that are not tainted, and others that are.
fn cut_off(nodes: usize, peers: &[Vec<usize>], rng: &mut Rng) -> usize {
    let mut world = World::new(nodes, 1, settings());
    let cut: Vec<_> = (0..20).map(|fault| fault * 61 % nodes).collect();
    for (fault, node) in cut.iter().copied().enumerate() {
        let at = 11 * MINUTE + fault as u64 * 3 * MINUTE;
        let of_it = peers.iter().enumerate().filter(|(_, targets)| targets.contains(&node)).map(|(witness, _)| (witness, node));
        let by_it = peers[node].iter().map(|target| (node, *target)).filter(|_| fault % 2 == 0);
        for (says, about) in of_it.chain(by_it) {
            let phase = rng.u64(0..ROUND);
            (0..20).for_each(|round| world.at(at + phase + round * ROUND, Happens::Says { node: says, about, kind: 2, is_bad: true }));
            world.at(at + phase + 20 * ROUND, Happens::Says { node: says, about, kind: 2, is_bad: false });
        }
    }
    world.run(12 * MINUTE + 20 * 3 * MINUTE);
    let names: BTreeSet<_> = cut.iter().map(|node| name(*node)).collect();
    let tainted: BTreeSet<_> = world.outcome.tainted.keys().cloned().collect();
    names.symmetric_difference(&tainted).count()
}

/// From a clear fault to the taint, in seconds: half of them, and 99 of 100.
fn clear_faults(nodes: usize, rng: &mut Rng) -> (f64, f64) {
    let mut world = World::new(nodes, 1, settings());
    let faults: Vec<_> = (0..100).map(|fault| (fault * 61 % nodes, 11 * MINUTE + fault as u64 * 2 * MINUTE + rng.u64(0..MINUTE))).collect();
    for (node, at) in &faults {
        world.sick(*node, *at, at + 30 * SECOND, rng);
    }
    world.run(12 * MINUTE + 100 * 2 * MINUTE);
    let took = |(node, at): &(usize, Millis)| {
        let tainted = world.outcome.tainted.get(&name(*node)).and_then(|times| times.first());
        tainted.map_or(f64::INFINITY, |tainted| tainted.saturating_sub(*at) as f64 / 1e3)
    };
    let mut took: Vec<_> = faults.iter().map(took).collect();
    took.sort_unstable_by(f64::total_cmp);
    (took[took.len() / 2], took[took.len() * 99 / 100])
}

/// Nodes that are tainted though nothing is wrong with them, in a week with losses, restarts and a partition.
fn false_taints(nodes: usize, days: u64, peers: &[Vec<usize>], rng: &mut Rng) -> usize {
    let mut world = World::new(nodes, 1, settings());
    let end = days * DAY;
    // Two attempts, each of a request and a reply, one packet in a thousand lost.
    let failure = (1.0 - 0.999_f64.powi(2)).powi(2);
    let rate = nodes as f64 * (PEERS + 1) as f64 * failure / ROUND as f64;
    let mut at = 0.0;
    loop {
        at += -rng.f64().max(f64::MIN_POSITIVE).ln() / rate;
        let mut when = at as Millis;
        if when >= end {
            break;
        }
        let node = rng.usize(0..nodes);
        let (kind, about) = match peers[node].get(rng.usize(0..=PEERS)) {
            Some(peer) => (2, *peer),
            None => (1, node),
        };
        world.at(when, Happens::Says { node, about, kind, is_bad: true });
        while rng.f64() < failure {
            when += ROUND;
            world.at(when, Happens::Says { node, about, kind, is_bad: true });
        }
        world.at(when + ROUND, Happens::Says { node, about, kind, is_bad: false });
    }
    for restart in 1..days * 4 {
        world.at(restart * 6 * HOUR, Happens::Restart);
    }
    // Three of ten nodes cannot be reached for ten minutes, and cannot reach the fleet; their streams are missed half a minute later.
    let begin = days * DAY / 2 + HOUR;
    let is_away = |node: usize| node % 10 < 3;
    for node in (0..nodes).filter(|node| !is_away(*node)) {
        let phase = rng.u64(0..ROUND);
        for peer in peers[node].iter().copied().filter(|peer| is_away(*peer)) {
            let rounds = 10 * MINUTE / ROUND;
            for round in 0..rounds {
                // One in ten of what is said again and again is enough after the first minute.
                if round < 120 || round % 10 == 0 {
                    world.at(begin + phase + round * ROUND, Happens::Says { node, about: peer, kind: 2, is_bad: true });
                }
            }
            world.at(begin + phase + rounds * ROUND, Happens::Says { node, about: peer, kind: 2, is_bad: false });
        }
    }
    world.at(begin + 30 * SECOND, Happens::Broke(nodes * 3 / 10));
    world.at(begin + HOUR, Happens::Reset);
    world.run(end);
    world.outcome.tainted.values().map(Vec::len).sum()
}

/// 60 of 100 nodes look sick within two seconds, for half an hour: percent that are tainted, evictions, and whether the breaker has tripped.
fn storm(nodes: usize, rng: &mut Rng) -> (f64, usize, bool) {
    let mut world = World::new(nodes, 1, settings());
    for node in (0..nodes).filter(|node| node % 10 < 6) {
        let from = 11 * MINUTE + rng.u64(0..2 * SECOND);
        world.sick(node, from, from + MINUTE, rng);
    }
    world.run(45 * MINUTE);
    (world.outcome.most_tainted as f64 * 100.0 / nodes as f64, world.outcome.evictions, world.outcome.has_tripped)
}

/// Nodes that come at these times, and in their first minutes say once and again what a node says of itself while it starts: a check fails, and is
/// well in the next round. How many of them are tainted.
#[must_use]
pub fn tainted_of_herd(come: &[Millis], rng: &mut Rng) -> usize {
    let mut world = World::new(come.len(), 1, settings());
    // Behind the time in which a new leader does nothing.
    let begin = settings().quiet + MINUTE;
    for (node, at) in come.iter().enumerate() {
        let mut when = begin + *at + rng.u64(0..ROUND);
        for _ in 0..rng.u64(1..4) {
            world.at(when, Happens::Says { node, about: node, kind: 1, is_bad: true });
            world.at(when + ROUND, Happens::Says { node, about: node, kind: 1, is_bad: false });
            when += rng.u64(10 * SECOND..MINUTE);
        }
    }
    world.run(begin + come.iter().max().copied().unwrap_or_default() + 10 * MINUTE);
    world.outcome.tainted.values().map(Vec::len).sum()
}

/// What is left on nodes that are well, over every point at which leaders may end, with one and with two of them, and with a taint put back.
fn orphans(rng: &mut Rng) -> usize {
    let run = |leaders: usize, crash_at: Option<usize>, rng: &mut Rng| {
        let mut world = World::new(40, leaders, Settings { drain_after: 20 * SECOND, ..settings() });
        world.crash_at = crash_at;
        let nodes: BTreeSet<_> = [3, 17].into();
        for node in &nodes {
            // Long enough to be sick still when a new leader begins to act.
            world.sick(*node, 11 * MINUTE, 35 * MINUTE, rng);
        }
        world.at(50 * MINUTE, Happens::Restored(3));
        world.at(51 * MINUTE, Happens::Restart);
        world.run(80 * MINUTE);
        let is_left = |node: &&Node| node.annotations.contains_key(RECORD) || node.taints.iter().any(|taint| taint.key == SICK);
        let has_tainted = world.outcome.tainted.len() == nodes.len();
        let left = world.nodes.values().filter(is_left).count();
        (left + usize::from(!has_tainted), world.outcome.writes)
    };
    let mut found = 0;
    for leaders in [1, 2] {
        let (left, writes) = run(leaders, None, rng);
        found += left + (0..writes).map(|write| run(leaders, Some(write), rng).0).sum::<usize>();
    }
    found
}

/// All of it for so many nodes, over so many days.
#[must_use]
pub fn run(nodes: usize, days: u64, seed: u64) -> Vec<Figure> {
    let mut rng = Rng::with_seed(seed);
    let (p50, p99) = clear_faults(nodes, &mut rng);
    let (percent, evictions, has_tripped) = storm(nodes, &mut rng);
    let peers = peers(nodes);
    vec![
        Figure::at_most("fault_to_taint_p50_s", p50, 2.0),
        Figure::at_most("fault_to_taint_p99_s", p99, 5.0),
        Figure::at_most("false_taints", false_taints(nodes, days, &peers, &mut rng) as f64, 0.0),
        Figure::at_most("cut_off_misjudged", cut_off(nodes, &peers, &mut rng) as f64, 0.0),
        Figure::at_most("storm_tainted_percent", percent, 5.0),
        Figure::at_most("storm_evictions", evictions as f64, 0.0),
        Figure::is_true("breaker_tripped", has_tripped),
        Figure::at_most("orphan_taints", orphans(&mut rng) as f64, 0.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cluster_keeps_what_is_promised() {
        let figures = run(300, 1, 1);
        let missed: Vec<_> = figures.iter().filter(|figure| !figure.is_kept).collect();
        assert!(missed.is_empty(), "{missed:?}");
    }
}
