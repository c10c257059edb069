//! The daemon is away: pods can be deleted, new ones are told to wait, and nothing is forgotten.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use lab::command::wait_until;
use lab::host::{Host, Settings};

use crate::on_host;

const UNKNOWN_CONTAINER: u64 = 3;
const TRY_AGAIN_LATER: u64 = 11;
const NOT_AVAILABLE: u64 = 50;
/// The queue is read every second.
const APPLIED: Duration = Duration::from_secs(10);

fn queue(host: &Host) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(host.run_dir().join("queue"))?;
    files.map(|file| Ok(file?.path())).collect()
}

#[test]
fn without_a_daemon_del_is_queued_and_the_others_say_so() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        let (pod, result) = host.attached()?;
        daemon.stop()?;
        ensure!(pod.link("eth0")?.is_some(), "a stop takes the network from running pods");

        host.call_for("DEL", &pod).run()?.silence()?;
        host.call_for("DEL", &pod).run()?.silence()?;
        ensure!(queue(host)?.len() == 1, "{:?}", queue(host)?);

        let socket = host.socket().display().to_string();
        let check = host.call_for("CHECK", &pod).conf("prevResult", result.clone());
        // Each waits a while for the daemon: at once, then.
        let other = host.pod()?;
        let calls = [host.call_for("ADD", &other), check.clone(), host.call("STATUS")];
        let [add, checked, status] =
            thread::scope(|scope| calls.map(|call| scope.spawn(move || call.run())).map(|call| call.join().expect("no panic")));
        add?.refused(TRY_AGAIN_LATER, &[&socket, "barewired does not answer", "systemctl status"])?;
        checked?.refused(TRY_AGAIN_LATER, &["barewired does not answer"])?;
        status?.refused(NOT_AVAILABLE, &["barewired does not answer", "start barewired"])?;
        let version = host.call("VERSION").run()?.result()?;
        ensure!(version["supportedVersions"].as_array().is_some_and(|list| list.len() == 4), "{version}");

        // The first answer that the next daemon gives knows of the DEL.
        let daemon = host.spawn()?;
        let mut first = None;
        daemon.wait_until("an answer to CHECK", || {
            let answer = check.clone().run()?;
            ensure!(answer.succeeded() || answer.refusal()?.code != TRY_AGAIN_LATER, "it {answer}");
            first = Some(answer);
            Ok(())
        })?;
        first.context("an answer")?.refused(UNKNOWN_CONTAINER, &[&pod.id])?;
        ensure!(queue(host)?.is_empty(), "{:?}", queue(host)?);
        host.wait_for_host_ends(0)
    })
}

#[test]
fn a_queued_del_spares_what_was_attached_after_it() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        let (pod, _) = host.attached()?;
        daemon.stop()?;
        host.call_for("DEL", &pod).run()?.silence()?;
        let file = queue(host)?.pop().context("a queued DEL")?;
        let old = fs::read(&file)?;

        let daemon = host.start()?;
        let result = host.call_for("ADD", &pod).run()?.result()?;
        // As if the plugin that queued it had been held up until now.
        fs::write(&file, old)?;
        wait_until("the old DEL is done with", APPLIED, || if file.exists() { Err("it waits".to_owned()) } else { Ok(()) })?;
        host.call_for("CHECK", &pod).conf("prevResult", result).run()?.silence()?;
        ensure!(daemon.pool()?["attachments"] == 1);
        Ok(())
    })
}

#[test]
fn a_queued_del_that_is_not_understood_is_set_aside() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        let (pod, result) = host.attached()?;
        fs::create_dir_all(host.run_dir().join("queue"))?;
        fs::write(host.run_dir().join("queue/x-eth0.del"), "{")?;
        daemon.wait_until("the file is set aside", || {
            let names: Vec<_> = queue(host)?.iter().filter_map(|path| Some(path.extension()?.to_owned())).collect();
            ensure!(names == ["bad"], "{names:?}");
            Ok(())
        })?;
        host.call_for("CHECK", &pod).conf("prevResult", result).run()?.silence()
    })
}

#[test]
fn names_with_a_hyphen_do_not_meet_in_the_queue() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        let pods = [host.pod()?, host.pod()?];
        let calls = |verb: &'static str| {
            let named = |index: usize, id: &str, ifname: &str| {
                host.call_for(verb, &pods[index]).with("CNI_CONTAINERID", id).with("CNI_IFNAME", ifname)
            };
            [named(0, "a-b", "c"), named(1, "a", "b-c")]
        };
        for call in calls("ADD") {
            call.run()?.result()?;
        }
        daemon.stop()?;
        for call in calls("DEL") {
            call.run()?.silence()?;
        }
        ensure!(queue(host)?.len() == 2, "{:?}", queue(host)?);
        let daemon = host.start()?;
        ensure!(daemon.pool()?["attachments"] == 0 && queue(host)?.is_empty(), "{:?}", queue(host)?);
        host.wait_for_host_ends(0)
    })
}

#[test]
fn what_older_and_killed_plugins_left_in_the_queue_is_seen_to() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        let (pod, _) = host.attached()?;
        daemon.stop()?;
        host.call_for("DEL", &pod).run()?.silence()?;
        let file = queue(host)?.pop().context("a queued DEL")?;
        let directory = file.parent().context("a directory")?;
        // As 0.1.0 named it.
        fs::rename(&file, directory.join(format!("{}-eth0.del", pod.id)))?;
        let (old, young) = (directory.join(".c1:eth0.77"), directory.join(".c1:eth0.78"));
        fs::write(&young, "half")?;
        let times = fs::FileTimes::new().set_modified(SystemTime::now() - Duration::from_secs(3600));
        fs::File::create(&old)?.set_times(times)?;

        let daemon = host.start()?;
        ensure!(daemon.pool()?["attachments"] == 0, "the DEL of an older plugin was not applied");
        ensure!(queue(host)? == [young], "{:?}", queue(host)?);
        Ok(())
    })
}

#[test]
fn a_restart_finds_every_pod_again() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        let pods = [host.attached()?, host.attached()?];
        let before = daemon.pool()?;
        daemon.stop()?;
        let daemon = host.start()?;
        ensure!(before == daemon.pool()?, "{before:?} became {:?}", daemon.pool()?);
        for (pod, result) in &pods {
            host.call_for("CHECK", pod).conf("prevResult", result.clone()).run()?.silence()?;
            let again = host.call_for("ADD", pod).run()?.result()?;
            ensure!(again == *result, "{result}\nbecame {again}");
        }
        Ok(())
    })
}
