//! The result of the plugins before ours, and what a runtime kept of our own, with `null` and unknown fields in them.

use anyhow::{Context, Result, ensure};
use lab::host::Settings;
use serde_json::{Value, json};

use crate::{addresses, on_node};

#[test]
fn null_counts_as_absent_and_unknown_fields_pass_through() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        for previous in [
            json!({ "interfaces": null, "ips": null, "routes": null, "dns": null }),
            json!({ "interfaces": [null, { "name": "eth9", "mac": null, "own": 1 }], "ips": [null, { "address": null, "interface": 1 }] }),
            json!({ "ips": [{ "address": "192.0.2.7/24", "gateway": "", "interface": null, "own": { "a": null } }], "later": [1] }),
        ] {
            let pod = host.pod()?;
            let result = host.call_for("ADD", &pod).conf("prevResult", previous.clone()).run()?.result().context(previous.to_string())?;
            let interfaces = result["interfaces"].as_array().context("interfaces")?;
            for ours in result["ips"].as_array().context("ips")?.iter().rev().take(2) {
                let index = usize::try_from(ours["interface"].as_u64().context("an index")?)?;
                ensure!(interfaces[index]["name"] == "eth0", "{previous}\nbecame {result}");
            }
            for (key, theirs) in previous.as_object().context("an object")?.iter().filter(|(_, value)| !value.is_null()) {
                let kept = match theirs.as_array() {
                    Some(theirs) => result[key].as_array().is_some_and(|all| all.starts_with(theirs)),
                    None => result[key] == *theirs,
                };
                ensure!(kept, "{key} of {previous}\nbecame {result}");
            }
            // What a runtime hands back for a CHECK is all of it.
            host.call_for("CHECK", &pod).conf("prevResult", result).run()?.silence().context(previous.to_string())?;
        }
        Ok(())
    })
}

#[test]
fn a_check_reads_what_is_there() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        let (pod, result) = host.attached()?;
        let check = |change: &dyn Fn(&mut Value)| {
            let mut result = result.clone();
            change(&mut result);
            host.call_for("CHECK", &pod).conf("prevResult", result).run()
        };
        check(&|result| result["routes"] = json!(null))?.silence()?;
        check(&|result| result["interfaces"][0] = json!(null))?.silence()?;
        check(&|result| result["ips"][0]["gateway"] = json!(""))?.silence()?;
        // As Go writes an address that is nil.
        check(&|result| result["routes"] = json!([{ "dst": "<nil>", "gw": "" }]))?.silence()?;
        check(&|result| result["ips"].as_array_mut().into_iter().for_each(|ips| ips.insert(0, json!(null))))?.silence()?;
        // Our own address is not there any more: that is what CHECK is for.
        let address = addresses(&result)[0].clone();
        check(&|result| result["ips"] = json!(null))?.refused(102, &["prevResult lacks the address", &address])
    })
}
