//! Many pods: started, replaced, moved and gone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::command::wait_until;
use serde_json::{Value, json};

use crate::http;
use crate::load::Load;
use crate::suite::{Case, NODES, PODS, Suite, container};

/// How long 200 pods may take to come and to go, several times what they do.
const MANY: Duration = Duration::from_secs(240);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::any("a deployment of 40 runs on both nodes, and every pod is reached at both of its addresses", forty).once(),
        Case::any("a rolling update under load fails no request", rolling_update),
        Case::any("a drain under load fails no request, and the node takes pods again", drain),
    ]
}

/// A deployment of servers that end as Kubernetes' manual advises: they go on for some seconds after they were told to end, so that those who
/// still know them as endpoints are served.
pub(crate) fn deployment(namespace: &str, replicas: u32) -> Value {
    let mut server = container("server", &["netexec", "--http-port=8080", "--udp-port=-1"]);
    server["readinessProbe"] = json!({ "httpGet": { "path": "/hostname", "port": 8080 }, "periodSeconds": 1 });
    server["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": 4 } } });
    let labels = json!({ "app": "server" });
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "server", "namespace": namespace },
        "spec": { "replicas": replicas, "selector": { "matchLabels": labels }, "strategy": { "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 2 } },
            "template": { "metadata": { "labels": labels }, "spec": { "terminationGracePeriodSeconds": 10, "containers": [server] } } } })
}

/// The service before it.
pub(crate) fn service(namespace: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "server", "namespace": namespace },
        "spec": { "selector": { "app": "server" }, "ipFamilyPolicy": "RequireDualStack", "ports": [{ "port": 80, "targetPort": 8080 }] } })
}

/// Waits until a service answers the clients of both nodes at both of its addresses; answers where it does.
pub(crate) fn served(suite: &Suite, namespace: &str) -> Result<Vec<SocketAddr>> {
    let addresses: Vec<SocketAddr> = suite.cluster_ips(namespace, "server")?.into_iter().map(|address| (address, 80).into()).collect();
    for node in NODES {
        let from = suite.client(node)?;
        for to in &addresses {
            wait_until(&format!("{to} answers {node}"), Duration::from_secs(30), || {
                http::get_within(&from, *to, "/hostname", Duration::from_secs(1)).map_err(|error| format!("{error:#}"))
            })?;
        }
    }
    Ok(addresses)
}

/// A load from both nodes on a service.
pub(crate) fn load(suite: &Suite, namespace: &str) -> Result<Load> {
    let clients = NODES.map(|node| suite.client(node)).into_iter().collect::<Result<Vec<_>>>()?;
    let load = Load::start(&clients, &served(suite, namespace)?);
    load.go_on(40)?;
    Ok(load)
}

fn forty(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("forty", |suite, namespace| {
        suite.apply(&[deployment(namespace, 40)])?;
        suite.rolled_out(namespace, "deployment/server")?;
        let pods = suite.pods(namespace, "app=server")?;
        ensure!(pods.len() == 40, "{} pods", pods.len());
        let mut by_node = BTreeMap::<&str, usize>::new();
        pods.iter().for_each(|pod| *by_node.entry(&pod.node).or_default() += 1);
        ensure!(NODES.iter().all(|node| by_node.get(node).is_some_and(|count| *count >= 10)), "{by_node:?}");
        let froms = NODES.iter().flat_map(|node| [suite.client(node), suite.machine(node)]).chain([suite.machine("control")]);
        for from in froms.collect::<Result<Vec<_>>>()? {
            for pod in &pods {
                ensure!(pod.addresses.len() == 2, "{pod:?} is not dual-stack");
                for address in &pod.addresses {
                    let met = http::get(&from, (*address, 8080).into(), "/hostname")?;
                    ensure!(met == pod.name, "{}: at {address} is {met}, not {}", from.name(), pod.name);
                }
            }
        }
        Ok(())
    })
}

fn rolling_update(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("rolling", |suite, namespace| {
        suite.apply(&[deployment(namespace, 4), service(namespace)])?;
        suite.rolled_out(namespace, "deployment/server")?;
        let load = load(suite, namespace)?;
        for round in ["1", "2"] {
            suite.kubectl(&["set", "env", "--namespace", namespace, "deployment/server", &format!("ROUND={round}")])?;
            suite.rolled_out(namespace, "deployment/server")?;
        }
        load.go_on(100)?;
        let answered = load.stop()?;
        ensure!(answered > 400, "only {answered} requests");
        Ok(())
    })
}

fn drain(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("drain", |suite, namespace| {
        suite.apply(&[deployment(namespace, 4), service(namespace)])?;
        // The last of a service's pods goes when another is ready.
        suite.apply(&[
            json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "server", "namespace": namespace },
            "spec": { "maxUnavailable": 1, "selector": { "matchLabels": { "app": "server" } } } }),
        ])?;
        suite.rolled_out(namespace, "deployment/server")?;
        let node = NODES[1];
        let load = load(suite, namespace)?;
        let selector = "--pod-selector=app=server";
        suite.kubectl(&["drain", node, selector, "--timeout=120s", "--ignore-daemonsets"])?;
        suite.rolled_out(namespace, "deployment/server")?;
        load.go_on(100)?;
        load.stop()?;
        let left = suite.pods(namespace, "app=server")?.into_iter().filter(|pod| pod.node == node).count();
        ensure!(left == 0, "{left} pods are still on {node}");
        suite.kubectl(&["uncordon", node])?;
        suite.kubectl(&["scale", "--namespace", namespace, "deployment/server", "--replicas=8"])?;
        suite.rolled_out(namespace, "deployment/server")?;
        let back = suite.pods(namespace, "app=server")?.into_iter().filter(|pod| pod.node == node).count();
        ensure!(back > 0, "no pod has come back to {node}");
        Ok(())
    })
}

/// What a pod may leave on a node: links, namespaces, neighbours and routes, and what Barewire knows.
fn traces(suite: &Suite, node: &str) -> Result<BTreeMap<&'static str, u64>> {
    let handle = suite.cluster.lab.node(node)?;
    let count = |script: &str| -> Result<u64> { Ok(handle.run(&["sh", "-c", script])?.trim().parse()?) };
    let mut traces = BTreeMap::from([
        ("veth pairs", count("ip -o link show type veth | wc -l")?),
        ("network namespaces", count("ls /run/netns /var/run/netns 2>/dev/null | grep -c cni- || true")?),
        ("IPv4 routes", count("ip -4 route show table all | wc -l")?),
        ("IPv6 routes", count("ip -6 route show table main | wc -l")?),
        ("permanent neighbours", count("ip neigh show nud permanent | wc -l")?),
        ("cached CNI results", count("ls /var/lib/cni/results 2>/dev/null | wc -l")?),
    ]);
    if suite.cni == lab::cni::NodeCni::Barewire {
        traces.insert("attachments", suite.attachments(node)?);
    }
    Ok(traces)
}

pub(crate) fn two_hundred(suite: &mut Suite) -> Result<()> {
    let before = NODES.map(|node| traces(suite, node)).into_iter().collect::<Result<Vec<_>>>()?;
    suite.in_namespace("two-hundred", |suite, namespace| {
        let labels = json!({ "app": "many" });
        suite.apply(&[json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "many", "namespace": namespace },
            "spec": { "replicas": 200, "selector": { "matchLabels": labels }, "progressDeadlineSeconds": 600, "template": { "metadata": { "labels": labels },
                "spec": { "terminationGracePeriodSeconds": 0, "containers": [container("pause", &["pause"])] } } } })])?;
        suite.cluster.wait_for_rollout(namespace, "deployment/many", MANY)?;
        let pods = suite.pods(namespace, "app=many")?;
        let mut addresses: Vec<_> = pods.iter().flat_map(|pod| pod.addresses.clone()).collect();
        addresses.sort();
        addresses.dedup();
        ensure!(addresses.len() == 400, "200 pods have {} different addresses", addresses.len());
        suite.kubectl(&["scale", "--namespace", namespace, "deployment/many", "--replicas=0"])?;
        suite.cluster.kubectl.wait_until("all pods gone", MANY, &["pods", "--namespace", namespace], |list| {
            let left = list["items"].as_array().map_or(0, Vec::len);
            if left == 0 { Ok(()) } else { Err(format!("{left} pods are left")) }
        })?;
        Ok(())
    })?;
    for (node, before) in NODES.iter().zip(before) {
        wait_until(&format!("{node} as before"), PODS, || {
            let now = traces(suite, node).map_err(|error| format!("{error:#}"))?;
            let more: Vec<_> = now
                .iter()
                .filter(|(what, count)| **count > before[*what])
                .map(|(what, count)| format!("{count} {what}, before {}", before[what]))
                .collect();
            if more.is_empty() { Ok(()) } else { Err(more.join("; ")) }
        })
        .with_context(|| format!("what 200 pods have left on {node}"))?;
    }
    Ok(())
}
