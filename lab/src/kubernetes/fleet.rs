//! A replica of the fleet beside the API server, with the rights that its manifest asks for and no others.

use std::time::Duration;

use serde_json::{Value, json};

use super::config::{FLEET, file, write_client};
use super::kubectl::Kubectl;
use super::pem;
use super::pki::Authority;
use crate::cni::barewire_binaries;
use crate::command::wait_until;
use crate::error::{Error, Result};
use crate::node::{Node, Service};

/// In the control plane's node.
const PROGRAM: &str = "/usr/local/bin/barewire-fleet";
/// Its files, and the name that nodes expect in its certificate.
const NAME: &str = "barewire-fleet";
/// Who it is to the API server.
pub const USER: &str = "system:serviceaccount:kube-system:barewire-fleet";
/// The file of teams, which is read every five seconds.
const TEAMS: &str = "teams.yaml";
/// At first nobody has a node.
const NO_TEAMS: &str = "pools: []\nteams: []\n";
/// How long a namespace may take that the API server makes by itself.
const RIGHTS: Duration = Duration::from_secs(60);

/// The replica. It can be killed and started again.
#[derive(Debug)]
pub struct Replica {
    node: Node,
    service: Option<Service>,
    /// What the leader does to nodes.
    acts: Vec<String>,
}

impl Replica {
    pub(super) fn start(node: &Node, authority: &Authority, kubectl: &Kubectl, acts: bool) -> Result<Self> {
        node.install(&barewire_binaries()?.join(NAME), PROGRAM)?;
        let shown = authority.server(NAME, &[NAME], &[]).map_err(pem)?;
        node.write(&file("barewire-fleet.crt"), &shown.certificate)?;
        node.write(&file("barewire-fleet.key"), &shown.key)?;
        // A certificate in the name of the service account, as it is no pod.
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        write_client(node, authority, NAME, &authority.client(USER, &groups).map_err(pem)?)?;
        node.write(&file(TEAMS), NO_TEAMS)?;
        let mut replica = Self { node: node.clone(), service: None, acts: if acts { flags() } else { Vec::new() } };
        let rights = replica.rights()?;
        wait_until("the fleet's rights", RIGHTS, || kubectl.apply(&rights).map_err(|error| error.to_string()))?;
        replica.resume()?;
        Ok(replica)
    }

    /// What of its manifest can be applied here.
    fn rights(&self) -> Result<Value> {
        let argv: Vec<&str> = [PROGRAM, "manifest"].into_iter().chain(self.acts.iter().map(String::as_str)).collect();
        rights(&self.node.run(&argv)?)
    }

    pub(super) fn share(&self, teams: &str, kubectl: &Kubectl) -> Result<()> {
        self.node.write(&file(TEAMS), teams)?;
        kubectl.apply(&self.rights()?)
    }

    /// What the fleet's command answers to an administrator.
    ///
    /// # Errors
    /// When it fails.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let kubeconfig = format!("--kubeconfig={}", file("admin.conf"));
        self.node.run(&[&[PROGRAM], arguments, &[&kubeconfig]].concat())
    }

    /// Starts it again after [`Replica::kill`].
    ///
    /// # Errors
    /// When it ends at once.
    pub fn resume(&mut self) -> Result<()> {
        let flag = |name: &str, value: &str| format!("--{name}={value}");
        let arguments = [
            flag("authority", &file("ca.crt")),
            flag("certificate", &file("barewire-fleet.crt")),
            flag("key", &file("barewire-fleet.key")),
            flag("kubeconfig", &file("barewire-fleet.conf")),
            flag("replicas", FLEET),
            flag("advertise", FLEET),
        ];
        let arguments = arguments.iter().chain(&self.acts);
        let argv: Vec<&str> = std::iter::once(PROGRAM).chain(arguments.map(String::as_str)).collect();
        self.service = Some(self.node.start_service(NAME, &argv)?);
        Ok(())
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// When the kernel does not let it go.
    pub fn kill(&mut self) -> Result<()> {
        self.service.take().map_or(Ok(()), Service::kill)
    }

    /// Whether it runs, and has since it was last started.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.service.as_ref().is_some_and(Service::is_running)
    }
}

/// A leader that does all that it can, and waits no longer than a test does.
fn flags() -> Vec<String> {
    let apply = ["teams", "health", "preflight"].map(|part| format!("--{part}-mode=apply"));
    let rest = [format!("--teams={}", file(TEAMS)), "--health-quiet=20".to_owned(), "--health-drain-after=10".to_owned()];
    apply.into_iter().chain(rest).collect()
}

/// The manifest without what runs it: here nobody has its image.
fn rights(manifest: &str) -> Result<Value> {
    let not_read = |error: serde_saphyr::Error| Error::Io {
        what: "read the fleet's manifest".to_owned(),
        cause: std::io::Error::other(error.to_string()),
    };
    let objects =
        manifest.split("\n---\n").map(serde_saphyr::from_str::<Value>).collect::<std::result::Result<Vec<_>, _>>().map_err(not_read)?;
    let is_right = |object: &Value| !matches!(object["kind"].as_str(), Some("Deployment" | "PodDisruptionBudget") | None);
    let items: Vec<_> = objects.into_iter().filter(is_right).collect();
    Ok(json!({ "apiVersion": "v1", "kind": "List", "items": items }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_manifest_the_rights_are_taken() {
        let list = rights(include_str!("../../../deploy/barewire-fleet.yaml")).unwrap();
        let kinds: Vec<_> = list["items"].as_array().unwrap().iter().map(|object| object["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "FlowSchema"]);
    }
}
