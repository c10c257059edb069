//! What Barewire's kernel programs take for each packet, by the kernel's own account.
//!
//! The account (`kernel.bpf_stats_enabled`) is one switch for the whole machine, and the only thing outside its own
//! namespaces that the benchmark touches. It is opened as a file descriptor (`BPF_ENABLE_STATS`, since Linux 5.8), so the
//! kernel closes it with the process, however that ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use crate::daemon::Daemon;
use crate::datapath::baseline;

/// A packet from a pod passes the first, a packet from the fabric the second.
const PER_PACKET: [&str; 2] = ["from_pod", "from_uplink"];
/// Runs of a program.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    count: u64,
    time: Duration,
}

/// The runs of each program, by name, while the account was on.
pub type RunsByName = BTreeMap<String, Runs>;

/// An account of what some programs do; on until it is closed.
#[derive(Debug)]
pub struct Account {
    programs: BTreeSet<u32>,
    before: RunsByName,
    _enabled: OwnedFd,
}

impl Account {
    /// Opens it for these programs, whatever else is loaded on this machine.
    ///
    /// # Errors
    /// Without the capability `CAP_SYS_ADMIN`, and where the kernel has no BPF.
    pub fn open(programs: BTreeSet<u32>) -> Result<Self> {
        let enabled = enable_stats(Stats::RunTime).context("cannot enable the run-time account of BPF programs")?;
        let before = read(&programs)?;
        Ok(Self { programs, before, _enabled: enabled })
    }

    /// Closes it, and returns what ran meanwhile.
    ///
    /// # Errors
    /// When the kernel does not list its programs.
    pub fn close(self) -> Result<RunsByName> {
        let mut runs = read(&self.programs)?;
        for (name, runs) in &mut runs {
            let before = self.before.get(name).copied().unwrap_or_default();
            runs.count = runs.count.saturating_sub(before.count);
            runs.time = runs.time.saturating_sub(before.time);
        }
        Ok(runs)
    }
}

/// Whether packets passed the fast path's programs; else, what was seen.
///
/// # Errors
/// When they did not.
pub fn require_fast_path(runs: &RunsByName) -> Result<()> {
    for name in PER_PACKET {
        if runs.get(name).is_none_or(|runs| runs.count == 0) {
            bail!("no packet passed a program {name}; programs of the daemons and their runs: {runs:?}");
        }
    }
    Ok(())
}

/// Nanoseconds for a packet: both programs together, less what a program that returns at once takes, each time.
///
/// # Errors
/// When one of them did not run.
pub fn nanos_per_packet(runs: &RunsByName) -> Result<f64> {
    let at_once = nanos_at_once(runs)?;
    PER_PACKET.iter().map(|name| Ok(nanos_per_run(runs, name)? - at_once)).sum()
}

/// Nanoseconds of a program that returns at once.
///
/// # Errors
/// When it did not run.
pub fn nanos_at_once(runs: &RunsByName) -> Result<f64> {
    nanos_per_run(runs, baseline::NAME)
}

/// Nanoseconds of each program and run, the account's own included.
#[must_use]
pub fn nanos_by_program(runs: &RunsByName) -> BTreeMap<String, f64> {
    runs.keys().filter_map(|name| Some((name.clone(), nanos_per_run(runs, name).ok()?))).collect()
}

#[expect(clippy::cast_precision_loss, reason = "packets of some seconds")]
fn nanos_per_run(runs: &RunsByName, name: &str) -> Result<f64> {
    match runs.get(name) {
        Some(runs) if runs.count > 0 => Ok(runs.time.as_secs_f64() * 1e9 / runs.count as f64),
        _ => bail!("the program {name} did not run"),
    }
}

fn read(programs: &BTreeSet<u32>) -> Result<RunsByName> {
    let mut runs = RunsByName::new();
    for program in loaded_programs() {
        // One that is unloaded while the list is read is none of ours.
        let Ok(program) = program else { continue };
        if programs.contains(&program.id()) {
            let runs = runs.entry(String::from_utf8_lossy(program.name()).into_owned()).or_default();
            runs.count += program.run_count();
            runs.time += program.run_time();
        }
    }
    Ok(runs)
}

/// The programs that some daemons hold.
///
/// # Errors
/// When one has ended.
pub fn of_daemons(daemons: &[Daemon]) -> Result<BTreeSet<u32>> {
    let of_each = daemons.iter().map(|daemon| held_by(daemon, "prog_id:")).collect::<Result<Vec<_>>>()?;
    Ok(of_each.into_iter().flatten().collect())
}

/// The numbers of what a daemon holds file descriptors of, or of links to: of programs or of maps, by the field that says so.
///
/// # Errors
/// When it has ended.
pub fn held_by(daemon: &Daemon, field: &str) -> Result<BTreeSet<u32>> {
    let folder = format!("/proc/{}/fdinfo", daemon.process());
    let mut held = BTreeSet::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder}: has barewired ended?"))? {
        // A descriptor may be closed meanwhile.
        let told = fs::read_to_string(entry?.path()).unwrap_or_default();
        held.extend(number_in(&told, field));
    }
    Ok(held)
}

fn number_in(fdinfo: &str, field: &str) -> Option<u32> {
    fdinfo.lines().find_map(|line| line.strip_prefix(field))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(of: &[(&str, u64, u64)]) -> RunsByName {
        of.iter().map(|(name, count, nanos)| ((*name).to_owned(), Runs { count: *count, time: Duration::from_nanos(*nanos) })).collect()
    }

    #[test]
    fn a_packet_costs_both_programs_less_an_empty_one_for_each() {
        let seen = runs(&[("from_pod", 10, 2_500), ("from_uplink", 20, 4_000), (baseline::NAME, 10, 400)]);
        assert!((nanos_per_packet(&seen).unwrap() - (250.0 - 40.0 + 200.0 - 40.0)).abs() < 1e-9);
        assert!(require_fast_path(&seen).is_ok());
    }

    #[test]
    fn programs_that_did_not_run_are_no_fast_path() {
        assert!(require_fast_path(&runs(&[("from_pod", 10, 1)])).is_err());
        assert!(require_fast_path(&runs(&[("from_pod", 10, 1), ("from_uplink", 0, 0)])).is_err());
        assert!(nanos_per_packet(&runs(&[("from_pod", 1, 1), ("from_uplink", 1, 1)])).is_err());
    }

    #[test]
    fn a_descriptor_of_a_program_or_a_link_names_its_program() {
        assert_eq!(number_in("pos:\t0\nlink_type:\ttcx\nlink_id:\t3\nprog_tag:\tab\nprog_id:\t42\n", "prog_id:"), Some(42));
        assert_eq!(number_in("pos:\t0\nflags:\t02\n", "prog_id:"), None);
    }
}
