//! A run directory without space: an ADD fails and leaves nothing, a DEL succeeds, and all is well when there is space again.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::host::{Host, Pod, Settings};
use serde_json::Value;

use crate::{Footprint, on_host};

const IO_FAILURE: u64 = 5;
/// Twice an empty store.
const RUN_DIR_BYTES: u64 = 4 << 20;
/// What fits into the pages that the store has already is committed even so; a store of this size has no more of them.
const PODS_MAX: usize = 200;

#[test]
fn a_full_disk_fails_adds_and_not_dels() -> Result<()> {
    on_host(Settings::default(), |host| {
        host.limit_run_dir(RUN_DIR_BYTES)?;
        let daemon = host.start()?;
        let mut pods = vec![host.attached()?];
        let ballast = host.run_dir().join("ballast");
        fill(&ballast)?;

        let (refused, before) = loop {
            ensure!(pods.len() < PODS_MAX, "{PODS_MAX} pods were attached on a full disk");
            let pod = host.pod()?;
            let before = Footprint::of(host, &daemon, &pod)?;
            let answer = host.call_for("ADD", &pod).run()?;
            if !answer.succeeded() {
                answer.refused(IO_FAILURE, &["store.redb", "free space in the run directory"])?;
                break (pod, before);
            }
            pods.push((pod, answer.result()?));
        };
        host.wait_for_host_ends(pods.len())?;
        before.unchanged(host, &daemon, &refused)?;
        // The store gives some pages back when a commit fails; without them readiness says what an ADD would.
        daemon.wait_until("/readyz says that the disk is full", || {
            fill(&ballast)?;
            let told = daemon.get("/readyz").err().context("it is ready")?;
            ensure!(format!("{told:#}").contains("store.redb") && format!("{told:#}").contains("free space"), "{told:#}");
            Ok(())
        })?;
        daemon.wait_for_condition("StoreNotWritable", "CommitFailed", &["store.redb", "free space"])?;
        host.call("STATUS").run()?.silence().context("pods that run are well")?;

        let (deleted, _) = pods.remove(0);
        host.call_for("DEL", &deleted).run()?.silence()?;
        host.wait_for_host_ends(pods.len())?;

        fs::remove_file(&ballast)?;
        daemon.wait_until_ready()?;
        let (added, result) = host.attached()?;
        pods.push((added, result));
        daemon.wait_until("every DEL is on disk", || {
            let page = daemon.get("/metrics")?;
            ensure!(page.lines().any(|line| line == "barewire_uncommitted_dels 0"), "{page}");
            Ok(())
        })?;
        let settled = daemon.pool()?;
        daemon.kill()?;

        let daemon = host.start()?;
        ensure!(settled == daemon.pool()?, "{settled:?} became {:?}", daemon.pool()?);
        assert_all_attached(host, &pods)
    })
}

#[test]
fn a_del_on_a_full_disk_without_a_daemon_says_that_it_must_be_repeated() -> Result<()> {
    on_host(Settings::default(), |host| {
        host.limit_run_dir(RUN_DIR_BYTES)?;
        let daemon = host.start()?;
        let (pod, _) = host.attached()?;
        daemon.stop()?;
        let ballast = host.run_dir().join("ballast");
        fill(&ballast)?;
        host.call_for("DEL", &pod).run()?.refused(IO_FAILURE, &["cannot be queued in", "free space there"])?;
        fs::remove_file(&ballast)?;
        host.call_for("DEL", &pod).run()?.silence()
    })
}

/// Lengthens a file until nothing more fits, and once more after a while: pages of a process that has just ended come back
/// late.
fn fill(path: &Path) -> Result<()> {
    lengthen(path)?;
    thread::sleep(Duration::from_millis(200));
    lengthen(path)
}

fn lengthen(path: &Path) -> Result<()> {
    let mut file = File::options().create(true).append(true).open(path)?;
    for size in [1 << 16, 1 << 12, 1] {
        let block = vec![0; size];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => bail!("fill the disk: {error}"),
            }
        }
    }
    Ok(())
}

fn assert_all_attached(host: &Host, pods: &[(Pod, Value)]) -> Result<()> {
    for (pod, result) in pods {
        let check = host.call_for("CHECK", pod).conf("prevResult", result.clone()).run()?;
        check.silence().with_context(|| pod.id.clone())?;
    }
    host.wait_for_host_ends(pods.len())
}
