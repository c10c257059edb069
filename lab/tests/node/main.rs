//! One node with the real `barewired` and `barewire-cni`: the CNI specification, everything wrong that can be fed to them, and
//! what becomes of pods when the daemon stops, dies, is away or loses its state.
//!
//! Needs root and `BAREWIRE_BIN_DIR`, the directory of the binaries. Where it cannot run it says `SKIP` and why; with
//! `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "says why it is skipped")]

mod accounts;
mod allowed;
mod attachments;
mod away;
mod binary;
mod chain;
mod check;
mod cli;
mod cloud_init;
mod cnitool;
mod conditions;
mod config;
mod conformance;
mod crash;
mod del;
mod environment;
mod exclusive;
mod fleet;
mod full_disk;
mod gc;
mod hardened;
mod health;
mod host_ways;
mod interfaces;
mod kept;
mod limits;
mod list;
mod monitoring;
mod netns;
mod pictures;
mod pool;
mod prev_result;
mod protocol;
mod readiness;
mod restart;
mod sandbox;
mod scheduling;
mod service;
mod services;
mod stdin;
mod store;
mod tuning;
mod upgrade;
mod wiring;

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::command::wait_until;
use lab::host::{Daemon, Host, Pod, Pool, Settings};

/// The binaries under test; `None`, with the reason printed, where these tests cannot run.
fn binaries() -> Option<PathBuf> {
    let directory = env::var_os("BAREWIRE_BIN_DIR").map(PathBuf::from);
    let reason = match directory {
        _ if !nix::unistd::geteuid().is_root() => "needs root for network namespaces".to_owned(),
        None => "needs barewired, barewire-cni and barewire: set BAREWIRE_BIN_DIR to their directory".to_owned(),
        Some(directory) => match ["barewired", "barewire-cni", "barewire"].iter().find(|name| !directory.join(name).is_file()) {
            None => return Some(directory),
            Some(name) => format!("BAREWIRE_BIN_DIR: {} is missing", directory.join(name).display()),
        },
    };
    assert!(env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "required, but {reason}");
    println!("SKIP {reason}");
    None
}

/// Runs a test on a host of its own.
fn on_host(settings: Settings, test: impl FnOnce(&Host) -> Result<()>) -> Result<()> {
    match binaries() {
        Some(binaries) => test(&Host::with_uplink(&binaries, settings)?),
        None => Ok(()),
    }
}

/// Runs a test on a host of its own with a daemon that is ready.
fn on_node(settings: Settings, test: impl FnOnce(&Host, &Daemon<'_>) -> Result<()>) -> Result<()> {
    on_host(settings, |host| test(host, &host.start()?))
}

/// Runs a test with the kernel programs and without.
fn both_paths(test: impl Fn(&Host, &Daemon<'_>) -> Result<()>) -> Result<()> {
    for fast_path in [false, true] {
        let outcome = on_node(Settings::default().with_fast_path(fast_path), &test);
        outcome.with_context(|| format!("with the fast path {}", if fast_path { "on" } else { "off" }))?;
    }
    Ok(())
}

/// The node's own addresses.
const NODE: [&str; 2] = ["10.0.0.10", "fd00:10::10"];

/// A packet and its answer, by ICMP; `how` is more of ping's options. A few are sent until one is answered: a pod's IPv6 address takes
/// packets a moment after the ADD (docs/adr/0003), and the machine has other work.
fn ping(run: impl Fn(&str) -> Result<String>, to: &str, how: &str) -> Result<()> {
    let line = format!("ping -n -c 1 -W 1 {how} {to}");
    let answered = || run(&line).map(drop).map_err(|error| format!("{error:#}"));
    Ok(wait_until(&line, Duration::from_secs(5), answered)?)
}

/// A pod reaches the node and another pod, and both reach it, by every address.
fn reaches_all(host: &Host, pod: &Pod, own: &[String], other: (&Pod, &[String])) -> Result<()> {
    for (to, own) in NODE.iter().copied().zip(own).chain(other.1.iter().map(String::as_str).zip(own)) {
        ping(|line| pod.run(line), to, &format!("-I {own}"))?;
    }
    for own in own {
        ping(|line| host.run(&line.split_whitespace().collect::<Vec<_>>()), own, "").context("from the node")?;
        ping(|line| other.0.run(line), own, "").context("from another pod")?;
    }
    Ok(())
}

/// What an attachment leaves: links in the node and in a pod, and counts of the pool.
#[derive(Debug, PartialEq)]
struct Footprint {
    host_ends: Vec<String>,
    pod_links: Vec<String>,
    pool: Pool,
}

impl Footprint {
    fn of(host: &Host, daemon: &Daemon<'_>, pod: &Pod) -> Result<Self> {
        Ok(Self { host_ends: host.host_ends()?, pod_links: pod.links()?, pool: daemon.pool()? })
    }

    /// Nothing has come and nothing has gone since.
    fn unchanged(&self, host: &Host, daemon: &Daemon<'_>, pod: &Pod) -> Result<()> {
        let now = Self::of(host, daemon, pod)?;
        ensure!(*self == now, "{self:?}\nbecame {now:?}");
        Ok(())
    }
}

/// The addresses of a result, without their prefix lengths.
fn addresses(result: &serde_json::Value) -> Vec<String> {
    let ips = result["ips"].as_array().map_or(&[][..], Vec::as_slice);
    ips.iter().filter_map(|ip| ip["address"].as_str()?.split('/').next().map(str::to_owned)).collect()
}
