//! Nodes are told over a real API server when their preflights are to run, with whom they measure, and are let in when that has passed.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use fleet_api::message::{Order, Preflight, PreflightState, Report};
use fleet_plans::preflight::{KEY, RUN};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::fixture::{Authority, Node, in_namespace};
use super::{Cluster, Led, until, until_leads, write_credentials};

/// From the end of the checks until pods may come (`preflight_to_schedulable_s`).
const LET_IN: Duration = Duration::from_secs(10);

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barewire-fleet"));
    command.args(arguments).arg(format!("--kubeconfig={}", folder.join("kubeconfig").display())).env("USER", "ann").output().unwrap()
}

fn said(state: PreflightState, run: u64) -> Report {
    let preflight = Preflight { state: state.into(), boot: "b1".to_owned(), run, hears: true, ..Preflight::default() };
    Report { preflight: Some(preflight), ..Report::default() }
}

fn order(node: &Node) -> Option<Order> {
    match node.client.view(|state| state.preflight().clone()) {
        fleet_api::Preflight::Told(order) => Some(order),
        _ => None,
    }
}

impl Cluster {
    fn is_new(&self, name: &str) -> bool {
        let node: Value = serde_json::from_str(&self.kubectl(&["get", "node", name, "-o", "json"], "").unwrap()).unwrap();
        node["spec"]["taints"].as_array().is_some_and(|taints| taints.iter().any(|taint| taint["key"] == KEY))
    }

    fn run_of(&self, name: &str) -> Value {
        let node: Value = serde_json::from_str(&self.kubectl(&["get", "node", name, "-o", "json"], "").unwrap()).unwrap();
        node["metadata"]["annotations"][RUN].as_str().map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
    }
}

#[test]
fn a_new_node_waits_for_its_turn_measures_with_two_others_and_is_let_in() {
    in_namespace(|| async {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let folder = folder.path();
        let Some(cluster) = Cluster::or_skip(&authority, folder) else { return };
        write_credentials(&authority, folder);
        for (number, name) in ["old1", "old2", "new"].into_iter().enumerate() {
            let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
                "spec": { "taints": if name == "new" { json!([{ "key": KEY, "effect": "NoSchedule" }]) } else { json!([]) } },
                "status": { "conditions": [{ "type": "Ready", "status": "True" }], "nodeInfo": { "bootID": "b1" },
                    "addresses": [{ "type": "InternalIP", "address": format!("10.0.0.{number}") }] } });
            cluster.kubectl(&["create", "-f", "-"], &node.to_string()).unwrap();
        }
        let flags = ["--preflight-mode=apply".to_owned()];
        let manifest = Command::new(env!("CARGO_BIN_EXE_barewire-fleet")).arg("manifest").args(&flags).output().unwrap();
        cluster.kubectl(&["apply", "--validate=strict", "-f", "-"], std::str::from_utf8(&manifest.stdout).unwrap()).unwrap();
        let led = Led::start(folder, 6, "127.0.0.1:7466", &flags);
        until_leads(&led, &[], folder);
        let replicas = ["127.0.0.1:7456".parse().unwrap()];
        let node = |name: &str, report: Report| {
            let (say, reports) = watch::channel(report);
            (Node::reporting(&authority.node(name), name, &replicas, reports), say)
        };
        // A node that the leader has nothing to say to begins by itself.
        let (old, _old) = node("old1", said(PreflightState::Passed, 0));
        old.until("it is told", || order(&old) == Some(Order::default())).await;
        let (new, say) = node("new", said(PreflightState::Waiting, 0));
        new.until("its turn", || order(&new).is_some_and(|order| order.run != 0)).await;
        let told = order(&new).unwrap();
        let mut with: Vec<_> = told.with.iter().map(|peer| (peer.name.clone(), peer.addresses.clone())).collect();
        with.sort();
        assert_eq!(with, [("old1".to_owned(), vec![vec![10, 0, 0, 0]]), ("old2".to_owned(), vec![vec![10, 0, 0, 1]])]);
        old.until("who measures with it", || order(&old).is_some_and(|order| order.measured_by == [vec![10, 0, 0, 2]])).await;
        say.send_replace(said(PreflightState::Running, told.run));
        // What was said of no run, or another, lets nobody in.
        say.send_replace(said(PreflightState::Passed, 0));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(cluster.is_new("new"));
        let since = Instant::now();
        say.send_replace(said(PreflightState::Passed, told.run));
        until("it is let in", folder, || !cluster.is_new("new"));
        let took = since.elapsed();
        assert!(took <= LET_IN, "{took:?}");
        println!("preflight_to_schedulable_s {:.1}", took.as_secs_f32());
        assert_eq!((&cluster.run_of("new")["ended"]["passed"], &cluster.run_of("new")["by"]), (&json!(true), &json!("fleet")));
        old.until("nobody measures with it", || order(&old) == Some(Order::default())).await;
        for reason in ["PreflightTold", "PreflightPassed"] {
            let events = || {
                cluster
                    .kubectl(&["get", "events", "-n", "default", &format!("--field-selector=reason={reason}"), "-o", "name"], "")
                    .unwrap()
            };
            until(reason, folder, || events().lines().count() == 1);
        }

        // A person has it checked again, when it is drained.
        let again = || run(folder, &["node", "new", "preflight"]);
        let refused = again();
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("`kubectl drain new --ignore-daemonsets` first"));
        let cordon =
            json!({ "spec": { "unschedulable": true, "taints": [{ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" }] } });
        cluster.kubectl(&["patch", "node", "new", "--type=merge", "-p", &cordon.to_string()], "").unwrap();
        let asked = again();
        assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
        new.until("a run of a person's", || order(&new).is_some_and(|order| order.run > told.run)).await;
        let told = order(&new).unwrap();
        assert!(String::from_utf8_lossy(&again().stderr).contains("makes its checks already, told by \"ann\""));
        say.send_replace(said(PreflightState::Failed, told.run));
        until("its end", folder, || cluster.run_of("new")["ended"]["passed"] == json!(false));
        assert_eq!(cluster.run_of("new")["by"], "ann");
        new.stop().await;
        old.stop().await;
    });
}
