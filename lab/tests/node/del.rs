//! DEL needs the socket, the container and the interface: whatever else is given, or is not, the pod is detached.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::host::{Call, Host, Settings};
use serde_json::{Value, json};

use crate::{Footprint, on_host, on_node};

/// What a runtime, another plugin or an old cache may hand to a DEL as `prevResult`.
fn odd_results(result: &Value) -> Vec<Value> {
    let mut foreign = result.clone();
    foreign["interfaces"][0]["own"] = json!({ "a": [null] });
    foreign["later"] = json!(true);
    vec![
        json!(null),
        json!(7),
        json!("result"),
        json!([]),
        json!([null]),
        json!({}),
        json!({ "cniVersion": "1.0.0", "ips": null, "dns": null }),
        json!({ "interfaces": null }),
        json!({ "interfaces": [null], "ips": [null], "routes": [null], "dns": [null] }),
        json!({ "ips": [{ "address": null, "gateway": "", "interface": -1 }] }),
        json!({ "ips": "none", "routes": 7, "interfaces": {} }),
        json!({ "ips": [{ "address": "nowhere" }], "routes": [{ "dst": "10.0.0.300/33" }] }),
        foreign,
    ]
}

/// What else can be odd about a call, beside `prevResult`.
fn odd_calls<'a>(host: &'a Host, call: &Call<'a>) -> Vec<(&'static str, Call<'a>)> {
    let call = || call.clone();
    let deep = format!(r#"{{"prevResult":{}1{},"socket":{}}}"#, "[".repeat(3000), "]".repeat(3000), json!(host.socket()));
    let large = format!(r#"{{"prevResult":"{}","socket":{}}}"#, "x".repeat(10_000_000), json!(host.socket()));
    let half = format!(r#"{{"socket":{},"prevResult":{{"#, json!(host.socket()));
    vec![
        ("no version", call().conf("cniVersion", json!(null))),
        ("an unknown version", call().conf("cniVersion", json!("9.9.9"))),
        ("a version that is a number", call().conf("cniVersion", json!(1))),
        ("no name", call().conf("name", json!(null))),
        ("an illegal name", call().conf("name", json!("a b"))),
        ("odd capabilities", call().conf("runtimeConfig", json!({ "ips": [7], "mac": "zz" }))),
        ("capabilities that are a list", call().conf("runtimeConfig", json!([]))),
        ("arguments without =", call().with("CNI_ARGS", "oops")),
        ("arguments with two =", call().with("CNI_ARGS", "A=B=C")),
        ("empty arguments", call().with("CNI_ARGS", ";;")),
        ("long arguments", call().with("CNI_ARGS", "x".repeat(5000))),
        ("an empty namespace", call().with("CNI_NETNS", "")),
        ("no namespace", call().without("CNI_NETNS")),
        ("a namespace that is gone", call().with("CNI_NETNS", "/run/netns/no-such")),
        ("a namespace that is none", call().with("CNI_NETNS", "/etc/passwd")),
        ("a long namespace", call().with("CNI_NETNS", "x".repeat(5000))),
        ("no path", call().without("CNI_PATH")),
        ("nested deeply", call().stdin(deep)),
        ("10 MB", call().stdin(large)),
        ("cut off", call().stdin(half)),
    ]
}

#[test]
fn whatever_else_is_given_the_pod_is_detached() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let bystander = host.attached()?;
        let before = Footprint::of(host, daemon, &bystander.0)?;
        let count = odd_results(&bystander.1).len();
        for index in 0..count {
            let (pod, result) = host.attached()?;
            let odd = odd_results(&result).swap_remove(index);
            host.call_for("DEL", &pod).conf("prevResult", odd.clone()).run()?.silence().with_context(|| format!("prevResult {odd}"))?;
            ensure!(daemon.pool()?["attachments"] == 1, "prevResult {odd}: it is still attached");
        }
        let names: Vec<_> = odd_calls(host, &host.call("DEL")).into_iter().map(|(name, _)| name).collect();
        for (index, name) in names.into_iter().enumerate() {
            let (pod, _) = host.attached()?;
            let (_, call) = odd_calls(host, &host.call_for("DEL", &pod)).swap_remove(index);
            call.run()?.silence().with_context(|| name.to_owned())?;
            ensure!(daemon.pool()?["attachments"] == 1, "{name}: it is still attached");
        }
        host.wait_for_host_ends(1)?;
        before.unchanged(host, daemon, &bystander.0)
    })
}

/// Without a word about the socket the daemon is where it is by default; here nobody is, and the DEL is queued there. The machine's
/// own `/run` is covered while that is tried.
#[test]
fn without_a_configuration_the_daemon_is_where_it_is_by_default() -> Result<()> {
    on_host(Settings::default(), |host| {
        let plugin = host.binary("barewire-cni");
        let plugin = plugin.to_str().context("a path in UTF-8")?;
        for (what, stdin) in [("empty", ""), ("not JSON", "hello"), ("a list", "[]"), ("no string", r#"{"socket":1}"#)] {
            let input = host.path("stdin");
            fs::write(&input, stdin)?;
            let input = input.to_str().context("a path in UTF-8")?;
            let script = format!(
                "mount -t tmpfs none /run && CNI_COMMAND=DEL CNI_CONTAINERID=c1 CNI_IFNAME=eth0 '{plugin}' <'{input}' && cat /run/barewire/queue/*.del"
            );
            let queued = host.run(&["unshare", "--mount", "sh", "-c", &script]).with_context(|| what.to_owned())?;
            let queued: Value = serde_json::from_str(&queued).with_context(|| format!("{what}: {queued}"))?;
            ensure!(queued["del"] == json!({ "container_id": "c1", "ifname": "eth0" }), "{what}: {queued}");
        }
        Ok(())
    })
}
