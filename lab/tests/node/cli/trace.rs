//! `barewire trace` says what becomes of a packet, and a packet that is sent then goes that way: the programs' counters tell.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use lab::host::{Daemon, Host, Pod, Settings};
use serde_json::Value;

use super::{named, says};

/// Where a datagram goes, and what is expected of it: the path, the reason, the scope, and whether it gets the node's address.
const CASES: [(&str, &str, Option<&str>, &str, bool); 12] = [
    ("10.0.7.7", "fast", None, "vpc", false),
    ("fd00:10:7::7", "fast", None, "vpc", false),
    ("other", "fast", None, "same-node", false),
    ("other6", "fast", None, "same-node", false),
    ("8.8.8.8", "slow", Some("not_native"), "internet", true),
    ("2001:db8::1", "slow", Some("not_native"), "internet", true),
    // On the uplink's own link: the host reaches it without its gateway.
    ("10.0.0.77", "slow", Some("not_native"), "vpc", false),
    ("fd00:10::77", "slow", Some("not_native"), "vpc", false),
    ("10.0.0.10", "slow", Some("not_native"), "node", false),
    ("fd00:10::10", "slow", Some("not_native"), "node", false),
    ("10.0.1.200", "slow", Some("no_such_pod"), "vpc", false),
    ("169.254.169.254", "slow", Some("link_local"), "node", true),
];

/// Packets that were not carried, by reason; and what the pod has sent, by scope.
fn counters(daemon: &Daemon<'_>) -> Result<(BTreeMap<String, u64>, BTreeMap<String, u64>)> {
    let page: Value = serde_json::from_str(&daemon.get("/traffic")?)?;
    let numbers = |of: &Value, key: &str| -> BTreeMap<String, u64> {
        let pairs = of.as_object().into_iter().flatten();
        pairs.map(|(name, value)| (name.clone(), if key.is_empty() { value } else { &value[key] }.as_u64().unwrap_or_default())).collect()
    };
    let api = page["pods"].as_array().into_iter().flatten().find(|pod| pod["name"] == "api").context("the pod")?;
    Ok((numbers(&page["not_carried"], ""), numbers(&api["sent"], "packets")))
}

fn trace(host: &Host, to: &str, code: i32) -> Result<Value> {
    Ok(serde_json::from_str(&says(host, &format!("trace --from web/api --to {to} --protocol udp -o json"), code)?)?)
}

fn bracketed(to: &str, port: u16) -> String {
    if to.contains(':') { format!("[{to}]:{port}") } else { format!("{to}:{port}") }
}

/// Sends one datagram and sees that it was counted as was foretold.
fn goes(daemon: &Daemon<'_>, pod: &Pod, to: &str, reason: Option<&str>, scope: &str) -> Result<()> {
    let (reasons, sent) = counters(daemon)?;
    let shell = format!("bash -c echo>/dev/udp/{to}/9");
    // Where nothing leads to, the kernel of the pod may say so.
    let _ = pod.run(&shell);
    let of = |counted: &BTreeMap<String, u64>, name: &str| counted.get(name).copied().unwrap_or_default();
    daemon.wait_until("the packet is counted", || {
        let (reasons_now, sent_now) = counters(daemon)?;
        ensure!(of(&sent_now, scope) > of(&sent, scope), "nothing was sent to {scope}: {sent_now:?}");
        for (name, now) in &reasons_now {
            // Pods' kernels solicit routers and report groups all by themselves.
            let grown = *now > of(&reasons, name);
            ensure!(grown == (Some(name.as_str()) == reason) || name == "link_local", "{name} of {to}: {reasons:?} {reasons_now:?}");
        }
        Ok(())
    })
}

#[test]
fn a_packet_goes_as_was_said() -> Result<()> {
    crate::on_node(Settings::default().with_fast_path(true), |host, daemon| {
        let (pod, _) = named(host, "api")?;
        let (_other, of_other) = named(host, "other")?;
        for (to, path, reason, scope, masquerade) in CASES {
            let to = match to {
                "other" => of_other[0].as_str(),
                "other6" => of_other[1].as_str(),
                to => to,
            };
            let before = counters(daemon)?;
            let page = trace(host, &bracketed(to, 9), 0)?;
            let request = &page["trace"]["request"];
            let told = (request["path"].as_str(), request["reason"].as_str(), request["scope"].as_str());
            ensure!(told == (Some(path), reason, Some(scope)), "{to}: {page:#}");
            ensure!(page["trace"]["masquerade"] == masquerade, "{to}: {page:#}");
            if path == "fast" {
                ensure!(page["trace"]["reply"]["path"] == "fast", "{to}: {page:#}");
                let interface = if of_other.iter().any(|one| one == to) { "bw" } else { "eth1" };
                ensure!(request["interface"].as_str().is_some_and(|name| name.starts_with(interface)), "{to}: {page:#}");
            } else {
                ensure!(page["network_stack"].is_string(), "{to}: {page:#}");
            }
            // To ask is not to send.
            ensure!(counters(daemon)?.1 == before.1, "{to}: asking was counted");
            goes(daemon, &pod, to, reason, scope).with_context(|| format!("to {to}"))?;
        }
        let large = says(host, "trace --from web/api --to 10.0.7.7 --size 9500 -o json", 0)?;
        let large: Value = serde_json::from_str(&large)?;
        ensure!(large["trace"]["request"]["reason"] == "too_large" && large["trace"]["request"]["untracked"] == true, "{large:#}");
        let text = says(host, "trace --from api --to 10.0.7.7:443", 0)?;
        ensure!(text.contains("out of eth1 to 10.0.0.1") && text.ends_with("PATH   fast\nREPLY  fast\n"), "{text}");
        Ok(())
    })
}

#[test]
fn what_cannot_be_traced_is_said_in_words() -> Result<()> {
    crate::on_node(Settings::scarce("10.0.1.16/28", 0), |host, _daemon| {
        let _pod = named(host, "api")?;
        ensure!(says(host, "trace --from nobody --to 10.0.7.7", 1)?.contains("no pod of this node is nobody"));
        ensure!(says(host, "trace --from api --to fd00::1", 1)?.contains("has no IPv6 address"));
        says(host, "trace --from api --to elsewhere", 64)?;
        // Without programs all is slow, and that is the reason.
        let text = says(host, "trace --from api --to 8.8.8.8:53", 0)?;
        ensure!(text.contains("no programs are in use") && text.contains("masquerade") && text.contains("dev eth1"), "{text}");
        Ok(())
    })
}
