//! A person's commands over a real API server, and reports that reach the leader from a node that is connected to another replica.

use std::path::Path;
use std::process::{Command, Output};

use fleet_api::message::{Finding, Outcome, Preflight, PreflightState, Report};
use fleet_plans::health::{QUARANTINE, RECORD, Record, SICK, Stage, stamp};
use fleet_plans::node::Node as Known;
use fleet_plans::preflight::KEY;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::fixture::{Authority, Node, in_namespace};
use super::{Cluster, Led, until, until_leads, write_credentials};

fn run(folder: &Path, kubeconfig: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barewire-fleet"));
    command.args(arguments).env_remove("KUBECONFIG").env("HOME", folder).env("USER", "ann");
    if !kubeconfig.is_empty() {
        command.arg(format!("--kubeconfig={}", folder.join(kubeconfig).display()));
    }
    command.output().unwrap()
}

/// What it prints; it has to succeed.
fn printed(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, "kubeconfig", arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What it complains of.
fn refused(folder: &Path, kubeconfig: &str, arguments: &[&str]) -> String {
    let output = run(folder, kubeconfig, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

impl Cluster {
    fn node(&self, name: &str) -> Value {
        serde_json::from_str(&self.kubectl(&["get", "node", name, "-o", "json"], "").unwrap()).unwrap()
    }

    fn sick_taint(&self, name: &str) -> Value {
        self.taint(name, SICK)
    }

    fn taint(&self, name: &str, key: &str) -> Value {
        let node = self.node(name);
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints.into_iter().find(|taint| taint["key"] == key).unwrap_or_default()
    }
}

#[test]
fn a_person_asks_pardons_and_quarantines_and_reports_reach_the_leader() {
    in_namespace(|| async {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let folder = folder.path();
        let Some(cluster) = Cluster::or_skip(&authority, folder) else { return };
        write_credentials(&authority, folder);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        for name in ["n0", "n1", "n2"] {
            let address = format!("10.0.0.{}", &name[1..]);
            let mut node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "status": {
                "conditions": [{ "type": "Ready", "status": "True" }], "addresses": [{ "type": "InternalIP", "address": address }],
            } });
            if name == "n2" {
                node["spec"] = json!({ "taints": [{ "key": KEY, "effect": "NoSchedule" }] });
                node["status"]["nodeInfo"] = json!({ "bootID": "b1" });
            }
            cluster.kubectl(&["create", "-f", "-"], &node.to_string()).unwrap();
        }
        let record = Record { stage: Stage::Tainted, since: now - 60_000, evidence: vec!["uplink: no carrier".to_owned()] };
        let known = Known::of_object(&cluster.node("n1")).unwrap();
        let patch = Value::from(stamp(&record, &[now - 60_000]).patch(&known)).to_string();
        cluster.kubectl(&["patch", "node", "n1", "--type=json", "-p", &patch], "").unwrap();

        let table = printed(folder, &["nodes"]);
        assert!(table.contains("n1    tainted") && table.contains("uplink\n2 of 3 nodes are well"), "{table}");
        assert!(printed(folder, &["nodes", "--all"]).contains("n0    well"));
        let listed: Value = serde_json::from_str(&printed(folder, &["nodes", "-o", "json"])).unwrap();
        assert_eq!(
            (listed.as_array().unwrap().len(), &listed[0]["stage"], &listed[0]["evidence"][0]),
            (1, &json!("tainted"), &json!("uplink: no carrier"))
        );
        assert!(printed(folder, &["nodes", "-o", "yaml"]).contains("stage: tainted"));
        let told = printed(folder, &["node", "n1", "explain"]);
        assert!(told.contains("still sick at ") && told.contains("there is no lease kube-system/barewire-fleet"), "{told}");

        // A person's taint takes the place of the fleet's, and both end with a pardon.
        let said = printed(folder, &["quarantine", "n1", "--reason=a fan is loud"]);
        assert!(said.contains("n1 is quarantined by \"ann\""), "{said}");
        assert_eq!(cluster.sick_taint("n1")["value"], "ann");
        let annotations = cluster.node("n1")["metadata"]["annotations"].clone();
        assert!(annotations[RECORD].is_null() && annotations[QUARANTINE].as_str().unwrap().contains("a fan is loud"));
        assert!(printed(folder, &["node", "n1", "explain"]).contains("by ann: a fan is loud"));
        assert!(printed(folder, &["pardon", "n1"]).contains("a person's quarantine is gone"));
        assert!(cluster.sick_taint("n1").is_null() && cluster.node("n1")["metadata"]["annotations"][QUARANTINE].is_null());
        let patch = Value::from(stamp(&record, &[now]).patch(&Known::of_object(&cluster.node("n1")).unwrap())).to_string();
        cluster.kubectl(&["patch", "node", "n1", "--type=json", "-p", &patch], "").unwrap();
        assert!(printed(folder, &["pardon", "n1"]).contains("what the fleet had put there is gone"));
        assert!(cluster.sick_taint("n1").is_null());

        // All that is wrong is said in words that say what to do.
        std::fs::write(folder.join("away.conf"), std::fs::read_to_string(folder.join("kubeconfig")).unwrap().replace("6443", "6444"))
            .unwrap();
        for (kubeconfig, arguments, words) in [
            ("kubeconfig", &["pardon", "n9"][..], "there is no node \"n9\": `barewire-fleet nodes --all`"),
            ("kubeconfig", &["node", "n9", "explain"], "there is no node \"n9\""),
            ("kubeconfig", &["pardon", "n0"], "there is nothing to pardon on \"n0\""),
            ("kubeconfig", &["pardon", "../n0"], "can be no node's name"),
            ("kubeconfig", &["quarantine", "n0", "--by=fleet"], "cannot be a taint's value of a person"),
            ("kubeconfig", &["reset-breaker"], "there is no lease kube-system/barewire-fleet"),
            ("kubeconfig", &["status"], "there is no lease kube-system/barewire-fleet"),
            ("kubeconfig", &["status", "--server=127.0.0.1:7499"], "127.0.0.1:7499: not reached: "),
            ("fleet.conf", &["status"], "it takes the right to get leases"),
            ("away.conf", &["status"], "name one by --server HOST:PORT"),
            ("", &["status"], "no kubeconfig: "),
            ("fleet.conf", &["nodes"], "it takes the right to list nodes"),
            ("fleet.conf", &["quarantine", "n0"], "it takes the right to get nodes"),
            ("away.conf", &["nodes"], "the API server is not reached"),
            ("missing.conf", &["nodes"], "missing.conf"),
            ("", &["nodes"], "no kubeconfig: name one by --kubeconfig or KUBECONFIG"),
        ] {
            let said = refused(folder, kubeconfig, arguments);
            assert!(said.contains(words), "{arguments:?}: {said}");
        }
        assert!(cluster.sick_taint("n0").is_null());

        // Two replicas: a node of the one that does not lead is heard by the one that does.
        let flags = ["--health-mode=dry-run".to_owned(), "--preflight-mode=apply".to_owned()];
        let manifest = Command::new(env!("CARGO_BIN_EXE_barewire-fleet")).arg("manifest").args(&flags).output().unwrap();
        cluster.kubectl(&["apply", "--validate=strict", "-f", "-"], std::str::from_utf8(&manifest.stdout).unwrap()).unwrap();
        let first = Led::start(folder, 4, "127.0.0.1:7464", &flags);
        until_leads(&first, &[], folder);
        let second = Led::start(folder, 5, "127.0.0.1:7465", &flags);
        let finding = Finding { check: "uplink".to_owned(), outcome: Outcome::Failed.into(), run: 1, ..Finding::default() };
        let preflight = Preflight { state: PreflightState::Passed.into(), boot: "b1".to_owned(), ..Preflight::default() };
        assert!(cluster.taint("n2", KEY).is_object());
        let (_told, reports) = watch::channel(Report { findings: vec![finding], preflight: Some(preflight), ..Report::default() });
        let node = Node::reporting(&authority.node("n2"), "n2", &["127.0.0.1:7455".parse().unwrap()], reports);
        let has = |replica: &Led, line: &str| replica.page("/metrics").lines().any(|it| it == line);
        // It says the same again every half minute: however slow the machine is, there is one at least.
        let has_heard = |replica: &Led| {
            replica.page("/metrics").contains("\nbarewire_fleet_reports_total ") && !has(replica, "barewire_fleet_reports_total 0")
        };
        until("its report is heard", folder, || has(&first, "barewire_fleet_nodes_elsewhere 1") && has_heard(&first));
        // It is told whom to look at, and where they are.
        let peers = || node.client.view(|state| state.peers().clone());
        node.until("it has peers", || peers().targets.len() == 2).await;
        let at = |number: u8| vec![vec![10, 0, 0, number]];
        let targets: Vec<_> = peers().targets.into_iter().map(|target| (target.name, target.addresses)).collect();
        assert_eq!(targets, [("n0".to_owned(), at(0)), ("n1".to_owned(), at(1))]);
        assert_eq!((peers().own, peers().witnesses.len()), (at(2), 2));
        // Whichever is asked knows of the one that leads; what to show is the kubeconfig's, and the API server says whom to ask where nobody does.
        let standing = |arguments: &[&str]| -> Value { serde_json::from_str(&printed(folder, arguments)).unwrap() };
        let status = || standing(&["status", "--all", "-o", "json", "--server=127.0.0.1:7455"]);
        until("the node is in step", folder, || status()["inStep"] == 1);
        let told = status();
        let replicas: Vec<_> = told["replicas"].as_array().unwrap().iter().map(|it| (&it["replica"], &it["leads"], &it["nodes"])).collect();
        assert_eq!(
            replicas,
            [(&json!("127.0.0.1:7454"), &json!(true), &json!(0)), (&json!("127.0.0.1:7455"), &json!(false), &json!(1))],
            "{told}"
        );
        assert_eq!((&told["nodes"][0]["node"], &told["nodes"][0]["lag"], &told["inStep"]), (&json!("n2"), &json!(0), &json!(1)));
        assert_eq!(standing(&["status", "-o", "json"])["replicas"][0]["replica"], "127.0.0.1:7454");
        let table = printed(folder, &["status", "--server=127.0.0.1:7499,127.0.0.1:7455"]);
        assert!(table.starts_with("REPLICA ") && table.ends_with("1 of 1 nodes that are connected are in step\n"), "{table}");
        assert!(printed(folder, &["status", "-o", "yaml"]).contains("leads: true"));
        assert!(has(&second, "barewire_fleet_reports_reach_leader 1") && has(&second, "barewire_fleet_reports_total 0"));
        until("it is let in", folder, || cluster.taint("n2", KEY).is_null());
        let events =
            || cluster.kubectl(&["get", "events", "-n", "default", "--field-selector=reason=PreflightPassed", "-o", "name"], "").unwrap();
        until("the event", folder, || events().lines().count() == 1);
        until("the leader's note", folder, || printed(folder, &["node", "n1", "explain"]).contains("a dry run"));
        assert!(printed(folder, &["node", "n1", "explain"]).contains("a leader has just started"));
        assert!(printed(folder, &["reset-breaker"]).contains("has not tripped"));

        // The leader is lost: the other hears what was said last, though the node says nothing new.
        drop(first.program);
        until("the other leads and has heard", folder, || second.leads() && has_heard(&second));
        node.stop().await;

        // Nobody leads, and no note: the word is written where the next leader reads it.
        drop(second.program);
        let note = format!("{}-", fleet_plans::health::NOTE);
        cluster.kubectl(&["annotate", "lease", "-n", "kube-system", "barewire-fleet", &note], "").unwrap();
        assert!(printed(folder, &["reset-breaker"]).contains("The breaker is reset"));
        let lease: Value =
            serde_json::from_str(&cluster.kubectl(&["get", "lease", "-n", "kube-system", "barewire-fleet", "-o", "json"], "").unwrap())
                .unwrap();
        assert!(lease["metadata"]["annotations"]["health.barewire.cloud/reset-breaker"].is_string());
    });
}
