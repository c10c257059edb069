//! `barewire`, the operator's command, asks a real daemon.

mod capture;
mod doctor;
mod drops;
mod output;
mod release;
mod trace;

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use lab::host::{Host, Pod, Settings, Start};

use crate::{addresses, ping};

/// What it printed, and its exit code.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn barewire(host: &Host, line: &str) -> Result<Said> {
    let _inside = host.netns().enter()?;
    let Output { status, stdout, stderr } = Command::new(host.binary("barewire")).args(line.split_whitespace()).output()?;
    let text = |bytes| String::from_utf8(bytes).context("not text");
    Ok(Said { code: status.code().context("killed")?, out: text(stdout)?, err: text(stderr)? })
}

/// Runs it, which must end with this code; what it printed.
fn says(host: &Host, line: &str, code: i32) -> Result<String> {
    let said = barewire(host, line)?;
    ensure!(said.code == code, "barewire {line}: {} instead of {code}: {}{}", said.code, said.out, said.err);
    Ok(said.out)
}

#[test]
fn a_daemon_that_is_away_is_named_with_where_to_look() -> Result<()> {
    crate::on_host(Settings::default(), |host| {
        let said = barewire(host, "status")?;
        ensure!(said.code == 3 && said.out.is_empty(), "{} {}", said.code, said.out);
        for part in ["127.0.0.1:9807", "systemctl status barewired", "journalctl -u barewired", "telemetry.listen"] {
            ensure!(said.err.contains(part), "no {part} in {}", said.err);
        }
        ensure!(says(host, "version", 3)?.starts_with("barewire "));
        says(host, "status --wait=200ms", 3)?;
        for wrong in ["", "frobnicate", "status --wait=1h", "status --daemon=here"] {
            says(host, wrong, 64)?;
        }
        says(host, "--help", 0).map(drop)
    })
}

#[test]
fn status_waits_for_a_node_that_is_about_to_be_ready() -> Result<()> {
    crate::on_host(Settings::default(), |host| {
        let _daemon = host.spawn()?;
        let text = says(host, "status --wait=20s", 0)?;
        ensure!(text.contains("READY      yes") && text.contains("no programs"), "{text}");
        ensure!(says(host, "version", 0)?.contains("barewired "));
        Ok(())
    })
}

#[test]
fn status_shows_the_fast_path() -> Result<()> {
    crate::on_node(Settings::default().with_fast_path(true), |host, _daemon| {
        let text = says(host, "status", 0)?;
        ensure!(text.contains("DATAPATH   eth1 (") && text.contains("carried by the programs"), "{text}");
        Ok(())
    })
}

#[test]
fn a_full_node_is_not_ready_and_says_what_to_do() -> Result<()> {
    crate::on_host(Settings::scarce("10.0.1.16", 60), |host| {
        let daemon = host.spawn_with(Start::default())?;
        daemon.wait_until_ready()?;
        let _pod = host.attached()?;
        daemon.wait_for_condition("AddressesExhausted", "NoFreeIPv4Address", &[])?;
        let text = says(host, "status", 2)?;
        ensure!(
            text.starts_with("PROBLEMS   1\n  ‼ AddressesExhausted (NoFreeIPv4Address)") && text.contains("barewired --max-pods"),
            "{text}"
        );
        ensure!(text.contains("PODS       1 attached") && text.contains("ipv4            1     0"), "{text}");
        let line = says(host, "status --short", 2)?;
        ensure!(line.lines().count() == 1 && line.contains("1 of 1 in use; problems: AddressesExhausted"), "{line}");
        let page: serde_json::Value = serde_json::from_str(&says(host, "status -o json", 2)?)?;
        ensure!(page["status"]["ready"] == false && page["status"]["addresses"]["ipv4"]["held"] == 1, "{page}");
        Ok(())
    })
}

/// A pod that has a name.
pub(crate) fn named(host: &Host, name: &str) -> Result<(Pod, Vec<String>)> {
    let pod = host.pod()?;
    let identity = format!("K8S_POD_NAMESPACE=web;K8S_POD_NAME={name}");
    let result = host.call_for("ADD", &pod).with("CNI_ARGS", identity).run()?.result()?;
    Ok((pod, addresses(&result)))
}

#[test]
fn an_address_leads_to_its_pod_and_a_pod_to_its_link() -> Result<()> {
    crate::both_paths(|host, _daemon| {
        let (api, of_api) = named(host, "api")?;
        let (_other, _) = named(host, "other")?;
        ensure!(says(host, "pods", 0)?.lines().count() == 3);
        for wanted in ["api", "web/api", of_api[0].as_str(), of_api[1].as_str(), api.id.as_str()] {
            let page: serde_json::Value = serde_json::from_str(&says(host, &format!("pods -o json {wanted}"), 0)?)?;
            ensure!(page.as_array().is_some_and(|pods| pods.len() == 1) && page[0]["name"] == "api", "{wanted}: {page}");
            let link = page[0]["host_interface"].as_str().context("a host interface")?;
            ensure!(host.host_ends()?.iter().any(|end| end == link), "{page}");
            let shown = host.run(&["ip", "-o", "link", "show", "dev", link])?;
            ensure!(shown.starts_with(&format!("{}: ", page[0]["host_ifindex"])), "{shown} {page}");
        }
        let text = says(host, "addresses --state in-use", 0)?;
        ensure!(text.contains("web/api") && text.contains("web/other") && text.lines().count() == 5, "{text}");
        says(host, "pods 10.0.1.250", 1).map(drop)
    })
}

#[test]
fn a_pod_says_by_which_path_it_goes() -> Result<()> {
    for fast_path in [false, true] {
        crate::on_node(Settings::default().with_fast_path(fast_path), |host, _daemon| {
            named(host, "api")?;
            let page: serde_json::Value = serde_json::from_str(&says(host, "pods -o json", 0)?)?;
            ensure!(page[0]["path"] == if fast_path { "fast" } else { "slow" } && page[0]["why"].is_null() == fast_path, "{page}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn an_address_that_was_freed_cools_down() -> Result<()> {
    crate::on_node(Settings::scarce("10.0.1.16/30", 60), |host, _daemon| {
        let (pod, of_pod) = named(host, "api")?;
        host.call_for("DEL", &pod).run()?.silence()?;
        let text = says(host, "addresses --state cooldown", 0)?;
        ensure!(text.contains(&of_pod[0]) && text.contains("free in "), "{text}");
        ensure!(says(host, &format!("pods {}", of_pod[0]), 1)?.contains("cooldown"));
        ensure!(says(host, "addresses", 0)?.contains("10.0.1.16-10.0.1.19"));
        Ok(())
    })
}

#[test]
fn traffic_tells_who_sends_what_by_both_paths() -> Result<()> {
    crate::both_paths(|host, daemon| {
        let (pod, of_pod) = named(host, "api")?;
        ping(|line| pod.run(line), "10.0.0.10", &format!("-I {}", of_pod[0]))?;
        // Rates need traffic between two readings, and a reading is no thing that can be waited for: it goes on until it was seen.
        daemon.wait_until("traffic of the pod", || {
            let measured = std::thread::scope(|scope| {
                let measured = scope.spawn(|| says(host, "traffic --once --interval=300ms -o json", 0));
                pod.run("ping -n -c 20 -i 0.02 -W 2 10.0.0.10")?;
                measured.join().map_err(|_| anyhow::anyhow!("it panicked"))?
            })?;
            let page: serde_json::Value = serde_json::from_str(&measured)?;
            let rows = page["rows"].as_array().context("rows")?;
            let of_pod = rows.iter().find(|row| row["name"] == "web/api").with_context(|| format!("no pod in {page}"))?;
            let rate = |key: &str| of_pod[key].as_f64().unwrap_or_default();
            ensure!(rate("sent_packets_per_second") > 1.0 && rate("received_bytes_per_second") > 98.0, "{page}");
            Ok(())
        })?;
        let text = says(host, "traffic --once --by=scope --interval=100ms", 0)?;
        ensure!(text.starts_with("SCOPE") && text.contains("\nnode "), "{text}");
        Ok(())
    })
}

#[test]
fn a_configuration_is_judged_without_a_daemon() -> Result<()> {
    crate::on_host(Settings::default(), |host| {
        let file = host.write_configuration("")?;
        let text = says(host, &format!("config check {}", file.display()), 0)?;
        ensure!(text.starts_with(&format!("{} is valid\n", file.display())) && text.contains("plugin barewire-cni"), "{text}");
        let file = host.write_configuration("[netwerk]\nbogus = 1\n")?;
        let text = says(host, &format!("config check {}", file.display()), 1)?;
        ensure!(text.matches("netwerk").count() == 1 && !text.contains("Caused by"), "{text}");
        ensure!(says(host, "config check /nowhere", 1)?.contains("cannot read /nowhere"));
        Ok(())
    })
}
