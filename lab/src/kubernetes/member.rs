//! A node of a cluster: containerd, a CNI, kubelet, and kube-proxy unless barewired is in its place. Each can be restarted as an operator or an
//! accident would.

use std::net::IpAddr;

use k8s_cri::v1::{PodSandboxMetadata, PodSandboxState};
use serde_json::Value;

use super::config::{self, ProxyMode, STATIC_PODS, file, write_client};
use super::pki::Authority;
use super::{NodePlan, Plan, host_end_prefix, pem};
use crate::cgroup_parent;
use crate::cni::{self, Daemon, NodeCni};
use crate::cri::{Cri, pod};
use crate::error::{Context, Error, Result};
use crate::image;
use crate::network::Network;
use crate::node::{Node, Service, tail};
use crate::runtime::Containerd;
use crate::world;

/// kubelet's `maxPods` beside a reference plugin: its own default asks for less than a test starts on one node.
const MAX_PODS: u32 = 250;

/// Where kubelet keeps the files of its pods.
const KUBELET_ROOT: &str = "/var/lib/kubelet";

/// A node of a cluster.
#[derive(Debug)]
pub struct Member {
    /// The node in the lab.
    pub node: Node,
    /// The way to its runtime.
    pub cri: Cri,
    /// `barewired`, where that wires its pods; a test that ended it leaves none.
    pub daemon: Option<Daemon>,
    plan: NodePlan,
    proxy: ProxyMode,
    cni: NodeCni,
    /// It registers with the taint of new nodes.
    is_new: bool,
    /// Path of the daemon's configuration in the node.
    config: &'static str,
    containerd: Containerd,
    services: Option<Services>,
}

/// What runs once the node has joined.
#[derive(Debug)]
struct Services {
    kubelet: Service,
    kube_proxy: Option<Service>,
}

impl Member {
    /// Starts the runtime, imports the images and installs the CNI: all that needs no API server.
    pub(super) fn prepare(node: &Node, plan: NodePlan, cluster: &Plan, images: &Images) -> Result<Self> {
        let Plan { proxy, cni, acts, .. } = *cluster;
        let config = daemon_config(node, proxy, acts)?;
        let daemon = cni::install_beside(node, plan.plugins, cni, config)?;
        let (containerd, cri) = Containerd::start_release(node, plan.runtime)?;
        for (tar, reference) in images.tars() {
            containerd.import(&cri, &tar, reference)?;
        }
        Ok(Self { node: node.clone(), cri, daemon, plan, proxy, cni, is_new: acts, config, containerd, services: None })
    }

    /// Starts kubelet, and kube-proxy where that serves services.
    pub(super) fn join(&mut self, lab: &str, authority: &Authority) -> Result<()> {
        let node = &self.node;
        let cgroup_root = cgroup_parent(lab, node.name());
        make_cgroups(node, &cgroup_root)?;
        // Volumes of pods are mounted below it and have to be seen by the runtime.
        let static_pods = file(STATIC_PODS);
        let mounts = format!(
            "mkdir -p {KUBELET_ROOT} {static_pods} && mount -t tmpfs -o mode=0755 kubelet {KUBELET_ROOT} && mount --make-rshared /"
        );
        node.run(&["sh", "-c", &mounts])?;

        let user = format!("system:node:{}", node.name());
        write_client(node, authority, "kubelet", &authority.client(&user, &["system:nodes"]).map_err(pem)?)?;
        if self.proxy != ProxyMode::Barewired {
            write_client(node, authority, "kube-proxy", &authority.client("system:kube-proxy", &[]).map_err(pem)?)?;
        }
        let addresses = self.addresses()?;
        let server = authority.server(&user, &[node.name()], &addresses).map_err(pem)?;
        node.write(&file("kubelet.crt"), &server.certificate)?;
        node.write(&file("kubelet.key"), &server.key)?;
        // A cluster's name server that forwards nowhere.
        node.write(&file("resolv.conf"), "search cluster.local\n")?;
        node.write(&file("kubelet.json"), config::kubelet(&cgroup_root, self.max_pods()?, self.is_new))?;
        self.services = Some(Services { kubelet: self.start_kubelet()?, kube_proxy: self.start_kube_proxy()? });
        Ok(())
    }

    /// What node bootstrap tells kubelet: with Barewire, as many pods as there are addresses for.
    fn max_pods(&self) -> Result<u32> {
        match self.cni {
            NodeCni::Reference(_) => Ok(MAX_PODS),
            NodeCni::Barewire => {
                let said = self.node.run(&[cni::DAEMON, "--config", self.config, "--max-pods"])?;
                said.trim().parse().map_err(|_| super::failed(self.name(), format!("barewired --max-pods says {said:?}")))
            }
        }
    }

    fn start_kubelet(&self) -> Result<Service> {
        let program = world::program("kubernetes", "kubelet")?;
        let addresses: Vec<_> = self.addresses()?.iter().map(ToString::to_string).collect();
        self.node.start_service(
            "kubelet",
            &[
                &program.to_string_lossy(),
                &format!("--config={}", file("kubelet.json")),
                &format!("--kubeconfig={}", file("kubelet.conf")),
                &format!("--hostname-override={}", self.node.name()),
                &format!("--node-ip={}", addresses.join(",")),
                &format!("--root-dir={KUBELET_ROOT}"),
            ],
        )
    }

    fn start_kube_proxy(&self) -> Result<Option<Service>> {
        if self.proxy == ProxyMode::Barewired {
            return Ok(None);
        }
        self.node.write(&file("kube-proxy.json"), config::kube_proxy(self.proxy, self.name(), host_end_prefix(self.cni)))?;
        let program = world::program("kubernetes", "kube-proxy")?;
        let arguments = [&*program.to_string_lossy(), &format!("--config={}", file("kube-proxy.json"))];
        self.node.start_service("kube-proxy", &arguments).map(Some)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// What it is made of.
    #[must_use]
    pub const fn plan(&self) -> &NodePlan {
        &self.plan
    }

    /// Its runtime, in its own words.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub fn describe(&self) -> Result<String> {
        let version = self.cri.version()?;
        let services = match self.proxy {
            ProxyMode::Barewired => "no kube-proxy".to_owned(),
            mode => format!("kube-proxy {}", mode.value()),
        };
        Ok(format!("{} {}, {services}", version.runtime_name, version.runtime_version))
    }

    /// Its addresses, IPv4 first.
    ///
    /// # Errors
    /// When it has none of a family.
    pub fn addresses(&self) -> Result<[IpAddr; 2]> {
        Ok([self.address("-4")?, self.address("-6")?])
    }

    /// The source that the node's default route names.
    fn address(&self, family: &str) -> Result<IpAddr> {
        let route = self.node.run(&["ip", family, "route", "show", "default"])?;
        let mut words = route.split_ascii_whitespace().skip_while(|word| *word != "src");
        words.nth(1).and_then(|address| address.parse().ok()).ok_or_else(|| Error::Node {
            node: self.node.name().to_owned(),
            message: format!("its default route names no source address: {route:?}"),
        })
    }

    /// Ends kubelet as a service manager does and starts it again.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn restart_kubelet(&mut self) -> Result<()> {
        if let Some(Services { kubelet, kube_proxy }) = self.services.take() {
            kubelet.terminate()?;
            self.services = Some(Services { kubelet: self.start_kubelet()?, kube_proxy });
        }
        Ok(())
    }

    /// Ends kube-proxy as a service manager does and starts it again.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn restart_kube_proxy(&mut self) -> Result<()> {
        if let Some(Services { kubelet, kube_proxy }) = self.services.take() {
            kube_proxy.map_or(Ok(()), Service::terminate)?;
            self.services = Some(Services { kubelet, kube_proxy: self.start_kube_proxy()? });
        }
        Ok(())
    }

    /// Restarts containerd and connects to it anew.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn restart_containerd(&mut self) -> Result<()> {
        self.cri = self.containerd.restart()?;
        Ok(())
    }

    /// Starts `barewired` if that wires the pods and does not run.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn ensure_daemon(&mut self) -> Result<()> {
        let runs = self.daemon.as_ref().is_some_and(Daemon::is_running);
        if self.cni == NodeCni::Barewire && !runs {
            self.daemon = Some(Daemon::start(&self.node, self.config)?);
        }
        Ok(())
    }

    /// The daemon's configuration.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn daemon_config(&self) -> Result<String> {
        let path = self.node.host_path(self.config);
        std::fs::read_to_string(&path).context(|| format!("read {}", path.display()))
    }

    /// Restarts `barewired` with another configuration.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn reconfigure_daemon(&mut self, config: &str) -> Result<()> {
        /// Not in the place of the topology's own.
        const PATH: &str = "/run/barewired-other.toml";
        self.node.write(PATH, config)?;
        self.replace_daemon(PATH)
    }

    /// Restarts `barewired` with the configuration that it had at first.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn restore_daemon(&mut self) -> Result<()> {
        self.replace_daemon(self.config)
    }

    fn replace_daemon(&mut self, config: &str) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            daemon.terminate()?;
        }
        self.daemon = Some(Daemon::start(&self.node, config)?);
        Ok(())
    }

    /// Restarts `barewired`: SIGTERM, then a new process.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn restart_daemon(&mut self) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            self.daemon = Some(daemon.terminate()?.start()?);
        }
        Ok(())
    }

    /// Ends `barewired`, removes the tables of its services, as a reboot would, and starts it again.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn restart_daemon_without_tables(&mut self) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            let stopped = daemon.terminate()?;
            for family in ["ip", "ip6"] {
                self.node.run(&["nft", "delete", "table", family, "barewire-services"])?;
            }
            self.daemon = Some(stopped.start()?);
        }
        Ok(())
    }

    /// Gives kubelet a pod that no API server knows of.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn add_static_pod(&self, name: &str, pod: &Value) -> Result<()> {
        self.node.write(&static_pod(name), pod.to_string())
    }

    /// Takes it away from kubelet.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub fn remove_static_pod(&self, name: &str) -> Result<()> {
        let path = self.node.host_path(static_pod(name));
        std::fs::remove_file(&path).context(|| format!("remove {}", path.display()))
    }

    /// The network of a pod of this node.
    ///
    /// # Errors
    /// When the node has no sandbox of that pod that is ready.
    pub fn network_of(&self, namespace: &str, pod: &str) -> Result<Network> {
        let is_it = |metadata: &PodSandboxMetadata| metadata.namespace == namespace && metadata.name == pod;
        let ready = i32::from(PodSandboxState::SandboxReady);
        let sandboxes = self.cri.list_pod_sandbox()?;
        let found = sandboxes.iter().find(|sandbox| sandbox.state == ready && sandbox.metadata.as_ref().is_some_and(is_it));
        let sandbox = found.ok_or_else(|| super::failed(self.name(), format!("it has no sandbox of {namespace}/{pod}")))?;
        let (_, pid) = pod::network(&self.cri, &sandbox.id)?;
        Network::at(pod, &self.node.host_path(format!("/proc/{pid}/ns/net")))
    }

    /// What its services have complained about last, some lines of each.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        const LINES: usize = 4;
        // How each of them marks what is no daily talk: klog, containerd and tracing.
        let is_complaint =
            |line: &&str| line.starts_with('E') || ["level=error", " WARN ", " ERROR "].iter().any(|mark| line.contains(mark));
        let of = |service: &str| {
            let log = tail(&self.node.logs().join(format!("{service}.log")), 200);
            let all: Vec<_> = log.lines().filter(is_complaint).map(|line| format!("{} {service}: {line}", self.name())).collect();
            all[all.len().saturating_sub(LINES)..].to_vec()
        };
        ["kubelet", "kube-proxy", "containerd", "barewired"].into_iter().flat_map(of).collect()
    }
}

/// The images that pods of a cluster are made from, as files of the host that end with this.
#[derive(Debug)]
pub struct Images {
    directory: tempfile::TempDir,
}

impl Images {
    const FILES: [(&str, &str); 2] = [("agnhost.tar", image::AGNHOST), ("coredns.tar", image::COREDNS)];

    /// Makes them; agnhost's is also found by the names in `more`.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn make(more: &[String]) -> Result<Self> {
        let directory = tempfile::tempdir().context(|| "make a temporary directory".to_owned())?;
        let failed = |error: image::Error| Error::Node { node: "images".to_owned(), message: error.to_string() };
        let images = [image::agnhost(more).map_err(failed)?, image::coredns().map_err(failed)?];
        for ((name, _), image) in Self::FILES.iter().zip(images) {
            let path = directory.path().join(name);
            let file = std::fs::File::create(&path).context(|| format!("create {}", path.display()))?;
            image.write(file).context(|| format!("write {}", path.display()))?;
        }
        Ok(Self { directory })
    }

    fn tars(&self) -> impl Iterator<Item = (std::path::PathBuf, &'static str)> {
        Self::FILES.iter().map(|(name, reference)| (self.directory.path().join(name), *reference))
    }
}

fn static_pod(name: &str) -> String {
    file(&format!("{STATIC_PODS}/{name}.json"))
}

/// The path of the daemon's configuration: the topology's own, or one with what services take beside it.
fn daemon_config(node: &Node, proxy: ProxyMode, acts: bool) -> Result<&'static str> {
    const WITH_SERVICES: &str = "/run/barewired-services.toml";
    if proxy != ProxyMode::Barewired {
        return Ok(cni::DAEMON_CONFIG);
    }
    let path = node.host_path(cni::DAEMON_CONFIG);
    let given = std::fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
    let health = if acts { config::health() } else { String::new() };
    node.write(WITH_SERVICES, given + &config::services_of_barewired() + &health)?;
    Ok(WITH_SERVICES)
}

/// Kubelet asks that its root be there in every hierarchy. A new cpuset is empty until it is told its processors.
fn make_cgroups(node: &Node, cgroup_root: &str) -> Result<()> {
    let script = r#"
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [ -e "$hierarchy/cgroup.procs" ] || continue
    path=$hierarchy
    for part in $(echo "$1" | tr / ' '); do
        above=$path path=$path/$part
        mkdir -p "$path"
        for file in cpuset.cpus cpuset.mems; do
            if [ -e "$path/$file" ] && [ -e "$above/$file" ]; then cat "$above/$file" > "$path/$file"; fi
        done
    done
done"#;
    node.run(&["sh", "-c", script, "cgroups", cgroup_root]).map(drop)
}
