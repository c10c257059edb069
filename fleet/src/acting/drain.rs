//! Pods of a sick node are evicted: by the Eviction API, so that their disruption budgets are honoured, and a few at a time.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use super::carry::Shared;
use super::request::{Outcome, ask};

/// Evictions of one round.
const ROUND: usize = 10;

/// What a round has come to.
#[derive(Debug)]
pub(super) struct Round {
    /// Of which node.
    pub(super) node: String,
    /// Nothing is left to evict.
    pub(super) is_empty: bool,
    /// The last answer that matters to all: the round was given up for it.
    pub(super) given_up: Option<Outcome>,
}

/// A pod that may be evicted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pod {
    namespace: String,
    name: String,
    uid: String,
}

/// Evicts some of a node's pods. Those of Jobs are left to end, unless `with_jobs`.
pub(super) async fn round(shared: Arc<Shared>, node: String, with_jobs: bool) -> Round {
    let mut pods = match left(&shared, &node, with_jobs).await {
        Ok(pods) => pods,
        Err(other) => {
            tracing::warn!(node, outcome = ?other, "pods of a sick node not listed");
            return Round { node, is_empty: false, given_up: Some(other) };
        }
    };
    // Those that wait for a budget do not keep the others from their turn.
    fastrand::shuffle(&mut pods);
    let mut round = Round { node, is_empty: pods.is_empty(), given_up: None };
    for Pod { namespace, name, uid } in pods.into_iter().take(ROUND) {
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": name, "namespace": namespace },
            "deleteOptions": { "preconditions": { "uid": uid } },
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
        let outcome = ask(&shared.client, Method::POST, &path, Some(&eviction)).await;
        shared.counters.evicted(&outcome);
        match outcome {
            Outcome::Done(_) => tracing::info!(target: "audit", part = "health", node = round.node, namespace, pod = name, "pod evicted"),
            Outcome::Later { is_budget: true, .. } => {
                tracing::info!(node = round.node, namespace, pod = name, "eviction waits for a budget")
            }
            Outcome::Gone | Outcome::Conflict(_) => {}
            other => {
                tracing::warn!(node = round.node, namespace, pod = name, outcome = ?other, "pod not evicted");
                round.given_up = Some(other);
                break;
            }
        }
    }
    round
}

/// Pods of a node that may be evicted.
pub(super) async fn left(shared: &Shared, node: &str, with_jobs: bool) -> Result<Vec<Pod>, Outcome> {
    // From the API server's cache: what is evicted twice is gone.
    let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}&resourceVersion=0");
    match ask(&shared.client, Method::GET, &path, None).await {
        Outcome::Done(list) => {
            let pods = list["items"].as_array().into_iter().flatten();
            Ok(pods.filter_map(|pod| evictable(pod, with_jobs)).collect())
        }
        other => Err(other),
    }
}

/// Those of DaemonSets come back, those of the kubelet's own files cannot be evicted, and who has ended or is ending needs no push.
fn evictable(pod: &Value, with_jobs: bool) -> Option<Pod> {
    let meta = &pod["metadata"];
    let text = |field: &str| meta[field].as_str().map(str::to_owned);
    let owner = meta["ownerReferences"].as_array().and_then(|owners| owners.iter().find(|owner| owner["controller"] == true));
    let is_left = match owner.and_then(|owner| owner["kind"].as_str()) {
        Some("DaemonSet" | "Node") => true,
        Some("Job") => !with_jobs,
        _ => false,
    };
    let is_ended = meta["deletionTimestamp"].is_string() || ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase);
    let is_mirror = meta["annotations"]["kubernetes.io/config.mirror"].is_string();
    (!is_left && !is_ended && !is_mirror).then_some(())?;
    Some(Pod { namespace: text("namespace")?, name: text("name")?, uid: text("uid")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_pods_are_left_alone() {
        let pod = |more: Value, phase: &str| {
            let mut meta = json!({ "namespace": "n", "name": "p", "uid": "u" });
            meta.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "metadata": meta, "status": { "phase": phase } })
        };
        let owner = |kind: &str| json!({ "ownerReferences": [{ "kind": kind, "controller": true }] });
        for (pod, may, may_with_jobs) in [
            (pod(json!({}), "Running"), true, true),
            (pod(json!({}), "Pending"), true, true),
            (pod(owner("ReplicaSet"), "Running"), true, true),
            (pod(owner("Job"), "Running"), false, true),
            (pod(owner("DaemonSet"), "Running"), false, false),
            (pod(json!({}), "Succeeded"), false, false),
            (pod(json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" }), "Running"), false, false),
            (pod(json!({ "annotations": { "kubernetes.io/config.mirror": "x" } }), "Running"), false, false),
        ] {
            assert_eq!((evictable(&pod, false).is_some(), evictable(&pod, true).is_some()), (may, may_with_jobs), "{pod}");
        }
    }
}
