//! What runs on a node ends and comes back, under traffic. Running pods must not feel it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::command::wait_until;
use lab::kubernetes::Member;
use serde_json::{Value, json};

use crate::http;
use crate::load::Load;
use crate::suite::{Case, NODES, PODS, Suite, container};
use crate::workloads::{deployment, load, served, service};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::barewire("barewired restarts under load", |suite| restarted(suite, "barewired", Member::restart_daemon)).once(),
        Case::any("kubelet restarts under load", |suite| restarted(suite, "kubelet", Member::restart_kubelet)).once(),
        Case::any("containerd restarts under load", |suite| restarted(suite, "containerd", Member::restart_containerd)).once(),
        Case::any("kube-proxy restarts under load", |suite| restarted(suite, "kube-proxy", Member::restart_kube_proxy)),
        Case::barewire("pods start while barewired is replaced again and again", upgrade).once(),
        Case::barewire("a node whose addresses are used up stays Ready, and serves again when one is free", used_up).once(),
        Case::any("a node that is rebooted takes its pods back", reboot).once(),
    ]
}

/// Restarts a part of both nodes, one after the other, while requests and connections go on.
fn restarted(suite: &mut Suite, what: &str, restart: fn(&mut Member) -> lab::Result<()>) -> Result<()> {
    suite.in_namespace(&format!("restart-{what}"), |suite, namespace| {
        suite.apply(&[deployment(namespace, 4), service(namespace)])?;
        suite.rolled_out(namespace, "deployment/server")?;
        let mut load = load(suite, namespace)?;
        keep_connections(suite, namespace, &mut load)?;
        let pods: Vec<_> = suite.pods(namespace, "app=server")?.into_iter().map(|pod| pod.name).collect();
        for node in NODES {
            restart(suite.cluster.member(node)?)?;
            load.go_on(60)?;
        }
        for node in NODES {
            suite.cluster.wait_until_ready(node)?;
        }
        // New pods start as before.
        suite.kubectl(&["scale", "--namespace", namespace, "deployment/server", "--replicas=8"])?;
        suite.rolled_out(namespace, "deployment/server")?;
        load.go_on(60)?;
        load.stop()?;
        let now: Vec<_> = suite.pods(namespace, "app=server")?.into_iter().map(|pod| pod.name).collect();
        ensure!(pods.iter().all(|pod| now.contains(pod)), "pods were replaced: {pods:?}, now {now:?}");
        Ok(())
    })
}

/// From each client a connection through the service and one to a pod of each node.
fn keep_connections(suite: &Suite, namespace: &str, load: &mut Load) -> Result<()> {
    let services = served(suite, namespace)?;
    let pods = suite.pods(namespace, "app=server")?;
    for node in NODES {
        let from = suite.client(node)?;
        for to in &services {
            load.keep(&from, *to)?;
        }
        for other in NODES {
            let pod = pods.iter().find(|pod| pod.node == other).with_context(|| format!("no server on {other}"))?;
            for address in &pod.addresses {
                load.keep(&from, (*address, 8080).into())?;
            }
        }
    }
    Ok(())
}

fn upgrade(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("upgrade", |suite, namespace| {
        let before = NODES.map(|node| suite.attachments(node)).into_iter().sum::<Result<u64>>()?;
        suite.apply(&[deployment(namespace, 40)])?;
        for _ in 0..4 {
            for node in NODES {
                suite.cluster.member(node)?.restart_daemon()?;
            }
        }
        suite.rolled_out(namespace, "deployment/server")?;
        for pod in suite.pods(namespace, "app=server")? {
            for address in pod.addresses {
                http::get(&suite.client("node1")?, (address, 8080).into(), "/hostname")?;
            }
        }
        // Each pod has one attachment: what was begun before a restart has left nothing.
        wait_until("one attachment for each pod", PODS, || {
            let now = NODES.map(|node| suite.attachments(node)).into_iter().sum::<Result<u64>>().map_err(|error| format!("{error:#}"))?;
            if now == before + 40 { Ok(()) } else { Err(format!("{now} attachments, {before} before 40 pods")) }
        })?;
        Ok(())
    })
}

/// How long a node is looked at: kubelet asks its runtime every five seconds, and reports as often.
const STEADY: Duration = Duration::from_secs(25);

fn used_up(suite: &mut Suite) -> Result<()> {
    for node in NODES {
        suite.in_namespace(&format!("used-up-{node}"), |suite, namespace| {
            let taken = usize::try_from(suite.attachments(node)?)?;
            let config = few_addresses(suite, node, taken + 4)?;
            suite.cluster.member(node)?.reconfigure_daemon(&config)?;
            let outcome = on_a_full_node(suite, namespace, node);
            suite.cluster.member(node)?.restore_daemon()?;
            outcome
        })?;
    }
    Ok(())
}

/// A configuration that leaves the node with so many IPv4 addresses, those in use included.
fn few_addresses(suite: &Suite, node: &str, count: usize) -> Result<String> {
    let member = suite.cluster.members.get(node).with_context(|| format!("no node {node}"))?;
    let mut config: toml::Table = member.daemon_config()?.parse()?;
    let used = suite.cluster.kubectl.get(&["pods", "--all-namespaces", "--field-selector", &format!("spec.nodeName={node}")])?;
    let used: Vec<String> = used["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pod| pod["spec"]["hostNetwork"] != json!(true))
        .filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned))
        .collect();
    let number = node.trim_start_matches("node");
    let free = (1..255).map(|host| format!("10.0.{number}.{host}")).filter(|address| !used.contains(address));
    let mut ranges = used.clone();
    ranges.extend(free.take(count.saturating_sub(used.len())));
    let mut ranges: Vec<toml::Value> = ranges.iter().map(|address| format!("{address}/32").into()).collect();
    ranges.push(format!("fd00:10:0:{number}::/80").into());
    config["source"]["ranges"] = toml::Value::Array(ranges);
    Ok(config.to_string())
}

fn on_a_full_node(suite: &Suite, namespace: &str, node: &str) -> Result<()> {
    let labels = json!({ "app": "full" });
    let with = |replicas: u32| -> Value {
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "full", "namespace": namespace },
            "spec": { "replicas": replicas, "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": {
                "nodeSelector": { "kubernetes.io/hostname": node }, "terminationGracePeriodSeconds": 0, "containers": [container("pause", &["pause"])] } } } })
    };
    suite.apply(&[with(6)])?;
    let running = |wanted: usize| {
        move |list: &Value| {
            let pods = list["items"].as_array().cloned().unwrap_or_default();
            let running = pods.iter().filter(|pod| pod["status"]["phase"] == "Running").count();
            if running == wanted { Ok(()) } else { Err(format!("{running} of {} pods run", pods.len())) }
        }
    };
    let selected = ["pods", "--namespace", namespace, "--selector=app=full"];
    suite.cluster.kubectl.wait_until("four of six pods run", PODS, &selected, running(4))?;
    // The others wait, kubelet says why, and the node and its pods are as well as before.
    let events = ["events", "--namespace", namespace, "--field-selector=reason=FailedCreatePodSandBox"];
    suite.cluster.kubectl.wait_until("an event that says why", PODS, &events, |list| {
        let said: Vec<_> = list["items"].as_array().into_iter().flatten().filter_map(|event| event["message"].as_str()).collect();
        if said.iter().any(|message| message.contains("address")) { Ok(()) } else { Err(format!("{said:?}")) }
    })?;
    let begun = Instant::now();
    while begun.elapsed() < STEADY {
        let object = suite.cluster.kubectl.get(&["node", node])?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").context("no condition Ready")?;
        ensure!(ready["status"] == "True", "{node} is not Ready: {}", ready["message"]);
        let network = suite.cluster.members[node].cri.conditions()?;
        // Beside them newer ones tell of what they will no longer support.
        let of_pods = network.iter().filter(|condition| matches!(condition.r#type.as_str(), "RuntimeReady" | "NetworkReady"));
        ensure!(of_pods.clone().count() == 2 && of_pods.clone().all(|condition| condition.status), "the runtime says {network:?}");
        std::thread::sleep(Duration::from_secs(1));
    }
    // An address that is given back goes to a pod that waits.
    suite.apply(&[with(4)])?;
    suite.cluster.kubectl.wait_until("four pods run", PODS, &selected, |list| {
        let count = list["items"].as_array().map_or(0, Vec::len);
        if count == 4 { running(4)(list) } else { Err(format!("{count} pods")) }
    })?;
    Ok(())
}

fn reboot(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("reboot", |suite, namespace| {
        let mut server = container("server", &["netexec", "--http-port=8080"]);
        server["readinessProbe"] = json!({ "httpGet": { "path": "/hostname", "port": 8080 }, "periodSeconds": 1 });
        let labels = json!({ "app": "server" });
        suite.apply(&[
            json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "server", "namespace": namespace },
                "spec": { "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels },
                    "spec": { "terminationGracePeriodSeconds": 0, "containers": [server] } } } }),
            service(namespace),
        ])?;
        suite.rolled_out(namespace, "daemonset/server")?;
        served(suite, namespace)?;
        for node in NODES {
            suite.cluster.reboot(node)?;
            suite.cluster.wait_until_ready(node)?;
            pods_are_back(suite, node)?;
            for from in NODES {
                for pod in suite.pods(namespace, "app=server")? {
                    for address in pod.addresses {
                        let met = http::get(&suite.client(from)?, (address, 8080).into(), "/hostname")?;
                        ensure!(met == pod.name, "at {address} is {met}, not {}", pod.name);
                    }
                }
            }
            served(suite, namespace)?;
        }
        Ok(())
    })
}

/// Waits until each pod of a node that was rebooted has a new sandbox, and serves at the address that it has now.
pub(crate) fn pods_are_back(suite: &Suite, node: &str) -> Result<()> {
    let pods = ["pods", "--all-namespaces", "--field-selector", &format!("spec.nodeName={node}")];
    suite.cluster.kubectl.wait_until(&format!("pods of {node} Ready"), PODS, &pods, |list| {
        let unready: Vec<_> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|pod| {
                let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
                let ready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
                let restarted = pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default() > 0;
                !(ready && restarted)
            })
            .map(|pod| pod["metadata"]["name"].to_string())
            .collect();
        if unready.is_empty() { Ok(()) } else { Err(format!("not yet: {}", unready.join(", "))) }
    })?;
    Ok(())
}
