//! A real API server asks the webhook, which shows certificates that the leader keeps.

#[path = "../../plans/tests/admission/table.rs"]
mod table;

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use table::{file, is_decided_alike, pod};

use super::fixture::{Authority, in_namespace};
use super::{Cluster, Led, until, write_credentials};

const NAME: &str = "barewire-fleet-admission";

impl Cluster {
    /// What the API server would make of a pod.
    fn pod(&self, namespace: &str, more: &Value) -> Result<Value, String> {
        let metadata = json!({ "name": "p", "namespace": namespace });
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod(more) });
        let made = self.kubectl(&["create", "--dry-run=server", "-o", "json", "-f", "-"], &pod.to_string())?;
        Ok(serde_json::from_str(&made).unwrap())
    }

    /// Whether a pod that is to be refused is.
    fn refuses(&self) -> bool {
        self.pod("default", &json!({ "tolerations": [{ "operator": "Exists" }] })).is_err()
    }

    /// Whether a pod gets what is its team's.
    fn adds(&self) -> bool {
        self.pod("research", &json!({})).is_ok_and(|pod| pod["spec"]["affinity"].is_object())
    }

    fn bundle(&self, kind: &str) -> String {
        self.kubectl(&["get", kind, NAME, "-o", "jsonpath={.webhooks[0].clientConfig.caBundle}"], "").unwrap()
    }
}

#[test]
fn pods_are_judged_by_the_webhook_whose_certificates_the_leader_keeps() {
    in_namespace(|| async {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let folder = folder.path();
        let Some(cluster) = Cluster::or_skip(&authority, folder) else { return };
        write_credentials(&authority, folder);
        let of_teams = folder.join("teams.yaml");
        std::fs::write(&of_teams, file().to_string()).unwrap();
        let flags =
            [format!("--teams={}", of_teams.display()), "--teams-mode=apply".to_owned(), "--admission-listen=127.0.0.1:7445".to_owned()];
        let program = Path::new(env!("CARGO_BIN_EXE_barewire-fleet"));
        let manifest = String::from_utf8(Command::new(program).arg("manifest").args(&flags).output().unwrap().stdout).unwrap();
        let apply = |text: &str| cluster.kubectl(&["apply", "--validate=strict", "-f", "-"], text).unwrap();
        apply(&manifest);
        let named = |kind: &str, version: &str, name: &str| json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name } });
        let mut class = named("PriorityClass", "scheduling.k8s.io/v1", "scavenger");
        class["value"] = json!(-10);
        let namespaces = ["research", "serving", "monitoring"].map(|name| named("Namespace", "v1", name));
        let objects: Vec<_> = namespaces.into_iter().chain([class]).collect();
        apply(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string());
        // Nobody answers: no pod is refused.
        assert!(!cluster.refuses());

        let flags = [&flags[..], &[format!("--admission-secret={NAME}")]].concat();
        let led = Led::start(folder, 1, "127.0.0.1:7461", &flags);
        until("a pod is refused, and one gets what is its team's", folder, || cluster.refuses() && cluster.adds());
        is_decided_alike(|namespace, more| cluster.pod(namespace, more));

        // Applied again nothing changes; what is lost is made anew, and every API server hears of it.
        let before = cluster.bundle("mutatingwebhookconfiguration");
        assert!(!before.is_empty() && before == cluster.bundle("validatingwebhookconfiguration"));
        apply(&manifest);
        assert!(cluster.bundle("mutatingwebhookconfiguration") == before && cluster.refuses());
        cluster.kubectl(&["patch", "secret", NAME, "-n", "kube-system", "--type=merge", "-p", r#"{"data": null}"#], "").unwrap();
        until("another certificate", folder, || {
            cluster.bundle("validatingwebhookconfiguration") != before && cluster.refuses() && cluster.adds()
        });

        // Without the fleet pods are started all the same.
        drop(led);
        assert!(!cluster.refuses() && !cluster.adds());
    });
}
