//! Plugin and daemon are upgraded in either order: one protocol version of difference is served, two are not, a DEL always is.
//! And an ADD that nobody waits for leaves nothing.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::host::{Host, Pod, Settings};
use node_api::{BootMillis, PROTOCOL_VERSION, read_frame, write_frame};
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
fn a_del_of_any_version_is_done() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        for protocol in [json!(0), json!(PROTOCOL_VERSION + 1), json!(PROTOCOL_VERSION + 98), json!("2.1"), json!(null)] {
            let (pod, _) = host.attached()?;
            let del = json!({ "container_id": pod.id, "ifname": "eth0", "later": [1] });
            let response = exchange(host, &json!({ "protocol": protocol, "later": 1, "request": { "del": del } }), None)?;
            ensure!(response == json!({ "ok": "done" }), "{protocol}: {response}");
            ensure!(daemon.pool()?["attachments"] == 0, "{protocol}: it is still attached");
        }
        Ok(())
    })
}

#[test]
fn an_add_whose_caller_is_gone_leaves_nothing() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let before = daemon.pool()?;
        let mut gone = Vec::new();
        // It may be found gone before, while or after the pod is wired: the more, the more of each. Where this thread waits for a
        // processor, every ADD is answered before it can go.
        for round in (0..20).cycle().take(400) {
            if round == 0 && gone.len() > 1 {
                break;
            }
            let pod = host.pod()?;
            let mut stream = UnixStream::connect(host.socket())?;
            let netns = std::fs::File::open(pod.netns.path())?;
            write_frame(&mut stream, &add(PROTOCOL_VERSION, &pod), Some(netns.as_fd()))?;
            std::thread::sleep(Duration::from_micros(100 * round));
            stream.shutdown(Shutdown::Both)?;
            // What had come by then has been answered, and is for a DEL to undo.
            match read_frame::<Value>(&mut stream) {
                Ok(_) => host.call_for("DEL", &pod).run()?.silence()?,
                Err(_) => gone.push(pod),
            }
        }
        ensure!(gone.len() > 1, "400 times the answer was faster than this thread");
        daemon.wait_until("the ADDs to be done with and undone", || {
            // An attachment behind them all: whoever waits is served.
            let (pod, _) = host.attached()?;
            host.call_for("DEL", &pod).run()?.silence()?;
            ensure!(daemon.pool()? == before, "{before:?} became {:?}", daemon.pool()?);
            Ok(())
        })?;
        host.wait_for_host_ends(0)?;
        for pod in &gone {
            ensure!(pod.links()?.is_empty(), "{:?}", pod.links()?);
        }
        println!("{} ADDs whose caller was gone", gone.len());
        Ok(())
    })
}

#[test]
fn an_add_past_its_deadline_is_not_begun() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let pod = host.pod()?;
        let before = Footprint::of(host, daemon, &pod)?;
        let mut late = add(PROTOCOL_VERSION, &pod);
        late["deadline"] = json!(BootMillis::now().0 - 1);
        let response = exchange(host, &late, Some(&pod))?;
        ensure!(response["error"]["code"] == TRY_AGAIN_LATER, "{response}");
        before.unchanged(host, daemon, &pod)?;

        late["deadline"] = json!(BootMillis::now().plus(30_000).0);
        let response = exchange(host, &late, Some(&pod))?;
        ensure!(response["ok"]["attached"]["ips"].is_array(), "{response}");
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
