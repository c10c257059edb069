//! CNI's own library, current, behind its own command line, on the list that barewired writes: alone, and in a chain with the reference
//! plugins of both ages.

use std::os::unix::fs::symlink;

use anyhow::{Context, Result, ensure};
use lab::host::{Daemon, Host, Pod, Settings, Start};
use lab::world;
use serde_json::Value;

use crate::on_host;

const PORTMAP: &str = "chained_plugins = [{ type = \"portmap\", capabilities = { portMappings = true } }]\n";
const CAPABILITIES: &str = r#"{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}"#;

/// What stands in `/opt/cni/bin` behind ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    Nothing,
    DebiansPortmap,
    CurrentPortmap,
}

/// Executes cnitool in the host, with a cache of the host's own.
fn cnitool(host: &Host, verb: &str, pod: &Pod) -> Result<String> {
    let tool = world::program("cnitool", "cnitool")?;
    let cache = host.path("cni-cache");
    std::fs::create_dir_all(&cache)?;
    let lists = host.conflist();
    let directory = lists.parent().context("a directory of lists")?;
    let script = r#"mkdir -p /var/lib/cni && mount --bind "$1" /var/lib/cni && exec "$2" "$3" barewire "$4""#;
    let environment = [
        format!("NETCONFPATH={}", directory.display()),
        format!("CAP_ARGS={CAPABILITIES}"),
        format!("CNI_PATH={}:/usr/lib/cni", host.bin_dir().display()),
    ];
    let [cache, tool, netns] = [&cache, &tool, &pod.netns.path().to_path_buf()].map(|path| path.to_string_lossy().into_owned());
    let mut argv = vec!["unshare", "--mount", "--propagation", "private", "env"];
    argv.extend(environment.iter().map(String::as_str));
    argv.extend(["sh", "-c", script, "cnitool", &cache, &tool, verb, &netns]);
    host.run(&argv).with_context(|| format!("cnitool {verb}"))
}

fn attachments(daemon: &Daemon<'_>) -> Result<i64> {
    Ok(daemon.pool()?["attachments"])
}

fn every_verb(behind: Behind, version: &str) -> Result<()> {
    on_host(Settings::default(), |host| {
        if behind == Behind::CurrentPortmap {
            symlink(world::program("cni-plugins", "portmap")?, host.bin_dir().join("portmap"))?;
        }
        let keys = if behind == Behind::Nothing { "" } else { PORTMAP };
        let daemon = host.spawn_with(Start { keys, ..Start::default() })?;
        daemon.wait_until_ready()?;
        let pod = host.pod()?;

        cnitool(host, "status", &pod)?;
        let result: Value = serde_json::from_str(&cnitool(host, "add", &pod)?).context("the result of ADD")?;
        ensure!(result["cniVersion"] == version, "{result}");
        ensure!(result["ips"].as_array().is_some_and(|ips| ips.len() == 2), "{result}");
        let checked = cnitool(host, "check", &pod);
        if behind == Behind::DebiansPortmap {
            // Its own fault: it looks for rules in the IPv6 table that it has not made there. The library asks ours before it.
            let said = checked.err().map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(said.contains("could not check ipv6 dnat"), "CHECK says: {said:?}");
        } else {
            checked?;
        }
        ensure!(attachments(&daemon)? == 1, "one pod");

        // Without a list of what is valid nothing is: the library sends a DEL for what it has in its cache, then GC.
        cnitool(host, "gc", &pod)?;
        ensure!(attachments(&daemon)? == 0, "GC has left the attachment");

        cnitool(host, "add", &pod)?;
        cnitool(host, "del", &pod)?;
        ensure!(attachments(&daemon)? == 0, "DEL has left the attachment");
        host.wait_for_host_ends(0)?;
        ensure!(pod.link("eth0")?.is_none(), "DEL has left the interface");
        cnitool(host, "del", &pod).context("a second DEL")?;
        cnitool(host, "status", &pod)?;
        daemon.stop()
    })
}

#[test]
fn every_verb_works_alone() -> Result<()> {
    every_verb(Behind::Nothing, "1.1.0")
}

#[test]
fn every_verb_works_before_debians_portmap() -> Result<()> {
    every_verb(Behind::DebiansPortmap, "1.0.0")
}

#[test]
fn every_verb_works_before_the_current_portmap() -> Result<()> {
    every_verb(Behind::CurrentPortmap, "1.1.0")
}
