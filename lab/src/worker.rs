//! A node that runs pods: containerd and a CNI in it.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use super::cni::{self, Daemon, NodeCni, Plan};
use super::command::wait_until;
use super::error::{Error, Result};
use super::node::Node;
use super::runtime::Containerd;
use super::{Lab, cgroup_parent};
use crate::cri::Cri;
use crate::cri::pod::{Pod, PodSpec};

/// Role of such nodes in a topology (label `barewire.role`).
pub const ROLE: &str = "node";

/// How long the runtime may take to see the CNI configuration.
const NETWORK_READY: Duration = Duration::from_secs(20);

/// Limit of a program in a pod.
const EXEC: Duration = Duration::from_secs(30);

/// A node that runs pods.
#[derive(Debug)]
pub struct Worker {
    /// The node.
    pub node: Node,
    /// Its runtime.
    pub containerd: Containerd,
    /// The way to its runtime.
    pub cri: Cri,
    /// Its `barewired`, if that is what wires its pods; a test that ended it leaves none.
    pub daemon: Option<Daemon>,
    /// Addresses that its pods may have.
    pub plan: Plan,
    config: String,
    cgroup_parent: String,
}

impl Worker {
    /// Starts containerd and `cni` in a node of `lab`, and waits until the runtime says that its network is ready.
    ///
    /// # Errors
    /// With the part that did not start.
    pub fn start(lab: &Lab, node: &str, cni: NodeCni) -> Result<Self> {
        Self::start_configured(lab, node, cni, cni::DAEMON_CONFIG)
    }

    /// As [`Worker::start`], with another configuration of the daemon: a path of the node, see [`cni::configure`].
    ///
    /// # Errors
    /// With the part that did not start.
    pub fn start_configured(lab: &Lab, node: &str, cni: NodeCni, config: &str) -> Result<Self> {
        let node = lab.node(node)?;
        let daemon = cni::install(node, cni, config)?;
        let (containerd, cri) = Containerd::start(node)?;
        let worker = Self {
            plan: Plan::of(node)?,
            config: config.to_owned(),
            cgroup_parent: cgroup_parent(lab.name(), node.name()),
            node: node.clone(),
            containerd,
            cri,
            daemon,
        };
        worker.wait_until_network_ready()?;
        Ok(worker)
    }

    /// Starts all nodes of `lab` that run pods.
    ///
    /// # Errors
    /// As [`Worker::start`].
    pub fn start_all(lab: &Lab, cni: NodeCni) -> Result<Vec<Self>> {
        lab.topology().with_role(ROLE).map(|node| Self::start(lab, node, cni)).collect()
    }

    /// Waits until the runtime says that pods can be given a network.
    ///
    /// # Errors
    /// With the runtime's reason when it does not.
    pub fn wait_until_network_ready(&self) -> Result<()> {
        wait_until(&format!("network of {}", self.node.name()), NETWORK_READY, || {
            let conditions = self.cri.conditions().map_err(|error| error.to_string())?;
            match conditions.iter().find(|condition| !condition.status) {
                None => Ok(()),
                Some(condition) => Err(format!("{}: {} {}", condition.r#type, condition.reason, condition.message)),
            }
        })
    }

    /// Starts a pod.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn run_pod(&self, name: &str) -> Result<Pod> {
        self.run_pod_with_ports(name, &[])
    }

    /// Starts a pod to which TCP ports of the node lead (node's port, pod's port).
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn run_pod_with_ports(&self, name: &str, host_ports: &[(u16, u16)]) -> Result<Pod> {
        let spec = PodSpec { name: name.to_owned(), cgroup_parent: self.cgroup_parent.clone(), host_ports: host_ports.to_vec() };
        Ok(Pod::start(&self.cri, &spec)?)
    }

    /// Stops and removes a pod.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        Ok(pod.remove(&self.cri)?)
    }

    /// Whether one ping from a pod's container is answered within a second.
    ///
    /// # Errors
    /// When the runtime refuses to run it.
    pub fn ping(&self, pod: &Pod, to: IpAddr, limit: Duration) -> Result<bool> {
        let answer = pod.exec(&self.cri, &["ping", "-c", "1", "-W", "1", &to.to_string()], limit)?;
        Ok(answer.exit_code == 0)
    }

    /// Runs a program in a pod's container, where it must succeed; answers its standard output.
    ///
    /// # Errors
    /// When it fails or takes longer than 30 s.
    pub fn exec_ok(&self, pod: &Pod, argv: &[&str]) -> Result<String> {
        let answer = pod.exec(&self.cri, argv, EXEC)?;
        if answer.exit_code == 0 {
            return Ok(String::from_utf8_lossy(&answer.stdout).into_owned());
        }
        Err(Error::Command {
            command: format!("pod {}: {}", pod.name, argv.join(" ")),
            status: format!("exit code {}", answer.exit_code),
            stderr: String::from_utf8_lossy(&answer.stderr).trim().to_owned(),
        })
    }

    /// Starts the node's daemon if it has none that runs.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn ensure_daemon(&mut self) -> Result<()> {
        if self.daemon.as_ref().is_none_or(|daemon| !daemon.is_running()) {
            self.daemon = Some(Daemon::start(&self.node, &self.config)?);
        }
        Ok(())
    }

    /// The node's primary IPv4 address.
    ///
    /// # Errors
    /// When it has none.
    pub fn primary_v4(&self) -> Result<IpAddr> {
        self.primary("-4")
    }

    /// The node's primary IPv6 address.
    ///
    /// # Errors
    /// When it has none.
    pub fn primary_v6(&self) -> Result<IpAddr> {
        self.primary("-6")
    }

    /// The source that the node's default route names.
    fn primary(&self, family: &str) -> Result<IpAddr> {
        let route = self.node.run(&["ip", family, "route", "show", "default"])?;
        let mut words = route.split_ascii_whitespace().skip_while(|word| *word != "src");
        words.nth(1).and_then(|address| address.parse().ok()).ok_or_else(|| Error::Node {
            node: self.node.name().to_owned(),
            message: format!("its default route names no source address: {route:?}"),
        })
    }

    /// Restarts containerd and connects to it anew.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn restart_containerd(&mut self) -> Result<()> {
        self.cri = self.containerd.restart()?;
        self.wait_until_network_ready()
    }

    /// A command that will run a program of the node, with its view of files, in the network namespace of a pod.
    ///
    /// # Errors
    /// When the node is gone.
    pub fn in_pod(&self, pod: &Pod, argv: &[&str]) -> Result<Command> {
        let [program, arguments @ ..] = argv else {
            return Err(Error::Node { node: self.node.name().to_owned(), message: "there is no command to run".to_owned() });
        };
        let mut command = self.node.command("nsenter");
        command.args(["--target", &pod.pid.to_string(), "--net", "--", program]).args(arguments);
        Ok(command)
    }
}
