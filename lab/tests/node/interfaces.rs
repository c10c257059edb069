//! Several interfaces of one pod (Multus), ours all, or one of them.

use anyhow::{Context, Result, ensure};
use lab::host::{Host, Pod, Settings};
use serde_json::{Value, json};

use crate::{addresses, both_paths, on_node, reaches_all};

/// What the reference plugins of this machine speak.
const VERSION: &str = "1.0.0";

fn add(host: &Host, pod: &Pod, ifname: &str) -> Result<Value> {
    host.call_for_interface("ADD", pod, ifname).conf("cniVersion", json!(VERSION)).run()?.result()
}

fn check(host: &Host, pod: &Pod, ifname: &str, result: &Value) -> Result<()> {
    host.call_for_interface("CHECK", pod, ifname).conf("cniVersion", json!(VERSION)).conf("prevResult", result.clone()).run()?.silence()
}

/// A pod with two interfaces, and their results.
fn two_interfaces(host: &Host, settings: &[&str]) -> Result<(Pod, Value, Value)> {
    let pod = host.pod()?;
    for setting in settings {
        pod.run(&format!("sysctl -q -w {setting}"))?;
    }
    let (first, second) = (add(host, &pod, "eth0")?, add(host, &pod, "net1")?);
    Ok((pod, first, second))
}

#[test]
fn every_interface_is_reached_and_replies() -> Result<()> {
    both_paths(|host, _| {
        let (other, others) = host.attached()?;
        for settings in [&[][..], &["net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1"]] {
            let (pod, first, second) = two_interfaces(host, settings)?;
            for (ifname, result) in [("eth0", &first), ("net1", &second)] {
                let reached = reaches_all(host, &pod, &addresses(result), (&other, &addresses(&others)));
                reached.and_then(|()| check(host, &pod, ifname, result)).with_context(|| format!("{ifname} with {settings:?}"))?;
            }
            pod.run("ping -n -c 1 -W 2 -I net1 10.0.0.10").context("bound to the interface")?;
        }
        Ok(())
    })
}

#[test]
fn interfaces_come_and_go_by_themselves() -> Result<()> {
    both_paths(|host, daemon| {
        let (other, others) = host.attached()?;
        let others = addresses(&others);
        let (pod, first, second) = two_interfaces(host, &[])?;
        for _ in 0..3 {
            host.call_for_interface("DEL", &pod, "net1").run()?.silence()?;
            host.wait_for_host_ends(2)?;
            reaches_all(host, &pod, &addresses(&first), (&other, &others)).context("eth0 without net1")?;
            check(host, &pod, "eth0", &first)?;
            let again = add(host, &pod, "net1")?;
            reaches_all(host, &pod, &addresses(&again), (&other, &others)).context("net1 again")?;
            for family in ["-4", "-6"] {
                let rules = pod.run(&format!("ip {family} rule show"))?;
                ensure!(rules.matches("from 10.0.1").count() + rules.matches("from fd00").count() == 1, "{rules}");
            }
        }
        host.call_for_interface("DEL", &pod, "eth0").run()?.silence()?;
        host.wait_for_host_ends(2)?;
        ensure!(daemon.pool()?["attachments"] == 2);
        let last = host.call_for_interface("ADD", &pod, "net1").conf("cniVersion", json!(VERSION)).run()?.result()?;
        ensure!(last != second, "net1 was attached anew");
        reaches_all(host, &pod, &addresses(&last), (&other, &others)).context("net1 without eth0")?;
        check(host, &pod, "net1", &last)
    })
}

#[test]
fn gc_takes_one_interface_of_a_pod() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        let (other, others) = host.attached()?;
        let (pod, first, _) = two_interfaces(host, &[])?;
        let valid = json!([{ "containerID": pod.id, "ifname": "eth0" }, { "containerID": other.id, "ifname": "eth0" }]);
        host.call("GC").conf("cni.dev/valid-attachments", valid).run()?.silence()?;
        host.wait_for_host_ends(2)?;
        ensure!(pod.link("net1")?.is_none());
        reaches_all(host, &pod, &addresses(&first), (&other, &addresses(&others)))
    })
}

#[test]
fn both_interfaces_outlive_the_daemon_and_its_store() -> Result<()> {
    for (fast_path, lose_store) in [(false, false), (false, true), (true, false), (true, true)] {
        crate::on_host(Settings::default().with_fast_path(fast_path), |host| {
            let daemon = host.start()?;
            let (other, others) = host.attached()?;
            let (pod, first, second) = two_interfaces(host, &[])?;
            let before = daemon.pool()?;
            daemon.kill()?;
            if lose_store {
                std::fs::remove_file(host.run_dir().join("store.redb"))?;
            }
            let daemon = host.start()?;
            ensure!(before == daemon.pool()?, "{before:?} became {:?}", daemon.pool()?);
            for (ifname, result) in [("eth0", &first), ("net1", &second)] {
                let reached = reaches_all(host, &pod, &addresses(result), (&other, &addresses(&others)));
                reached.and_then(|()| check(host, &pod, ifname, result)).with_context(|| format!("{ifname}; {}", daemon.end_of_log()))?;
            }
            for (pod, ifname) in [(&pod, "net1"), (&pod, "eth0"), (&other, "eth0")] {
                host.call_for_interface("DEL", pod, ifname).run()?.silence()?;
            }
            host.wait_for_host_ends(0)?;
            ensure!(daemon.pool()?["attachments"] == 0);
            Ok(())
        })
        .with_context(|| format!("fast path {fast_path}, store lost {lose_store}"))?;
    }
    Ok(())
}

#[test]
fn ours_is_a_further_interface_of_a_pod_that_has_another_network() -> Result<()> {
    both_paths(|host, _| {
        let (other, others) = host.attached()?;
        let pod = host.pod()?;
        // Another plugin's, moved into the pod as most do, so that 2 is free; with the default routes.
        for line in [
            "ip link add eth0 index 7 type veth peer name far0 index 8",
            "ip link set far0 up",
            "ip link set eth0 up",
            "ip address add 192.168.7.2/24 dev eth0",
            "ip address add fd07::2/64 dev eth0 nodad",
            "ip route add default via 192.168.7.1 dev eth0",
            "ip -6 route add default via fd07::1 dev eth0",
        ] {
            pod.run(line)?;
        }
        let before = pod.run("ip route get 198.51.100.1")?;
        let result = add(host, &pod, "net1")?;
        reaches_all(host, &pod, &addresses(&result), (&other, &addresses(&others)))?;
        check(host, &pod, "net1", &result)?;
        ensure!(before == pod.run("ip route get 198.51.100.1")?, "the other network's default route stands");
        Ok(())
    })
}

/// A reference plugin behind our interface of that name.
fn behind(host: &Host, command: &str, pod: &Pod, ifname: &str, plugin: &str, conf: Value, prev: &Value) -> Result<Value> {
    let mut conf = conf;
    conf["cniVersion"] = json!(VERSION);
    conf["name"] = json!("barewire");
    conf["type"] = json!(plugin);
    conf["prevResult"] = prev.clone();
    let call = host.call_for_interface(command, pod, ifname).with("CNI_PATH", "/usr/lib/cni").stdin(conf.to_string());
    let answer = call.of(host.reference_plugin(plugin)?).run()?;
    if command == "ADD" { answer.result() } else { answer.silence().map(|()| Value::Null) }
}

#[test]
fn source_based_routing_works_behind_every_interface() -> Result<()> {
    both_paths(|host, _| {
        let (other, others) = host.attached()?;
        let others = addresses(&others);
        for with_sbr in [&["net1"][..], &["eth0"], &["eth0", "net1"]] {
            let pod = host.pod()?;
            let mut results = Vec::new();
            for ifname in ["eth0", "net1"] {
                let ours = add(host, &pod, ifname)?;
                let result = if with_sbr.contains(&ifname) { behind(host, "ADD", &pod, ifname, "sbr", json!({}), &ours)? } else { ours };
                results.push((ifname, result));
            }
            for (ifname, result) in &results {
                let reached = reaches_all(host, &pod, &addresses(result), (&other, &others));
                reached.and_then(|()| check(host, &pod, ifname, result)).with_context(|| format!("{ifname}, sbr behind {with_sbr:?}"))?;
            }
            for (ifname, result) in results.iter().rev() {
                if with_sbr.contains(ifname) {
                    behind(host, "DEL", &pod, ifname, "sbr", json!({}), result)?;
                }
                host.call_for_interface("DEL", &pod, ifname).run()?.silence()?;
            }
            host.wait_for_host_ends(1)?;
        }
        Ok(())
    })
}

#[test]
fn an_interface_can_be_put_into_a_vrf() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        if host.run(&["ip", "link", "add", "vrf-probe", "type", "vrf", "table", "99"]).is_err() {
            println!("SKIP vrf: this kernel has none");
            return Ok(());
        }
        let (pod, _, second) = two_interfaces(host, &[])?;
        let result = behind(host, "ADD", &pod, "net1", "vrf", json!({ "vrfname": "blue" }), &second)?;
        pod.run("ping -n -c 1 -W 2 -I net1 10.0.0.10")?;
        check(host, &pod, "net1", &result)
    })
}

#[test]
fn accounts_of_all_interfaces_are_one() -> Result<()> {
    both_paths(|host, daemon| {
        let (pod, first, second) = two_interfaces(host, &[])?;
        let sent = || -> Result<u64> {
            let page = daemon.get("/metrics")?;
            let ours = |line: &&str| {
                line.starts_with("barewire_packets_total{")
                    && line.contains(&pod.id)
                    && line.contains("\"sent\"")
                    && line.contains("\"node\"")
            };
            let lines: Vec<_> = page.lines().filter(ours).collect();
            ensure!(lines.len() == 1, "{lines:?}");
            Ok(lines[0].rsplit(' ').next().unwrap_or_default().parse()?)
        };
        pod.run(&format!("ping -n -c 1 -W 2 -I {} 10.0.0.10", addresses(&first)[0]))?;
        let before = sent()?;
        for result in [&first, &second] {
            pod.run(&format!("ping -n -c 10 -i 0.01 -W 2 -I {} 10.0.0.10", addresses(result)[0]))?;
        }
        let more = sent()? - before;
        // Neighbour discovery may come on top.
        ensure!((20..30).contains(&more), "{more} packets more");
        Ok(())
    })
}
