//! The reference plugin `tuning` behind ours: whatever it sets, the pod has its network.

use anyhow::{Context, Result, ensure};
use lab::host::{Daemon, Host, Pod};
use serde_json::{Value, json};

use crate::{addresses, both_paths, reaches_all};

const VERSION: &str = "1.0.0";
const MAC: &str = "02:00:00:00:00:01";

/// One call of `tuning` for the pod's `eth0`, with its backups in the test's own folder.
fn tuning(host: &Host, command: &str, pod: &Pod, mut conf: Value, prev: &Value) -> Result<Option<Value>> {
    conf["cniVersion"] = json!(VERSION);
    conf["name"] = json!("barewire");
    conf["type"] = json!("tuning");
    conf["dataDir"] = json!(host.path("tuning"));
    conf["prevResult"] = prev.clone();
    let call = host.call_for(command, pod).with("CNI_PATH", "/usr/lib/cni");
    let answer = call.stdin(conf.to_string()).of(host.reference_plugin("tuning")?).run()?;
    if command == "ADD" { answer.result().map(Some) } else { answer.silence().map(|()| None) }
}

fn add(host: &Host, pod: &Pod, wishes: Value) -> Result<Value> {
    host.call_for("ADD", pod).conf("cniVersion", json!(VERSION)).conf("runtimeConfig", wishes).run()?.result()
}

/// The pod reaches everybody soon, and CHECK of both plugins agrees.
fn is_well(host: &Host, daemon: &Daemon<'_>, pod: &Pod, conf: &Value, result: &Value) -> Result<()> {
    let (other, others) = host.attached()?;
    let well = || reaches_all(host, pod, &addresses(result), (&other, &addresses(&others)));
    daemon.wait_until("the pod is reached", well)?;
    host.call_for("CHECK", pod).conf("cniVersion", json!(VERSION)).conf("prevResult", result.clone()).run()?.silence()?;
    tuning(host, "CHECK", pod, conf.clone(), result)?;
    host.call_for("DEL", &other).run()?.silence()
}

#[test]
fn whatever_tuning_sets_the_pod_has_its_network() -> Result<()> {
    both_paths(|host, daemon| {
        let by_capability = json!({ "mac": MAC });
        for (wishes, conf) in [
            (json!({}), json!({ "mac": MAC })),
            (by_capability.clone(), json!({ "capabilities": { "mac": true }, "runtimeConfig": by_capability })),
            (json!({}), json!({ "mtu": 1400 })),
            (json!({}), json!({ "promisc": true, "allmulti": true })),
            (json!({}), json!({ "mac": MAC, "mtu": 1300, "promisc": true })),
            (json!({}), json!({ "sysctl": { "net.ipv4.conf.eth0.arp_ignore": "8", "net.ipv6.conf.eth0.accept_ra": "0" } })),
        ] {
            let whole = || -> Result<()> {
                let pod = host.pod()?;
                let ours = add(host, &pod, wishes.clone())?;
                let result = tuning(host, "ADD", &pod, conf.clone(), &ours)?.context("a result")?;
                is_well(host, daemon, &pod, &conf, &result)?;
                tuning(host, "DEL", &pod, conf.clone(), &result)?;
                host.call_for("DEL", &pod).run()?.silence()?;
                host.wait_for_host_ends(0)
            };
            whole().with_context(|| format!("{conf}"))?;
        }
        Ok(())
    })
}

#[test]
fn a_mac_address_that_was_followed_outlives_the_daemon() -> Result<()> {
    both_paths(|host, daemon| {
        let (pod, result) = host.attached()?;
        pod.run(&format!("ip link set eth0 address {MAC}"))?;
        let (other, others) = host.attached()?;
        let others = addresses(&others);
        daemon.wait_until("the pod is reached", || reaches_all(host, &pod, &addresses(&result), (&other, &others)))?;
        let mut told = result;
        told["interfaces"][1]["mac"] = json!(MAC);
        host.call_for("CHECK", &pod).conf("prevResult", told).run()?.silence()?;
        let again = host.call_for("ADD", &pod).run()?.result()?;
        ensure!(again["interfaces"][1]["mac"] == MAC, "{again}");
        Ok(())
    })
}

#[test]
fn a_mac_address_that_changes_while_the_daemon_is_away_is_followed() -> Result<()> {
    use lab::host::Settings;
    for fast_path in [false, true] {
        crate::on_host(Settings::default().with_fast_path(fast_path), |host| {
            let daemon = host.start()?;
            let ((pod, result), (other, others)) = (host.attached()?, host.attached()?);
            daemon.kill()?;
            pod.run(&format!("ip link set eth0 address {MAC}"))?;
            let _daemon = host.start()?;
            reaches_all(host, &pod, &addresses(&result), (&other, &addresses(&others)))
        })?;
    }
    Ok(())
}
