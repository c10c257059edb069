//! What a node looks at before its first pod, once in a boot and when it is told: the network to a few others of its pool, the plug-ins of that kind,
//! one after another, then all that is looked at anyway (ADR 36, ADR 43). The fleet's leader lifts the node's startup taint when this has passed;
//! nothing here keeps a pod away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use fleet_api::message::Order;

use super::board::Writer;
use super::measure;
use super::orders::{self, Orders, Turn};
use super::plugin::{self, Places};
use super::standing::{Standing, State};
use crate::clockwork::{Clockwork, TICK};
use crate::config::Expected;
use crate::config::PluginConfig;
use crate::health_check::Verdict;

/// What is measured with other nodes, on the page.
const NETWORK: &str = "preflight_network";
/// With each of a few it may take so long.
const NETWORK_LIMIT: Duration = Duration::from_secs(120);
/// What starts with the node may be away so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// In the run directory. What has passed is not run again in its boot unless it is told, as it may take the machine for itself.
const FILE: &str = "preflight.json";
/// Where a node is, and where it keeps what has passed.
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    pub(crate) id: String,
    pub(crate) run_dir: PathBuf,
}

/// What one is made of.
pub(super) struct Plan {
    pub(super) plugins: Vec<PluginConfig>,
    pub(super) boot: Boot,
    /// When it is to run.
    pub(super) orders: Orders,
    /// Where other nodes are measured with, and what is expected of them.
    pub(super) port: u16,
    pub(super) expected: Expected,
}

/// A thread that runs it, once in a boot and when it is told.
pub(super) struct Preflight {
    clockwork: Clockwork,
    told: Arc<AtomicBool>,
}

impl Preflight {
    pub(super) fn start(plan: Plan, writer: Writer, places: Arc<Places>) -> io::Result<Self> {
        let told = Arc::new(AtomicBool::new(false));
        writer.add_for_preflight(NETWORK, NETWORK_LIMIT);
        for plugin in &plan.plugins {
            writer.add_for_preflight(&check_name(plugin), plugin.timeout.saturating_mul(plugin.failures) + TICK);
        }
        let mut run = Run::new(plan, writer, places, Arc::clone(&told));
        let clockwork = Clockwork::start_at_pace("health-preflight", move |tick| {
            if tick == 0 {
                super::be_nice();
            }
            run.step(Instant::now());
            TICK
        })?;
        Ok(Self { clockwork, told })
    }

    /// What has failed is run again; what has passed stays.
    pub(super) fn again(&self) {
        self.told.store(true, Ordering::Relaxed);
    }

    pub(super) fn stop(&mut self) {
        self.clockwork.stop();
    }
}

pub(super) fn check_name(plugin: &PluginConfig) -> String {
    format!("plugin/{}", plugin.name)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Begin,
    /// For its turn, and since when.
    Wait(Instant),
    Network,
    Plugins,
    /// What is looked at anyway, and since when.
    Checks(Instant),
    /// Something of the preflight's own has failed: until somebody says so.
    Stopped,
    Passed,
}

struct Run {
    plan: Plan,
    writer: Writer,
    places: Arc<Places>,
    /// Where it is kept that it has passed.
    file: PathBuf,
    told: Arc<AtomicBool>,
    phase: Phase,
    /// The run that is made, or was last.
    order: Order,
    /// Of that run.
    standing: Standing,
}

impl Run {
    fn new(plan: Plan, writer: Writer, places: Arc<Places>, told: Arc<AtomicBool>) -> Self {
        let (file, standing) = (plan.boot.run_dir.join(FILE), Standing::new(&plan.boot.id, State::Waiting));
        Self { plan, writer, places, file, told, phase: Phase::Begin, order: Order::default(), standing }
    }

    fn step(&mut self, now: Instant) {
        let is_told = self.told.swap(false, Ordering::Relaxed);
        let phase = self.phase;
        self.phase = match phase {
            Phase::Begin => match passed(&self.file, &self.plan.boot.id) {
                Some(standing) => {
                    self.order.run = standing.run;
                    self.standing = standing.clone();
                    self.writer.stand(standing);
                    Phase::Passed
                }
                None => self.wait(now, now),
            },
            Phase::Wait(since) => self.wait(since, now),
            Phase::Network => self.measure(),
            Phase::Plugins => self.run_plugins(),
            Phase::Stopped if is_told => self.begin(self.order.clone()),
            Phase::Checks(_) | Phase::Stopped | Phase::Passed => match orders::next_run((self.plan.orders)(), self.order.run) {
                Some(order) => self.begin(order),
                None => self.rest(phase, now),
            },
        };
    }

    /// Without a run that is new.
    fn rest(&mut self, phase: Phase, now: Instant) -> Phase {
        match phase {
            Phase::Checks(since) => self.look_at_checks(now.saturating_duration_since(since)).unwrap_or(phase),
            other => other,
        }
    }

    fn wait(&mut self, since: Instant, now: Instant) -> Phase {
        match orders::turn((self.plan.orders)(), now.saturating_duration_since(since)) {
            Turn::Begin(order) => self.begin(order),
            Turn::Wait => {
                self.stand(State::Waiting);
                Phase::Wait(since)
            }
        }
    }

    fn begin(&mut self, order: Order) -> Phase {
        self.order = order;
        self.standing = Standing { run: self.order.run, ..Standing::new(&self.plan.boot.id, State::Running) };
        self.stand(State::Running);
        Phase::Network
    }

    fn stand(&mut self, state: State) {
        if self.standing.state != state {
            self.standing = Standing { state, since: SystemTime::now(), ..self.standing.clone() };
        }
        if state == State::Passed {
            self.standing.evidence.clear();
            if let Err(error) = keep(&self.file, &self.standing) {
                tracing::warn!(%error, "that the preflight has passed is not kept; barewired runs it again when it restarts");
            }
        }
        self.writer.stand(self.standing.clone());
    }

    /// That others cannot be measured with is no fault of this node's.
    fn measure(&mut self) -> Phase {
        self.writer.begin(NETWORK);
        let (verdict, measured) = measure::measure(&self.order, self.plan.port, &self.plan.expected);
        self.standing.measured = measured.into_iter().map(Into::into).collect();
        if let Verdict::Failed(seen) = &verdict {
            self.standing.evidence.push(format!("{NETWORK}: {seen}"));
        }
        self.writer.end(NETWORK, verdict);
        Phase::Plugins
    }

    /// All of them, so that a person sees all that is wrong.
    fn run_plugins(&mut self) -> Phase {
        for plugin in &self.plan.plugins {
            let name = check_name(plugin);
            self.writer.begin(&name);
            let verdict = several(plugin, &self.places);
            // What was killed at the end has not failed.
            if self.places.is_stopped() {
                return Phase::Stopped;
            }
            if verdict != Verdict::Ok {
                self.standing.evidence.push(format!("{name}: {}", verdict.message()));
            }
            self.writer.end(&name, verdict);
        }
        if self.standing.evidence.is_empty() {
            return Phase::Checks(Instant::now());
        }
        self.stand(State::Failed);
        Phase::Stopped
    }

    /// All must have looked, and none may have failed; what cannot be told is no reason to keep pods away.
    fn look_at_checks(&mut self, waits: Duration) -> Option<Phase> {
        let open = self.writer.open();
        if open.is_empty() {
            self.stand(State::Passed);
            return Some(Phase::Passed);
        }
        if waits >= PATIENCE && open.iter().any(|(_, why)| why.is_some()) {
            let evidence = open.into_iter().filter_map(|(check, why)| Some(format!("{check}: {}", why?)));
            self.standing.evidence = evidence.collect();
            self.stand(State::Failed);
        }
        None
    }
}

/// Until it is ok, or has failed as often as it may.
fn several(plugin: &PluginConfig, places: &Places) -> Verdict {
    let mut verdict = plugin::run(plugin, places);
    for _ in 1..plugin.failures {
        if verdict == Verdict::Ok {
            break;
        }
        verdict = plugin::run(plugin, places);
    }
    verdict
}

/// What was kept of this boot.
fn passed(file: &Path, boot: &str) -> Option<Standing> {
    let standing: Standing = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    (standing.boot == boot && standing.state == State::Passed).then_some(standing)
}

/// Half a file is none: it says nothing, and the preflight runs again.
fn keep(file: &Path, standing: &Standing) -> io::Result<()> {
    fs::write(file, serde_json::to_vec(standing)?)
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
