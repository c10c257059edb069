//! How busy the machine is with other things: with much of it, trust ratios at most.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

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

/// Ticks since boot.
#[derive(Debug, Clone, Copy)]
struct Ticks {
    idle: u64,
    total: u64,
}

fn read() -> Result<Ticks> {
    parse(&fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?)
}

/// The first line: `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guests are in user and nice too.
fn parse(stat: &str) -> Result<Ticks> {
    let numbers = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("/proc/stat does not begin with cpu")?;
    let ticks: Vec<u64> = numbers.split_whitespace().take(8).map_while(|number| number.parse().ok()).collect();
    let [_, _, _, idle, iowait, ..] = ticks[..] else {
        anyhow::bail!("/proc/stat begins with {numbers:?}");
    };
    Ok(Ticks { idle: idle + iowait, total: ticks.iter().sum() })
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
    fn another_format_is_an_error() {
        assert!(parse("intr 1 2 3").is_err());
        assert!(parse("cpu  1 2").is_err());
    }
}
