//! `barewire doctor` at real nodes: what is wrong is found, with a daemon and without, and what can be mended is.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab::host::{Host, Settings, Start};
use serde_json::Value;

use super::says;

/// The command for a host whose files are its own: of the machine's there is what is below `/dev`, where the host's are.
fn doctor(host: &Host) -> Result<String> {
    let (root, config) = (host.path("root"), host.path("barewired.toml"));
    if !root.exists() {
        fs::create_dir(&root)?;
        symlink("/dev", root.join("dev"))?;
    }
    Ok(format!("doctor --root {} --config {}", root.display(), config.display()))
}

/// What it finds, with its exit code.
fn findings(host: &Host, line: &str, code: i32) -> Result<Value> {
    Ok(serde_json::from_str(&says(host, &format!("{} -o json {line}", doctor(host)?), code)?)?)
}

/// A finding of this check and severity whose words have this part.
fn has(page: &Value, check: &str, severity: &str, part: &str) -> Result<()> {
    let all = page["findings"].as_array().context("findings")?;
    let is_it =
        |one: &&Value| one["check"] == check && one["severity"] == severity && one["seen"].as_str().is_some_and(|seen| seen.contains(part));
    let found = all.iter().find(is_it).with_context(|| format!("no {severity} {check} with {part}: {page:#}"))?;
    ensure!(severity == "well" || found["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "no remedy: {found}");
    Ok(())
}

#[test]
fn a_node_that_works_is_well() -> Result<()> {
    crate::on_node(Settings::default(), |host, _daemon| {
        host.attached()?;
        let page = findings(host, "", 0)?;
        has(&page, "ready", "well", "")?;
        has(&page, "forwarding", "well", "net/ipv4/ip_forward is on")?;
        has(&page, "network-list", "well", "00-barewire.conflist")?;
        has(&page, "plugins", "well", "1.1.0")?;
        has(&page, "mtu", "well", "9001")?;
        has(&page, "file-modes", "well", "")?;
        let text = says(host, &doctor(host)?, 0)?;
        ensure!(text.starts_with("kernel\n  ") && text.trim_end().ends_with(" 0 failed"), "{text}");
        Ok(())
    })
}

#[test]
fn faults_are_found_with_a_daemon_that_is_ready() -> Result<()> {
    crate::on_host(Settings::default(), |host| {
        host.install_plugin("silent", "cat > /dev/null; echo '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"1.0.0\"]}'")?;
        let daemon = host.spawn_with(Start { keys: "chained_plugins = [{ type = \"silent\" }]\n", ..Start::default() })?;
        daemon.wait_until_ready()?;
        has(&findings(host, "", 0)?, "plugins", "well", "silent speaks 1.0.0")?;
        host.install_plugin("silent", "exit 1")?;
        let directory = host.conflist().parent().context("a directory")?.to_owned();
        fs::write(directory.join("00-another.conf"), "{}")?;
        host.run(&["nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"])?;
        host.ip("route replace default via 10.0.0.1 dev eth1 mtu 1400\n")?;
        host.run(&["ip", "link", "set", "eth1", "mtu", "1500"])?;
        host.attached().map(drop).or_else(|_| Ok::<_, anyhow::Error>(()))?;
        let page = findings(host, "", 1)?;
        has(&page, "plugins", "failed", "does not answer VERSION")?;
        has(&page, "network-list", "failed", "00-another.conf")?;
        has(&page, "forward", "warning", "nft ip filter FORWARD").or_else(|_| has(&page, "forward", "well", "accept pods"))?;
        has(&page, "mtu", "warning", "1400")
    })
}

#[test]
fn it_works_without_a_daemon_and_before_there_is_one() -> Result<()> {
    crate::on_host(Settings::default(), |host| {
        has(&findings(host, "", 1)?, "configuration", "failed", "barewired.toml")?;
        findings(host, "--pre", 0)?;
        host.write_configuration("")?;
        let page = findings(host, "", 1)?;
        has(&page, "daemon", "failed", "does not answer at 127.0.0.1:9807")?;
        has(&page, "forwarding", "well", "barewired sets it")?;
        // A way on which nobody answers.
        has(&findings(host, "--pre --path-to 10.0.0.77", 0)?, "path-mtu", "warning", "10.0.0.77")
    })
}

#[test]
fn a_way_that_swallows_what_is_large_is_found() -> Result<()> {
    crate::on_host(Settings::default(), |host| {
        host.write_configuration("")?;
        // The node itself answers, whatever the size is.
        has(&findings(host, "--pre --path-to 10.0.0.10", 0)?, "path-mtu", "well", "9001 bytes")?;
        host.run(&[
            "nft",
            "add table ip x; add chain ip x in { type filter hook input priority 0; }; add rule ip x in ip length > 5000 drop",
        ])?;
        has(&findings(host, "--pre --path-to 10.0.0.10", 1)?, "path-mtu", "failed", "10.0.0.10")
    })
}

/// A tool's files below a directory that stands for the node's root.
fn tools(root: &Path) -> Result<()> {
    for directory in ["run/systemd/netif", "run/NetworkManager", "etc/systemd/network", "usr/bin", "etc/default", "etc/barewire"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::write(root.join("etc/systemd/network/10-all.network"), "[Match]\nName=*\n\n[Network]\nDHCP=yes\n")?;
    fs::write(root.join("usr/bin/google_guest_agent"), "")?;
    fs::write(root.join("etc/default/instance_configs.cfg"), "[IpForwarding]\nip_aliases = true\n")?;
    let config = root.join("etc/barewire/barewired.toml");
    fs::write(&config, "[source]\nkind = \"fixed\"\nranges = [\"10.0.1.0/24\"]\n[network]\nfast_path = \"off\"\n")?;
    Ok(fs::set_permissions(config, fs::Permissions::from_mode(0o666))?)
}

#[test]
fn what_can_be_mended_is_mended_and_told() -> Result<()> {
    crate::on_host(Settings::default(), |host| {
        let root = host.path("root");
        tools(&root)?;
        let line = format!("doctor --pre -o json --root {}", root.display());
        let page = |line: &str, code| -> Result<Value> { Ok(serde_json::from_str(&says(host, line, code)?)?) };
        let before = page(&line, 1)?;
        has(&before, "systemd-networkd", "warning", "takes away")?;
        has(&before, "systemd-networkd", "failed", "10-all.network")?;
        has(&before, "NetworkManager", "warning", "bw")?;
        has(&before, "agents", "failed", "google-guest-agent")?;
        has(&before, "file-modes", "warning", "666")?;
        ensure!(before["fixes"].as_array().is_some_and(Vec::is_empty) && !root.join("etc/NetworkManager").exists(), "{before}");

        let after = page(&format!("{line} --fix"), 1)?;
        has(&after, "systemd-networkd", "well", "routes and rules alone")?;
        has(&after, "systemd-networkd", "well", "no file of its matches")?;
        has(&after, "NetworkManager", "well", "")?;
        has(&after, "file-modes", "well", "")?;
        // That one is the operator's to decide.
        has(&after, "agents", "failed", "google-guest-agent")?;
        let fixes = after["fixes"].as_array().context("fixes")?;
        ensure!(fixes.len() >= 4 && fixes.iter().all(|fix| fix["succeeded"] == true), "{after}");
        ensure!(fs::metadata(root.join("etc/barewire/barewired.toml"))?.permissions().mode() & 0o777 == 0o644);
        let again = page(&format!("{line} --fix"), 1)?;
        ensure!(again["fixes"].as_array().is_some_and(Vec::is_empty), "{again}");
        Ok(())
    })
}
