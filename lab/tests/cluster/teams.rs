//! Teams that share a cluster: a file says which nodes are whose, and pods land where they may and nowhere else.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::command::wait_until;
use serde_json::{Value, json};

use crate::suite::{Case, PODS, Suite, container};

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::acting("teams get nodes as the file says, more when it changes, and pods land where they may", teams_move)]
}

const OURS: &str = "team-ml";
const OTHERS: &str = "team-none";
/// The file is read every five seconds, and policies take effect soon after they were made.
const IN_FORCE: Duration = Duration::from_secs(60);

fn file(count: u32) -> String {
    format!(
        "pools: [{{name: all, matchLabels: {{pool: all}}}}]\n\
         teams: [{{name: ml, namespaces: [{OURS}], nodes: [{{pool: all, count: {count}, min: 1}}]}}]\n"
    )
}

/// Nodes that are the team's: label and taint.
fn nodes_of_team(suite: &Suite) -> Result<BTreeSet<String>> {
    let list = suite.cluster.kubectl.get(&["nodes", "--selector=teams.barewire.cloud/team=ml"])?;
    let reserved = |node: &&Value| {
        let taints = node["spec"]["taints"].as_array().into_iter().flatten();
        taints.clone().any(|taint| taint["key"] == "teams.barewire.cloud/reserved" && taint["value"] == "ml")
    };
    let names = list["items"].as_array().into_iter().flatten().filter(reserved);
    Ok(names.filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

fn until_team_has(suite: &Suite, count: usize) -> Result<BTreeSet<String>> {
    let nodes = wait_until(&format!("the team has {count} nodes"), IN_FORCE, || {
        let nodes = nodes_of_team(suite).map_err(|error| format!("{error:#}"))?;
        if nodes.len() == count { Ok(nodes) } else { Err(format!("it has {nodes:?}")) }
    });
    Ok(nodes?)
}

/// Waits until the API server adds the team's toleration to its pods.
fn until_policies_are_in_force(suite: &Suite) -> Result<()> {
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "asks", "namespace": OURS }, "spec": { "containers": [container("pause", &["pause"])] } });
    suite.cluster.lab.node("control")?.write("/tmp/asks.json", pod.to_string())?;
    let asked = wait_until("the policies are in force", IN_FORCE, || {
        let said = suite.cluster.kubectl.run(&["create", "--dry-run=server", "--output=json", "--filename=/tmp/asks.json"]);
        let said: Value = serde_json::from_str(&said.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
        let tolerations = said["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        let is_added = tolerations.iter().any(|toleration| toleration["key"] == "teams.barewire.cloud/reserved");
        if is_added { Ok(()) } else { Err(json!(tolerations).to_string()) }
    });
    Ok(asked?)
}

/// On which nodes so many pods of a namespace run.
fn run_pods(suite: &Suite, namespace: &str, name: &str, count: u32) -> Result<BTreeSet<String>> {
    let labels = json!({ "app": name });
    suite.apply(&[json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "namespace": namespace },
        "spec": { "replicas": count, "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels },
            "spec": { "terminationGracePeriodSeconds": 0, "containers": [container("pause", &["pause"])] } } } })])?;
    suite.rolled_out(namespace, &format!("deployment/{name}"))?;
    Ok(suite.pods(namespace, &format!("app={name}"))?.into_iter().map(|pod| pod.node).collect())
}

fn teams_move(suite: &mut Suite) -> Result<()> {
    suite.kubectl(&["label", "nodes", "--all", "--overwrite", "pool=all"])?;
    let outcome = suite.in_namespace(OURS, |suite, ours| {
        suite.in_namespace(OTHERS, |suite, others| {
            suite.cluster.share(&file(1))?;
            let one = until_team_has(suite, 1)?;
            until_policies_are_in_force(suite)?;
            let (our_nodes, other_nodes) = (run_pods(suite, ours, "first", 6)?, run_pods(suite, others, "first", 6)?);
            ensure!(!our_nodes.is_disjoint(&one), "none of the team's pods is on its node: {our_nodes:?}, its node is {one:?}");
            ensure!(other_nodes.is_disjoint(&one), "pods of others are on {other_nodes:?}, the team's node is {one:?}");

            // One more, the first stays, and pods that run stay.
            suite.cluster.share(&file(2))?;
            let two = until_team_has(suite, 2)?;
            ensure!(two.is_superset(&one), "{one:?} became {two:?}");
            let other_nodes = run_pods(suite, others, "second", 6)?;
            ensure!(
                other_nodes.is_disjoint(&two) && other_nodes.len() == 1,
                "pods of others are on {other_nodes:?}, the team's are {two:?}"
            );
            ensure!(suite.pods(others, "app=first")?.len() == 6, "pods that ran were moved");

            // A foreign toleration is refused.
            let mut foreign = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "foreign", "namespace": others },
                "spec": { "containers": [container("pause", &["pause"])] } });
            foreign["spec"]["tolerations"] = json!([{ "key": "teams.barewire.cloud/reserved", "operator": "Exists" }]);
            let refused = suite.apply(&[foreign]).err().map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(refused.contains("teams.barewire.cloud") || refused.contains("denied"), "a foreign toleration: {refused:?}");
            suite.say(format!("{one:?}, then {two:?}"));
            Ok(())
        })
    });
    suite.cluster.share("pools: []\nteams: []\n")?;
    let released = wait_until("no node is a team's", PODS, || {
        let nodes = nodes_of_team(suite).map_err(|error| format!("{error:#}"))?;
        if nodes.is_empty() { Ok(()) } else { Err(format!("{nodes:?}")) }
    });
    outcome?;
    Ok(released?)
}
