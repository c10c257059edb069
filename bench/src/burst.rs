//! `barewire-bench burst`: many pods at once, on a calm node and on one whose processors are busy.
//!
//! Many pods start at once where a node has come, or gone: then its processors are busy with the pods' own starts, and what is waited
//! for is less the work than the turn. So each program's turn counts here: the caller's, the plugin's and the daemon's.

use std::env;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::contender::{Contender, Pods};
use crate::daemon::Daemon;
use crate::node::Node;
use crate::noise;
use crate::plugin::Plugin;
use crate::report::{Figure, Must, Report, Verdict, millis, title};
use crate::samples::Rounds;

/// Pods that are attached at once.
const BURST: usize = 100;
/// Processes that want a processor all the time: twenty for each, as where pods start that compile, check or unpack something.
const BUSY: usize = 40;
/// ADDs and DELs before anything counts.
const WARM_UP: usize = 10;
/// The scheduler has spread the busy processes by then.
const SETTLE: Duration = Duration::from_millis(300);
/// The kernel takes a round's namespaces down in this.
const TAKE_DOWN: Duration = Duration::from_secs(1);
/// A busy process ends by itself after this: more than a burst of anybody's takes.
const BUSY_SECONDS: u32 = 120;

/// Measures, in `rounds` rounds.
///
/// # Errors
/// When anything that is measured fails, but for an ADD, which is counted.
pub fn run(binaries: &Path, rounds: usize) -> Result<Report> {
    let noise = noise::percent()?;
    let node = Node::become_one()?;
    let daemon = Daemon::start(binaries, node.folder("daemon")?, &["10.77.0.0/16"])?;
    let mut pods = Pods::default();
    let mut lanes = [
        Lane::new(Contender::new(Plugin::barewire(binaries, &daemon.socket()))),
        Lane::new(Contender::new(Plugin::reference(&node.folder("reference")?))),
    ];
    for lane in &mut lanes {
        lane.contender.attach(pods.make_many(WARM_UP)?)?;
        lane.contender.detach_all(&node)?;
    }
    for round in 0..rounds {
        // Whoever went first in the last round goes second in this one.
        for turn in 0..2 {
            lanes[(round + turn) % 2].round(&node, &mut pods).with_context(|| daemon.end_of_log())?;
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    report(rounds, noise, &lanes)
}

/// A plugin and what became of its bursts.
struct Lane {
    contender: Contender,
    calm: Rounds,
    busy: Rounds,
}

impl Lane {
    fn new(contender: Contender) -> Self {
        Self { contender, calm: Rounds::default(), busy: Rounds::default() }
    }

    fn round(&mut self, node: &Node, pods: &mut Pods) -> Result<()> {
        let calm = self.contender.burst(pods.make_many(BURST)?)?;
        self.calm.push(calm);
        self.empty(node)?;

        let newcomers = pods.make_many(BURST)?;
        let busy = Busy::start(BUSY)?;
        thread::sleep(SETTLE);
        let taken = self.contender.burst(newcomers)?;
        drop(busy);
        self.busy.push(taken);
        self.empty(node)
    }

    fn empty(&mut self, node: &Node) -> Result<()> {
        self.contender.detach_all(node)?;
        drop(self.contender.take_detached());
        thread::sleep(TAKE_DOWN);
        Ok(())
    }
}

/// Processes that want a processor all the time. Dropping it ends them.
struct Busy(Vec<Child>);

impl Busy {
    fn start(count: usize) -> Result<Self> {
        let itself = env::current_exe().context("cannot tell where this program is")?;
        let mut busy = Self(Vec::with_capacity(count));
        for _ in 0..count {
            // setpriv has the kernel end it when this process ends in whatever way.
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(&itself).arg("spin").stdin(Stdio::null()).stdout(Stdio::null());
            busy.0.push(command.spawn().context("cannot run setpriv: install the Debian package util-linux")?);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            let _ended = child.kill();
        }
        for child in &mut self.0 {
            let _reaped = child.wait();
        }
    }
}

/// What a busy process does.
pub fn spin() {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(BUSY_SECONDS.into()) {
        for number in 0..1_000_000_u32 {
            std::hint::black_box(number);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of some hundred")]
fn report(rounds: usize, noise: f64, [ours, reference]: &[Lane; 2]) -> Result<Report> {
    let failures = ours.contender.burst_failures.len() as f64;
    if let Some(failure) = ours.contender.burst_failures.first() {
        eprintln!("the first of {failures} failed ADDs: {failure}");
    }
    let (calm, reference_calm) = (millis(&ours.calm, 99)?, millis(&reference.calm, 99)?);
    let (busy, reference_busy) = (millis(&ours.busy, 99)?, millis(&reference.busy, 99)?);
    let figure = |key, value, meaning| Figure { key, value, meaning };
    let verdict = |key, promise, value, must| Verdict { key, promise, value, must, aim: None };
    Ok(Report {
        title: title(&format!("{BURST} ADDs at once, medians of {rounds} rounds")),
        figures: vec![
            figure("burst100_p99_ms", calm, "100 ADDs at once: from the common start, exec of the plugin included"),
            figure("reference_burst100_p99_ms", reference_calm, "the same of ptp with host-local"),
            figure("burst100_p50_ms", millis(&ours.calm, 50)?, "100 ADDs at once, median"),
            figure("reference_burst100_p50_ms", millis(&reference.calm, 50)?, "the same of ptp with host-local"),
            figure("busy_add_p99_ms", busy, "100 ADDs at once beside 40 processes that want a processor all the time"),
            figure("reference_busy_add_p99_ms", reference_busy, "the same of ptp with host-local"),
            figure("busy_add_p50_ms", millis(&ours.busy, 50)?, "the median of these"),
            figure("reference_busy_add_p50_ms", millis(&reference.busy, 50)?, "the same of ptp with host-local"),
            figure("failures", failures, "ADDs that failed"),
            figure("reference_failures", reference.contender.burst_failures.len() as f64, "the same of ptp with host-local"),
            figure("noise_percent", noise, "CPU time that others used just before: trust ratios at most where it is high"),
        ],
        verdicts: vec![
            verdict("burst100_vs_reference", "100 ADDs at once against the reference", calm / reference_calm, Must::AtMost(0.12)),
            verdict(
                "busy_add_vs_reference",
                "100 ADDs at once on a busy node against the reference",
                busy / reference_busy,
                Must::AtMost(0.15),
            ),
            verdict("busy_add_p99_ms", "100 ADDs at once on a busy node, p99, ms", busy, Must::AtMost(400.0)),
            verdict("failures", "failed ADDs of 100 at once", failures, Must::AtMost(0.0)),
        ],
    })
}
