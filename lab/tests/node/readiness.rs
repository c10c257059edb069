//! `/readyz` and the configuration list: there, whole, as soon as an ADD would succeed, and not before. STATUS: whether the node's network
//! is broken, unless it is to follow the specification's letter.

use std::cell::RefCell;
use std::fs;
use std::os::unix::net::UnixDatagram;

use anyhow::{Context, Result, ensure};
use lab::host::{Host, Settings, Start};
use serde_json::Value;

use crate::{binaries, on_host};

const TRY_AGAIN_LATER: u64 = 11;
const NOT_AVAILABLE: u64 = 50;
const LIMITED_CONNECTIVITY: u64 = 51;

#[test]
fn a_node_without_an_uplink_is_not_ready_until_it_has_one() -> Result<()> {
    let Some(binaries) = binaries() else { return Ok(()) };
    let host = Host::without_uplink(&binaries, Settings::default())?;
    let daemon = host.spawn()?;
    daemon.wait_until("barewired lives", || daemon.get("/healthz").map(drop))?;
    host.call("STATUS").run()?.refused(LIMITED_CONNECTIVITY, &["no uplink", "set uplink.interface or a default route"])?;
    host.call_for("ADD", &host.pod()?).run()?.refused(TRY_AGAIN_LATER, &["no uplink", "try again later"])?;
    ensure!(daemon.get("/readyz").is_err() && !host.conflist().exists());

    host.add_uplink()?;
    daemon.wait_until_ready()?;
    host.call("STATUS").run()?.silence()?;
    daemon.wait_until("the configuration list", || Ok(fs::metadata(host.conflist()).map(drop)?))?;
    let (_, result) = host.attached()?;
    ensure!(result["interfaces"][1]["mtu"] == 9001, "{result}");

    host.ip("link set eth1 down\n")?;
    daemon.wait_until("STATUS says no", || host.call("STATUS").run()?.refused(LIMITED_CONNECTIVITY, &["uplink"]))?;
    ensure!(host.conflist().exists(), "without a list a runtime would not even send DELs");
    Ok(())
}

/// A service manager is told the same as a runtime, at the same time.
#[test]
fn the_service_manager_is_told_when_an_add_would_succeed() -> Result<()> {
    let Some(binaries) = binaries() else { return Ok(()) };
    let host = Host::without_uplink(&binaries, Settings::default())?;
    let path = host.path("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_nonblocking(true)?;
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let said = RefCell::new(String::new());
    let hear = || -> Result<String> {
        let mut message = [0; 512];
        loop {
            match manager.recv(&mut message) {
                Ok(length) => *said.borrow_mut() += &(String::from_utf8_lossy(&message[..length]).into_owned() + "\n"),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(said.borrow().clone()),
                Err(error) => return Err(error.into()),
            }
        }
    };
    let says = |wanted: &str| {
        let heard = hear()?;
        ensure!(heard.contains(wanted), "no {wanted} in {heard}");
        Ok(())
    };
    let start = Start { by: &["env", &variable, "WATCHDOG_USEC=60000000"], ..Start::default() };
    let daemon = host.spawn_with(start)?;
    daemon.wait_for_condition("NoNetworkList", "NotPublished", &["no uplink"])?;
    daemon.wait_until("what it waits for", || says("STATUS=no new pods: "))?;
    ensure!(says("READY=1").is_err(), "it is not ready");
    host.add_uplink()?;
    daemon.wait_until_ready()?;
    for wanted in ["READY=1", "STATUS=pods are served", "WATCHDOG=1"] {
        daemon.wait_until(wanted, || says(wanted))?;
    }
    daemon.stop()?;
    hear()?;
    said.take();
    // On a restart the list stands already: it serves, and that is what a manager waits for.
    let daemon = host.spawn_with(start)?;
    daemon.wait_until("READY=1", || says("READY=1"))
}

#[test]
fn the_configuration_list_appears_whole() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.spawn()?;
        // Read without a pause: the first text seen must be all of it.
        let mut first = None;
        daemon.wait_until("the configuration list", || {
            for _ in 0..10_000 {
                if let Ok(text) = fs::read_to_string(host.conflist()) {
                    first = Some(text);
                    return Ok(());
                }
            }
            anyhow::bail!("not there")
        })?;
        let text = first.context("a list")?;
        let list: Value = serde_json::from_str(&text).with_context(|| format!("the list as first seen: {text}"))?;
        host.call("STATUS").run()?.silence()?;

        ensure!(list["cniVersion"] == "1.0.0" && list["cniVersions"].as_array().is_some_and(|all| all.len() == 4), "{list}");
        ensure!(list["name"] == "barewire" && list["plugins"][0]["type"] == "barewire-cni", "{list}");
        ensure!(list["plugins"][0]["socket"] == host.socket().to_string_lossy().as_ref(), "{list}");
        let directory = host.conflist().parent().context("a directory")?.to_owned();
        let files: Vec<_> = fs::read_dir(directory)?.map(|file| Ok(file?.file_name())).collect::<Result<_>>()?;
        ensure!(files == ["00-barewire.conflist"], "drafts are left: {files:?}");

        // A runtime asks while the daemon restarts: the list stays.
        daemon.stop()?;
        ensure!(host.conflist().exists());
        Ok(())
    })
}

/// A node of two addresses, with a pod for each.
fn on_full_node(keys: &str, test: impl FnOnce(&Host, &lab::host::Daemon<'_>) -> Result<()>) -> Result<()> {
    on_host(Settings::scarce("10.0.1.16-10.0.1.17", 60), |host| {
        let daemon = host.spawn_with(Start { keys, ..Start::default() })?;
        daemon.wait_until_ready()?;
        let pods = [host.attached()?, host.attached()?];
        host.call_for("ADD", &host.pod()?).run()?.refused(TRY_AGAIN_LATER, &["no free IPv4 address", "2 in use"])?;
        test(host, &daemon)?;
        for (pod, result) in pods {
            host.call_for("CHECK", &pod).conf("prevResult", result).run()?.silence()?;
        }
        Ok(())
    })
}

#[test]
fn a_full_node_is_no_broken_one_and_everybody_but_status_says_that_it_is_full() -> Result<()> {
    on_full_node("", |host, daemon| {
        host.call("STATUS").run()?.silence()?;
        let told = daemon.get("/readyz").err().context("it is ready")?;
        ensure!(format!("{told:#}").contains("no free IPv4 address"), "{told:#}");
        daemon.wait_for_condition("AddressesExhausted", "NoFreeIPv4Address", &["no IPv4 address is free", "barewired --max-pods"])?;
        ensure!(daemon.metric("barewire_addresses_exhausted{family=\"ipv4\"}")? == 1.0);
        ensure!(daemon.metric("barewire_adds_refused_total{reason=\"addresses_exhausted\"}")? == 1.0);
        ensure!(host.conflist().exists());
        Ok(())
    })
}

#[test]
fn a_restart_of_a_full_node_keeps_status_and_list() -> Result<()> {
    on_host(Settings::scarce("10.0.1.16", 60), |host| {
        let daemon = host.start()?;
        let _pod = host.attached()?;
        daemon.stop()?;
        let daemon = host.spawn()?;
        daemon.wait_until("it serves", || daemon.get("/healthz").map(drop))?;
        host.call("STATUS").run()?.silence()?;
        ensure!(host.conflist().exists() && daemon.get("/readyz").is_err());
        Ok(())
    })
}

#[test]
fn strict_status_follows_the_specifications_letter() -> Result<()> {
    on_full_node("status = \"strict\"\n", |host, _| host.call("STATUS").run()?.refused(NOT_AVAILABLE, &["no free IPv4 address"]))
}
