//! Plugin and daemon are upgraded in either order: one protocol version of difference is served, two are not.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use conformance_tests::host::{Host, Pod, Settings};
use node_api::{PROTOCOL_VERSION, read_frame, write_frame};
use serde_json::{Value, json};

use crate::{Footprint, on_node};

const TRY_AGAIN_LATER: u64 = 11;
const UNDECODABLE: u64 = 6;

/// One exchange, as a plugin of another version would have it.
fn exchange(host: &Host, message: &Value, netns: Option<&Pod>) -> Result<Value> {
    let mut stream = UnixStream::connect(host.socket())?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let netns = netns.map(|pod| std::fs::File::open(pod.netns.path())).transpose()?;
    write_frame(&mut stream, message, netns.as_ref().map(AsFd::as_fd))?;
    Ok(read_frame(&mut stream)?)
}

/// An ADD with a field that this version does not know.
fn add(protocol: u32, pod: &Pod) -> Value {
    json!({ "protocol": protocol, "sender": "barewire-cni 9", "later": 1, "request": { "add": {
        "network": "barewire", "container_id": pod.id, "ifname": "eth0", "netns_path": pod.netns.path(), "later": { "a": [1] },
    } } })
}

#[test]
fn one_version_older_and_newer_is_served() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let versions = [PROTOCOL_VERSION - 1, PROTOCOL_VERSION, PROTOCOL_VERSION + 1];
        for protocol in versions {
            let pod = host.pod()?;
            let response = exchange(host, &add(protocol, &pod), Some(&pod))?;
            ensure!(response["ok"]["attached"]["ips"].is_array(), "{protocol}: {response}");
            ensure!(pod.link("eth0")?.is_some());
        }
        ensure!(daemon.pool()?["attachments"] == 3);
        Ok(())
    })
}

#[test]
fn two_versions_newer_is_refused_with_the_remedy() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let pod = host.pod()?;
        let before = Footprint::of(host, daemon, &pod)?;
        let response = exchange(host, &add(PROTOCOL_VERSION + 2, &pod), Some(&pod))?;
        let msg = response["error"]["msg"].as_str().context("a message")?;
        ensure!(response["error"]["code"] == TRY_AGAIN_LATER, "{response}");
        let named = [format!("protocol {}", PROTOCOL_VERSION + 2), "upgrade barewired".to_owned()];
        ensure!(named.iter().all(|part| msg.contains(part)), "{msg}");
        before.unchanged(host, daemon, &pod)?;
        Ok(())
    })
}

#[test]
fn a_peer_that_talks_nonsense_costs_nobody_else_anything() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let pod = host.pod()?;
        let before = Footprint::of(host, daemon, &pod)?;
        for nonsense in [json!(7), json!({ "protocol": PROTOCOL_VERSION }), json!({ "protocol": PROTOCOL_VERSION, "request": "add" })] {
            let response = exchange(host, &nonsense, None)?;
            ensure!(response["error"]["code"] == UNDECODABLE, "{response}");
        }
        let response = exchange(host, &add(PROTOCOL_VERSION, &pod), None)?;
        ensure!(response["error"]["code"] == UNDECODABLE, "an ADD without its namespace: {response}");
        before.unchanged(host, daemon, &pod)?;

        // More silent peers than the daemon has threads: they are cut off.
        let silent: Vec<_> = (0..20).map(|_| UnixStream::connect(host.socket())).collect::<std::io::Result<_>>()?;
        host.call_for("ADD", &pod).run()?.result()?;
        drop(silent);
        Ok(())
    })
}
