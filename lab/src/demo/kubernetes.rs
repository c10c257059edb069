//! The demo on a real Kubernetes: two nodes, a deployment and its service, a request from each node, in some two minutes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::Options;
use crate::cni::NodeCni;
use crate::command::wait_until;
use crate::image;
use crate::kubernetes::{Cluster, Plan, ProxyMode};

/// How long the deployment may take.
const ROLLOUT: Duration = Duration::from_secs(120);
/// How long the first answer through the service may take.
const ANSWER: Duration = Duration::from_secs(30);

/// Shows it, one line at a time through `say`; `keep` leaves the cluster up.
///
/// # Errors
/// With the step that failed; the cluster is taken down then.
pub fn run(options: &Options, cni: NodeCni, keep: bool, say: &mut dyn FnMut(String)) -> Result<()> {
    let cluster = Cluster::up(&Plan::mixed(ProxyMode::Nftables, cni), options, say).context("bring the cluster up")?;
    let kubectl = &cluster.kubectl;
    let labels = json!({ "app": "demo" });
    let server = json!({ "name": "server", "image": image::AGNHOST, "imagePullPolicy": "Never", "args": ["netexec", "--http-port=8080"],
        "readinessProbe": { "httpGet": { "path": "/hostname", "port": 8080 }, "periodSeconds": 1 } });
    kubectl.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "demo", "namespace": "default" },
          "spec": { "replicas": 6, "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels },
              "spec": { "terminationGracePeriodSeconds": 0, "containers": [server] } } } },
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "demo", "namespace": "default" },
          "spec": { "selector": labels, "ipFamilyPolicy": "RequireDualStack", "ports": [{ "port": 80, "targetPort": 8080 }] } },
    ] }))?;
    cluster.wait_for_rollout("default", "deployment/demo", ROLLOUT)?;
    let pods = kubectl.get(&["pods", "--namespace=default", "--selector=app=demo"])?;
    let pods = pods["items"].as_array().context("a list without items")?;
    for pod in pods {
        let addresses = pod["status"]["podIPs"].as_array().into_iter().flatten().filter_map(|address| address["ip"].as_str());
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        say(format!(
            "{}  {}  {}",
            text(&pod["metadata"]["name"]),
            text(&pod["spec"]["nodeName"]),
            addresses.collect::<Vec<_>>().join("  ")
        ));
    }
    // One of each node asks the service by its name.
    for node in cluster.members.keys() {
        let own = pods.iter().find(|pod| pod["spec"]["nodeName"] == **node).and_then(|pod| pod["metadata"]["name"].as_str());
        let own = own.with_context(|| format!("{node} runs none of the pods"))?;
        let argv = ["curl", "--silent", "--max-time", "5", "http://demo.default/hostname"];
        let answer = wait_until(&format!("an answer to {own} of {node}"), ANSWER, || {
            kubectl.exec("default", own, &argv).map_err(|error| error.to_string())
        })?;
        ensure!(pods.iter().any(|pod| pod["metadata"]["name"] == answer.trim()), "the service leads to {answer:?}");
        say(format!("{own} on {node} asks http://demo.default and meets {}", answer.trim()));
    }
    if keep {
        cluster.keep().context("leave the cluster up")?;
    } else {
        cluster.down().context("take the cluster down")?;
        say("the cluster is down, nothing is left".to_owned());
    }
    Ok(())
}
