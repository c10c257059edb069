//! `CNI_*` variables that are missing, given twice, too long or illegal (section 2, "Parameters"): code 4.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use conformance_tests::invocation::Reply;
use lab::host::{Answer, Host, Settings};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::wait::{WaitStatus, waitpid};

use crate::{Footprint, on_node};

const INVALID_ENVIRONMENT: u64 = 4;

#[test]
fn a_missing_variable_is_named() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let pod = host.pod()?;
        let before = Footprint::of(host, daemon, &pod)?;
        for (command, variable) in [
            ("ADD", "CNI_COMMAND"),
            ("ADD", "CNI_CONTAINERID"),
            ("ADD", "CNI_NETNS"),
            ("ADD", "CNI_IFNAME"),
            ("DEL", "CNI_CONTAINERID"),
            ("DEL", "CNI_IFNAME"),
            ("CHECK", "CNI_CONTAINERID"),
            ("CHECK", "CNI_NETNS"),
            ("CHECK", "CNI_IFNAME"),
        ] {
            let answer = host.call_for(command, &pod).without(variable).run()?;
            answer.refused(INVALID_ENVIRONMENT, &[variable, "is not set"]).with_context(|| format!("{command} without {variable}"))?;
        }
        host.call_for("ATTACH", &pod).run()?.refused(INVALID_ENVIRONMENT, &["\"ATTACH\"", "use ADD, DEL"])?;
        before.unchanged(host, daemon, &pod)?;
        Ok(())
    })
}

#[test]
fn an_over_long_variable_is_named_with_its_limit() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let pod = host.pod()?;
        let before = Footprint::of(host, daemon, &pod)?;
        for (variable, length, limit) in [
            ("CNI_CONTAINERID", 201, "200"),
            ("CNI_CONTAINERID", 5000, "4096"),
            ("CNI_NETNS", 5000, "4096"),
            ("CNI_IFNAME", 16, "at most 15"),
            ("CNI_ARGS", 5000, "4096"),
            ("CNI_COMMAND", 5000, "4096"),
        ] {
            let answer = host.call_for("ADD", &pod).with(variable, "x".repeat(length)).run()?;
            answer.refused(INVALID_ENVIRONMENT, &[variable, &length.to_string(), limit])?;
        }
        before.unchanged(host, daemon, &pod)?;
        Ok(())
    })
}

#[test]
fn an_illegal_name_is_named() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let pod = host.pod()?;
        let before = Footprint::of(host, daemon, &pod)?;
        for name in ["", ".", "..", "a/b", "a:b", "a b", "eth\u{e9}"] {
            host.call_for("ADD", &pod).with("CNI_IFNAME", name).run()?.refused(INVALID_ENVIRONMENT, &["CNI_IFNAME", name])?;
        }
        for id in ["", "-a", "a/../b", "a b"] {
            host.call_for("ADD", &pod).with("CNI_CONTAINERID", id).run()?.refused(INVALID_ENVIRONMENT, &["CNI_CONTAINERID", id])?;
        }
        host.call_for("ADD", &pod).with("CNI_ARGS", "oops").run()?.refused(INVALID_ENVIRONMENT, &["CNI_ARGS", "\"oops\"", "KEY=VALUE"])?;
        before.unchanged(host, daemon, &pod)?;
        Ok(())
    })
}

#[test]
fn all_that_is_wrong_is_told_at_once() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        let answer = host.call("ADD").with("CNI_IFNAME", "a/b").with("CNI_CONTAINERID", "-").run()?;
        answer.refused(INVALID_ENVIRONMENT, &["CNI_NETNS", "CNI_IFNAME", "a/b", "CNI_CONTAINERID"])
    })
}

#[test]
fn a_variable_given_twice_is_named() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let pod = host.pod()?;
        let before = Footprint::of(host, daemon, &pod)?;
        let netns = format!("CNI_NETNS={}", pod.netns.path().display());
        let good = ["CNI_COMMAND=ADD", "CNI_CONTAINERID=twice", "CNI_IFNAME=eth0", &netns];
        for again in ["CNI_CONTAINERID=other", "CNI_COMMAND=DEL", "CNI_IFNAME=eth0"] {
            let answer = execute_with(host, &[&good[..], &[again]].concat())?;
            let variable = again.split('=').next().unwrap_or_default();
            answer.refused(INVALID_ENVIRONMENT, &[variable, "set twice; set it once"])?;
        }
        before.unchanged(host, daemon, &pod)?;
        // The same way of executing it, with nothing twice, is accepted.
        let result = execute_with(host, &good)?.result()?;
        ensure!(result["ips"].is_array(), "{result}");
        Ok(())
    })
}

/// Executes the plugin with exactly this environment: the standard library's is a map and cannot hold a variable twice.
fn execute_with(host: &Host, environment: &[&str]) -> Result<Answer> {
    let (input, output) = (host.path("stdin"), host.path("stdout"));
    let conf = serde_json::json!({ "cniVersion": "1.1.0", "name": "barewire", "type": "barewire-cni", "socket": host.socket() });
    fs::write(&input, conf.to_string()).context("write stdin")?;
    let (stdin, stdout) = (File::open(&input).context("open stdin")?, File::create(&output).context("create stdout")?);

    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_dup2(stdin.as_raw_fd(), 0)?;
    actions.add_dup2(stdout.as_raw_fd(), 1)?;
    let program = CString::new(host.binary("barewire-cni").as_os_str().as_bytes())?;
    let environment = environment.iter().map(|pair| CString::new(*pair)).collect::<Result<Vec<_>, _>>()?;
    let begun = Instant::now();
    let pid = {
        let _inside = host.netns().enter()?;
        posix_spawn(program.as_c_str(), &actions, &PosixSpawnAttr::init()?, &[&program], &environment)?
    };
    let status = match waitpid(pid, None)? {
        WaitStatus::Exited(_, code) => ExitStatus::from_raw(code << 8),
        other => anyhow::bail!("the plugin ended with {other:?}"),
    };
    let stdout = fs::read(&output).context("read stdout")?;
    Ok(Answer::new(Reply { status: Some(status), stdout, stderr: Vec::new(), took: begun.elapsed() }))
}
