//! kubectl, as people use it, from the control plane's node.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::config::file;
use crate::command::{Said, run, wait_until};
use crate::error::{Error, Result};
use crate::node::{Node, Service};
use crate::world;

/// Limit of a call that waits for nothing.
const ASK: Duration = Duration::from_secs(60);

/// The administrator's kubectl of a cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    node: Node,
    program: std::path::PathBuf,
}

impl Kubectl {
    /// Of the cluster whose control plane is in `node`.
    ///
    /// # Errors
    /// When kubectl has not been built.
    pub fn new(node: &Node) -> Result<Self> {
        Ok(Self { node: node.clone(), program: world::program("kubernetes", "kubectl")? })
    }

    /// A command that will run kubectl with `arguments`.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.node.command(&self.program);
        command.env("KUBECONFIG", file("admin.conf")).args(arguments);
        command
    }

    /// Runs it; its failure is in the answer.
    ///
    /// # Errors
    /// When it exceeds `limit`.
    pub fn try_run(&self, arguments: &[&str], limit: Duration) -> Result<Said> {
        run(&mut self.command(arguments), limit)
    }

    /// Runs a call that must succeed; answers its standard output.
    ///
    /// # Errors
    /// When it fails or takes longer than a minute.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.try_run(arguments, ASK)?.success()
    }

    /// Starts a call that goes on until it is ended.
    ///
    /// # Errors
    /// When it cannot be executed or ends at once.
    pub fn start(&self, arguments: &[&str]) -> Result<Service> {
        let (program, kubeconfig) = (self.program.to_string_lossy(), format!("KUBECONFIG={}", file("admin.conf")));
        self.node.start_service("kubectl", &[&["env", &kubeconfig, &program][..], arguments].concat())
    }

    /// Objects as JSON: `get` with `arguments`.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[&["get", "--output=json"], arguments].concat())?;
        serde_json::from_str(&text)
            .map_err(|error| Error::Io { what: format!("read kubectl get {}", arguments.join(" ")), cause: error.into() })
    }

    /// Makes objects what `manifest` says, one or several in a `List`.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn apply(&self, manifest: &Value) -> Result<()> {
        /// One at a time: the caller waits.
        const MANIFEST: &str = "/tmp/manifest.json";
        self.node.write(MANIFEST, manifest.to_string())?;
        self.run(&["apply", "--server-side", "--force-conflicts", "--filename", MANIFEST]).map(drop)
    }

    /// Runs a program in a container of a pod, where it must succeed; answers its standard output.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn exec(&self, namespace: &str, pod: &str, argv: &[&str]) -> Result<String> {
        self.run(&[&["exec", "--namespace", namespace, pod, "--"], argv].concat())
    }

    /// Polls objects until `judge` is content with them.
    ///
    /// # Errors
    /// With the last judgement when `limit` has passed.
    pub fn wait_until<T>(
        &self,
        what: &str,
        limit: Duration,
        arguments: &[&str],
        mut judge: impl FnMut(&Value) -> std::result::Result<T, String>,
    ) -> Result<T> {
        wait_until(what, limit, || judge(&self.get(arguments).map_err(|error| error.to_string())?))
    }
}
