//! Somebody else holds RTNL, the kernel's one lock of network configuration, and does not let it go: a driver that resets its card, the end
//! of some thousand namespaces. Nothing can end a thread that waits for it in the kernel. What is promised is that everybody is answered
//! within ten seconds, that nothing is lost and nothing is left behind (docs/adr/0024).
//!
//! The lock is one for the machine, so that no other test can run beside these, nor they beside each other.
//!
//! Needs root and `BAREWIRE_BIN_DIR`, the directory of the binaries. Where it cannot run it says `SKIP` and why; with
//! `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![expect(clippy::print_stdout, reason = "says why it is skipped")]

mod rtnl;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::command::wait_until;
use lab::host::{Answer, Daemon, Host, Pod, Settings};

use crate::rtnl::Rtnl;

const TRY_AGAIN_LATER: u64 = 11;
/// What is promised, and something for a machine that has other work.
const ANSWERED: Duration = Duration::from_secs(12);
/// Once it is known that the lock is held.
const AT_ONCE: Duration = Duration::from_secs(3);
/// Of the telemetry, whatever else waits.
const HEALTH: Duration = Duration::from_secs(2);
/// `TimeoutStopSec` in deploy/barewired.service
const STOPPED: Duration = Duration::from_secs(30);
/// More than threads that serve.
const ADDS: usize = 20;

static ALONE: Mutex<()> = Mutex::new(());

/// The binaries under test; `None`, with the reason printed, where these tests cannot run.
fn binaries() -> Option<PathBuf> {
    let directory = env::var_os("BAREWIRE_BIN_DIR").map(PathBuf::from);
    let reason = match directory {
        _ if !nix::unistd::geteuid().is_root() => "needs root for network namespaces",
        None => "needs barewired and barewire-cni: set BAREWIRE_BIN_DIR to their directory",
        Some(directory) => return Some(directory),
    };
    assert!(env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "required, but {reason}");
    println!("SKIP {reason}");
    None
}

/// Runs a test on a host of its own.
fn on_node(test: impl FnOnce(&Host, Daemon<'_>) -> Result<()>) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(binaries) = binaries() else { return Ok(()) };
    let host = Host::with_uplink(&binaries, Settings::default().with_fast_path(true))?;
    test(&host, host.start()?)
}

/// An answer and what it took.
type Timed = Result<(Answer, Duration)>;

fn timed(host: &Host, command: &str, pod: &Pod, result: Option<&serde_json::Value>) -> Timed {
    let call = host.call_for(command, pod);
    let call = match result {
        Some(result) => call.conf("prevResult", result.clone()),
        None => call,
    };
    let begun = Instant::now();
    Ok((call.run()?, begun.elapsed()))
}

fn begin<'scope>(
    scope: &'scope Scope<'scope, '_>,
    host: &'scope Host,
    command: &'scope str,
    pod: &'scope Pod,
    result: Option<&'scope serde_json::Value>,
) -> ScopedJoinHandle<'scope, Timed> {
    scope.spawn(move || timed(host, command, pod, result))
}

fn end(call: ScopedJoinHandle<'_, Timed>) -> Timed {
    call.join().map_err(|_| anyhow!("a call panicked"))?
}

fn refused_within(limit: Duration, (answer, took): &(Answer, Duration)) -> Result<()> {
    answer.refused(TRY_AGAIN_LATER, &["RTNL", "try again later"])?;
    ensure!(*took < limit, "it took {took:?}");
    Ok(())
}

fn done_within(limit: Duration, (answer, took): &(Answer, Duration)) -> Result<()> {
    answer.silence()?;
    ensure!(*took < limit, "it took {took:?}");
    Ok(())
}

/// Asks for `/healthz` until `until`; the longest that it took.
fn health(daemon: &Daemon<'_>, until: Instant) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    while Instant::now() < until {
        let begun = Instant::now();
        daemon.get("/healthz")?;
        longest = longest.max(begun.elapsed());
        ensure!(longest < HEALTH, "/healthz took {longest:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(longest)
}

/// Tasks of a process: their states, the main thread's first.
fn threads(process: u32) -> Result<Vec<char>> {
    let mut tasks: Vec<u32> =
        fs::read_dir(format!("/proc/{process}/task"))?.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect();
    tasks.sort_unstable();
    let state = |task: &u32| fs::read_to_string(format!("/proc/{process}/task/{task}/stat")).ok()?.rsplit_once(") ")?.1.chars().next();
    Ok(tasks.iter().filter_map(state).collect())
}

fn packets_pass(from: &Pod, to: &str) -> Result<()> {
    let line = format!("ping -n -c 1 -W 1 {to}");
    Ok(wait_until(&line, Duration::from_secs(5), || from.run(&line).map(drop).map_err(|error| format!("{error:#}")))?)
}

/// Everything that a runtime may ask, while the lock is held for so long.
fn everybody_is_answered(hold: Duration) -> Result<()> {
    on_node(|host, daemon| {
        let (kept, result) = host.attached()?;
        let (going, _) = host.attached()?;
        let others = (0..ADDS).map(|_| host.pod()).collect::<Result<Vec<_>>>()?;
        let [late, later] = [host.pod()?, host.pod()?];
        let before = threads(daemon.process())?.len();

        let rtnl = Rtnl::hold()?;
        let until = Instant::now() + hold;
        std::thread::scope(|scope| {
            let adds: Vec<_> = others.iter().map(|pod| begin(scope, host, "ADD", pod, None)).collect();
            let check = begin(scope, host, "CHECK", &kept, Some(&result));
            let same = begin(scope, host, "ADD", &kept, None);
            // Behind all of those.
            let del = begin(scope, host, "DEL", &going, None);
            let status = begin(scope, host, "STATUS", &kept, None);
            health(&daemon, Instant::now() + ANSWERED)?;
            for add in adds {
                refused_within(ANSWERED, &end(add)?).context("ADD")?;
            }
            refused_within(ANSWERED, &end(check)?).context("CHECK")?;
            refused_within(ANSWERED, &end(same)?).context("a second ADD")?;
            done_within(ANSWERED, &end(del)?).context("DEL")?;
            done_within(ANSWERED, &end(status)?).context("STATUS")
        })?;

        // It is known by now.
        refused_within(AT_ONCE, &timed(host, "ADD", &late, None)?).context("a late ADD")?;
        done_within(AT_ONCE, &timed(host, "STATUS", &kept, None)?).context("a late STATUS")?;
        done_within(AT_ONCE, &timed(host, "DEL", &late, None)?).context("the DEL of a refused ADD")?;
        // Of those the threads are in the kernel still: what cannot be done now is queued.
        for pod in &others {
            done_within(AT_ONCE, &timed(host, "DEL", pod, None)?).context("the DEL of an ADD that is held up")?;
        }
        daemon.wait_for_condition("KernelHeldUp", "LockNotReleased", &["RTNL", "running pods are well"])?;
        ensure!(daemon.get("/readyz").is_err_and(|why| format!("{why:#}").contains("RTNL")), "/readyz says that all is well");
        ensure!(daemon.metric("barewire_kernel_calls_held_up")? >= 1.0, "nothing is held up");
        packets_pass(&kept, "10.0.0.10")?;
        health(&daemon, until)?;

        drop(rtnl);
        daemon.wait_for_end_of("KernelHeldUp")?;
        daemon.wait_until_ready()?;
        host.call_for("ADD", &later).run()?.result()?;
        daemon.wait_until("all that was refused or deleted is gone", || {
            let (pool, ends) = (daemon.pool()?, host.host_ends()?);
            ensure!(ends.len() == 2 && pool["attachments"] == 2 && pool["ipv4 held"] == 2, "{ends:?} {pool:?}");
            ensure!(fs::read_dir(host.run_dir().join("queue")).map_or(0, Iterator::count) == 0, "DELs are queued still");
            Ok(())
        })?;
        daemon.wait_until("threads that stood in for others are gone", || {
            let now = threads(daemon.process())?.len();
            // Those of a scrape or two among them.
            ensure!(now <= before + 4, "{now} threads, {before} before");
            Ok(())
        })?;
        for pod in others.iter().chain([&late]) {
            host.call_for("ADD", pod).run()?.result()?;
        }
        host.call_for("CHECK", &kept).conf("prevResult", result.clone()).run()?.silence()?;
        daemon.stop()
    })
}

#[test]
fn everybody_is_answered_while_the_lock_is_held() -> Result<()> {
    everybody_is_answered(Duration::from_secs(16))
}

#[test]
#[ignore = "takes more than a minute; the other form shows the same"]
fn everybody_is_answered_while_the_lock_is_held_for_a_minute() -> Result<()> {
    everybody_is_answered(Duration::from_secs(60))
}

/// A thread in the kernel keeps what is left of a process; all that the process does has ended, and has let go of its state.
#[test]
fn a_daemon_ends_in_its_time_while_the_lock_is_held() -> Result<()> {
    on_node(|host, daemon| {
        let (kept, result) = host.attached()?;
        let [first, second] = [host.pod()?, host.pod()?];
        let process = daemon.process();
        let rtnl = Rtnl::hold()?;
        std::thread::scope(|scope| {
            let adds = [&first, &second].map(|pod| begin(scope, host, "ADD", pod, None));
            daemon.wait_until("a call of the kernel is held up", || {
                ensure!(daemon.metric("barewire_kernel_calls_held_up")? >= 1.0, "none is");
                Ok(())
            })?;
            let begun = Instant::now();
            daemon.terminate()?;
            for add in adds {
                let (answer, took) = end(add)?;
                ensure!(!answer.succeeded() && took < ANSWERED, "{answer} after {took:?}");
            }
            wait_until("the end of the daemon's main thread", STOPPED, || {
                let states = threads(process).map_err(|error| format!("{error:#}"))?;
                if matches!(states.first(), None | Some('Z')) { Ok(()) } else { Err(format!("threads are {states:?}")) }
            })?;
            ensure!(begun.elapsed() < STOPPED, "it took {:?}", begun.elapsed());
            ensure!(!host.socket().exists(), "the socket is there still");
            let states = threads(process)?;
            ensure!(states.iter().all(|state| matches!(state, 'Z' | 'D')), "threads that are not held up go on: {states:?}");
            // With no daemon a DEL is queued, as ever.
            done_within(ANSWERED, &timed(host, "DEL", &first, None)?)?;
            packets_pass(&kept, "10.0.0.10")
        })?;
        drop(rtnl);
        let status = daemon.wait()?;
        ensure!(status.success(), "barewired ended with {status}");

        let daemon = host.start()?;
        host.wait_for_host_ends(1)?;
        let pool = daemon.pool()?;
        ensure!(pool["attachments"] == 1 && pool["ipv4 held"] == 1, "{pool:?}");
        host.call_for("CHECK", &kept).conf("prevResult", result).run()?.silence()?;
        for pod in [&first, &second] {
            host.call_for("ADD", pod).run()?.result()?;
        }
        daemon.stop()
    })
}
