//! One daemon a state, and only root may ask it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use conformance_tests::invocation::Plugin;
use lab::host::{Host, Settings};

use crate::{Footprint, on_node};

const TRY_AGAIN_LATER: u64 = 11;
const NOBODY: &str = "65534";

fn mode(path: &std::path::Path) -> Result<u32> {
    Ok(fs::metadata(path).with_context(|| path.display().to_string())?.permissions().mode() & 0o7777)
}

#[test]
fn a_second_daemon_on_the_same_state_refuses() -> Result<()> {
    on_node(Settings::default(), |host, first| {
        let (pod, result) = host.attached()?;
        let second = host.spawn()?;
        ensure!(!second.wait()?.success());
        let log = second.end_of_log();
        ensure!(log.contains("another barewired runs on") && log.contains("stop it first"), "{log}");
        // The first has lost nothing by it.
        first.wait_until_ready()?;
        host.call_for("CHECK", &pod).conf("prevResult", result).run()?.silence()
    })
}

#[test]
fn socket_store_and_directory_are_roots_alone() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        ensure!(mode(&host.socket())? == 0o600, "cni.sock has mode {:o}", mode(&host.socket())?);
        ensure!(mode(&host.run_dir())? == 0o700, "the run directory has mode {:o}", mode(&host.run_dir())?);
        Ok(())
    })
}

#[test]
fn a_peer_that_is_not_root_is_refused() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let pod = host.pod()?;
        let before = Footprint::of(host, daemon, &pod)?;
        let add = || host.call_for("ADD", &pod).of(as_nobody(host)?).run();
        add()?.refused(TRY_AGAIN_LATER, &["Permission denied"])?;
        ensure!(!daemon.end_of_log().contains("only root may ask"), "the file modes keep it out");

        // Even where file modes do not keep it out.
        fs::set_permissions(host.run_dir(), fs::Permissions::from_mode(0o755))?;
        fs::set_permissions(host.socket(), fs::Permissions::from_mode(0o666))?;
        ensure!(!add()?.succeeded());
        let log = daemon.end_of_log();
        ensure!(log.contains(&format!("runs as user {NOBODY}; only root may ask")), "{log}");
        before.unchanged(host, daemon, &pod)?;
        Ok(())
    })
}

/// The plugin, executed by a user without rights: a script, for a call has a program and no arguments.
fn as_nobody(host: &Host) -> Result<Plugin> {
    let script = host.path("as-nobody");
    let plugin = host.path("barewire-cni");
    fs::copy(host.binary("barewire-cni"), &plugin)?;
    let text = format!("#!/bin/sh\nexec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups -- {}\n", plugin.display());
    fs::write(&script, text)?;
    for path in [&script, &plugin] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let reaches = Command::new("setpriv").args(["--reuid", NOBODY, "--clear-groups", "test", "-x"]).arg(&plugin).status()?;
    ensure!(reaches.success(), "user {NOBODY} cannot execute {}", plugin.display());
    Ok(Plugin { path: script, ..host.plugin() })
}
