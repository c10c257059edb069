//! The daemon stops or dies in the midst of work: an ADD that was answered is durable, one that was not leaves nothing
//! (invariant I3), a DEL is always applied in the end (I4), and an address has one owner (I1).

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{Read, Seek};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::host::{Answer, Daemon, Host, Pod, Settings};
use serde_json::{Value, json};

use crate::{addresses, on_host};

const TRY_AGAIN_LATER: u64 = 11;
/// As many as the daemon has threads.
const RUNTIME_THREADS: usize = 16;
/// Half of each round's operations.
const PODS: usize = 25;
/// How many operations of a round have been answered when the daemon dies: others are under way then.
const KILLED_AFTER: [usize; 6] = [0, 1, 4, 8, 12, 20];
const STOPPED_AFTER: [usize; 4] = [0, 2, 8, 16];
const POLL: Duration = Duration::from_micros(200);

/// An operation to be executed, and what it answered.
struct Operation {
    command: &'static str,
    pod: Pod,
}

struct Done {
    operation: Operation,
    answer: Answer,
}

/// Executes all operations, as many at a time as a busy runtime would; `disturb` happens when `after` of them are answered.
fn storm(host: &Host, operations: Vec<Operation>, after: usize, disturb: impl FnOnce() -> Result<()>) -> Result<Vec<Done>> {
    let waiting = Mutex::new(VecDeque::from(operations));
    let done = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(operation) = next else { return Ok(()) };
            let answer = host.call_for(operation.command, &operation.pod).run()?;
            done.lock().unwrap_or_else(PoisonError::into_inner).push(Done { operation, answer });
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..RUNTIME_THREADS).map(|_| scope.spawn(work)).collect();
        let answered = || done.lock().unwrap_or_else(PoisonError::into_inner).len();
        while answered() < after && !threads.iter().all(thread::ScopedJoinHandle::is_finished) {
            thread::sleep(POLL);
        }
        disturb()?;
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The pods that are attached after a storm and a restart, as far as answers tell; the others are deleted as a runtime does.
fn settle(host: &Host, done: Vec<Done>) -> Result<Vec<(Pod, Value)>> {
    let mut attached = Vec::new();
    for Done { operation: Operation { command, pod }, answer } in done {
        match (command, answer.succeeded()) {
            ("ADD", true) => attached.push((pod, answer.result()?)),
            ("ADD", false) => {
                answer.refused(TRY_AGAIN_LATER, &["barewire"])?;
                host.call_for("DEL", &pod).run()?.silence()?;
            }
            ("DEL", true) => answer.silence()?,
            _ => bail!("DEL must not fail, but the plugin {answer}"),
        }
    }
    Ok(attached)
}

/// Exactly these pods are attached, each with addresses of its own, and everything else is gone.
fn assert_exactly(host: &Host, daemon: &Daemon<'_>, attached: &[(Pod, Value)]) -> Result<()> {
    let mut owners: HashMap<String, &str> = HashMap::new();
    for (pod, result) in attached {
        let check = host.call_for("CHECK", pod).conf("prevResult", result.clone()).run()?;
        check.silence().with_context(|| format!("{}, whose ADD was answered; {}", pod.id, daemon.end_of_log()))?;
        for address in addresses(result) {
            let earlier = owners.insert(address.clone(), &pod.id);
            ensure!(earlier.is_none(), "{address} belongs to {} and to {earlier:?}", pod.id);
        }
    }
    host.wait_for_host_ends(attached.len()).with_context(|| daemon.end_of_log())?;
    let (pool, count) = (daemon.pool()?, i64::try_from(attached.len())?);
    ensure!(pool["attachments"] == count && pool["ipv4 held"] == count && pool["ipv6 held"] == count, "{count} pods, but {pool:?}");
    Ok(())
}

#[test]
fn a_daemon_killed_in_a_storm_keeps_its_word() -> Result<()> {
    on_host(Settings::default(), |host| {
        let mut daemon = host.start()?;
        let mut attached: Vec<(Pod, Value)> = Vec::new();
        // The end of a namespace is the end of its links: while it lives, a link that a DEL has left is seen.
        let mut namespaces = Vec::new();
        let (mut answered, mut refused) = (0, 0);
        for after in KILLED_AFTER {
            let mut operations = Vec::new();
            let old = std::mem::take(&mut attached);
            let (mut leaving, staying): (Vec<_>, Vec<_>) = old.into_iter().enumerate().partition(|(number, _)| number % 3 != 0);
            leaving.truncate(PODS);
            for _ in 0..PODS {
                let pod = host.pod()?;
                namespaces.push(pod.netns.clone());
                operations.push(Operation { command: "ADD", pod });
                operations.extend(leaving.pop().map(|(_, (pod, _))| Operation { command: "DEL", pod }));
            }
            let done = storm(host, operations, after, || daemon.kill())?;
            daemon = host.start()?;
            answered += done.iter().filter(|done| done.operation.command == "ADD" && done.answer.succeeded()).count();
            refused += done.iter().filter(|done| !done.answer.succeeded()).count();
            attached = settle(host, done)?;
            attached.extend(staying.into_iter().chain(leaving).map(|(_, pod)| pod));
            assert_exactly(host, &daemon, &attached).with_context(|| format!("killed after {after} answers"))?;
        }
        ensure!(answered > 0 && refused > 0, "the kills came too early or too late: {answered} answered, {refused} refused");

        for (pod, _) in attached.drain(..) {
            host.call_for("DEL", &pod).run()?.silence()?;
        }
        assert_exactly(host, &daemon, &[])
    })
}

#[test]
fn sigterm_finishes_what_was_begun_and_begins_nothing_more() -> Result<()> {
    on_host(Settings::default(), |host| {
        let (mut answered, mut refused) = (0, 0);
        for after in STOPPED_AFTER {
            let daemon = host.start()?;
            let operations = (0..PODS).map(|_| Ok(Operation { command: "ADD", pod: host.pod()? })).collect::<Result<_>>()?;
            let done = storm(host, operations, after, || daemon.stop())?;
            // Nothing is to be cleaned up here: what was refused is known to have left nothing.
            let mut attached = Vec::new();
            for Done { operation, answer } in done {
                if answer.succeeded() {
                    attached.push((operation.pod, answer.result()?));
                } else {
                    answer.refused(TRY_AGAIN_LATER, &["barewire"])?;
                    ensure!(operation.pod.links()?.is_empty(), "{} has {:?}", operation.pod.id, operation.pod.links()?);
                    refused += 1;
                }
            }
            answered += attached.len();
            host.wait_for_host_ends(attached.len())?;
            let daemon = host.start()?;
            assert_exactly(host, &daemon, &attached).with_context(|| format!("stopped after {after} answers"))?;
            for (pod, _) in &attached {
                host.call_for("DEL", pod).run()?.silence()?;
            }
            host.wait_for_host_ends(0)?;
            daemon.stop()?;
        }
        ensure!(answered > 0 && refused > 0, "SIGTERM came too early or too late: {answered} answered, {refused} refused");
        Ok(())
    })
}

/// How many plugins are killed.
const KILLS: u32 = 200;

/// Executes an ADD and kills the plugin after `life`; whether it ended well before, and what it printed.
fn add_killed_after(host: &Host, pod: &Pod, life: Duration) -> Result<(bool, Vec<u8>)> {
    let mut stdout = tempfile::tempfile()?;
    let conf = host.path(&format!("{}.conf", pod.id));
    std::fs::write(
        &conf,
        json!({ "cniVersion": "1.1.0", "name": "barewire", "type": "barewire-cni", "socket": host.socket() }).to_string(),
    )?;
    let mut command = Command::new(host.plugin().path);
    command.env_clear().env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", &pod.id).env("CNI_IFNAME", "eth0");
    command.env("CNI_NETNS", pod.netns.path()).stdin(File::open(&conf)?).stdout(stdout.try_clone()?);
    let begun = Instant::now();
    let mut plugin = {
        let _inside = host.netns().enter()?;
        command.spawn()?
    };
    // Not a wait for anything: the moment of the kill is what is tried.
    while begun.elapsed() < life {
        std::hint::spin_loop();
    }
    plugin.kill()?;
    let status = plugin.wait()?;
    let mut printed = Vec::new();
    stdout.rewind()?;
    stdout.read_to_end(&mut printed)?;
    Ok((status.success(), printed))
}

#[test]
fn i3_plugins_that_are_killed_at_any_moment_leave_nothing() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        let mut whole = Vec::new();
        for _ in 0..10 {
            let (pod, begun) = (host.pod()?, Instant::now());
            host.call_for("ADD", &pod).run()?.result()?;
            whole.push(begun.elapsed());
            host.call_for("DEL", &pod).run()?.silence()?;
        }
        whole.sort_unstable();
        let longest = whole[whole.len() / 2] * 2;

        let (mut attached, mut cut_off, mut namespaces) = (Vec::new(), 0, Vec::new());
        for kill in 0..KILLS {
            let pod = host.pod()?;
            namespaces.push(pod.netns.clone());
            let (ended_well, printed) = add_killed_after(host, &pod, longest * kill / KILLS)?;
            match serde_json::from_slice::<Value>(&printed) {
                Ok(result) if ended_well => attached.push((pod, result)),
                // It was killed after its last word: whether the daemon knows that it came to that is open, and the runtime sends a DEL.
                Ok(_) => host.call_for("DEL", &pod).run()?.silence()?,
                Err(_) => cut_off += 1,
            }
        }
        ensure!(
            cut_off > 20 && attached.len() > 20,
            "the kills came too early or too late: {cut_off} cut off, {} answered",
            attached.len()
        );
        daemon.wait_until("what nobody knows of is undone", || {
            let pool = daemon.pool()?;
            ensure!(usize::try_from(pool["attachments"])? == attached.len(), "{} were answered, but {pool:?}", attached.len());
            Ok(())
        })?;
        assert_exactly(host, &daemon, &attached)
    })
}
