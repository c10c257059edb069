//! A daemon on whom every pod waits goes before what the pods do, where it may; where it may not, it says so once and serves.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::host::{Daemon, Host, Settings, Start};

use crate::on_host;

/// sched(7): `SCHED_OTHER` and `SCHED_RR`, as proc_pid_stat(5) tells them.
const ORDINARY: i32 = 0;
const ROUND_ROBIN: i32 = 2;
/// Takes away what lets a process go before others, then becomes the program behind it.
const WITHOUT_THE_RIGHT: [&str; 7] = ["prlimit", "--rtprio=0", "--nice=0", "setpriv", "--bounding-set", "-sys_nice", "--"];
const REFUSED: &str = "may not schedule itself before pods";

/// Policy and nice of each thread, by name.
fn threads(daemon: &Daemon<'_>) -> Result<BTreeMap<String, (i32, i32)>> {
    let mut threads = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{}/task", daemon.process()))? {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        let (head, tail) = stat.rsplit_once(") ").context("no name in a thread's stat")?;
        let name = head.split_once('(').context("no name in a thread's stat")?.1.to_owned();
        let fields: Vec<_> = tail.split(' ').collect();
        threads.insert(name, (fields[38].parse()?, fields[16].parse()?));
    }
    Ok(threads)
}

fn serves_pods(host: &Host) -> Result<()> {
    let (pod, _) = host.attached()?;
    host.call_for("DEL", &pod).run()?.silence()
}

#[test]
fn threads_that_pods_wait_for_go_before_others() -> Result<()> {
    // Where the kernel has no real-time threads for anybody here (a cgroup of a kernel that groups them), the daemon has none either.
    let has = Command::new("chrt").args(["--rr", "1", "true"]).status().context("chrt: install util-linux")?.success();
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        serves_pods(host)?;
        // A thread that one of these makes (to hear a program that it executes) has its name at first, and not its priority.
        daemon.wait_until("each thread to have its priority", || {
            let threads = threads(&daemon)?;
            for name in ["cni-0", "cni-15", "link-remover"] {
                let (policy, nice) = threads.get(name).copied().with_context(|| format!("{name} is not among {threads:?}"))?;
                ensure!(policy == if has { ROUND_ROBIN } else { ORDINARY } && nice <= -15, "{name}: {policy} {nice}");
            }
            ensure!(threads.get("housekeeping").is_some_and(|told| *told == (ORDINARY, -15)), "{threads:?}");
            Ok(())
        })?;
        ensure!(daemon.log().contains(REFUSED) != has, "{}", daemon.log());
        Ok(())
    })
}

#[test]
fn what_it_is_told_to_inherit_it_inherits() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.spawn_with(Start { keys: "[node]\nscheduling = \"inherit\"\n", ..Start::default() })?;
        daemon.wait_until_ready()?;
        serves_pods(host)?;
        let threads = threads(&daemon)?;
        let own = unchanged()?;
        ensure!(threads.values().all(|told| *told == own), "{threads:?}, and this test has {own:?}");
        Ok(())
    })
}

/// Policy and nice of this process.
fn unchanged() -> Result<(i32, i32)> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat.rsplit_once(") ").context("no name in our stat")?.1.split(' ').collect();
    Ok((fields[38].parse()?, fields[16].parse()?))
}

#[test]
fn a_daemon_that_may_not_go_before_others_says_so_once_and_serves() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.spawn_with(Start { by: &WITHOUT_THE_RIGHT, ..Start::default() })?;
        daemon.wait_until_ready()?;
        for _ in 0..3 {
            serves_pods(host)?;
        }
        let log = daemon.log();
        for what in ["what=\"nice\"", "what=\"realtime\""] {
            ensure!(log.lines().filter(|line| line.contains(REFUSED) && line.contains(what)).count() == 1, "{what}: {log}");
        }
        let threads = threads(&daemon)?;
        ensure!(threads.values().all(|(policy, nice)| *policy == ORDINARY && *nice >= 0), "{threads:?}");
        Ok(())
    })
}
