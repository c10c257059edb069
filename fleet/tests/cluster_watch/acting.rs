//! The leader acts on nodes of a real API server, with the rights of the manifest and no others.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fixture::{Authority, in_namespace};
use super::{Cluster, Led, until, until_leads, write_credentials};

const NODES: usize = 40;
const TEAM: &str = "teams.barewire.cloud/team";
const ASSIGNED: &str = "teams.barewire.cloud/assigned";
/// The API server's own admission puts it on every new node.
const FOREIGN: &str = "node.kubernetes.io/not-ready";

fn teams(count: usize) -> String {
    format!(
        "pools: [{{name: p, matchLabels: {{pool: p}}}}]\n\
         teams: [{{name: ml, namespaces: [ml], nodes: [{{pool: p, count: {count}, min: 1}}]}}]\n"
    )
}

impl Cluster {
    fn nodes(&self) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.kubectl(&["get", "nodes", "-o", "json"], "").unwrap()).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// Nodes of the team, all of each as it is to be.
    fn given(&self) -> usize {
        self.nodes().iter().filter(|node| is_given(node)).count()
    }
}

fn has_taint(node: &Value, key: &str) -> bool {
    node["spec"]["taints"].as_array().is_some_and(|taints| taints.iter().any(|taint| taint["key"] == key))
}

fn is_given(node: &Value) -> bool {
    let meta = &node["metadata"];
    let is_tainted = has_taint(node, "teams.barewire.cloud/reserved");
    meta["annotations"][ASSIGNED] == "ml" && meta["labels"][TEAM] == "ml" && is_tainted && has_taint(node, FOREIGN)
}

/// With nodes, and what replicas show.
fn with_nodes(authority: &Authority, folder: &Path) -> Option<Cluster> {
    let cluster = Cluster::or_skip(authority, folder)?;
    write_credentials(authority, folder);
    add_nodes(&cluster);
    Some(cluster)
}

fn add_nodes(cluster: &Cluster) {
    let node = |number: usize| {
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": format!("n{number}"), "labels": { "pool": "p" } },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        })
    };
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": (0..NODES).map(node).collect::<Vec<_>>() });
    cluster.kubectl(&["create", "-f", "-"], &list.to_string()).unwrap();
    assert!(cluster.nodes().iter().all(|node| has_taint(node, FOREIGN) && node["status"]["conditions"][0]["status"] == "True"));
}

#[test]
fn teams_are_an_object_of_the_api_server() {
    in_namespace(|| async {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let folder = folder.path();
        let Some(cluster) = with_nodes(&authority, folder) else { return };
        let flags = ["--teams-resource=main".to_owned(), "--teams-mode=apply".to_owned()];
        let program = Path::new(env!("CARGO_BIN_EXE_barewire-fleet"));
        let manifest = String::from_utf8(Command::new(program).arg("manifest").args(&flags).output().unwrap().stdout).unwrap();
        let (rest, definition) = manifest.split_at(manifest.rfind("---\n").unwrap());
        // With everything but the definition: nothing happens, and that is said.
        cluster.kubectl(&["apply", "--validate=strict", "-f", "-"], rest).unwrap();
        let led = Led::start(folder, 1, "127.0.0.1:7461", &flags);
        until("it is not there", folder, || led.page("/readyz").contains("teams: teams.barewire.cloud/main has not been read"));
        cluster.kubectl(&["apply", "--validate=strict", "-f", "-"], definition).unwrap();
        cluster.kubectl(&["wait", "--for=condition=Established", "crd/teams.barewire.cloud", "--timeout=20s"], "").unwrap();
        until("there is no object", folder, || led.page("/readyz").contains("there is no teams.barewire.cloud/main: create it"));

        // The schema is the file's: its example is taken as it is, and what the file may not have is refused by the API server.
        let object = |name: &str, spec: &str| {
            let spec: Value = serde_saphyr::from_str(spec).unwrap();
            json!({ "apiVersion": "barewire.cloud/v1alpha1", "kind": "Teams", "metadata": { "name": name }, "spec": spec }).to_string()
        };
        let put = |text: &str| cluster.kubectl(&["apply", "--validate=strict", "-f", "-"], text);
        let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/teams.yaml")).unwrap();
        put(&object("example", &example)).unwrap();
        for (bad, words) in [
            ("pools: []\nteams: []\nteam: []\n", "unknown field"),
            ("pools: []\n", "spec.teams"),
            ("pools: [{name: a, matchLabels: {}}]\nteams: []\n", "matchLabels"),
            ("pools: []\nteams: [{name: t, namespaces: [], nodes: [{pool: p, percent: 101}]}]\n", "percent"),
            ("pools: []\nteams: [{name: t, namespaces: [], nodes: [{pool: p, count: -1}]}]\n", "count"),
        ] {
            let said = put(&object("main", bad)).unwrap_err();
            assert!(said.contains(words), "{bad}: {said}");
        }

        put(&object("main", &teams(4))).unwrap();
        until("four nodes of the team", folder, || cluster.given() == 4);
        assert!(!led.page("/readyz").contains("teams: "), "{}", led.page("/readyz"));
        put(&object("main", &teams(6))).unwrap();
        until("six nodes of the team", folder, || cluster.given() == 6);
        // What only the leader can find, and an end of the object: nothing changes.
        put(&object("main", "pools: []\nteams: [{name: ml, namespaces: [], nodes: [{pool: gone, count: 1}]}]\n")).unwrap();
        until("the fault", folder, || led.page("/readyz").contains("teams: team \"ml\" claims of pool \"gone\""));
        cluster.kubectl(&["delete", "teams.barewire.cloud", "main"], "").unwrap();
        until("there is no object", folder, || led.page("/readyz").contains("there is no teams.barewire.cloud/main"));
        assert_eq!(cluster.given(), 6);
    });
}

#[test]
fn the_leader_gives_nodes_to_teams_and_another_finishes() {
    in_namespace(|| async {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let folder = folder.path();
        let Some(cluster) = with_nodes(&authority, folder) else { return };
        let file = folder.join("teams.yaml");
        std::fs::write(&file, teams(4)).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_barewire-fleet"));
        let apply = |mode: &str| {
            let flags = [format!("--teams={}", file.display()), format!("--teams-mode={mode}")];
            let manifest = Command::new(program).arg("manifest").args(&flags).output().unwrap();
            cluster.kubectl(&["apply", "--validate=strict", "-f", "-"], std::str::from_utf8(&manifest.stdout).unwrap()).unwrap();
            flags.to_vec()
        };

        // A dry run, with the rights of one: nothing is written.
        let flags = apply("dry-run");
        let dry = Led::start(folder, 1, "127.0.0.1:7461", &flags);
        until("the plan of a dry run", folder, || dry.page("/metrics").lines().any(|line| line == "barewire_fleet_teams_moves 4"));
        assert!(cluster.nodes().iter().all(|node| node["metadata"]["annotations"][ASSIGNED].is_null()));
        drop(dry);

        // Two replicas, of which one acts.
        let flags = apply("apply");
        let first = Led::start(folder, 2, "127.0.0.1:7462", &flags);
        until_leads(&first, &[], folder);
        let second = Led::start(folder, 3, "127.0.0.1:7463", &flags);
        until("four nodes of the team", folder, || cluster.given() == 4);
        let events =
            || cluster.kubectl(&["get", "events", "-n", "default", "--field-selector=reason=TeamAssigned", "-o", "name"], "").unwrap();
        until("the events", folder, || events().lines().count() == 4);

        // Altered by hand.
        let name = cluster.nodes().iter().find(|node| is_given(node)).unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
        cluster.kubectl(&["label", "node", &name, "--overwrite", &format!("{TEAM}=mine")], "").unwrap();
        until("the label is put right", folder, || cluster.given() == 4);

        // A bad file changes nothing, and says so.
        std::fs::write(&file, "pools: []\nteams: [{name: ml, namespaces: [], nodes: [{pool: gone, count: 1}]}]\n").unwrap();
        until("the fault", folder, || first.page("/readyz").contains("teams: team \"ml\" claims of pool \"gone\""));
        assert!(cluster.given() == 4 && first.page("/readyz").starts_with("HTTP/1.1 200"));

        // The leader is killed on the way, and the other finishes.
        std::fs::write(&file, teams(30)).unwrap();
        until("some of the further nodes", folder, || cluster.given() >= 8);
        drop(first.program);
        let (since, left) = (Instant::now(), cluster.given());
        assert!(left < 30, "{left} before it was killed");
        until("all nodes, by the other", folder, || cluster.given() == 30);
        assert!(second.leads() && since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
        let assigned = cluster.nodes().iter().filter(|node| !node["metadata"]["annotations"][ASSIGNED].is_null()).count();
        assert_eq!(assigned, 30, "no node has half of it");

        // Who keeps the server busy, and a word about what it does not like.
        let kubeconfig = format!("--kubeconfig={}", folder.join("kubeconfig").display());
        let top = Command::new(program).args(["apiserver-top", "--samples=2", "--json", &kubeconfig]).output().unwrap();
        let report: Value = serde_json::from_slice(&top.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&top.stderr)));
        assert_eq!((&report["samples"], &report["unreadable"]), (&json!(2), &json!(0)));
        let kubeconfig = format!("--kubeconfig={}", folder.join("fleet.conf").display());
        let refused = Command::new(program).args(["apiserver-top", &kubeconfig]).output().unwrap();
        assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("takes the right to get this path"));
    });
}
