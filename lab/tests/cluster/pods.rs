//! Pods one by one: what kubelet and kubectl do with them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::command::wait_until;
use serde_json::{Value, json};

use crate::http;
use crate::suite::{Case, NAMESPACE, NODES, PODS, Suite, container};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::any("probes of every kind reach the pod, and a failing one has its container replaced", probes).goes_by_itself().once(),
        Case::any("exec, logs and port-forward work on both nodes", exec_and_port_forward).goes_by_itself().once(),
    ]
}

fn probes(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("probes", |suite, namespace| {
        let with = |name: &str, arguments: &[&str], kind: &str, probe: Value| {
            let mut container = container(name, arguments);
            container[kind] = probe;
            container
        };
        let pod = |name: String, node: &str, containers: Value| {
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": namespace },
                "spec": { "nodeName": node, "terminationGracePeriodSeconds": 0, "containers": containers } })
        };
        let http = json!({ "httpGet": { "path": "/hostname", "port": 8080 }, "periodSeconds": 1 });
        let tcp = json!({ "tcpSocket": { "port": 8081 }, "periodSeconds": 1 });
        let grpc = json!({ "grpc": { "port": 5000 }, "periodSeconds": 1 });
        let exec = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1 });
        let probed = json!([
            with("http", &["netexec", "--http-port=8080", "--udp-port=-1"], "readinessProbe", http),
            with("tcp", &["netexec", "--http-port=8081", "--udp-port=-1"], "readinessProbe", tcp),
            with("grpc", &["grpc-health-checking", "--http-port=8082"], "readinessProbe", grpc),
            with("exec", &["pause"], "readinessProbe", exec),
        ]);
        // It answers well for ten seconds, then no more.
        let liveness = json!({ "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 1, "failureThreshold": 1 });
        let failing = json!([with("failing", &["liveness"], "livenessProbe", liveness)]);
        let pods: Vec<_> = NODES
            .iter()
            .flat_map(|node| [pod(format!("probed-{node}"), node, probed.clone()), pod(format!("failing-{node}"), node, failing.clone())])
            .collect();
        suite.apply(&pods)?;
        for node in NODES {
            let pod = format!("pod/probed-{node}");
            suite.kubectl(&["wait", "--namespace", namespace, &pod, "--for=condition=Ready", "--timeout=90s"])?;
        }
        for node in NODES {
            let pod = format!("failing-{node}");
            let before = suite.pod(namespace, &pod)?.addresses;
            suite.cluster.kubectl.wait_until(&format!("{pod} restarted"), PODS, &["pod", &pod, "--namespace", namespace], |object| {
                let restarts = object["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default();
                if restarts >= 1 { Ok(()) } else { Err("it has not been restarted".to_owned()) }
            })?;
            // The container is another, the pod's network the same.
            ensure!(suite.pod(namespace, &pod)?.addresses == before, "the pod's addresses have changed");
        }
        Ok(())
    })
}

fn exec_and_port_forward(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("streams", |suite, namespace| {
        for node in NODES {
            let name = format!("server-{node}");
            let mut server = container("server", &["netexec", "--http-port=8080"]);
            server["readinessProbe"] = json!({ "httpGet": { "path": "/hostname", "port": 8080 }, "periodSeconds": 1 });
            suite.apply(&[json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": namespace },
                "spec": { "nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [server] } })])?;
            suite.kubectl(&["wait", "--namespace", namespace, &format!("pod/{name}"), "--for=condition=Ready", "--timeout=90s"])?;

            let said = suite.cluster.kubectl.exec(namespace, &name, &["hostname"])?;
            ensure!(said.trim() == name, "exec: {said:?}");
            let logs = suite.kubectl(&["logs", "--namespace", namespace, &name])?;
            ensure!(!logs.trim().is_empty(), "no logs of {name}");

            // kubectl runs on the control plane's machine: the pod's port is forwarded to that machine's loopback.
            let pod = format!("pod/{name}");
            let forwarding = suite.cluster.kubectl.start(&["port-forward", "--namespace", namespace, &pod, "18080:8080"])?;
            let machine = suite.machine("control")?;
            let met = wait_until("the forwarded port", Duration::from_secs(30), || {
                http::get(&machine, ([127, 0, 0, 1], 18080).into(), "/hostname").map_err(|error| format!("{error:#}"))
            })
            .with_context(|| format!("port-forward to {name}"))?;
            ensure!(met == name, "port-forward leads to {met}");
            forwarding.kill()?;
        }
        // What a client of the suite is asked by kubectl comes from the same pods.
        let said = suite.cluster.kubectl.exec(NAMESPACE, "client-node1", &["hostname"])?;
        ensure!(said.trim() == "client-node1", "exec: {said:?}");
        Ok(())
    })
}
