//! `barewire teams plan`: what the fleet would do of a file of teams, made by the fleet's own code.

use std::fs;
use std::path::Path;

use fleet_plans::node::Node;
use fleet_plans::teams::{self, Teams};
use serde_json::{Value, json};

use crate::exit::Exit;

/// The moves: words, JSON, and whether the file can be used.
pub(crate) fn plan(file: &Path, nodes: &Path) -> (String, Value, Exit) {
    match planned(file, nodes) {
        Ok(plan) => (text(&plan), json!(plan), Exit::Fine),
        Err(faults) => {
            let text = faults.iter().fold(String::new(), |text, fault| text + fault + "\n") + "nothing would be changed\n";
            (text, json!({ "faults": faults }), Exit::Degraded)
        }
    }
}

fn planned(file: &Path, nodes: &Path) -> Result<teams::Plan, Vec<String>> {
    let read = |path: &Path| fs::read_to_string(path).map_err(|error| vec![format!("cannot read {}: {error}", path.display())]);
    let (file_text, nodes_text) = (read(file)?, read(nodes)?);
    let wrong = |path: &Path, error: &dyn std::fmt::Display| vec![format!("{}: {error}", path.display())];
    let teams: Teams = serde_saphyr::from_str(&file_text).map_err(|error| wrong(file, &error))?;
    let list: Value = serde_json::from_str(&nodes_text).map_err(|error| wrong(nodes, &error))?;
    let nodes = Node::of_list(&list).map_err(|error| wrong(nodes, &format!("not what `kubectl get nodes -o json` prints: {error}")))?;
    teams::plan(&teams, &nodes).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// A line a move. Pure.
fn text(plan: &teams::Plan) -> String {
    let team = |team: &Option<String>| team.as_deref().unwrap_or("everybody").to_owned();
    let moves = plan.moves.iter().map(|step| format!("{}: {} -> {} ({})\n", step.node, team(&step.from), team(&step.to), step.why));
    let told = plan.told.iter().map(|told| format!("{}: {}\n", told.node, told.what));
    let count = format!("{} nodes would change, {} are left alone; running pods stay\n", plan.moves.len(), plan.told.len());
    moves.chain(told).chain([count]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_told_with_their_reasons_and_faults_with_their_remedies() {
        let folder = std::env::temp_dir().join(format!("barewire-teams-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (file, nodes) = (folder.join("teams.yaml"), folder.join("nodes.json"));
        let claim = |count| {
            format!(
                "pools: [{{name: gpu, matchLabels: {{pool: gpu}}}}]\n\
                 teams: [{{name: ml, namespaces: [ml], nodes: [{{pool: gpu, count: {count}}}]}}]\n"
            )
        };
        let node = |name: &str| json!({ "metadata": { "name": name, "labels": { "pool": "gpu" } }, "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
        fs::write(&nodes, json!({ "items": [node("a"), node("b")] }).to_string()).unwrap();
        fs::write(&file, claim(1)).unwrap();
        let (text, json, exit) = plan(&file, &nodes);
        assert!(text.contains(": everybody -> ml (the team has fewer nodes than it claims"), "{text}");
        assert_eq!((json["moves"].as_array().unwrap().len(), exit), (1, Exit::Fine));
        fs::write(&file, claim(3)).unwrap();
        let (text, _, exit) = plan(&file, &nodes);
        assert!(text.contains("claim 3 nodes of pool \"gpu\"") && exit == Exit::Degraded, "{text}");
        fs::write(&file, "pool: []").unwrap();
        let (text, _, exit) = plan(&file, &nodes);
        assert!(text.contains("teams.yaml: ") && exit == Exit::Degraded, "{text}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
