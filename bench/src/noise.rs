//! How busy the machine is with other things: with much of it, trust ratios at most.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// Long enough for the kernel's accounting, which counts in ticks of 4 ms.
const SAMPLE: Duration = Duration::from_millis(500);

/// The share of all CPUs' time that others use now, in percent.
///
/// # Errors
/// When `/proc/stat` cannot be read.
pub fn percent() -> Result<f64> {
    let before = read()?;
    thread::sleep(SAMPLE);
    Ok(busy_percent(before, read()?))
}

/// What the machine's processors call themselves.
#[must_use]
pub fn processor() -> String {
    let told = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = told.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or("unknown", |(_, model)| model.trim()).to_owned()
}

/// What all processors have worked since boot, by the kernel's account: of programs, of the kernel and of interrupts.
#[derive(Debug, Clone, Copy)]
pub struct BusyTime {
    ticks: u64,
    ticks_per_second: f64,
}

impl BusyTime {
    /// Until now.
    ///
    /// # Errors
    /// When `/proc/stat` cannot be read.
    #[expect(clippy::cast_precision_loss, reason = "the clock's ticks in a second: 100")]
    pub fn read() -> Result<Self> {
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the system does not tell the length of a tick")?;
        Ok(Self { ticks: read()?.busy, ticks_per_second: per_second as f64 })
    }

    /// CPU seconds since `before`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "ticks of some seconds")]
    pub fn since(self, before: Self) -> f64 {
        self.ticks.saturating_sub(before.ticks) as f64 / self.ticks_per_second
    }
}

/// Ticks since boot.
#[derive(Debug, Clone, Copy)]
struct Ticks {
    idle: u64,
    /// Without what the hypervisor gave to others.
    busy: u64,
    total: u64,
}

fn read() -> Result<Ticks> {
    parse(&fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?)
}

/// The first line: `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guests are in user and nice too.
fn parse(stat: &str) -> Result<Ticks> {
    let numbers = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("/proc/stat does not begin with cpu")?;
    let ticks: Vec<u64> = numbers.split_whitespace().take(8).map_while(|number| number.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, ..] = ticks[..] else {
        anyhow::bail!("/proc/stat begins with {numbers:?}");
    };
    Ok(Ticks { idle: idle + iowait, busy: user + nice + system + irq + softirq, total: ticks.iter().sum() })
}

#[expect(clippy::cast_precision_loss, reason = "ticks of half a second")]
fn busy_percent(before: Ticks, after: Ticks) -> f64 {
    // The kernel does not promise that idle time never falls (proc_stat(5)).
    let idle = after.idle.saturating_sub(before.idle);
    let total = after.total.saturating_sub(before.total).max(idle).max(1);
    (total - idle) as f64 * 100.0 / total as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_disks_is_idle_and_guests_count_once() {
        let before = parse("cpu  100 0 100 800 0 0 0 0 50 0\ncpu0 …").unwrap();
        let after = parse("cpu  120 0 100 840 20 0 0 20 70 0\ncpu0 …").unwrap();
        assert!((busy_percent(before, after) - 40.0).abs() < 1e-9);
    }

    #[test]
    fn work_is_neither_waiting_nor_what_others_were_given() {
        assert_eq!(parse("cpu  1 2 4 1000 1000 8 16 1000 50 0").unwrap().busy, 31);
    }

    #[test]
    fn another_format_is_an_error() {
        assert!(parse("intr 1 2 3").is_err());
        assert!(parse("cpu  1 2").is_err());
    }
}
