//! What it costs to look again and again at a full node to which nobody does anything.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::host::{Daemon, Settings};

use crate::on_host;

const PODS: usize = 1000;
/// A namespace costs more to make and to remove than an interface; the host sees no difference.
const INTERFACES_EACH: usize = 50;
/// Several looks of each kind.
const WATCHED: Duration = Duration::from_secs(42);
/// Of one core. What the daemon promises is 0.2, which `cargo xtask bench add` measures (`idle_cpu_percent`); here other tests share its caches and cost it half
/// as much again, and what is found is a look that is made too often, or costs too much: several times as much.
const PERCENT_MAX: f64 = 0.6;

/// Processor time of all threads so far.
fn used(daemon: &Daemon<'_>) -> Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{}/task", daemon.process()))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += text.split_whitespace().next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// That nothing is counted as repaired.
fn nothing_was_repaired(daemon: &Daemon<'_>) -> Result<()> {
    let page = daemon.get("/metrics")?;
    let told: Vec<_> = page.lines().filter(|line| line.starts_with("barewire_repairs_total{")).collect();
    ensure!(!told.is_empty() && told.iter().all(|line| line.ends_with(" 0")), "nothing was altered: {told:?}; {}", daemon.end_of_log());
    Ok(())
}

#[test]
fn a_full_node_is_kept_for_little() -> Result<()> {
    let settings = Settings { ranges: vec!["10.0.4.0/22".to_owned(), "fd00:10:0:4::/80".to_owned()], ..Settings::default() };
    on_host(settings.with_fast_path(true), |host| {
        let daemon = host.start()?;
        for _ in 0..PODS / INTERFACES_EACH {
            let pod = host.pod()?;
            for number in 0..INTERFACES_EACH {
                host.call_for_interface("ADD", &pod, &format!("net{number}")).run()?.result()?;
            }
        }
        // What is done soon after an ADD is over by then.
        thread::sleep(Duration::from_secs(20));
        let (before, begun) = (used(&daemon)?, Instant::now());
        thread::sleep(WATCHED);
        let percent = (used(&daemon)? - before).as_secs_f64() * 100.0 / begun.elapsed().as_secs_f64();
        println!("{percent:.3} % of a core for {PODS} pods");
        nothing_was_repaired(&daemon)?;
        ensure!(percent <= PERCENT_MAX, "{percent} % of a core");
        daemon.stop()
    })
}
