//! What a node looks at before its first pod, once in a boot: the plug-ins of that kind, one after another, then all that is looked at anyway
//! (ADR 36). The fleet's leader lifts the node's startup taint when this has passed; nothing here keeps a pod away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::board::Writer;
use super::plugin::{self, Places};
use super::standing::{Standing, State};
use crate::clockwork::{Clockwork, TICK};
use crate::config::PluginConfig;
use crate::health_check::Verdict;

/// What starts with the node may be away so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// In the run directory. What has passed is not run again in its boot, as it may take the machine for itself.
const FILE: &str = "preflight.json";
/// Where a node is, and where it keeps what has passed.
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    pub(crate) id: String,
    pub(crate) run_dir: PathBuf,
}

/// A thread that ends its work once this boot's preflight has passed.
pub(super) struct Preflight {
    clockwork: Clockwork,
    told: Arc<AtomicBool>,
}

impl Preflight {
    pub(super) fn start(plugins: Vec<PluginConfig>, boot: Boot, writer: Writer, places: Arc<Places>) -> io::Result<Self> {
        let told = Arc::new(AtomicBool::new(false));
        for plugin in &plugins {
            writer.add_for_preflight(&check_name(plugin), plugin.timeout.saturating_mul(plugin.failures) + TICK);
        }
        let file = boot.run_dir.join(FILE);
        let mut run = Run { plugins, boot: boot.id, writer, places, file: Some(file), told: Arc::clone(&told), phase: Phase::Begin };
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
    Plugins,
    /// What is looked at anyway, and since when.
    Checks(Instant),
    /// A plug-in has failed: until somebody says so.
    Stopped,
    Passed,
}

struct Run {
    plugins: Vec<PluginConfig>,
    boot: String,
    writer: Writer,
    places: Arc<Places>,
    /// Where it is kept that it has passed.
    file: Option<PathBuf>,
    told: Arc<AtomicBool>,
    phase: Phase,
}

impl Run {
    fn step(&mut self, now: Instant) {
        let is_told = self.told.swap(false, Ordering::Relaxed);
        self.phase = match self.phase {
            Phase::Begin => match self.file.as_deref().and_then(|file| passed(file, &self.boot)) {
                Some(standing) => {
                    self.writer.stand(standing);
                    Phase::Passed
                }
                None => self.begin(),
            },
            Phase::Stopped if is_told => self.begin(),
            Phase::Plugins => self.run_plugins(),
            Phase::Checks(since) => self.look_at_checks(now.saturating_duration_since(since)).unwrap_or(Phase::Checks(since)),
            phase @ (Phase::Stopped | Phase::Passed) => phase,
        };
    }

    fn begin(&self) -> Phase {
        self.stand(State::Running, Vec::new());
        Phase::Plugins
    }

    fn stand(&self, state: State, evidence: Vec<String>) {
        let standing = Standing::new(&self.boot, state, evidence);
        if state == State::Passed
            && let Some(Err(error)) = self.file.as_deref().map(|file| keep(file, &standing))
        {
            tracing::warn!(%error, "that the preflight has passed is not kept; barewired runs it again when it restarts");
        }
        self.writer.stand(standing);
    }

    /// All of them, so that a person sees all that is wrong.
    fn run_plugins(&self) -> Phase {
        let mut evidence = Vec::new();
        for plugin in &self.plugins {
            let name = check_name(plugin);
            self.writer.begin(&name);
            let verdict = several(plugin, &self.places);
            // What was killed at the end has not failed.
            if self.places.is_stopped() {
                return Phase::Stopped;
            }
            if verdict != Verdict::Ok {
                evidence.push(format!("{name}: {}", verdict.message()));
            }
            self.writer.end(&name, verdict);
        }
        if evidence.is_empty() {
            return Phase::Checks(Instant::now());
        }
        self.stand(State::Failed, evidence);
        Phase::Stopped
    }

    /// All must have looked, and none may have failed; what cannot be told is no reason to keep pods away.
    fn look_at_checks(&self, waits: Duration) -> Option<Phase> {
        let open = self.writer.open();
        if open.is_empty() {
            self.stand(State::Passed, Vec::new());
            return Some(Phase::Passed);
        }
        if waits >= PATIENCE && open.iter().any(|(_, why)| why.is_some()) {
            let evidence = open.into_iter().filter_map(|(check, why)| Some(format!("{check}: {}", why?)));
            self.stand(State::Failed, evidence.collect());
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
