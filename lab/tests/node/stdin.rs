//! Standard input that is no network configuration: codes 6, 1 and 7.

use anyhow::{Context, Result};
use lab::host::Settings;
use serde_json::json;

use crate::{Footprint, on_node};

const INCOMPATIBLE_VERSION: u64 = 1;
const UNDECODABLE: u64 = 6;
const INVALID_CONFIG: u64 = 7;

#[test]
fn what_is_not_a_configuration_is_refused() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let pod = host.pod()?;
        let before = Footprint::of(host, daemon, &pod)?;
        let ten_megabytes = format!(r#"{{"cniVersion":"1.1.0","name":"barewire","padding":"{}"}}"#, "x".repeat(10_000_000));
        for (what, stdin, parts) in [
            ("empty", Vec::new(), ["empty", "write the network configuration"]),
            ("blank", b" \n".to_vec(), ["empty", "write the network configuration"]),
            ("not JSON", b"hello".to_vec(), ["line 1 column 1", "write one JSON object"]),
            ("half a JSON", br#"{"cniVersion":"1.1.0","#.to_vec(), ["EOF", "write one JSON object"]),
            ("a list", b"[]".to_vec(), ["sequence", "write one JSON object"]),
            ("not UTF-8", vec![0xff, 0xfe, 0], ["line 1 column 1", "write one JSON object"]),
            ("10 MB", ten_megabytes.into_bytes(), ["larger than 1048576 bytes", "a few kilobytes"]),
        ] {
            // A DEL needs nothing of it: see `del`.
            for command in ["ADD", "CHECK", "GC"] {
                let answer = host.call_for(command, &pod).stdin(stdin.clone()).run()?;
                answer.refused(UNDECODABLE, &parts).with_context(|| format!("{command}, {what}"))?;
            }
        }
        before.unchanged(host, daemon, &pod)?;
        Ok(())
    })
}

#[test]
fn a_version_that_is_not_spoken_is_named_with_those_that_are() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let pod = host.pod()?;
        let before = Footprint::of(host, daemon, &pod)?;
        for version in ["0.2.0", "0.3.0", "1.0", "1.2.0", "9.9.9", ""] {
            let answer = host.call_for("ADD", &pod).conf("cniVersion", json!(version)).run()?;
            let named = format!("{version:?}");
            answer.refused(INCOMPATIBLE_VERSION, &["cniVersion", &named, "0.3.1, 0.4.0, 1.0.0, 1.1.0"])?;
        }
        // Without one it is 0.2.0 (section 3, "Deriving execution configuration"), which is not spoken.
        host.call_for("ADD", &pod).conf("cniVersion", json!(null)).run()?.refused(INCOMPATIBLE_VERSION, &["cniVersion", "1.1.0"])?;
        before.unchanged(host, daemon, &pod)?;
        Ok(())
    })
}

#[test]
fn a_field_that_is_not_valid_is_named() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let pod = host.pod()?;
        let before = Footprint::of(host, daemon, &pod)?;
        for (key, value, parts) in [
            ("name", json!(null), ["name", "give the network a name"]),
            ("name", json!("a b"), ["name", "\"a b\""]),
            ("prevResult", json!(7), ["prevResult", "7"]),
            ("prevResult", json!([]), ["prevResult", "sequence"]),
            ("prevResult", json!({ "ips": 7 }), ["prevResult", "ips is 7"]),
            ("runtimeConfig", json!({ "ips": ["10.0.0.300"] }), ["runtimeConfig.ips", "10.0.0.300"]),
            ("runtimeConfig", json!({ "mac": "01:00:5e:00:00:01" }), ["runtimeConfig.mac", "group address"]),
            ("socket", json!(1), ["socket", "1"]),
            ("socket", json!("cni.sock"), ["socket", "\"cni.sock\" is not the absolute path"]),
        ] {
            host.call_for("ADD", &pod).conf(key, value).run()?.refused(INVALID_CONFIG, &parts)?;
        }
        before.unchanged(host, daemon, &pod)?;
        Ok(())
    })
}
