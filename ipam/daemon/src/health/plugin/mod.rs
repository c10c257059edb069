//! Checks that somebody else has written: programs that say by their exit code how the node is (ADR 36).
//!
//! Each has a thread of its own; a few run at a time. Whatever one does, it ends within its time, and nothing that it has started in its
//! process group is left.

mod answer;
mod file;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use datapath::process_limits::ProcessLimits;

use crate::config::PluginConfig;
use crate::execute::{Bounds, Executed, execute};
use crate::health_check::Verdict;

/// A message and its evidence.
const OUTPUT_MAX: usize = 64 << 10;
/// What has failed once is asked again so soon, until it is known.
const SOON: Duration = Duration::from_secs(1);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How many run at a time, and whether any may.
#[derive(Debug)]
pub(super) struct Places {
    free: Mutex<usize>,
    freed: Condvar,
    stopped: AtomicBool,
}

impl Default for Places {
    fn default() -> Self {
        Self { free: Mutex::new(Self::MOST), freed: Condvar::new(), stopped: AtomicBool::new(false) }
    }
}

impl Places {
    pub(super) const MOST: usize = 4;

    /// What runs is killed, and nothing is started any more.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Waits for one; those that have them end within their time.
    fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        drop(free);
        let outcome = work();
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.freed.notify_one();
        outcome
    }
}

/// One execution.
pub(super) fn run(plugin: &PluginConfig, places: &Places) -> Verdict {
    let PluginConfig { program, arguments, timeout, memory, cpu_seconds, .. } = plugin;
    if let Err(why) = file::may_be_executed(program) {
        return Verdict::Unknown(why);
    }
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/");
    ProcessLimits { memory: *memory, cpu_seconds: *cpu_seconds }.apply_to(&mut command);
    let bounds = Bounds { time: *timeout, output: OUTPUT_MAX, stop: &places.stopped };
    let executed = places.within(|| if places.is_stopped() { Ok(Executed::Stopped) } else { execute(command, None, &bounds) });
    match executed {
        Ok(executed) => answer::verdict(&executed, *timeout),
        Err(error) => Verdict::Unknown(format!("{}: {error}", program.display())),
    }
}

/// What is held of a program's runs: it has failed when it has done so several times in a row.
#[derive(Debug)]
pub(super) struct Judge {
    interval: Duration,
    failures: u32,
    failed: u32,
    held: Verdict,
    next: Option<Instant>,
}

impl Judge {
    pub(super) fn new(interval: Duration, failures: u32) -> Self {
        Self { interval, failures, failed: 0, held: Verdict::Unknown("has not run yet".to_owned()), next: None }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now)
    }

    /// Until the next run.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now))
    }

    /// A run has ended at `now`.
    pub(super) fn note(&mut self, now: Instant, verdict: Verdict) {
        let mut pause = self.interval;
        self.held = match verdict {
            Verdict::Ok => {
                self.failed = 0;
                Verdict::Ok
            }
            Verdict::Failed(seen) => {
                self.failed = self.failed.saturating_add(1);
                if self.failed >= self.failures {
                    Verdict::Failed(seen)
                } else {
                    pause = pause.min(SOON);
                    match std::mem::replace(&mut self.held, Verdict::Ok) {
                        Verdict::Ok => Verdict::Ok,
                        _ => Verdict::Unknown(format!("failed {} of {} times: {seen}", self.failed, self.failures)),
                    }
                }
            }
            // Neither is what was seen before over.
            unknown @ Verdict::Unknown(_) => unknown,
        };
        self.next = Some(now + pause);
    }

    pub(super) fn held(&self) -> &Verdict {
        &self.held
    }
}

#[cfg(test)]
mod example_tests;
#[cfg(test)]
mod tests;
