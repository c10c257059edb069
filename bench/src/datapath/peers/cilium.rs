//! Cilium: its agent on each node with native routing and eBPF host routing, which carries services itself, and the API server that it
//! takes nodes and services from. Once its pods have their network all of it stands still: its programs go on without it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use lab::world;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::datapath::peers::etcd::Etcd;
use crate::datapath::peers::program::Program;
use crate::datapath::rules;
use crate::node::{UPLINK_MTU, feed};

const SERVICES: &str = "10.96.0.0/12";
const TOKEN: &str = "bench";
/// Its programs at sockets are attached to a group of processes in which there are none: they would see the whole machine's.
const CGROUP: &str = "barewire-bench";
/// As for Barewire: file systems that show the node's own links and nobody else's programs.
const OWN_MOUNTS: &str = "umount --lazy /sys && mount -t sysfs sysfs /sys && mount -t bpf bpf /sys/fs/bpf && exec \"$0\" \"$@\"";

/// A node of the cluster, as its API server knows it.
#[derive(Debug, Clone, Copy)]
pub(in crate::datapath) struct Member<'a> {
    /// Its number.
    pub(in crate::datapath) index: usize,
    /// Its address.
    pub(in crate::datapath) address: Ipv4Addr,
    /// Its pods.
    pub(in crate::datapath) range: &'a str,
}

impl Member<'_> {
    fn name(&self) -> String {
        format!("node{}", self.index)
    }
}

/// The control plane, in the fabric.
#[derive(Debug)]
pub(in crate::datapath) struct ControlPlane {
    api: Program,
    etcd: Etcd,
    kubeconfig: PathBuf,
}

impl ControlPlane {
    /// Starts it in the network of the calling thread, where it is `address`, and tells it of nodes and of services with `ports` ports.
    pub(in crate::datapath) fn start(folder: &Path, address: &str, members: &[Member<'_>], ports: u32) -> Result<Self> {
        let file = |name: &str| folder.join(name);
        let write = |name: &str, text: &str| fs::write(file(name), text).with_context(|| format!("cannot write {name}"));
        let key = rcgen::KeyPair::generate().context("cannot make a key")?;
        write("sa.key", &key.serialize_pem())?;
        write("sa.pub", &key.public_key_pem())?;
        write("tokens", &format!("{TOKEN},admin,1,system:masters\n"))?;
        write("kubeconfig", &kubeconfig(address).to_string())?;
        let etcd = Etcd::start(folder)?;
        let option = |name: &str, file_name: &str| format!("--{name}={}", file(file_name).display());
        let api = Program::start(
            &world::program("kubernetes", "kube-apiserver")?,
            &[
                "--etcd-servers=http://127.0.0.1:2379",
                &format!("--advertise-address={address}"),
                &format!("--service-cluster-ip-range={SERVICES}"),
                "--authorization-mode=AlwaysAllow",
                "--disable-admission-plugins=ServiceAccount",
                "--endpoint-reconciler-type=none",
                "--service-account-issuer=https://bench",
                &option("token-auth-file", "tokens"),
                &option("cert-dir", "certificates"),
                &option("service-account-signing-key-file", "sa.key"),
                &option("service-account-key-file", "sa.pub"),
            ],
            file("kube-apiserver.log"),
        )?;
        let mut control = Self { api, etcd, kubeconfig: file("kubeconfig") };
        control.fill(members, ports)?;
        Ok(control)
    }

    fn fill(&mut self, members: &[Member<'_>], ports: u32) -> Result<()> {
        let kubectl = world::program("kubernetes", "kubectl")?;
        let options = format!("--kubeconfig={}", self.kubeconfig.display());
        let ready =
            || Command::new(&kubectl).args([&options, "get", "--raw", "/readyz"]).output().is_ok_and(|output| output.status.success());
        self.api.wait_until("the API server is not ready", ready)?;
        let crds = world::program("cilium", "cilium-crds")?;
        let output = Command::new(&crds).arg(&self.kubeconfig).output().with_context(|| format!("cannot run {}", crds.display()))?;
        if !output.status.success() {
            bail!("{} failed: {}", crds.display(), String::from_utf8_lossy(&output.stderr));
        }
        let kubectl = kubectl.to_string_lossy();
        let nodes: Vec<_> = members.iter().map(node).collect();
        let items: Vec<_> = nodes.into_iter().chain(rules::services(ports)?.iter().flat_map(service)).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        feed(&kubectl, &[&options, "create", "--output=name", "--filename=-"], "kubectl", &list.to_string())?;
        for member in members {
            let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": member.address}]}}).to_string();
            feed(&kubectl, &[&options, "patch", "node", &member.name(), "--subresource=status", "--patch", &status], "kubectl", "")?;
        }
        Ok(())
    }

    /// What its clients read.
    pub(in crate::datapath) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Has it stand still.
    pub(in crate::datapath) fn pause(&self) -> Result<()> {
        self.api.pause()?;
        self.etcd.pause()
    }
}

/// The agent on one node.
#[derive(Debug)]
pub(in crate::datapath) struct Agent {
    program: Program,
    socket: PathBuf,
    _cgroup: Cgroup,
}

impl Agent {
    /// Starts it in the network of the calling thread, and waits until it serves pods.
    pub(in crate::datapath) fn start(folder: &Path, kubeconfig: &Path, member: &Member<'_>, interface: &str, pods: &str) -> Result<Self> {
        let cgroup = Cgroup::mount(folder, member.index)?;
        let library = folder.join("lib");
        copy(&world::directory("cilium")?.with_file_name("bpf"), &library.join("bpf"))?;
        let compiler = folder.join("bin");
        fs::create_dir(&compiler).with_context(|| format!("cannot create {}", compiler.display()))?;
        std::os::unix::fs::symlink("/usr/bin/clang-19", compiler.join("clang")).context("cannot link clang")?;
        let socket = folder.join("cilium.sock");
        let (agent, path) = (world::program("cilium", "daemon")?, std::env::var("PATH").unwrap_or_default());
        let program = Program::start(
            Path::new("/usr/bin/env"),
            &[
                &format!("PATH={}:{path}", compiler.display()),
                &format!("K8S_NODE_NAME={}", member.name()),
                "unshare",
                "--mount",
                "sh",
                "-c",
                OWN_MOUNTS,
                &agent.to_string_lossy(),
                &format!("--k8s-kubeconfig-path={}", kubeconfig.display()),
                &format!("--devices={interface}"),
                &format!("--mtu={UPLINK_MTU}"),
                &format!("--ipv4-native-routing-cidr={pods}"),
                &format!("--lib-dir={}", library.display()),
                &format!("--state-dir={}", folder.join("state").display()),
                &format!("--socket-path={}", socket.display()),
                &format!("--cgroup-root={}", cgroup.mounted.display()),
                "--ipam=kubernetes",
                "--routing-mode=native",
                "--kube-proxy-replacement=true",
                "--enable-bpf-masquerade=true",
                "--enable-ipv6=false",
                "--enable-policy=never",
                "--enable-l7-proxy=false",
                "--enable-envoy-config=false",
                "--enable-hubble=false",
                "--enable-health-checking=false",
                "--enable-endpoint-health-checking=false",
                "--identity-allocation-mode=crd",
            ],
            folder.join("cilium-agent.log"),
        )?;
        let mut agent = Self { program, socket, _cgroup: cgroup };
        let http = ureq::Agent::config_builder().timeout_global(Some(std::time::Duration::from_secs(2))).build().new_agent();
        let healthy = || http.get("http://127.0.0.1:9879/healthz").header("brief", "true").call().is_ok();
        agent.program.wait_until("cilium-agent does not become healthy", healthy)?;
        Ok(agent)
    }

    /// Where its plugin finds it.
    pub(in crate::datapath) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Has it stand still.
    pub(in crate::datapath) fn pause(&self) -> Result<()> {
        self.program.pause()
    }
}

/// A group of no processes.
#[derive(Debug)]
struct Cgroup {
    whole: PathBuf,
    mounted: PathBuf,
    name: String,
}

impl Cgroup {
    fn mount(folder: &Path, index: usize) -> Result<Self> {
        let cgroup = Self { whole: folder.join("cgroups"), mounted: folder.join("cgroup"), name: format!("{CGROUP}-{index}") };
        let none: Option<&str> = None;
        for directory in [&cgroup.whole, &cgroup.mounted] {
            fs::create_dir(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        }
        mount(Some("cgroup2"), &cgroup.whole, Some("cgroup2"), MsFlags::empty(), none).context("cannot mount cgroup2")?;
        let own = cgroup.whole.join(&cgroup.name);
        fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
        mount(Some(&own), &cgroup.mounted, none, MsFlags::MS_BIND, none).context("cannot bind a cgroup")?;
        Ok(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its mounts end with this process, and an empty group costs nobody anything.
        let _unmounted = umount2(&self.mounted, MntFlags::MNT_DETACH);
        let _removed = fs::remove_dir(self.whole.join(&self.name));
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry.with_context(|| format!("cannot read {}", from.display()))?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}

fn kubeconfig(address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": {"server": format!("https://{address}:6443"), "insecure-skip-tls-verify": true}}],
        "users": [{"name": "bench", "user": {"token": TOKEN}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "current-context": "bench",
    })
}

fn node(member: &Member<'_>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": member.name()},
        "spec": {"podCIDR": member.range, "podCIDRs": [member.range]},
    })
}

/// A service and its backends, the same that other contenders have rules for.
fn service(service: &lab::kube_proxy::Service) -> [Value; 2] {
    let metadata = |name: &str| json!({"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service.name}});
    let ports = |port: u16| ["TCP", "UDP"].map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": port}));
    let addresses: Vec<_> = service.backends.iter().map(|backend| json!({"addresses": [backend.target.ip()]})).collect();
    let port = service.backends.first().map_or(service.port, |backend| backend.target.port());
    let mut spec = json!({
        "clusterIP": service.addresses.first(),
        "ports": ports(service.port),
    });
    if let Some(node_port) = service.node_port {
        spec["type"] = json!("NodePort");
        for port in spec["ports"].as_array_mut().into_iter().flatten() {
            port["nodePort"] = json!(node_port);
        }
    }
    [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata(&service.name), "spec": spec}),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata(&format!("{}-1", service.name)),
            "addressType": "IPv4",
            "endpoints": addresses,
            "ports": ports(port),
        }),
    ]
}
