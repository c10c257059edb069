//! What the commands print besides words, what the programs dropped, and how long commands take.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::host::Settings;
use serde_json::Value;

use super::{named, says};

/// More would be felt by somebody who types.
const PROMISED: Duration = Duration::from_millis(50);
/// As many pods as a large node has.
const PODS: usize = 250;
/// Of each command, of which the median counts.
const RUNS: usize = 9;
/// The machine has other work, for seconds at times: one undisturbed round of so many is enough.
const ROUNDS: usize = 8;

#[test]
fn all_pages_are_yaml_too() -> Result<()> {
    crate::on_node(Settings::default(), |host, _daemon| {
        let _pod = named(host, "api")?;
        for line in ["status", "pods", "addresses", "traffic --once --interval=100ms", "drops", "trace --from api --to 8.8.8.8", "version"]
        {
            let text = says(host, &format!("{line} -o yaml"), 0)?;
            ensure!(text.starts_with("---\n") && !text.contains("{\n"), "{line}: {text}");
        }
        ensure!(says(host, "pods -o yaml", 0)?.contains("name: api"));
        Ok(())
    })
}

#[test]
fn shells_and_manuals_know_every_command() -> Result<()> {
    crate::on_host(Settings::default(), |host| {
        for shell in ["bash", "zsh", "fish"] {
            let script = says(host, &format!("completions {shell}"), 0)?;
            ensure!(["doctor", "trace", "path-to"].iter().all(|word| script.contains(word)), "{shell}: {script}");
        }
        let directory = host.path("man");
        ensure!(says(host, &format!("man {}", directory.display()), 1)?.contains("name a directory that exists"));
        std::fs::create_dir(&directory)?;
        says(host, &format!("man {}", directory.display()), 0)?;
        let page = std::fs::read_to_string(directory.join("barewire-doctor.1"))?;
        ensure!(page.contains(".TH") && page.contains("path\\-to"), "{page}");
        Ok(())
    })
}

#[test]
fn what_was_dropped_is_told_with_its_reason() -> Result<()> {
    crate::on_node(Settings::default().with_fast_path(true), |host, daemon| {
        let (pod, _) = named(host, "api")?;
        pod.run("ip address add 10.9.9.9/32 dev eth0")?;
        // Nothing comes back.
        let _ = pod.run("ping -n -c 2 -i 0.2 -W 1 -I 10.9.9.9 10.0.7.7");
        daemon.wait_until("the drops are counted", || {
            let page: Value = serde_json::from_str(&says(host, "drops -o json", 0)?)?;
            let spoofed = page.as_array().into_iter().flatten().find(|row| row["reason"] == "spoofed_address").context("no row")?;
            ensure!(spoofed["packets"].as_u64() >= Some(2) && spoofed["outcome"] == "dropped", "{page}");
            Ok(())
        })?;
        let text = says(host, "drops --slow", 0)?;
        ensure!(text.starts_with("REASON") && text.contains("the source address is not the pod's"), "{text}");
        Ok(())
    })
}

#[test]
fn every_command_answers_at_once() -> Result<()> {
    crate::on_node(Settings::default().with_fast_path(true), |host, _daemon| {
        let pods = (0..PODS).map(|number| named(host, &format!("p{number}"))).collect::<Result<Vec<_>>>()?;
        for line in ["status", "status --short", "pods", "pods p7", "addresses", "drops", "trace --from p7 --to 10.0.7.7:80", "version"] {
            let mut medians = Vec::new();
            while medians.last().is_none_or(|median| *median > PROMISED) {
                ensure!(medians.len() < ROUNDS, "barewire {line} with {} pods: {medians:?}", pods.len());
                let mut took = Vec::new();
                for _ in 0..RUNS {
                    let begun = Instant::now();
                    says(host, line, 0)?;
                    took.push(begun.elapsed());
                }
                took.sort_unstable();
                medians.push(took[RUNS / 2]);
            }
        }
        Ok(())
    })
}
