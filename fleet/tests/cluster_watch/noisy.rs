//! A client that asks a real API server for more than its share is named, with its user agent, soon after the first 429.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fixture::{Authority, in_namespace};
use super::{AUDIT_LOG, Cluster, Program, until};

/// From the first 429 until it is known whose fault that is (`noisy_client_named_s`).
const NAMED: Duration = Duration::from_secs(30);
const USER: &str = "robot";
const AGENT: &str = "noisy-robot/1.0";

/// Few seats for one user, and a queue that is soon full.
fn few_seats() -> Value {
    let group = |rest: &str| format!("flowcontrol.apiserver.k8s.io/{rest}");
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": USER },
          "rules": [{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"] }] },
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": USER },
          "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": USER },
          "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER }] },
        { "apiVersion": group("v1"), "kind": "PriorityLevelConfiguration", "metadata": { "name": "tight" },
          "spec": { "type": "Limited", "limited": { "nominalConcurrencyShares": 1, "lendablePercent": 0, "borrowingLimitPercent": 0,
            "limitResponse": { "type": "Queue", "queuing": { "queues": 1, "handSize": 1, "queueLengthLimit": 5 } } } } },
        { "apiVersion": group("v1"), "kind": "FlowSchema", "metadata": { "name": "tight" },
          "spec": { "matchingPrecedence": 100, "priorityLevelConfiguration": { "name": "tight" }, "distinguisherMethod": { "type": "ByUser" },
            "rules": [{ "subjects": [{ "kind": "User", "user": { "name": USER } }],
              "resourceRules": [{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"], "clusterScope": true, "namespaces": ["*"] }] }] } },
    ] })
}

/// Sixty requests at a time, until it is killed.
fn flood(authority: &Authority, folder: &Path) -> Child {
    let shown = authority.client(USER, "robots");
    let file = |name: &str, content: &[u8]| {
        std::fs::write(folder.join(name), content).unwrap();
        folder.join(name)
    };
    let mut command = Command::new("curl");
    command.args(["--silent", "--parallel", "--parallel-max", "60", "--http1.1", "--user-agent", AGENT, "--output", "/dev/null"]);
    command.arg("--cacert").arg(folder.join("ca.crt"));
    command.arg("--cert").arg(file("robot.crt", &shown.certificate)).arg("--key").arg(file("robot.key", &shown.key));
    command.arg("https://127.0.0.1:6443/api/v1/configmaps?number=[1-10000000]");
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_noisy_client_is_named_soon_after_the_first_429() {
    in_namespace(|| async {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let folder = folder.path();
        let Some(cluster) = Cluster::or_skip(&authority, folder) else { return };
        cluster.kubectl(&["apply", "--validate=strict", "-f", "-"], &few_seats().to_string()).unwrap();
        // What makes an answer take a while.
        let large = "x".repeat(900_000);
        for number in 0..4 {
            let name = format!("large-{number}");
            let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": "default" }, "data": { "a": large } });
            cluster.kubectl(&["create", "-f", "-"], &object.to_string()).unwrap();
        }
        let _noise = Program(flood(&authority, folder));
        let refused = "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"tight\"";
        until("the first 429", folder, || cluster.kubectl(&["get", "--raw", "/metrics"], "").is_ok_and(|page| page.contains(refused)));
        let since = Instant::now();

        let mut top = Command::new(env!("CARGO_BIN_EXE_barewire-fleet"));
        top.args(["apiserver-top", "--samples=5", "--json"]).arg(format!("--kubeconfig={}", folder.join("kubeconfig").display()));
        let top = top.arg(format!("--audit-log={}", folder.join(AUDIT_LOG).display())).output().unwrap();
        let named = since.elapsed();
        let said: Value = serde_json::from_slice(&top.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&top.stderr)));
        assert!(named <= NAMED, "{named:?}");
        let noisiest = &said["clients"][0];
        let what = ["user", "userAgent", "verb", "resource"].map(|field| noisiest[field].as_str().unwrap_or_default());
        assert_eq!(what, [USER, AGENT, "list", "configmaps"], "{said:#}");
        assert!(noisiest["refused"].as_u64().unwrap() > 0 && noisiest["requests"].as_u64() >= noisiest["refused"].as_u64(), "{noisiest}");
        // The dump of the queues says so, too, for who has no audit log.
        let row = &said["requests"][0];
        assert_eq!((&row["user"], &row["resource"], &row["flowSchema"]), (&json!(USER), &json!("configmaps"), &json!("tight")), "{said:#}");
        let of_refused = said["refused"].as_array().unwrap();
        assert!(of_refused.iter().any(|it| it["of"]["rejected"]["schema"] == "tight" && it["count"].as_u64() > Some(0)), "{said:#}");
        println!("noisy_client_named_s {:.1}", named.as_secs_f32());
    });
}
