//! `barewire-bench add`: how long a pod waits for its network, and what the daemon costs meanwhile.
//!
//! Barewire, the reference (`ptp` with `host-local`) and the floor take turns in blocks, in an order that rotates, with a
//! pause between: what one leaves the kernel to do afterwards (the reference moves links between namespaces) would be billed
//! to the next. All of them do IPv4 only, because the reference does; what a second address family adds has a figure of its
//! own.

use std::mem;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::contender::{Contender, Pods};
use crate::daemon::{Daemon, Latency};
use crate::floor::Floor;
use crate::node::Node;
use crate::noise;
use crate::plugin::{Plugin, Pod};
use crate::report::{Figure, Must, Report, Verdict, millis, title};
use crate::samples::{Rounds, Samples};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Pods in a round.
    pub pods: usize,
    /// Rounds.
    pub rounds: usize,
    /// Pods on the full node.
    pub crowd: usize,
}

/// ADDs, DELs, or pairs of DEL and ADD, that follow on each other before the other contender has its turn.
const BLOCK: usize = 25;
/// They take a tenth of an ADD.
const EXECS_FOR_A_POD: usize = 4;
/// ADDs and DELs before anything counts: page cache, modules, allocators.
const WARM_UP: usize = 10;
/// Longer than the kernel's workers go on after a block of ADDs, of whomever.
const SETTLE: Duration = Duration::from_millis(100);
/// The kernel takes a round's namespaces down in a third of this; nothing is measured meanwhile.
const TAKE_DOWN: Duration = Duration::from_secs(2);

/// Measures.
///
/// # Errors
/// When anything that is measured fails.
pub fn run(binaries: &Path, options: Options) -> Result<Report> {
    let noise = noise::percent()?;
    let node = Node::become_one()?;
    let mut pods = Pods::default();
    let dual = dual_stack(binaries, &node, &mut pods, options)?;

    let daemon = Daemon::start(binaries, node.folder("single-stack")?, &["10.77.0.0/16"])?;
    let mut race = Race {
        ours: Contender::new(Plugin::barewire(binaries, &daemon.socket())),
        reference: Contender::new(Plugin::reference(&node.folder("reference")?)),
        floor: Floor::new(Plugin::exec_floor(binaries))?,
        crowd: pods.make_many(options.crowd)?,
        crowd_adds: Rounds::default(),
        crowd_floors: Rounds::default(),
        plugin: Plugin::barewire(binaries, &daemon.socket()),
        nothing: Plugin::exec_floor(binaries),
        execs: Rounds::default(),
        exec_floors: Rounds::default(),
        resident: 0,
        node,
        pods,
    };
    race.run(options, &daemon).with_context(|| daemon.end_of_log())?;
    report(options, noise, &dual, &race, daemon.latency()?)
}

/// ADDs with an address of each family.
fn dual_stack(binaries: &Path, node: &Node, pods: &mut Pods, options: Options) -> Result<Rounds> {
    let daemon = Daemon::start(binaries, node.folder("dual-stack")?, &["10.80.0.0/16", "fd00:80::/64"])?;
    let mut ours = Contender::new(Plugin::barewire(binaries, &daemon.socket()));
    ours.attach(pods.make_many(WARM_UP)?)?;
    for _ in 0..options.rounds {
        for pod in pods.make_many(options.pods)? {
            ours.add(pod)?;
        }
        let adds = ours.end_round();
        ours.adds.push(adds);
        ours.detach_all(node)?;
    }
    eprintln!("dual-stack");
    Ok(ours.adds)
}

struct Race {
    node: Node,
    pods: Pods,
    ours: Contender,
    reference: Contender,
    floor: Floor,
    /// The pods that fill the node. They are kept, and come and go with each round, so that an empty and a full node
    /// are measured in turns too.
    crowd: Vec<Pod>,
    crowd_adds: Rounds,
    crowd_floors: Rounds,
    plugin: Plugin,
    nothing: Plugin,
    execs: Rounds,
    exec_floors: Rounds,
    /// The most memory that the daemon had in RAM on the full node, in bytes.
    resident: u64,
}

impl Race {
    fn run(&mut self, options: Options, daemon: &Daemon) -> Result<()> {
        self.warm_up()?;
        for round in 0..options.rounds {
            self.adds(options.pods)?;
            self.dels(round)?;
            self.churns(round)?;
            self.execs(options.pods)?;
            self.crowd(options.pods, daemon)?;
            eprintln!("round {} of {}", round + 1, options.rounds);
        }
        Ok(())
    }

    fn warm_up(&mut self) -> Result<()> {
        for contender in [&mut self.ours, &mut self.reference] {
            contender.attach(self.pods.make_many(WARM_UP)?)?;
            contender.detach_all(&self.node)?;
        }
        Ok(())
    }

    fn adds(&mut self, count: usize) -> Result<()> {
        // All namespaces first: what the kernel does later for a new one is not the next ADD's.
        let mut pods = self.pods.make_many(3 * count)?.into_iter();
        for (turn, begun) in (0..count).step_by(BLOCK).enumerate() {
            let length = BLOCK.min(count - begun);
            for lane in 0..3 {
                thread::sleep(SETTLE);
                for pod in pods.by_ref().take(length) {
                    match (turn + lane) % 3 {
                        0 => self.ours.add(pod)?,
                        1 => self.reference.add(pod)?,
                        _ => self.floor.add(pod)?,
                    }
                }
            }
        }
        for contender in [&mut self.ours, &mut self.reference] {
            let adds = contender.end_round();
            contender.adds.push(adds);
        }
        self.floor.end_round(&self.node)
    }

    fn dels(&mut self, round: usize) -> Result<()> {
        while self.ours.attached() + self.reference.attached() > 0 {
            for contender in alternate(round, &mut self.ours, &mut self.reference) {
                contender.del(&self.node, BLOCK)?;
            }
        }
        for contender in [&mut self.ours, &mut self.reference] {
            let dels = contender.end_round();
            contender.dels.push(dels);
        }
        Ok(())
    }

    fn churns(&mut self, round: usize) -> Result<()> {
        for contender in alternate(round, &mut self.ours, &mut self.reference) {
            contender.churn(&self.node, &mut self.pods, BLOCK)?;
        }
        Ok(())
    }

    /// The program alone, one after the other: who comes after whom is the same for both.
    fn execs(&mut self, count: usize) -> Result<()> {
        let (mut ours, mut floors) = (Samples::default(), Samples::default());
        for _ in 0..EXECS_FOR_A_POD * count {
            ours.push(self.plugin.exec_alone()?);
            floors.push(self.nothing.exec_alone()?);
        }
        self.execs.push(ours);
        self.exec_floors.push(floors);
        Ok(())
    }

    /// Fills the node, goes on with ADDs of ours and of the floor, and empties it.
    fn crowd(&mut self, count: usize, daemon: &Daemon) -> Result<()> {
        drop((self.ours.take_detached(), self.reference.take_detached(), self.floor.take_unwired()));
        thread::sleep(TAKE_DOWN);
        let size = self.crowd.len();
        self.ours.attach(mem::take(&mut self.crowd))?;
        let totals = mem::take(&mut self.floor.totals);
        for (ours, floor) in self.pods.make_many(count)?.into_iter().zip(self.pods.make_many(count)?) {
            self.ours.add(ours)?;
            self.floor.add(floor)?;
        }
        self.crowd_adds.push(self.ours.end_round());
        self.floor.end_round(&self.node)?;
        self.crowd_floors.append(mem::replace(&mut self.floor.totals, totals));
        self.resident = self.resident.max(daemon.resident_bytes()?);
        self.ours.detach_all(&self.node)?;
        self.crowd = self.ours.take_detached();
        self.crowd.truncate(size);
        Ok(())
    }
}

/// Whoever went first in the last round goes second in this one.
fn alternate<T>(round: usize, one: T, other: T) -> [T; 2] {
    if round.is_multiple_of(2) { [one, other] } else { [other, one] }
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes far below 2^52")]
fn report(options: Options, noise: f64, dual: &Rounds, race: &Race, latency: Latency) -> Result<Report> {
    let Race {
        node: _,
        pods: _,
        ours,
        reference,
        floor,
        crowd: _,
        crowd_adds,
        crowd_floors,
        plugin,
        nothing: _,
        execs,
        exec_floors,
        resident,
    } = race;
    let add = millis(&ours.adds, 50)?;
    let reference_add = millis(&reference.adds, 50)?;
    let del = millis(&ours.dels, 50)?;
    let reference_del = millis(&reference.dels, 50)?;
    let floor_add = millis(&floor.totals, 50)?;
    let add_in_crowd = millis(crowd_adds, 50)?;
    let floor_in_crowd = millis(crowd_floors, 50)?;
    let (exec, exec_floor) = (millis(execs, 50)?, millis(exec_floors, 50)?);
    let plugin_bytes = plugin.size()? as f64;
    let resident_mb = *resident as f64 / 1e6;

    let figure = |key, value, meaning| Figure { key, value, meaning };
    let figures = vec![
        figure("add_p50_ms", add, "ADD, exec of the plugin included"),
        figure("reference_add_p50_ms", reference_add, "the same of ptp with host-local"),
        figure("true_floor_p50_ms", floor_add, "an empty program on musl, called as a plugin, and the bare netlink requests"),
        figure("exec_p50_ms", exec, "the plugin's start and end: VERSION, by posix_spawn, without pipes"),
        figure("exec_floor_p50_ms", exec_floor, "the same of an empty program on musl"),
        figure("plugin_bytes", plugin_bytes, "size of the plugin"),
        figure("del_p50_ms", del, "DEL: until the plugin has answered"),
        figure("reference_del_p50_ms", reference_del, "the same of ptp with host-local"),
        figure("commit_p99_us", latency.commit_p99_us, "durable commit in the daemon, by its own account"),
        figure("add_p50_ms_at_1000", add_in_crowd, "ADD with 1,000 pods already on the node"),
        figure("true_floor_p50_ms_at_1000", floor_in_crowd, "the floor on that node, in turns with it"),
        figure("daemon_rss_mb_at_1000", resident_mb, "memory of the daemon in RAM, after that"),
        figure("del_settled_ms", millis(&ours.settled, 50)?, "until 25 pods' DELs have answered and their links are gone, by pod"),
        figure("reference_del_settled_ms", millis(&reference.settled, 50)?, "the same of ptp with host-local"),
        figure("add_after_del_p50_ms", millis(&ours.adds_after_del, 50)?, "ADD straight after a DEL"),
        figure("reference_add_after_del_p50_ms", millis(&reference.adds_after_del, 50)?, "the same of ptp with host-local"),
        figure("churn_p50_ms", millis(&ours.churns, 50)?, "DEL and the ADD straight after it"),
        figure("reference_churn_p50_ms", millis(&reference.churns, 50)?, "the same of ptp with host-local"),
        figure("add_dual_p50_ms", millis(dual, 50)?, "ADD with an IPv4 and an IPv6 address"),
        figure("add_p99_ms", millis(&ours.adds, 99)?, "ADD, 99th percentile"),
        figure("reference_add_p99_ms", millis(&reference.adds, 99)?, "the same of ptp with host-local"),
        figure("true_floor_exec_p50_ms", millis(&floor.execs, 50)?, "the floor's program alone, with the pipes of a call"),
        figure("true_floor_wiring_p50_ms", millis(&floor.wirings, 50)?, "the floor's netlink requests alone"),
        figure("daemon_add_p50_us", latency.add_p50_us, "ADD in the daemon, of all phases, by its own account"),
        figure("commit_p50_us", latency.commit_p50_us, "durable commit in the daemon, by its own account"),
        figure("noise_percent", noise, "CPU time that others used just before: trust ratios at most where it is high"),
    ];
    let verdict = |key, promise, value, must| Verdict { key, promise, value, must, aim: None };
    let verdicts = vec![
        verdict("add_vs_reference", "ADD against the reference", add / reference_add, Must::AtMost(0.15)),
        verdict("del_vs_reference", "DEL against the reference", del / reference_del, Must::AtMost(1.0 / 15.0)),
        verdict("add_vs_true_floor", "ADD against the floor", add / floor_add, Must::AtMost(1.35)),
        verdict("add_vs_true_floor_at_1000", "the same with 1,000 pods on the node", add_in_crowd / floor_in_crowd, Must::AtMost(1.35)),
        verdict("exec_vs_floor", "the plugin's start and end against an empty program's", exec / exec_floor, Must::AtMost(1.5)),
        verdict("plugin_bytes", "size of the plugin, bytes", plugin_bytes, Must::AtMost(600_000.0)),
        verdict("commit_p99_us", "durable commit, p99, µs", latency.commit_p99_us, Must::Below(1_000.0)),
        verdict("add_at_1000_vs_add", "ADD on a node with 1,000 pods against an empty one", add_in_crowd / add, Must::AtMost(1.2)),
        verdict("daemon_rss_mb_at_1000", "memory of the daemon with 1,000 pods, MB", resident_mb, Must::AtMost(24.0)),
    ];
    let Options { pods, rounds, crowd: _ } = options;
    Ok(Report { title: title(&format!("ADD and DEL, medians of {rounds} rounds of {pods} pods")), figures, verdicts })
}
