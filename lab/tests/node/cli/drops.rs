//! `barewire drops --follow`: packets that the programs drop, one by one.

use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use lab::host::Settings;
use serde_json::Value;

use super::{barewire, named, says};

#[test]
fn whoever_follows_sees_what_a_pod_spoofs() -> Result<()> {
    crate::on_node(Settings::default().with_fast_path(true), |host, daemon| {
        let (pod, _) = named(host, "api")?;
        let (_other, _) = named(host, "other")?;
        pod.run("ip address add 10.9.9.9/32 dev eth0")?;
        let spoof = || {
            // Nothing comes back.
            let _ = pod.run("ping -n -c 3 -i 0.2 -W 1 -I 10.9.9.9 10.0.7.7");
        };
        // What was dropped before somebody watches is counted, and told to nobody.
        spoof();
        // A pod's kernel asks for routers as well, three times, and that is dropped for another reason.
        let lines = ["drops --follow --pod web/api --count 6 --duration 30s", "drops --follow --count 12 --duration 30s -o json"];
        let said = thread::scope(|scope| -> Result<Vec<String>> {
            let watchers = lines.map(|line| scope.spawn(move || says(host, line, 0)));
            while watchers.iter().any(|watcher| !watcher.is_finished()) {
                spoof();
            }
            watchers.into_iter().map(|watcher| watcher.join().map_err(|_| anyhow!("it panicked"))?).collect()
        })?;
        let [text, json] = &said[..] else { anyhow::bail!("{said:?}") };
        let told: Vec<_> = text.lines().skip(1).filter(|line| !is_for_routers(line)).collect();
        ensure!(text.starts_with("TIME") && text.lines().count() == 7 && told.len() >= 3, "{text}");
        for line in told {
            let parts = ["web/api", "sent", "spoofed_address", "icmp 10.9.9.9 -> 10.0.7.7 type 8 code 0, 98 bytes"];
            ensure!(parts.iter().all(|part| line.contains(part)), "{line}");
        }
        let told = json.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>().context("a JSON value a line")?;
        let spoofed = told.iter().filter(|packet| packet["reason"] == "spoofed_address" && packet["pod"] == "api").count();
        ensure!(told.len() == 12 && spoofed >= 6, "{json}");
        // Of another pod there is nothing to tell, and it ends all the same.
        let quiet = says(host, "drops --follow --pod web/other --duration 1s", 0)?;
        ensure!(quiet.lines().skip(1).all(is_for_routers), "{quiet}");
        ensure!(daemon.get("/drops?after=x").is_err(), "no number is none");
        Ok(())
    })
}

fn is_for_routers(line: &str) -> bool {
    line.contains("link_local") && line.contains("-> ff02::2 type 133")
}

#[test]
fn where_no_programs_are_in_use_it_says_so() -> Result<()> {
    crate::on_node(Settings::default().with_fast_path(false), |host, _daemon| {
        let said = barewire(host, "drops --follow --duration 1s")?;
        ensure!(said.code == 1 && said.out.contains("no programs are in use on this node"), "{} {}", said.out, said.err);
        says(host, "drops --follow --slow", 64).map(drop)
    })
}
