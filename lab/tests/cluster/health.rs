//! What the fleet's leader does to nodes that are new or sick: taints, evictions within budgets, and their end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::command::wait_until;
use lab::telemetry;
use serde_json::{Value, json};

use crate::suite::{Case, PODS, Suite, container};
use crate::workloads::{deployment, load, service};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::acting("a node that joins waits for its preflight, which measures with others, and then takes pods", joins),
        Case::acting("a drained node makes its preflight again when a person says so", checked_again),
        Case::acting(
            "a node that two others do not reach is tainted and drained within budgets, and released when that is mended",
            unreached,
        ),
        Case::acting("a node that is cut off in the fabric is tainted, no other is, and it is released when that is mended", cut_off),
    ]
}

/// All nodes of this cluster, and the one that things happen to: it has no client of the suite's.
const ALL: [&str; 3] = ["node1", "node2", "node3"];
const NODE: &str = ALL[2];
const NEW: &str = "startup-taint.cluster-autoscaler.kubernetes.io/barewire-preflight";
const SICK: &str = "health.barewire.cloud/sick";

/// From the end of the checks until pods may come (`preflight_to_schedulable_s`).
const LET_IN: Duration = Duration::from_secs(10);
/// Probes have to be lost before two nodes complain, the leader has to believe it, and this machine is busy.
const TAINTED: Duration = Duration::from_secs(30);
/// A minute without complaint, and a good word of each who had complained.
const RELEASED: Duration = Duration::from_secs(150);

fn taints(suite: &Suite, node: &str) -> Result<Vec<Value>> {
    let object = suite.cluster.kubectl.get(&["node", node])?;
    Ok(object["spec"]["taints"].as_array().cloned().unwrap_or_default())
}

fn has(suite: &Suite, node: &str, key: &str) -> Result<bool> {
    Ok(taints(suite, node)?.iter().any(|taint| taint["key"] == key))
}

/// Waits until a node has a taint, or has it no more.
fn until(suite: &Suite, node: &str, key: &str, expected: bool, limit: Duration) -> Result<()> {
    let what = format!("{node} {} {key}", if expected { "has" } else { "is without" });
    let looked = wait_until(&what, limit, || match has(suite, node, key).map_err(|error| format!("{error:#}"))? {
        is if is == expected => Ok(()),
        _ => Err(suite.cluster.kubectl.run(&["get", "nodes", "-o", "yaml"]).unwrap_or_default()),
    });
    Ok(looked?)
}

/// Messages of Events of a reason about a node.
fn told(suite: &Suite, node: &str, reason: &str) -> Result<Vec<String>> {
    let selector = format!("--field-selector=reason={reason},involvedObject.name={node}");
    let list = suite.cluster.kubectl.get(&["events", "--namespace", "default", &selector])?;
    let items = list["items"].as_array().into_iter().flatten();
    Ok(items.filter_map(|event| event["message"].as_str().map(str::to_owned)).collect())
}

/// The newest run that is on a node.
fn run(suite: &Suite, node: &str) -> Result<Value> {
    let object = suite.cluster.kubectl.get(&["node", node])?;
    let text = object["metadata"]["annotations"]["preflight.barewire.cloud/run"].as_str().context("no run")?;
    Ok(serde_json::from_str(text)?)
}

/// What the node's daemon says of one of its checks.
fn check(suite: &Suite, node: &str, name: &str) -> Result<Value> {
    let page: Vec<Value> = serde_json::from_str(&telemetry::get(&suite.machine(node)?, "/health")?)?;
    page.into_iter().find(|line| line["check"] == name).with_context(|| format!("no check {name}"))
}

fn preflight(suite: &Suite, node: &str) -> Result<Value> {
    check(suite, node, "preflight")
}

/// Waits until a check says so.
fn comes_to(suite: &Suite, node: &str, name: &str, result: &str) -> Result<()> {
    let come = wait_until(&format!("{name} of {node} is {result}"), PODS, || {
        let line = check(suite, node, name).map_err(|error| format!("{error:#}"))?;
        if line["result"] == result { Ok(()) } else { Err(line.to_string()) }
    });
    Ok(come?)
}

fn joins(suite: &mut Suite) -> Result<()> {
    for node in ALL {
        until(suite, node, NEW, false, PODS)?;
        ensure!(run(suite, node)?["ended"]["passed"] == json!(true), "{node} was let in without a run: {}", run(suite, node)?);
    }
    suite.in_namespace("joins", |suite, namespace| {
        // Another machine of the same name: its pods and its object are gone.
        suite.kubectl(&["delete", "node", NODE])?;
        let waits = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "waits", "namespace": namespace },
            "spec": { "nodeSelector": { "kubernetes.io/hostname": NODE }, "terminationGracePeriodSeconds": 0, "containers": [container("pause", &["pause"])] } });
        suite.apply(&[waits])?;
        suite.cluster.reboot(NODE)?;
        suite.cluster.wait_until_ready(NODE)?;
        let is_bound = |suite: &Suite| -> Result<bool> {
            Ok(suite.cluster.kubectl.get(&["pod", "waits", "--namespace", namespace])?["spec"]["nodeName"].is_string())
        };
        // The taint is looked at last: where it is there, nothing was let in before.
        let (begun, mut seen) = (Instant::now(), 0);
        while begun.elapsed() < PODS && preflight(suite, NODE).is_ok_and(|line| line["result"] != "passed") {
            let is_bound = is_bound(suite)?;
            let is_kept_out = has(suite, NODE, NEW)?;
            ensure!(!is_bound || !is_kept_out, "a pod was bound before the preflight had passed");
            seen += 1;
        }
        comes_to(suite, NODE, "preflight", "passed")?;
        let passed = Instant::now();
        until(suite, NODE, NEW, false, LET_IN)?;
        let took = passed.elapsed();
        suite.kubectl(&["wait", "--namespace", namespace, "pod/waits", "--for=condition=Ready", "--timeout=90s"])?;

        let measured = preflight(suite, NODE)?["measured"].as_array().cloned().unwrap_or_default();
        ensure!(measured.len() == 2, "it has measured with {measured:?}");
        let is_measured = |of: &Value| ["round_trip_micros", "received_mbit", "sent_mbit"].iter().all(|what| of[what].as_u64() > Some(0));
        ensure!(measured.iter().all(is_measured), "{measured:?}");
        for reason in ["PreflightTold", "PreflightPassed"] {
            ensure!(!told(suite, NODE, reason)?.is_empty(), "no Event {reason}");
        }
        suite.say(format!("seen waiting {seen} times; preflight_to_schedulable_s {:.1}; measured {}", took.as_secs_f32(), json!(measured)));
        Ok(())
    })
}

fn checked_again(suite: &mut Suite) -> Result<()> {
    let before = run(suite, NODE)?;
    let refused =
        suite.cluster.fleet()?.command(&["node", NODE, "preflight", "--by=ann"]).err().context("a node that takes pods was told")?;
    ensure!(refused.to_string().contains("kubectl drain"), "{refused}");
    suite.kubectl(&["drain", NODE, "--ignore-daemonsets", "--force", "--delete-emptydir-data", "--timeout=120s"])?;
    suite.cluster.fleet()?.command(&["node", NODE, "preflight", "--by=ann"])?;
    let ended = wait_until("its end", PODS, || {
        let run = run(suite, NODE).map_err(|error| format!("{error:#}"))?;
        if run["ended"]["passed"] == json!(true) && run["at"] != before["at"] { Ok(run) } else { Err(run.to_string()) }
    })?;
    ensure!(ended["by"] == "ann", "{ended}");
    suite.kubectl(&["uncordon", NODE])?;
    Ok(())
}

/// Rules of the fabric that drop packets, until this is dropped.
struct Fault<'a>(&'a lab::node::Node);

impl<'a> Fault<'a> {
    fn begin(fabric: &'a lab::node::Node, rules: &[String]) -> Result<Self> {
        let head = "add table inet fault; add chain inet fault across { type filter hook forward priority -20; }; \
                    add chain inet fault arriving { type filter hook prerouting priority -400; };";
        let rules: Vec<_> = rules.iter().map(|rule| format!("add rule inet fault {rule};")).collect();
        let fault = Self(fabric);
        fabric.run(&["nft", &format!("{head} {}", rules.join(" "))])?;
        Ok(fault)
    }

    fn mend(self) {
        drop(self);
    }
}

impl Drop for Fault<'_> {
    fn drop(&mut self) {
        // A table that was not made is gone, too.
        drop(self.0.run(&["nft", "delete", "table", "inet", "fault"]));
    }
}

/// Nothing is done within the leader's quiet time, and nobody is looked at who is not Ready.
fn all_are_well(suite: &Suite) -> Result<()> {
    for node in ALL {
        suite.cluster.wait_until_ready(node)?;
        until(suite, node, SICK, false, RELEASED)?;
        // By kubelet's own connection, that of a real client to a real server.
        comes_to(suite, node, "api_server", "ok")?;
    }
    let peers = wait_until("all look at each other", PODS, || {
        for node in ALL {
            let machine = suite.machine(node).map_err(|error| format!("{error:#}"))?;
            let page = telemetry::get(&machine, "/metrics").map_err(|error| format!("{error:#}"))?;
            if !page.lines().any(|line| line == "barewire_health_peers{result=\"ok\"} 2") {
                return Err(format!("{node}: {:?}", page.lines().filter(|line| line.contains("health_peers")).collect::<Vec<_>>()));
            }
        }
        Ok(())
    });
    Ok(peers?)
}

fn unreached(suite: &mut Suite) -> Result<()> {
    all_are_well(suite)?;
    suite.in_namespace("unreached", |suite, namespace| {
        suite.apply(&[deployment(namespace, 6), service(namespace)])?;
        let budget = json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "server", "namespace": namespace },
            "spec": { "maxUnavailable": 1, "selector": { "matchLabels": { "app": "server" } } } });
        suite.apply(&[budget])?;
        suite.rolled_out(namespace, "deployment/server")?;
        let on_node = |suite: &Suite| -> Result<usize> {
            Ok(suite.pods(namespace, "app=server")?.into_iter().filter(|pod| pod.node == NODE).count())
        };
        ensure!(on_node(suite)? > 0, "no pod is on {NODE}");
        let load = load(suite, namespace)?;

        // Between nodes alone: the way to the control plane is good, and so is that of pods.
        let fabric = suite.cluster.lab.node("vpc")?.clone();
        let others = "{ 10.0.0.11, 10.0.0.12 }";
        let rules = [format!("across ip saddr 10.0.0.13 ip daddr {others} drop"), format!("across ip daddr 10.0.0.13 ip saddr {others} drop")];
        let fault = Fault::begin(&fabric, &rules)?;
        let begun = Instant::now();
        until(suite, NODE, SICK, true, TAINTED)?;
        let tainted = begun.elapsed();
        for node in ["node1", "node2"] {
            ensure!(!has(suite, node, SICK)?, "{node} is tainted as well");
        }
        let explained = suite.cluster.fleet()?.command(&["node", NODE, "explain"])?;
        ensure!(["2 nodes say so", "node1: ", "node2: "].iter().all(|part| explained.contains(part)), "{explained}");
        // Drained; requests are answered all the while, as the budget has it.
        wait_until("its pods are elsewhere", PODS, || match on_node(suite).map_err(|error| format!("{error:#}"))? {
            0 => Ok(()),
            left => Err(format!("{left} pods are left")),
        })?;
        suite.rolled_out(namespace, "deployment/server")?;
        load.go_on(60)?;
        let answered = load.stop()?;
        ensure!(!told(suite, NODE, "NodeTainted")?.is_empty() && !told(suite, NODE, "NodeDraining")?.is_empty(), "Events are missing");

        fault.mend();
        let mended = Instant::now();
        until(suite, NODE, SICK, false, RELEASED)?;
        suite.say(format!(
            "tainted after {:.1} s, {answered} requests answered while it was drained, released {:.0} s after it was mended",
            tainted.as_secs_f32(),
            mended.elapsed().as_secs_f32()
        ));
        // Pods may come again.
        suite.kubectl(&["scale", "--namespace", namespace, "deployment/server", "--replicas=12"])?;
        suite.rolled_out(namespace, "deployment/server")?;
        ensure!(on_node(suite)? > 0, "no pod has come back to {NODE}");
        Ok(())
    })
}

fn cut_off(suite: &mut Suite) -> Result<()> {
    all_are_well(suite)?;
    let fabric = suite.cluster.lab.node("vpc")?.clone();
    let fault = Fault::begin(&fabric, &["arriving iifname eth5 drop".to_owned(), "across oifname eth5 drop".to_owned()])?;
    let begun = Instant::now();
    until(suite, NODE, SICK, true, TAINTED)?;
    suite.say(format!("tainted after {:.1} s", begun.elapsed().as_secs_f32()));
    // Long enough for whoever were to be blamed for it.
    std::thread::sleep(Duration::from_secs(10));
    for node in ["node1", "node2"] {
        ensure!(!has(suite, node, SICK)?, "{node} is tainted as well");
    }
    fault.mend();
    suite.cluster.wait_until_ready(NODE)?;
    until(suite, NODE, SICK, false, RELEASED)?;
    pods_are_back_or_gone(suite)
}

/// What ran on the node runs, or has been ended by its eviction.
fn pods_are_back_or_gone(suite: &Suite) -> Result<()> {
    let pods = ["pods", "--all-namespaces", "--field-selector", &format!("spec.nodeName={NODE}")];
    suite.cluster.kubectl.wait_until("no pod is stuck", PODS, &pods, |list| {
        let stuck = list["items"].as_array().into_iter().flatten().filter(|pod| pod["metadata"]["deletionTimestamp"].is_string());
        let stuck: Vec<_> = stuck.map(|pod| pod["metadata"]["name"].to_string()).collect();
        if stuck.is_empty() { Ok(()) } else { Err(stuck.join(", ")) }
    })?;
    Ok(())
}
