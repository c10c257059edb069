//! Limits by pod, with the real plugin and daemon: asked for as runtimes ask, refused in words, kept through restarts, and gone with the pod.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::host::{Daemon, Pod, Settings, Start};
use serde_json::{Value, json};

use crate::on_host;

const INVALID_CONFIG: u64 = 7;
/// Bits a second.
const RATE: u64 = 10_000_000;
const DURATION: Duration = Duration::from_millis(800);
/// As containerd passes one annotation (go-cni has no names for JSON, and zero for what was not asked).
fn as_containerd(egress: u64) -> Value {
    json!({ "bandwidth": { "IngressRate": 0, "IngressBurst": 0, "EgressRate": egress, "EgressBurst": u32::MAX } })
}

#[test]
fn a_pod_is_held_to_what_its_runtime_asks_for_and_stays_so() -> Result<()> {
    on_host(Settings::default().with_fast_path(true), |host| {
        let daemon = host.start()?;
        let list: Value = serde_json::from_str(&std::fs::read_to_string(host.conflist())?)?;
        ensure!(list["plugins"][0]["capabilities"]["bandwidth"] == true, "the list does not offer it: {list}");

        let pod = host.pod()?;
        let result = host.call_for("ADD", &pod).conf("runtimeConfig", as_containerd(RATE)).run()?.result()?;
        let limits = limits_of(&daemon, &pod)?;
        ensure!(limits == json!({ "egress": RATE }), "told as {limits}");
        held_back(&daemon, &pod, "after ADD")?;
        host.call_for("CHECK", &pod).conf("prevResult", result.clone()).run()?.silence()?;

        daemon.kill()?;
        let daemon = host.start()?;
        ensure!(limits_of(&daemon, &pod)? == json!({ "egress": RATE }), "not told after a restart");
        held_back(&daemon, &pod, "after a restart")?;
        host.call_for("CHECK", &pod).conf("prevResult", result).run()?.silence()?;

        // Whoever comes after it, on the same number of a link, is held to nothing.
        host.call_for("DEL", &pod).run()?.silence()?;
        host.wait_for_host_ends(0)?;
        let (next, _) = host.attached()?;
        ensure!(limits_of(&daemon, &next)?.is_null(), "the next pod has limits");
        let before = dropped(&daemon, "egress_limit")?;
        flood(&next)?;
        ensure!(dropped(&daemon, "egress_limit")? == before, "the next pod is held to them");
        daemon.stop()
    })
}

#[test]
fn what_cannot_be_kept_is_refused_in_words() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        for (asked, parts) in [
            (json!({ "bandwidth": { "egressRate": 0, "egressBurst": 8 } }), &["runtimeConfig.bandwidth.egressRate is 0"][..]),
            (json!({ "bandwidth": { "ingressRate": -1 } }), &["runtimeConfig.bandwidth.ingressRate", "-1"]),
            (json!({ "bandwidth": { "ingressRate": 999 } }), &["runtimeConfig.bandwidth.ingressRate", "999", "between 1k and 1P"]),
            (json!({ "bandwidth": { "egressRate": u64::MAX } }), &["runtimeConfig.bandwidth.egressRate", "18446744073709551615"]),
            (annotated("10x"), &["barewire.io/internet-egress", "\"10x\""]),
            (annotated("0"), &["barewire.io/internet-egress", "\"0\""]),
        ] {
            let pod = host.pod()?;
            host.call_for("ADD", &pod).conf("runtimeConfig", asked).run()?.refused(INVALID_CONFIG, parts)?;
        }
        host.wait_for_host_ends(0)?;
        daemon.stop()
    })
}

#[test]
fn a_pods_annotation_limits_what_it_sends_to_the_internet() -> Result<()> {
    on_host(Settings::default().with_fast_path(true), |host| {
        let daemon = host.start()?;
        let pod = host.pod()?;
        host.call_for("ADD", &pod).conf("runtimeConfig", annotated("10M")).run()?.result()?;
        let told = limits_of(&daemon, &pod)?;
        ensure!(told == json!({ "internet_egress": RATE, "internet_egress_from": "pod" }), "told as {told}");
        daemon.stop()
    })
}

#[test]
fn limits_of_a_pod_whose_record_is_lost_are_found_again() -> Result<()> {
    on_host(Settings::default().with_fast_path(true), |host| {
        let daemon = host.start()?;
        let (held, internet, (free, _)) = (host.pod()?, host.pod()?, host.attached()?);
        host.call_for("ADD", &held).conf("runtimeConfig", as_containerd(RATE)).run()?.result()?;
        host.call_for("ADD", &internet).conf("runtimeConfig", annotated("20M")).run()?.result()?;
        daemon.kill()?;
        std::fs::remove_file(host.run_dir().join("store.redb"))?;

        let daemon = host.start()?;
        for (pod, limits, said) in [
            (&held, json!({ "egress": RATE }), "its limits are those that the kernel programs had"),
            (&internet, json!({ "internet_egress": 2 * RATE, "internet_egress_from": "pod" }), "its limits are those"),
            (&free, Value::Null, "has no limits of bandwidth"),
        ] {
            let told = limits_of(&daemon, pod)?;
            ensure!(told == limits, "{limits} came back as {told}; {}", daemon.end_of_log());
            let line = daemon.log().lines().find(|line| line.contains(&pod.id) && line.contains("rebuilt")).map(str::to_owned);
            ensure!(line.as_ref().is_some_and(|line| line.contains(said)), "the log says {line:?}");
        }
        held_back(&daemon, &held, "after its record was lost")?;
        daemon.stop()
    })
}

#[test]
fn a_limit_that_the_uplink_cannot_reach_is_told_with_whose_it_is() -> Result<()> {
    // A sysfs shows the links of the network namespace it was mounted in.
    const OWN_SYSFS: [&str; 5] = ["unshare", "--mount", "sh", "-c", "mount -t sysfs sysfs /sys && exec \"$0\" \"$@\""];
    on_host(Settings::default(), |host| {
        let told = host.run(&[&OWN_SYSFS[..], &["cat", "/sys/class/net/eth1/speed"]].concat())?;
        let megabits: u64 = told.trim().parse().with_context(|| format!("the speed of a veth is {told:?}"))?;
        let daemon = host.spawn_with(Start { by: &OWN_SYSFS, ..Start::default() })?;
        daemon.wait_until_ready()?;
        let (pod, slower) = (host.pod()?, host.pod()?);
        for (pod, rate) in [(&pod, megabits + 1), (&slower, megabits)] {
            host.call_for("ADD", pod).conf("runtimeConfig", annotated(&format!("{rate}M"))).run()?.result()?;
        }
        daemon.wait_for_condition("LimitAboveLink", "FasterThanUplink", &["internet egress", "set a rate below"])?;
        host.call_for("DEL", &pod).run()?.silence()?;
        daemon.wait_for_end_of("LimitAboveLink")?;
        daemon.stop()
    })
}

fn annotated(rate: &str) -> Value {
    json!({ "io.kubernetes.cri.pod-annotations": { "barewire.io/internet-egress": rate } })
}

/// What the daemon tells of a pod's limits.
fn limits_of(daemon: &Daemon<'_>, pod: &Pod) -> Result<Value> {
    let page: Value = serde_json::from_str(&daemon.get("/pods")?)?;
    let found = page.as_array().into_iter().flatten().find(|entry| entry["container_id"] == pod.id.as_str());
    Ok(found.context("the pod is not told")?["limits"].clone())
}

fn dropped(daemon: &Daemon<'_>, reason: &str) -> Result<f64> {
    daemon.metric(&format!("barewire_fast_path_dropped_total{{reason=\"{reason}\"}}"))
}

/// Sends as much as it can, and some of it is dropped.
fn held_back(daemon: &Daemon<'_>, pod: &Pod, when: &str) -> Result<()> {
    let before = dropped(daemon, "egress_limit")?;
    flood(pod)?;
    let lost = dropped(daemon, "egress_limit")? - before;
    ensure!(lost > 0.0, "{when}: nothing was held back");
    Ok(())
}

/// To an address that nobody has.
fn flood(pod: &Pod) -> Result<()> {
    let _inside = pod.netns.enter()?;
    let (socket, begun) = (UdpSocket::bind("0.0.0.0:0")?, Instant::now());
    while begun.elapsed() < DURATION {
        // That nobody listens is no matter.
        let _ = socket.send_to(&[7; 1_400], ("198.51.100.9", 9));
    }
    Ok(())
}
