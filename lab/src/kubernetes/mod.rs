//! A Kubernetes cluster in the lab: nodes with a real kubelet, containerd and, where barewired does not serve services itself, kube-proxy each; the
//! control plane beside them, all over the fabric. The versions are those of `world.toml`.
//!
//! Promise: as [`Lab`]'s. Everything of the cluster is a process in a node of the lab, and ends with it.

pub mod audit;
mod config;
pub mod conformance;
mod control;
pub mod fleet;
pub mod kubectl;
mod member;
mod pki;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

pub use config::{DNS, ProxyMode};
pub use member::{Images, Member};

use super::cni::{NodeCni, ReferencePlugin};
use super::error::{Error, Result};
use super::runtime::Release;
use super::topology::Topology;
use super::{Lab, Options};
use crate::world;
use audit::Audit;
use control::ControlPlane;
use fleet::Replica;
use kubectl::Kubectl;
use pki::Authority;

/// The topology.
pub const TOPOLOGY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/labs/kubernetes.clab.yml");

/// Ranges of the services' addresses.
pub const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:20::/112"];

/// The node with the control plane.
pub const CONTROL: &str = "control";

/// How long a new node may take to be Ready: containerd, its images, barewired, kubelet.
const NODE_READY: Duration = Duration::from_secs(120);

/// How long the pods of the cluster itself may take.
const SYSTEM_READY: Duration = Duration::from_secs(120);

/// What a node of a cluster runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePlan {
    /// Its name in the topology.
    pub name: &'static str,
    /// Its runtime.
    pub runtime: Release,
    /// The reference plugins in `/opt/cni/bin`, which portmap and loopback are of.
    pub plugins: Release,
}

/// What a cluster is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Who translates services, and how.
    pub proxy: ProxyMode,
    /// What wires the pods.
    pub cni: NodeCni,
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// The fleet's leader acts on nodes, which look at themselves and at each other, and register with the taint of new nodes.
    pub acts: bool,
    /// Further names of the test image.
    pub image_names: Vec<String>,
}

impl Plan {
    /// Both ends of what people run, side by side: one node has the current runtime, the other Debian's, each beside the plugins of the
    /// other age. In nftables mode the nodes have changed places, so that two clusters cover all pairs. Without kube-proxy all is current.
    #[must_use]
    pub fn mixed(proxy: ProxyMode, cni: NodeCni) -> Self {
        let new = |name, plugins| NodePlan { name, runtime: Release::Current, plugins };
        let old = |name, plugins| NodePlan { name, runtime: Release::Debian, plugins };
        let nodes = match proxy {
            ProxyMode::Iptables => vec![new("node1", Release::Debian), old("node2", Release::Current)],
            ProxyMode::Nftables => vec![old("node1", Release::Debian), new("node2", Release::Current)],
            ProxyMode::Barewired => vec![new("node1", Release::Current), new("node2", Release::Current)],
        };
        Self { proxy, cni, nodes, acts: false, image_names: Vec::new() }
    }

    /// A cluster whose fleet acts on its nodes. There are three: of a fault between nodes two others have to say so.
    #[must_use]
    pub fn acting() -> Self {
        let node = |name| NodePlan { name, runtime: Release::Current, plugins: Release::Current };
        let nodes = ["node1", "node2", "node3"].map(node).to_vec();
        Self { nodes, acts: true, ..Self::mixed(ProxyMode::Barewired, NodeCni::Barewire) }
    }
}

/// A cluster that is up. Dropping it takes it down, unless it was kept.
#[derive(Debug)]
pub struct Cluster {
    /// The lab it runs in.
    pub lab: Lab,
    /// The administrator's way in.
    pub kubectl: Kubectl,
    /// Its nodes by name.
    pub members: BTreeMap<&'static str, Member>,
    plan: Plan,
    images: Images,
    authority: Authority,
    program: PathBuf,
    control: ControlPlane,
    /// Where barewired serves services.
    fleet: Option<Replica>,
}

impl Cluster {
    /// Brings a cluster up and waits until its nodes are Ready and its name server answers.
    ///
    /// # Errors
    /// With the step that failed; what was made is taken down.
    pub fn up(plan: &Plan, options: &Options, say: &mut dyn FnMut(String)) -> Result<Self> {
        let images = Images::make(&plan.image_names)?;
        let lab = Lab::up(Topology::read(Path::new(TOPOLOGY))?, options)?;
        let authority = Authority::new().map_err(pem)?;
        // The nodes' runtimes import their images while the control plane starts.
        let mut members = BTreeMap::new();
        let nodes: Vec<_> = plan.nodes.iter().map(|node| Ok((*node, lab.node(node.name)?.clone()))).collect::<Result<_>>()?;
        let control = std::thread::scope(|scope| {
            let runtimes: Vec<_> =
                nodes.iter().map(|(node, handle)| scope.spawn(|| Member::prepare(handle, *node, plan, &images))).collect();
            let control = ControlPlane::start(lab.node(CONTROL)?, &authority, plan.proxy == ProxyMode::Barewired)?;
            for ((node, _), runtime) in nodes.iter().zip(runtimes) {
                let member = runtime.join().map_err(|_| failed(node.name, "its preparation panicked".to_owned()))??;
                members.insert(node.name, member);
            }
            Ok::<_, Error>(control)
        })?;
        say(format!("control plane: Kubernetes {}", world::version("kubernetes")?));
        let kubectl = Kubectl::new(lab.node(CONTROL)?)?;
        let mut cluster =
            Self { lab, kubectl, members, plan: plan.clone(), images, authority, program: options.program.clone(), control, fleet: None };
        cluster.kubectl.apply(&permissions())?;
        if plan.proxy == ProxyMode::Barewired {
            cluster.fleet = Some(Replica::start(cluster.lab.node(CONTROL)?, &cluster.authority, &cluster.kubectl, plan.acts)?);
        }
        for name in plan.nodes.iter().map(|node| node.name) {
            cluster.join(name)?;
        }
        for member in cluster.members.values() {
            cluster.wait_until_ready(member.name())?;
            say(format!("{}: Ready, {}", member.name(), member.describe()?));
        }
        if plan.acts {
            cluster.kubectl.wait_until("all nodes let in", SYSTEM_READY, &["nodes"], |list| {
                let nodes = list["items"].as_array().into_iter().flatten();
                let is_new =
                    |node: &&Value| node["spec"]["taints"].as_array().is_some_and(|all| all.iter().any(|it| it["key"] == config::NEW));
                let new: Vec<_> = nodes.filter(is_new).map(|node| node["metadata"]["name"].to_string()).collect();
                if new.is_empty() { Ok(()) } else { Err(format!("{} wait for their preflights", new.join(", "))) }
            })?;
        }
        cluster.kubectl.apply(&name_server())?;
        cluster.wait_for_rollout("kube-system", "deployment/coredns", SYSTEM_READY)?;
        say("name server: answers".to_owned());
        Ok(cluster)
    }

    /// Starts kubelet and what else a node has that was prepared.
    fn join(&mut self, name: &str) -> Result<()> {
        let authority = &self.authority;
        let lab = self.lab.name();
        match self.members.get_mut(name) {
            Some(member) => member.join(lab, authority),
            None => Err(failed(name, "the cluster has no such node".to_owned())),
        }
    }

    /// Ends everything on a node at once, as a power failure does, and starts it again: see [`Lab::reboot`].
    ///
    /// # Errors
    /// With the step that failed.
    pub fn reboot(&mut self, name: &str) -> Result<()> {
        let node = self.plan.nodes.iter().find(|node| node.name == name).copied();
        let node = node.ok_or_else(|| failed(name, "the cluster has no such node".to_owned()))?;
        drop(self.members.remove(name));
        self.lab.reboot(name, &self.program)?;
        let member = Member::prepare(self.lab.node(name)?, node, &self.plan, &self.images)?;
        self.members.insert(node.name, member);
        self.join(name)
    }

    /// Kills the API server, the controllers and the scheduler; etcd keeps what they know.
    ///
    /// # Errors
    /// When the kernel does not let them go.
    pub fn kill_control_plane(&mut self) -> Result<()> {
        self.control.kill_all_but_etcd()
    }

    /// Starts them again, and waits until the API server is ready.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn start_control_plane(&mut self) -> Result<()> {
        self.control.start_all_but_etcd()
    }

    /// Starts what of the control plane, the fleet included, does not run.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn recover_control_plane(&mut self) -> Result<()> {
        if !self.control.is_complete() {
            self.control.kill_all_but_etcd()?;
            self.control.start_all_but_etcd()?;
        }
        if let Some(fleet) = self.fleet.as_mut().filter(|fleet| !fleet.is_running()) {
            fleet.resume()?;
        }
        Ok(())
    }

    /// Gives the leader of the fleet this file of teams, and the API server the policies that follow from it.
    ///
    /// # Errors
    /// Where the fleet does not act, or the API server refuses a policy.
    pub fn share(&self, teams: &str) -> Result<()> {
        let fleet =
            self.fleet.as_ref().filter(|_| self.plan.acts).ok_or_else(|| failed(CONTROL, "its fleet acts on nothing".to_owned()))?;
        fleet.share(teams, &self.kubectl)
    }

    /// The replica of the fleet.
    ///
    /// # Errors
    /// Where kube-proxy serves services there is none.
    pub fn fleet(&mut self) -> Result<&mut Replica> {
        self.fleet.as_mut().ok_or_else(|| failed(CONTROL, "it has no replica of the fleet".to_owned()))
    }

    /// What a node that there is not could show to the fleet: the authority, a certificate and its key, PEM.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn node_credentials(&self, name: &str) -> Result<[String; 3]> {
        let shown = self.authority.client(&format!("system:node:{name}"), &["system:nodes"]).map_err(pem)?;
        Ok([self.authority.certificate().to_owned(), shown.certificate, shown.key])
    }

    /// What the API server was asked. It keeps a log where barewired serves services.
    ///
    /// # Errors
    /// When the control plane's node is gone.
    pub fn audit(&self) -> Result<Audit> {
        Ok(Audit::of(self.lab.node(CONTROL)?))
    }

    /// The node of that name.
    ///
    /// # Errors
    /// When the cluster has none.
    pub fn member(&mut self, name: &str) -> Result<&mut Member> {
        self.members.get_mut(name).ok_or_else(|| failed(name, "the cluster has no such node".to_owned()))
    }

    /// Waits until a node is Ready.
    ///
    /// # Errors
    /// With the node's own reason when it is not.
    pub fn wait_until_ready(&self, node: &str) -> Result<()> {
        self.kubectl.wait_until(&format!("node {node} Ready"), NODE_READY, &["node", node], |object| {
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            match conditions.iter().find(|condition| condition["type"] == "Ready") {
                Some(ready) if ready["status"] == "True" => Ok(()),
                Some(ready) => Err(format!("{}: {}", ready["reason"], ready["message"])),
                None => Err("kubelet has not reported yet".to_owned()),
            }
        })
    }

    /// Waits until a workload runs as it is asked for.
    ///
    /// # Errors
    /// When it does not in time; the events of its namespace are in the message.
    pub fn wait_for_rollout(&self, namespace: &str, workload: &str, limit: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        let said =
            self.kubectl.try_run(&["rollout", "status", "--namespace", namespace, workload, &timeout], limit + Duration::from_secs(10))?;
        if said.status.success() {
            return Ok(());
        }
        let events = self.kubectl.run(&["get", "events", "--namespace", namespace, "--field-selector=type=Warning"]).unwrap_or_default();
        let pods = self.kubectl.run(&["get", "pods", "--namespace", namespace, "--output=wide"]).unwrap_or_default();
        Err(Error::Timeout { what: format!("{namespace} {workload}"), limit, detail: format!("{}\n{pods}\n{events}", said.stderr.trim()) })
    }

    /// Lets the cluster outlive this program.
    ///
    /// # Errors
    /// When a node is gone.
    pub fn keep(self) -> Result<()> {
        self.lab.keep()
    }

    /// Ends everything.
    ///
    /// # Errors
    /// With what could not be removed.
    pub fn down(self) -> Result<()> {
        self.lab.down()
    }
}

/// The prefix of the names of pods' host ends.
const fn host_end_prefix(cni: NodeCni) -> &'static str {
    match cni {
        NodeCni::Barewire => "bw",
        NodeCni::Reference(ReferencePlugin::Ptp | ReferencePlugin::Bridge) => "veth",
    }
}

fn failed(node: &str, message: String) -> Error {
    Error::Node { node: node.to_owned(), message }
}

fn pem(error: rcgen::Error) -> Error {
    Error::Io { what: "make a certificate".to_owned(), cause: io::Error::other(error) }
}

/// What kubeadm grants as well: kube-proxy by its user, and the API server's asking kubelets.
fn permissions() -> Value {
    let binding = |name: &str, role: &str, subject: Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role }, "subjects": [subject],
        })
    };
    let user = |name: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name });
    json!({ "apiVersion": "v1", "kind": "List", "items": [binding("lab:kube-proxy", "system:node-proxier", user("system:kube-proxy"))] })
}

/// CoreDNS as kubeadm deploys it, with one replica and an image of ours.
fn name_server() -> Value {
    let labels = json!({ "k8s-app": "kube-dns" });
    let meta = |name: &str| json!({ "name": name, "namespace": "kube-system", "labels": labels });
    let corefile = ".:53 {\n errors\n health\n ready\n kubernetes cluster.local in-addr.arpa ip6.arpa {\n  pods insecure\n  fallthrough in-addr.arpa ip6.arpa\n  ttl 5\n }\n loop\n reload\n loadbalance\n}\n";
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("coredns") },
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "system:coredns" }, "rules": [
            { "apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"] },
            { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
        ] },
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "system:coredns" },
          "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns" },
          "subjects": [{ "kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system" }] },
        { "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("coredns"), "data": { "Corefile": corefile } },
        { "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("coredns"), "spec": {
            "replicas": 1, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": {
                "serviceAccountName": "coredns",
                "dnsPolicy": "Default",
                "containers": [{
                    "name": "coredns", "image": crate::image::COREDNS, "imagePullPolicy": "Never",
                    "args": ["-conf", "/etc/coredns/Corefile"],
                    "volumeMounts": [{ "name": "config", "mountPath": "/etc/coredns", "readOnly": true }],
                    "ports": [{ "containerPort": 53, "protocol": "UDP" }, { "containerPort": 53, "protocol": "TCP" }],
                    "readinessProbe": { "httpGet": { "path": "/ready", "port": 8181 }, "periodSeconds": 1 },
                    "livenessProbe": { "httpGet": { "path": "/health", "port": 8080 }, "initialDelaySeconds": 30 },
                }],
                "volumes": [{ "name": "config", "configMap": { "name": "coredns" } }],
            } },
        } },
        { "apiVersion": "v1", "kind": "Service", "metadata": meta("kube-dns"), "spec": {
            "clusterIP": config::DNS, "selector": labels,
            "ports": [{ "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53, "protocol": "TCP" }],
        } },
    ] })
}
