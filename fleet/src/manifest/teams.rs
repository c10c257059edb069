//! What a file of teams adds: the file itself for the leader, and policies of admission for the API server.

use std::fmt::Write;
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

    /// Each with a line of dashes before it.
    pub(super) fn objects(&self, namespace: &str, mode: Mode) -> String {
        let file = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("{NAME}-teams"), "namespace": namespace },
            "data": { "teams.yaml": self.text },
        });
        let policies = admission::policies(&self.teams).into_iter().filter_map(|policy| of_mode(policy, mode));
        std::iter::once(file).chain(policies).fold(String::new(), |mut text, object| {
            let _ = writeln!(text, "---\n{object:#}");
            text
        })
    }
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
