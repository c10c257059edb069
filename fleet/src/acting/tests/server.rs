//! An API server that is a function: nodes, pods, Events, evictions, and answers that are not given.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use kube::Client;
use serde_json::{Value, json};

#[derive(Default)]
struct Inner {
    nodes: BTreeMap<String, Value>,
    pods: BTreeMap<String, String>,
    held: String,
    lease: Option<String>,
    version: u64,
    events: Vec<Value>,
    asked: usize,
    written: usize,
    evicted: usize,
    refusals: Vec<(StatusCode, Option<u64>)>,
    late: Duration,
}

pub(super) struct Server(Mutex<Inner>);

impl Server {
    /// With so many nodes, `n0` and so on.
    pub(super) fn start(nodes: usize) -> Arc<Self> {
        let server = Arc::new(Self(Mutex::default()));
        let node = |name: &str| {
            json!({
                "metadata": { "name": name, "labels": { "pool": "p" } },
                "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
            })
        };
        for number in 0..nodes {
            let name = format!("n{number}");
            server.lock().nodes.insert(name.clone(), node(&name));
            server.alter(&name, |_| {});
        }
        server
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub(super) fn client(self: &Arc<Self>) -> Client {
        Client::new(Router::new().fallback(answer).with_state(Arc::clone(self)), "default")
    }

    pub(super) fn nodes(&self) -> BTreeMap<String, Value> {
        self.lock().nodes.clone()
    }

    pub(super) fn alter(&self, name: &str, alter: impl FnOnce(&mut Value)) {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version.to_string();
        let node = inner.nodes.get_mut(name).unwrap();
        alter(node);
        node["metadata"]["resourceVersion"] = json!(version);
    }

    /// Pods of a node.
    pub(super) fn pods(&self, node: &str, count: usize) {
        (0..count).for_each(|number| drop(self.lock().pods.insert(format!("{node}-{number}"), node.to_owned())));
    }

    /// This pod has a budget that forbids its eviction.
    pub(super) fn hold(&self, pod: &str) {
        pod.clone_into(&mut self.lock().held);
    }

    pub(super) fn annotate_lease(&self, value: &str) {
        self.lock().lease = Some(value.to_owned());
    }

    /// Requests that were answered.
    pub(super) fn asked(&self) -> usize {
        self.lock().asked
    }

    /// Nodes that were changed, and pods evicted.
    pub(super) fn written(&self) -> usize {
        self.lock().written
    }

    pub(super) fn evicted(&self) -> usize {
        self.lock().evicted
    }

    pub(super) fn events(&self, reason: &str) -> usize {
        self.lock().events.iter().filter(|event| event["reason"] == reason).count()
    }

    /// The next so many requests are refused.
    pub(super) fn refuse(&self, code: u16, retry_after: Option<u64>, count: usize) {
        self.lock().refusals = vec![(StatusCode::from_u16(code).unwrap(), retry_after); count];
    }

    pub(super) fn answer_late(&self, by: Duration) {
        self.lock().late = by;
    }
}

async fn answer(State(server): State<Arc<Server>>, request: Request) -> Response {
    let late = server.lock().late;
    tokio::time::sleep(late).await;
    let (head, body) = request.into_parts();
    let body: Value = serde_json::from_slice(&to_bytes(body, 1 << 20).await.unwrap()).unwrap_or_default();
    let mut inner = server.lock();
    inner.asked += 1;
    if let Some((status, retry_after)) = inner.refusals.pop() {
        let headers = retry_after.map(|seconds| [("retry-after", seconds.to_string())]);
        return headers.map_or_else(|| status.into_response(), |headers| (status, headers).into_response());
    }
    let path: Vec<_> = head.uri.path().split('/').skip(1).collect();
    match (head.method, path.as_slice()) {
        (Method::GET, ["api", "v1", "nodes", name]) => found(inner.nodes.get(*name)),
        (Method::PATCH, ["api", "v1", "nodes", name]) => {
            inner.version += 1;
            let version = inner.version.to_string();
            let Some(node) = inner.nodes.get_mut(*name) else { return StatusCode::NOT_FOUND.into_response() };
            let mut patched = node.clone();
            if !body.as_array().unwrap().iter().all(|operation| patch(&mut patched, operation)) {
                return StatusCode::UNPROCESSABLE_ENTITY.into_response();
            }
            patched["metadata"]["resourceVersion"] = json!(version);
            *node = patched.clone();
            inner.written += 1;
            axum::Json(patched).into_response()
        }
        (Method::POST, ["api", "v1", "namespaces", "default", "events"]) => {
            inner.events.push(body.clone());
            axum::Json(body).into_response()
        }
        (Method::GET, ["api", "v1", "pods"]) => {
            let query = head.uri.query().unwrap_or_default();
            let of_node = inner.pods.iter().filter(|(_, node)| query.contains(&format!("nodeName%3D{node}&")));
            let pods: Vec<_> = of_node.map(|(name, _)| json!({ "metadata": { "name": name, "namespace": "n", "uid": name } })).collect();
            axum::Json(json!({ "items": pods })).into_response()
        }
        (Method::POST, ["api", "v1", "namespaces", "n", "pods", pod, "eviction"]) if *pod == inner.held => {
            let status = json!({ "details": { "causes": [{ "reason": "DisruptionBudget" }] } });
            (StatusCode::TOO_MANY_REQUESTS, axum::Json(status)).into_response()
        }
        (Method::POST, ["api", "v1", "namespaces", "n", "pods", pod, "eviction"]) => {
            inner.evicted += usize::from(inner.pods.remove(*pod).is_some());
            inner.written += 1;
            axum::Json(json!({ "status": "Success" })).into_response()
        }
        (Method::GET, ["apis", "coordination.k8s.io", "v1", "namespaces", "kube-system", "leases", "l"]) => {
            axum::Json(json!({ "metadata": { "annotations": { super::super::reset::ANNOTATION: inner.lease } } })).into_response()
        }
        (method, path) => panic!("{method} {path:?}"),
    }
}

fn found(object: Option<&Value>) -> Response {
    object.map_or_else(|| StatusCode::NOT_FOUND.into_response(), |object| axum::Json(object.clone()).into_response())
}

/// Of RFC 6902 what changes of nodes are made of; whether it succeeds.
fn patch(node: &mut Value, operation: &Value) -> bool {
    let path = operation["path"].as_str().unwrap();
    if operation["op"] == "test" {
        return node.pointer(path) == Some(&operation["value"]);
    }
    let (parent, last) = path.rsplit_once('/').unwrap();
    let last = last.replace("~1", "/").replace("~0", "~");
    if parent == "/spec" && node["spec"].is_null() {
        node["spec"] = json!({});
    }
    let Some(parent) = node.pointer_mut(parent).and_then(Value::as_object_mut) else { return false };
    match operation["op"].as_str() {
        Some("add") => drop(parent.insert(last, operation["value"].clone())),
        _ => return parent.remove(&last).is_some(),
    }
    true
}
