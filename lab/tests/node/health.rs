//! Checks of others' and the preflight, by a real daemon: what a person sees, what a reload and a restart do.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab::host::{Daemon, Settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::on_host;

/// A plug-in's table: `sh` with this script.
fn plugin(name: &str, kind: &str, script: &str) -> String {
    format!("[health.plugins.{name}]\ncommand = [\"/bin/sh\", \"-c\", {script:?}]\nkind = \"{kind}\"\nfailures = 1\n")
}

/// A check's result on the page, and what was seen.
fn found(daemon: &Daemon<'_>, check: &str) -> Result<(String, String)> {
    let page: Vec<Value> = serde_json::from_str(&daemon.get("/health")?)?;
    let line = page.into_iter().find(|line| line["check"] == check).with_context(|| format!("no {check}"))?;
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    Ok((text("result"), text("message")))
}

fn wait_for(daemon: &Daemon<'_>, check: &str, result: &str, message: &str) -> Result<()> {
    daemon.wait_until(check, || {
        let found = found(daemon, check)?;
        ensure!(found == (result.to_owned(), message.to_owned()), "{found:?}");
        Ok(())
    })
}

fn runs(file: &Path) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

#[test]
fn a_preflight_fails_is_mended_and_is_not_run_again_in_its_boot() -> Result<()> {
    on_host(Settings::default(), |host| {
        let (mended, ran) = (host.path("mended"), host.path("ran"));
        let script = format!("echo >> {}; test -e {} && exit 0; echo no GPU; exit 1", ran.display(), mended.display());
        // Without checks of the machine: its disks may be full, and the host of a test has the machine's /sys, where its uplink is not.
        let off = ["uplink", "uplink_speed", "uplink_flaps", "uplink_errors", "disk_root", "disk_var", "kernel_log", "clock"];
        let keys = format!("[health]\nenabled = true\nchecks_off = {off:?}\n");
        let keys = format!("{keys}{}", plugin("gpu", "preflight", &script));
        let config = host.write_configuration(&keys)?;
        let daemon = host.spawn_as_configured(&config)?;
        daemon.wait_until_ready()?;
        wait_for(&daemon, "preflight", "failed", "plugin/gpu: no GPU")?;
        ensure!(daemon.metric("barewire_health_preflight{state=\"failed\"}")? == 1.0);
        ensure!(runs(&ran) == 1, "nobody has said that it is to run again");
        // One more plug-in, by a reload; the preflight is run again as well.
        fs::write(&mended, "")?;
        host.write_configuration(&format!("{keys}{}", plugin("link", "passive", "echo '{\"message\": \"port down\"}'; exit 1")))?;
        reload(&daemon)?;
        wait_for(&daemon, "plugin/link", "failed", "port down")?;
        ensure!(daemon.metric("barewire_health_check{check=\"plugin/link\",result=\"failed\"}")? == 1.0);
        ensure!(found(&daemon, "preflight")?.0 == "running", "a check fails: it is waited for");
        host.write_configuration(&format!("{keys}{}", plugin("link", "passive", "exit 0")))?;
        reload(&daemon)?;
        wait_for(&daemon, "preflight", "passed", "")?;
        ensure!(!daemon.log().contains("the rest when barewired restarts"), "{}", daemon.log());
        let before = runs(&ran);
        daemon.stop()?;
        let daemon = host.spawn_as_configured(&config)?;
        daemon.wait_until_ready()?;
        wait_for(&daemon, "plugin/link", "ok", "")?;
        wait_for(&daemon, "preflight", "passed", "")?;
        ensure!(runs(&ran) == before, "it ran beside pods");
        Ok(())
    })
}

fn reload(daemon: &Daemon<'_>) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(daemon.process())?), Signal::SIGHUP)?)
}
