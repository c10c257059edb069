//! What a file of teams adds: the file itself for the leader, and policies of admission for the API server.

use std::path::Path;

use anyhow::{Context, Result, bail};
use fleet_plans::admission;
use serde_json::{Value, json};

use super::NAME;
use crate::acting::{Mode, TeamsFile};

/// Where the Deployment has the file.
pub(super) const MOUNT: &str = "\n            - {name: teams, mountPath: /etc/barewire-fleet-teams, readOnly: true}";
/// The volume of it.
pub(super) const VOLUME: &str = "\n        - {name: teams, configMap: {name: barewire-fleet-teams}}";

/// A file of teams without a fault, as it is written.
#[derive(Debug, Clone)]
pub struct Teams {
    text: String,
    teams: fleet_plans::teams::Teams,
}

impl Teams {
    /// Reads a file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn read(path: &Path) -> Result<Self> {
        let teams = match TeamsFile::read(path) {
            Ok(teams) => teams,
            Err(faults) => bail!("{}", faults.join("\n")),
        };
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(Self { text, teams })
    }

    /// The file and the policies, each with a line of dashes before it.
    pub(super) fn objects(&self, namespace: &str, mode: Mode) -> String {
        let policies = admission::policies(&self.teams).into_iter().filter_map(|policy| of_mode(policy, mode));
        policies.fold(self.file(namespace), |text, object| text + &document(&object))
    }

    /// The file alone.
    pub(super) fn file(&self, namespace: &str) -> String {
        document(&json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("{NAME}-teams"), "namespace": namespace },
            "data": { "teams.yaml": self.text },
        }))
    }
}

/// An object with a line of dashes before it.
pub(super) fn document(object: &Value) -> String {
    format!("---\n{object:#}\n")
}

/// In a dry run nothing is added, and who would be refused is warned and noted in the API server's audit.
fn of_mode(mut policy: Value, mode: Mode) -> Option<Value> {
    let kind = policy["kind"].as_str().unwrap_or_default().to_owned();
    if mode == Mode::Apply {
        return Some(policy);
    }
    if kind == "ValidatingAdmissionPolicyBinding" {
        policy["spec"]["validationActions"] = json!(["Warn", "Audit"]);
    }
    (!kind.starts_with("Mutating")).then_some(policy)
}
