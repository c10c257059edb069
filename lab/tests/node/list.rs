//! The configuration list is the one that a runtime takes, offers what every plugin of its chain speaks, is there again a moment after
//! somebody took it away, and keeps what others have appended.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::command::run;
use lab::host::{Daemon, Host, Settings, Start};
use serde_json::{Value, json};

use crate::on_host;

/// What is removed or damaged is back in this time.
const BACK: Duration = Duration::from_secs(10);
const PORTMAP: &str = "chained_plugins = [{ type = \"portmap\", capabilities = { portMappings = true } }]\n";

/// Does something wrong to a plugin.
type Break = fn(&Host) -> Result<()>;

fn list(host: &Host) -> Result<Value> {
    serde_json::from_slice(&fs::read(host.conflist())?).context("the list")
}

fn types(list: &Value) -> Vec<&str> {
    list["plugins"].as_array().map_or_else(Vec::new, |plugins| plugins.iter().filter_map(|plugin| plugin["type"].as_str()).collect())
}

fn speaks(versions: &str) -> String {
    format!("echo '{{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[{versions}]}}'")
}

/// As istio-cni's installer does: the whole list under another name, with its own plugin at the end, then renamed over the first.
fn append_as_istio(host: &Host) -> Result<()> {
    let mut list = list(host)?;
    list["plugins"].as_array_mut().context("plugins")?.push(json!({ "type": "istio-cni", "log_level": "info", "exclude_namespaces": [] }));
    let draft = host.conflist().with_extension("conflist.tmp123");
    fs::write(&draft, serde_json::to_vec_pretty(&list)?)?;
    Ok(fs::rename(draft, host.conflist())?)
}

fn wait_for_list(daemon: &Daemon<'_>, host: &Host, wanted: &Value) -> Result<()> {
    let begun = Instant::now();
    daemon.wait_until("the list as it was", || {
        ensure!(list(host)? == *wanted);
        Ok(())
    })?;
    ensure!(begun.elapsed() < BACK, "it took {:?}", begun.elapsed());
    Ok(())
}

#[test]
fn it_offers_what_debians_plugins_speak_and_the_chain_works_at_that() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.spawn_with(Start { keys: PORTMAP, ..Start::default() })?;
        daemon.wait_until_ready()?;
        let found = list(host)?;
        ensure!(types(&found) == ["barewire-cni", "portmap"], "{found}");
        let portmap = host.call("VERSION").of(host.reference_plugin("portmap")?).run()?.result()?;
        let spoken: Vec<_> = portmap["supportedVersions"].as_array().context("versions")?.iter().filter_map(Value::as_str).collect();
        let offered: Vec<_> = found["cniVersions"].as_array().context("versions")?.iter().filter_map(Value::as_str).collect();
        ensure!(!offered.is_empty() && offered.iter().all(|version| spoken.contains(version)), "{offered:?} of {spoken:?}");
        // As libcni from 1.2 on: the newest of the list goes to every plugin.
        let newest = *offered.last().context("a version")?;
        let pod = host.pod()?;
        let added = host.call_for("ADD", &pod).conf("cniVersion", json!(newest)).run()?.result()?;
        let conf = json!({ "cniVersion": newest, "name": "barewire", "type": "portmap", "prevResult": added, "runtimeConfig": { "portMappings": [] } });
        let chained = host
            .call_for("ADD", &pod)
            .with("CNI_PATH", "/usr/lib/cni")
            .stdin(conf.to_string())
            .of(host.reference_plugin("portmap")?)
            .run()?
            .result()?;
        ensure!(chained["cniVersion"] == newest, "{chained}");
        let mode = |path: &std::path::Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
        ensure!(mode(&host.conflist())? == 0o644 && mode(host.conflist().parent().context("a directory")?)? == 0o755);
        Ok(())
    })
}

#[test]
fn modes_do_not_depend_on_the_umask() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.spawn_with(Start { by: &["sh", "-c", "umask 0077; exec \"$0\" \"$@\""], ..Start::default() })?;
        daemon.wait_until_ready()?;
        let mode = |path: &std::path::Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
        ensure!(mode(&host.conflist())? == 0o644 && mode(host.conflist().parent().context("a directory")?)? == 0o755);
        Ok(())
    })
}

#[test]
fn the_newest_version_comes_with_the_plugin_that_speaks_it() -> Result<()> {
    on_host(Settings::default(), |host| {
        host.install_plugin("mesh", &speaks("\"0.4.0\",\"1.0.0\""))?;
        let daemon = host.spawn_with(Start { keys: "chained_plugins = [{ type = \"mesh\" }]\n", ..Start::default() })?;
        daemon.wait_until_ready()?;
        ensure!(list(host)?["cniVersions"] == json!(["0.4.0", "1.0.0"]), "{}", list(host)?);
        host.install_plugin("mesh", &speaks("\"0.4.0\",\"1.0.0\",\"1.1.0\""))?;
        daemon.wait_until("the newer version", || {
            ensure!(list(host)?["cniVersions"] == json!(["0.4.0", "1.0.0", "1.1.0"]));
            Ok(())
        })?;
        daemon.stop()?;
        let keys = "chained_plugins = [{ type = \"mesh\" }]\nversions = [\"0.3.1\"]\n";
        let daemon = host.spawn_with(Start { keys, ..Start::default() })?;
        daemon.wait_until("what cni.versions says", || {
            let list = list(host)?;
            ensure!(list["cniVersion"] == "0.3.1" && list.get("cniVersions").is_none(), "{list}");
            Ok(())
        })
    })
}

#[test]
fn a_plugin_that_cannot_be_used_is_named_and_waited_for() -> Result<()> {
    let faults: [(&str, Break); 6] = [
        ("NotFound", |_| Ok(())),
        ("NotAProgram", |host| Ok(fs::create_dir(host.bin_dir().join("mesh"))?)),
        ("NotAProgram", |host| Ok(fs::write(host.bin_dir().join("mesh"), "text")?)),
        ("NoAnswer", |host| host.install_plugin("mesh", "exec sleep 600")),
        ("NotAnAnswer", |host| host.install_plugin("mesh", "exec cat /dev/zero")),
        ("Failed", |host| {
            host.install_plugin("mesh", "echo '{\"cniVersion\":\"1.0.0\",\"code\":4,\"msg\":\"unknown CNI_COMMAND\"}'; exit 1")
        }),
    ];
    for (reason, break_it) in faults {
        on_host(Settings::default(), |host| {
            break_it(host)?;
            let keys = "chained_plugins = [{ type = \"mesh\" }]\n";
            let config = host.write_configuration(keys)?;
            let said = run(Command::new(host.binary("barewired")).arg("--check").arg("--config").arg(config), Duration::from_secs(20))?;
            ensure!(said.status.success(), "it may be there by the time it is needed: {}", said.stderr);
            ensure!(said.stdout.contains("plugin mesh") && said.stdout.contains("CANNOT BE USED"), "{}", said.stdout);
            let daemon = host.spawn_with(Start { keys, ..Start::default() })?;
            daemon.wait_for_condition("PluginUnusable", reason, &["mesh", "cni.", "bin"])?;
            daemon.wait_for_condition("NoNetworkList", "NotPublished", &["mesh"])?;
            ensure!(daemon.get("/readyz").is_err_and(|error| format!("{error:#}").contains("mesh")) && !host.conflist().exists());
            host.call("STATUS").run()?.silence().context("the node's network is not broken")?;
            // Other plugins' faults hold up no DEL and no ADD of ours.
            let (pod, _) = host.attached()?;
            host.call_for("DEL", &pod).run()?.silence()?;

            if host.bin_dir().join("mesh").is_dir() {
                fs::remove_dir(host.bin_dir().join("mesh"))?;
            }
            host.install_plugin("mesh", &speaks("\"1.0.0\",\"1.1.0\""))?;
            let begun = Instant::now();
            daemon.wait_until_ready()?;
            ensure!(begun.elapsed() < BACK, "{reason}: it took {:?}", begun.elapsed());
            ensure!(daemon.conditions()?.is_empty(), "{:?}", daemon.conditions()?);
            ensure!(types(&list(host)?) == ["barewire-cni", "mesh"]);
            Ok(())
        })
        .with_context(|| reason)?;
    }
    Ok(())
}

#[test]
fn what_is_removed_or_damaged_is_back_with_what_istio_appended() -> Result<()> {
    on_host(Settings::scarce("10.0.1.16", 60), |host| {
        host.install_plugin("istio-cni", &speaks("\"0.3.1\",\"0.4.0\",\"1.0.0\""))?;
        let daemon = host.start()?;
        append_as_istio(host)?;
        daemon.wait_until("its versions", || {
            ensure!(list(host)?["cniVersions"] == json!(["0.3.1", "0.4.0", "1.0.0"]));
            Ok(())
        })?;
        let wanted = list(host)?;
        ensure!(types(&wanted) == ["barewire-cni", "istio-cni"], "{wanted}");
        // A full node is no other than one with room.
        let (_pod, _) = host.attached()?;
        fs::remove_file(host.conflist())?;
        wait_for_list(&daemon, host, &wanted)?;
        for nonsense in ["", "{\"cniVersion\":", "{\"plugins\": [{\"type\": \"bridge\"}]}", "[1, 2]"] {
            fs::write(host.conflist(), nonsense)?;
            wait_for_list(&daemon, host, &wanted).with_context(|| nonsense.to_owned())?;
        }
        fs::rename(host.conflist(), host.conflist().with_extension("conflist.cilium_bak"))?;
        wait_for_list(&daemon, host, &wanted)?;
        // Our own part is what the configuration says.
        let mut edited = wanted.clone();
        edited["plugins"][0]["socket"] = json!("/nowhere");
        edited["name"] = json!("another");
        fs::write(host.conflist(), edited.to_string())?;
        wait_for_list(&daemon, host, &wanted)?;

        daemon.stop()?;
        let daemon = host.spawn()?;
        daemon.wait_until("it serves", || daemon.get("/healthz").map(drop))?;
        wait_for_list(&daemon, host, &wanted)?;
        ensure!(daemon.conditions()?.keys().eq(["AddressesExhausted"]), "{:?}", daemon.conditions()?);
        Ok(())
    })
}

#[test]
fn a_list_removed_while_the_daemon_was_away_is_back_though_the_node_is_full() -> Result<()> {
    on_host(Settings::scarce("10.0.1.16", 60), |host| {
        let daemon = host.start()?;
        let wanted = list(host)?;
        let (_pod, _) = host.attached()?;
        daemon.stop()?;
        fs::remove_file(host.conflist())?;
        let daemon = host.spawn()?;
        wait_for_list(&daemon, host, &wanted)
    })
}

#[test]
fn it_is_not_written_while_it_is_as_it_should_be() -> Result<()> {
    on_host(Settings::default(), |host| {
        let _daemon = host.start()?;
        // The same list in another's handwriting.
        let text = list(host)?.to_string();
        fs::write(host.conflist(), &text)?;
        let before = fs::metadata(host.conflist())?.modified()?;
        std::thread::sleep(Duration::from_millis(2500));
        ensure!(fs::read_to_string(host.conflist())? == text && fs::metadata(host.conflist())?.modified()? == before);
        Ok(())
    })
}

#[test]
fn another_networks_list_is_named_with_the_one_that_the_runtime_takes() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        let foreign = json!({ "cniVersion": "1.0.0", "name": "k8s-pod-network", "plugins": [{ "type": "calico" }] }).to_string();
        for (name, reason, taken) in
            [("10-calico.conflist", "SortsBehind", "00-barewire.conflist"), ("00-a.conf", "SortsBefore", "00-a.conf")]
        {
            let file = host.conflist().with_file_name(name);
            fs::write(&file, &foreign)?;
            daemon.wait_for_condition("OtherNetworkList", reason, &[name, &format!("the runtime takes {taken}")])?;
            fs::remove_file(file)?;
            daemon.wait_for_end_of("OtherNetworkList")?;
        }
        Ok(())
    })
}

#[test]
fn the_file_of_an_earlier_version_goes_and_hands_over_what_was_appended() -> Result<()> {
    on_host(Settings::default(), |host| {
        host.install_plugin("istio-cni", &speaks("\"1.0.0\",\"1.1.0\""))?;
        let earlier = host.conflist().with_file_name("10-barewire.conflist");
        let daemon = host.start()?;
        let (_pod, _) = host.attached()?;
        append_as_istio(host)?;
        daemon.stop()?;
        // As the version before has left it.
        let mut old = list(host)?;
        old.as_object_mut().context("a list")?.remove("barewire/plugins");
        fs::remove_file(host.conflist())?;
        fs::write(&earlier, old.to_string())?;
        let daemon = host.start()?;
        ensure!(types(&list(host)?) == ["barewire-cni", "istio-cni"] && !earlier.exists(), "{}", list(host)?);
        daemon.stop()?;
        fs::write(&earlier, old.to_string())?;
        let config = host.write_configuration("")?;
        let _inside = host.netns().enter()?;
        let said = run(Command::new(host.binary("barewired")).arg("--uninstall").arg("--config").arg(config), Duration::from_secs(20))?;
        ensure!(said.status.success(), "{}", said.stderr);
        ensure!(!earlier.exists() && !host.conflist().exists());
        Ok(())
    })
}

#[test]
fn a_bandwidth_plugin_is_refused_or_a_condition() -> Result<()> {
    on_host(Settings::default(), |host| {
        let config = host.write_configuration("chained_plugins = [{ type = \"bandwidth\", capabilities = { bandwidth = true } }]\n")?;
        let said = run(Command::new(host.binary("barewired")).arg("--check").arg("--config").arg(config), Duration::from_secs(20))?;
        let named = ["cni.chained_plugins[0]", "\"bandwidth\"", "remove it", "barewire-cni itself keeps the limits"];
        ensure!(!said.status.success() && named.iter().all(|part| said.stderr.contains(part)), "{}", said.stderr);
        let daemon = host.start()?;
        let mut list = list(host)?;
        list["plugins"].as_array_mut().context("plugins")?.push(json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }));
        fs::write(host.conflist(), list.to_string())?;
        daemon.wait_for_condition("BandwidthChained", "AppendedByAnother", &["bandwidth", "take it out"])?;
        Ok(())
    })
}
