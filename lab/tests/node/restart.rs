//! The daemon is restarted under a runtime's calls: what a node's readiness hangs on does not notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::host::{Answer, Call, Daemon, Host, Settings};

use crate::{binaries, on_host};

const NOT_AVAILABLE: u64 = 50;
const TRY_AGAIN_LATER: u64 = 11;
const RESTARTS: u32 = 10;
/// A kubelet asks every five seconds; this is to meet each restart several times.
const EVERY: Duration = Duration::from_millis(100);
const MINUTE: Duration = Duration::from_secs(60);
/// How long the plugin waits for a daemon.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a slow machine may add.
const SLACK: Duration = Duration::from_secs(10);

#[test]
fn a_runtime_that_asks_for_the_status_sees_no_restart() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            // Each on time, whether those before have been answered or not: several are under way when the daemon goes.
            let asking = scope.spawn(|| {
                let mut asked = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    asked.push(scope.spawn(|| host.call("STATUS").run()?.silence()));
                    thread::sleep(EVERY);
                }
                asked
            });
            let restarted = restart_again_and_again(host, daemon);
            over.store(true, Ordering::Relaxed);
            let asked = asking.join().expect("no panic");
            let _daemon = restarted?;
            let count = asked.len();
            let failed: Vec<_> = asked.into_iter().filter_map(|answer| answer.join().expect("no panic").err()).collect();
            ensure!(count > 100, "only {count} questions in a minute");
            ensure!(failed.is_empty(), "{} of {count} failed, the first: {:#}", failed.len(), failed[0]);
            println!("{count} times STATUS, {RESTARTS} restarts, no failure");
            Ok(())
        })
    })
}

/// In turn an orderly stop, as of an upgrade, and a crash.
fn restart_again_and_again<'a>(host: &'a Host, mut daemon: Daemon<'a>) -> Result<Daemon<'a>> {
    for restart in 0..RESTARTS {
        thread::sleep(MINUTE / RESTARTS);
        if restart % 2 == 0 {
            daemon.stop()?;
        } else {
            daemon.kill()?;
        }
        daemon = host.start()?;
    }
    Ok(daemon)
}

#[test]
fn an_add_waits_for_a_daemon_that_starts() -> Result<()> {
    on_host(Settings::default(), |host| {
        host.start()?.kill()?;
        let pod = host.pod()?;
        thread::scope(|scope| {
            let add = scope.spawn(|| host.call_for("ADD", &pod).run());
            // It waits already, or will find the daemon there; most often the former.
            thread::sleep(EVERY * 3);
            let _daemon = host.start()?;
            add.join().expect("no panic")?.result().map(drop)
        })
    })
}

fn timed(call: Call<'_>) -> Result<(Answer, Duration)> {
    let begun = Instant::now();
    Ok((call.run()?, begun.elapsed()))
}

#[test]
fn a_daemon_that_stays_away_is_not_waited_for_for_ever() -> Result<()> {
    let Some(binaries) = binaries() else { return Ok(()) };
    let host = Host::with_uplink(&binaries, Settings::default())?;
    let pod = host.pod()?;
    thread::scope(|scope| {
        let waiting = ["STATUS", "ADD"].map(|verb| {
            (
                verb,
                scope.spawn({
                    let call = host.call_for(verb, &pod);
                    || timed(call)
                }),
            )
        });
        for (verb, call) in waiting {
            let (answer, took) = call.join().expect("no panic")?;
            let code = if verb == "STATUS" { NOT_AVAILABLE } else { TRY_AGAIN_LATER };
            answer.refused(code, &["barewired does not answer", &host.socket().display().to_string()]).context(verb)?;
            ensure!(took >= PATIENCE - EVERY && took < PATIENCE + SLACK, "{verb} took {took:?}");
        }
        // What can be queued, or must not be late, does not wait.
        for verb in ["DEL", "GC", "VERSION"] {
            let call = host.call_for(verb, &pod).conf("cni.dev/valid-attachments", serde_json::json!([]));
            let (answer, took) = timed(call)?;
            ensure!(took < PATIENCE / 2, "{verb} took {took:?}: {answer}");
        }
        Ok(())
    })
}
