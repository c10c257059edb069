//! The daemon dies between any two steps by which it has the node be as described: the next one finds that, finishes it, and leaves the
//! same node as one that was never disturbed (invariant I8).
//!
//! A step is a system call that alters something: strace(1) kills the daemon as it enters the n-th of a kind. A start on a node from which all
//! of ours was removed goes through all steps; what is done on news and on the timer goes through the same ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::command::wait_until;
use lab::host::{Daemon, Host, Pod, Settings, Start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::routes::{FURTHER, WITH_FURTHER};
use super::{BACK, FOREIGN};
use crate::{addresses, on_host, reaches_all};

/// Netlink and nftables; programs, maps and pins; sysctls and the log; files that are put in place; programs that are executed.
const CALLS: [&str; 8] = ["sendto", "sendmsg", "bpf", "write", "rename", "mkdir", "unlink", "execve"];
/// Under strace a start takes longer. Who is not ready by then has not died itself: programs that it executes did, each time.
const START: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// What takes away all that the daemon has set, beside what pods have in their own namespaces. Some of it may not be there.
const ALTERATIONS: [&str; 9] = [
    "nft delete table inet barewire",
    "ip rule flush protocol 179",
    "ip -6 rule flush protocol 179",
    "ip route flush table all protocol 179",
    "ip -6 route flush table all protocol 179",
    "sysctl -q -w net.ipv4.ip_forward=0",
    "sysctl -q -w net.ipv6.conf.all.forwarding=0",
    "tc qdisc del dev eth1 clsact",
    "tc qdisc del dev eth2 clsact",
];

/// How it went with a daemon that was to die.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Killed,
    /// There are not so many of these calls, this time.
    Ready,
    /// What it executes died in its place.
    Waits,
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// As `ip` would show a node that has lost all of ours.
fn alter(host: &Host) -> Result<()> {
    for line in ALTERATIONS {
        // What is not there cannot be taken away.
        drop(host.run(&words(line)));
    }
    let pins = host.path("bpf/barewire");
    if pins.exists() { fs::remove_dir_all(&pins).with_context(|| pins.display().to_string()) } else { Ok(()) }
}

/// What has no order, or one of when it was made.
fn sorted(text: &str) -> String {
    text.lines().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("\n")
}

/// The kernel has some for each address, those of a link's own a second after the link came up.
fn routes(text: &str) -> String {
    text.lines().filter(|line| !line.contains(" proto kernel ")).map(|line| format!("{line}\n")).collect()
}

/// All that stands on the node, of ours and of others.
fn state(host: &Host, daemon: &Daemon<'_>) -> Result<String> {
    let mut all = vec![host.run(&words("nft -s list table inet barewire"))?, host.run(&words("nft -s list table inet foreign"))?];
    for line in ["ip rule", "ip -6 rule", "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding"] {
        all.push(sorted(&host.run(&words(line))?));
    }
    for family in ["-4", "-6"] {
        all.push(sorted(&routes(&host.run(&["ip", family, "route", "show", "table", "all"])?)));
    }
    all.push(sorted(&host.run(&["find", &host.path("bpf").display().to_string(), "-mindepth", "1"])?));
    let page: serde_json::Value = serde_json::from_str(&daemon.get("/debug/fast_path")?)?;
    all.push(page["uplinks"].to_string());
    all.push(format!("{:?}", daemon.conditions()?));
    Ok(all.join("\n"))
}

/// The daemon itself, which strace has started.
fn traced(daemon: &Daemon<'_>) -> Result<Pid> {
    let strace = daemon.process();
    let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children"))?;
    Ok(Pid::from_raw(children.split_whitespace().next().context("strace has no child")?.parse()?))
}

/// Starts a daemon under strace with `options`, and ends it once it is ready, if it comes to that.
fn start_traced(host: &Host, options: &[&str]) -> Result<Fate> {
    let by = [&["strace", "-f", "-qq"], options, &["setpriv", "--pdeathsig", "KILL", "--"]].concat();
    let daemon = host.spawn_with(Start { keys: WITH_FURTHER, by: &by })?;
    let begun = Instant::now();
    loop {
        if daemon.has_ended()? {
            return Ok(Fate::Killed);
        }
        let is_ready = daemon.get("/readyz").is_ok();
        if is_ready || begun.elapsed() > START {
            // It may die by itself just now.
            drop(traced(&daemon).map(|process| kill(process, Signal::SIGKILL)));
            daemon.wait()?;
            return Ok(if is_ready { Fate::Ready } else { Fate::Waits });
        }
        thread::sleep(POLL);
    }
}

/// How many calls of each kind a thread of the daemon makes at most, until it is ready. Programs that it executes are not counted.
fn count_calls(host: &Host) -> Result<BTreeMap<&'static str, usize>> {
    let out = host.path("calls");
    alter(host)?;
    let fate = start_traced(host, &["-o", &out.display().to_string(), "-e", &format!("trace={}", CALLS.join(","))])?;
    ensure!(fate == Fate::Ready, "nobody was to kill it");
    let text = fs::read_to_string(&out)?;
    let calls: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(char::is_whitespace)).collect();
    // A thread has executed nothing; the daemon itself, setpriv before it was the daemon.
    let is_daemon = |thread: &str| {
        let executed = calls.iter().rfind(|(of, call)| *of == thread && call.trim_start().starts_with("execve("));
        executed.is_none_or(|(_, call)| call.contains("barewired"))
    };
    let daemon: BTreeSet<_> = calls.iter().map(|(thread, _)| *thread).filter(|thread| is_daemon(thread)).collect();
    let of = |name: &'static str| {
        let made =
            |thread: &&str| calls.iter().filter(|(of, call)| of == thread && call.trim_start().starts_with(&format!("{name}("))).count();
        (name, daemon.iter().map(made).max().unwrap_or_default())
    };
    Ok(CALLS.into_iter().map(of).collect())
}

/// Which of so many: each of the first, then fewer and fewer, and the last.
fn chosen(count: usize) -> BTreeSet<usize> {
    let mut chosen: BTreeSet<_> = std::iter::successors(Some(1), |n| Some(n + 1 + n / 2)).take_while(|n| *n <= count).collect();
    chosen.extend((count > 0).then_some(count));
    chosen
}

/// Lines that are in one of two texts alone.
fn differing(before: &str, now: &str) -> String {
    let [was, is] = [before, now].map(|text| text.lines().collect::<BTreeSet<_>>());
    let gone: Vec<_> = was.difference(&is).collect();
    let new: Vec<_> = is.difference(&was).collect();
    format!("gone: {gone:#?}, new: {new:#?}, else in another order")
}

/// The next daemon has all as it was, and pods talk.
fn is_whole(host: &Host, before: &str, pods: &[(Pod, Vec<String>); 2]) -> Result<()> {
    let daemon = host.spawn_with(Start { keys: WITH_FURTHER, ..Start::default() })?;
    daemon.wait_until_ready()?;
    let same = || match state(host, &daemon) {
        Ok(now) if now == before => Ok(()),
        Ok(now) => Err(differing(before, &now)),
        Err(error) => Err(format!("{error:#}")),
    };
    wait_until("the node is as it was", BACK, same).with_context(|| daemon.end_of_log())?;
    let [(first, own), (second, others)] = pods;
    reaches_all(host, first, own, (second, others)).with_context(|| daemon.end_of_log())?;
    daemon.kill()
}

#[test]
fn a_daemon_that_dies_between_any_two_steps_leaves_what_the_next_one_finishes() -> Result<()> {
    let settings = Settings { ranges: vec!["10.0.1.0/24".to_owned(), "fd00:10:0:1::/112".to_owned()], ..Settings::default() };
    on_host(settings.with_fast_path(true), |host| {
        host.ip(FURTHER)?;
        for line in FOREIGN {
            host.run(&words(line))?;
        }
        let daemon = host.spawn_with(Start { keys: WITH_FURTHER, ..Start::default() })?;
        daemon.wait_until_ready()?;
        let attach = || host.attached().map(|(pod, result)| (pod, addresses(&result)));
        let pods = [attach()?, attach()?];
        daemon.kill()?;
        let daemon = host.spawn_with(Start { keys: WITH_FURTHER, ..Start::default() })?;
        daemon.wait_until_ready()?;
        reaches_all(host, &pods[0].0, &pods[0].1, (&pods[1].0, &pods[1].1))?;
        let before = state(host, &daemon)?;
        daemon.kill()?;
        alter(host)?;
        is_whole(host, &before, &pods).context("nobody was killed")?;

        let counts = count_calls(host)?;
        let (mut killed, mut all) = (0, 0);
        for (call, count) in &counts {
            for number in chosen(*count) {
                alter(host)?;
                let inject = format!("inject={call}:signal=SIGKILL:when={number}");
                let fate = start_traced(host, &["-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject])?;
                (killed, all) = (killed + usize::from(fate == Fate::Killed), all + 1);
                is_whole(host, &before, &pods).with_context(|| format!("killed at {call} {number} of {count} ({fate:?})"))?;
            }
        }
        println!("killed at {killed} of {all} places; calls until ready: {counts:?}");
        // A thread may have one call fewer the next time.
        ensure!(killed * 10 >= all * 8 && killed > 25, "killed at {killed} of {all} places only");
        Ok(())
    })
}
