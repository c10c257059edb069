//! `barewire-cni` first in a chain before the reference plugins, each fed the result of the one before as a runtime does.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use conformance_tests::version::SpecVersion;
use lab::host::{Answer, Host, Pod, Settings};
use serde_json::{Value, json};

use crate::{addresses, on_node};

/// The newest that Debian's reference plugins speak.
const VERSIONS: [SpecVersion; 3] = [SpecVersion::V0_3_1, SpecVersion::V0_4_0, SpecVersion::V1_0_0];
const SYSCTL: &str = "net.ipv4.conf.eth0.arp_notify";

/// A plugin of the chain: its type and its own part of the configuration.
type Link = (&'static str, Value);

/// Chains are run as far as this kernel has what the reference plugins need.
fn chain(host: &Host) -> Vec<Link> {
    let mut chain: Vec<Link> = vec![("tuning", json!({ "sysctl": { SYSCTL: "1" } }))];
    let mapping = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]);
    chain
        .push(("portmap", json!({ "snat": true, "capabilities": { "portMappings": true }, "runtimeConfig": { "portMappings": mapping } })));
    if host.run(&["tc", "qdisc", "add", "dev", "fabric0", "root", "tbf", "rate", "1mbit", "burst", "32kbit", "latency", "1s"]).is_ok() {
        // Towards the pod only: from the pod needs an ifb device besides.
        let limits = json!({ "ingressRate": 8_000_000, "ingressBurst": 8_000_000 });
        chain.push(("bandwidth", json!({ "capabilities": { "bandwidth": true }, "runtimeConfig": { "bandwidth": limits } })));
    } else {
        println!("SKIP bandwidth: this kernel has no tbf");
    }
    chain
}

/// Calls one plugin of the chain.
fn call(host: &Host, command: &str, pod: &Pod, version: SpecVersion, link: &Link, prev: Option<&Value>) -> Result<Answer> {
    let (kind, own) = link;
    let mut conf = own.clone();
    conf["cniVersion"] = json!(version.as_str());
    conf["name"] = json!("barewire");
    conf["type"] = json!(kind);
    if let Some(prev) = prev {
        conf["prevResult"] = prev.clone();
    }
    let call = host.call_for(command, pod).with("CNI_PATH", "/usr/lib/cni").stdin(conf.to_string());
    let call = if *kind == "barewire-cni" { call } else { call.of(host.reference_plugin(kind)?) };
    call.run()
}

#[test]
fn the_reference_plugins_work_behind_it() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let ours: Link = ("barewire-cni", json!({ "socket": host.socket() }));
        let mut chain: Vec<Link> = std::iter::once(ours).chain(chain(host)).collect();
        for version in VERSIONS {
            let pod = host.pod()?;
            let mut result = None;
            for link in &chain {
                let answer = call(host, "ADD", &pod, version, link, result.as_ref())?;
                result = Some(answer.result().with_context(|| format!("{version}: ADD of {}", link.0))?);
            }
            let result = result.context("a result")?;
            ensure!(result["cniVersion"] == version.as_str() && addresses(&result).len() == 2, "{result}");
            ensure!(sysctl(&pod)?.trim() == "1", "tuning did nothing");
            let rules = host.run(&["iptables-save", "-t", "nat"])?;
            ensure!(rules.contains("--dport 8080"), "portmap did nothing: {rules}");

            if version >= SpecVersion::V0_4_0 {
                // The CHECK of portmap 1.1 looks for the rules of IPv4 among those of IPv6, and fails behind any plugin.
                let checked: Vec<Link> = chain.iter().filter(|(kind, _)| *kind != "portmap").cloned().collect();
                all(host, "CHECK", &pod, version, &checked, &result)?;
            }
            chain.reverse();
            all(host, "DEL", &pod, version, &chain, &result)?;
            chain.reverse();
            host.wait_for_host_ends(0)?;
            ensure!(daemon.pool()?["attachments"] == 0);
        }
        Ok(())
    })
}

/// Calls every plugin of the chain with the final result; each must succeed silently.
fn all(host: &Host, command: &str, pod: &Pod, version: SpecVersion, chain: &[Link], result: &Value) -> Result<()> {
    for link in chain {
        let answer = call(host, command, pod, version, link, Some(result))?;
        answer.silence().with_context(|| format!("{version}: {command} of {}", link.0))?;
    }
    Ok(())
}

/// What `tuning` sets, as the pod sees it.
fn sysctl(pod: &Pod) -> Result<String> {
    let _inside = pod.netns.enter()?;
    // /proc/sys/net is that of the namespace that the thread is in.
    Ok(std::fs::read_to_string(Path::new("/proc/sys").join(SYSCTL.replace('.', "/")))?)
}
