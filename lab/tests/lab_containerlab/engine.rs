//! containerlab and its Docker on a machine of their own: a node of the lab, without links.
//!
//! What they do to a machine (a bridge, sysctls, `/etc/hosts`, network namespaces, mounts) they do to the node, and it ends with the node,
//! however that ends: the containers are processes of the node's pid namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::command::{Said, wait_until};
use lab::cri::Cri;
use lab::cri::pod::{Pod, PodSpec};
use lab::image;
use lab::node::{Node, Service};
use lab::state::ProcessIdentity;
use lab::topology::Topology;
use lab::{Lab, Options, cgroup_parent, cni};

use crate::programs::Programs;

/// Name of the lab whose only node is the machine.
pub(crate) const LAB: &str = "containerlab";
const NODE: &str = "engine";

/// Directory of the topologies, in the node as on the host.
pub(crate) const LABS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/labs");

/// How long dockerd may take to answer.
const ENGINE_READY: Duration = Duration::from_secs(60);
/// Limit of one command of Docker's.
const DOCKER: Duration = Duration::from_secs(60);
/// Limit of a deployment, and of its end.
const CONTAINERLAB: Duration = Duration::from_secs(120);
/// How long a container's containerd and daemon may take, from its start, until pods can be given a network.
const NETWORK_READY: Duration = Duration::from_secs(60);
/// A file that every machine with loadable modules has, and that containerlab reads without asking whether there are any.
const MODULES: &str = "/proc/modules";
/// Of the same length.
const NO_MODULES: &str = "/run/modules0";
/// `CAP_SYS_RESOURCE`, linux/capability.h.
const CAP_SYS_RESOURCE: u32 = 24;

/// A machine with Docker, the image of the topologies, and containerlab.
pub(crate) struct Engine {
    lab: Lab,
    dockerd: Service,
}

impl Engine {
    /// Starts it; what is left of an earlier one is removed first.
    pub(crate) fn start(programs: &Programs) -> Result<Self> {
        let text = format!(
            "{{name: {LAB}, topology: {{nodes: {{{NODE}: {{
                kind: linux, network-mode: none, binds: ['{LABS}:{LABS}:ro'],
                env: {{CLAB_VERSION_CHECK: disable, CLAB_LABDIR_BASE: /tmp}},
                exec: ['mkdir -p /var/lib/docker', 'mount -t tmpfs tmpfs /var/lib/docker'],
            }}}}}}}}"
        );
        let lab = Lab::up(Topology::parse(&text, Path::new(LABS))?, &Options::of_this_program()?)?;
        let node = lab.node(NODE)?;
        node.install(&programs.dockerd, "/usr/local/bin/dockerd")?;
        node.install(&programs.docker, "/usr/local/bin/docker")?;
        install_containerlab(node, &programs.containerlab)?;
        let dockerd = start_dockerd(node)?;
        import_image(node)?;
        Ok(Self { lab, dockerd })
    }

    /// The machine.
    pub(crate) fn node(&self) -> Result<&Node> {
        Ok(self.lab.node(NODE)?)
    }

    /// Its process 1, and dockerd.
    pub(crate) fn processes(&self) -> Result<[&ProcessIdentity; 2]> {
        Ok([self.node()?.init(), self.dockerd.process()])
    }

    /// `containerlab deploy`. It says of a node's failed `exec` in its log only, and ends with success.
    pub(crate) fn deploy(&self, topology: &Path) -> Result<()> {
        let said = self.containerlab(&["deploy", "-t", &topology.display().to_string()])?;
        let is_complaint = |line: &&str| line.contains(" ERRO ") || line.contains(" FATA ");
        let complaints: Vec<&str> = said.stderr.lines().filter(is_complaint).collect();
        if complaints.is_empty() {
            return Ok(());
        }
        let mut message = format!("containerlab deploy: {}", complaints.join("; "));
        for container in self.containers()? {
            let state = self.docker(&["inspect", "--format", "{{json .State}}", &container])?;
            let said = self.node()?.try_run(&["docker", "logs", "--tail", "10", &container], DOCKER)?;
            message = format!("{message}\n  {container}: {}{}{}", state, said.stdout, said.stderr);
        }
        bail!(message)
    }

    /// `containerlab destroy`, its directory of the lab included.
    pub(crate) fn destroy(&self, topology: &Path) -> Result<()> {
        self.containerlab(&["destroy", "--cleanup", "-t", &topology.display().to_string()]).map(drop)
    }

    fn containerlab(&self, arguments: &[&str]) -> Result<Said> {
        let argv = [&["containerlab", "--runtime", "docker"], arguments].concat();
        let said = self.node()?.try_run(&argv, CONTAINERLAB)?;
        let log = said.stderr.clone();
        let Said { status, command, .. } = &said;
        ensure!(status.success(), "`{command}`: {status}\n{log}");
        Ok(said)
    }

    /// The names of all containers.
    pub(crate) fn containers(&self) -> Result<Vec<String>> {
        let names = self.docker(&["ps", "--all", "--format", "{{.Names}}"])?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    fn docker(&self, arguments: &[&str]) -> Result<String> {
        docker(self.node()?, arguments)
    }

    /// A node that containerlab has deployed.
    pub(crate) fn container(&self, lab: &str, node: &str) -> Result<Container> {
        let name = format!("clab-{lab}-{node}");
        let pid = self.docker(&["inspect", "--format", "{{.State.Pid}}", &name])?;
        let pid: u32 = pid.trim().parse().with_context(|| format!("process of {name}: {pid:?}"))?;
        ensure!(pid != 0, "{name} has ended: {}", self.docker(&["logs", "--tail", "20", &name])?);
        Ok(Container { engine: self.node()?.clone(), name, pid })
    }

    /// Ends it.
    pub(crate) fn down(self) -> Result<()> {
        Ok(self.lab.down()?)
    }
}

fn docker(node: &Node, arguments: &[&str]) -> Result<String> {
    let argv = [&["docker"], arguments].concat();
    Ok(node.try_run(&argv, DOCKER)?.success()?)
}

/// A kernel without loadable modules has no list of them, and containerlab ends where it cannot read it: it is given an empty one.
fn install_containerlab(node: &Node, program: &Path) -> Result<()> {
    const TARGET: &str = "/usr/local/bin/containerlab";
    node.install(program, TARGET)?;
    if Path::new(MODULES).exists() {
        return Ok(());
    }
    node.write(NO_MODULES, "")?;
    node.run(&["sed", "-i", &format!("s|{MODULES}|{NO_MODULES}|g"), TARGET])?;
    Ok(())
}

fn start_dockerd(node: &Node) -> Result<Service> {
    let cgroups = cgroup_parent(LAB, NODE);
    let mut argv = vec!["dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--cgroup-parent", &cgroups];
    if !may_raise_limits()? {
        const RUNC: &str = "/usr/local/bin/runc-without-sys-resource";
        node.write(RUNC, include_str!("runc.sh"))?;
        node.run(&["chmod", "+x", RUNC])?;
        argv.extend(["--add-runtime", "lab=/usr/local/bin/runc-without-sys-resource", "--default-runtime", "lab"]);
    }
    let dockerd = node.start_service("dockerd", &argv)?;
    let ready = wait_until("dockerd", ENGINE_READY, || match docker(node, &["version"]) {
        _ if !dockerd.is_running() => Err("it has ended".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    });
    ready.with_context(|| dockerd.log_tail(10))?;
    Ok(dockerd)
}

/// Whether this process has `CAP_SYS_RESOURCE`, and may give it away.
fn may_raise_limits() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("no CapBnd in /proc/self/status")?;
    let bounding = u64::from_str_radix(bounding.trim(), 16)?;
    Ok(bounding & (1 << CAP_SYS_RESOURCE) != 0)
}

fn import_image(node: &Node) -> Result<()> {
    const TAR: &str = "/tmp/barewire-node.tar";
    let tar = File::create(node.host_path(TAR))?;
    image::node(&cni::barewire_binaries()?)?.write_root(tar)?;
    let changes = image::NODE_CHANGES.iter().flat_map(|change| ["--change", change]);
    let arguments: Vec<&str> = ["import"].into_iter().chain(changes).chain([TAR, image::NODE]).collect();
    docker(node, &arguments)?;
    fs::remove_file(node.host_path(TAR))?;
    Ok(())
}

/// A node of a topology as containerlab has made it.
pub(crate) struct Container {
    engine: Node,
    name: String,
    pid: u32,
}

impl Container {
    /// Runs a program in it, which must succeed; answers its standard output.
    pub(crate) fn run(&self, argv: &[&str]) -> Result<String> {
        docker(&self.engine, &[&["exec", &self.name], argv].concat())
    }

    /// Waits until its runtime says that pods can be given a network; answers the way to the runtime.
    pub(crate) fn runtime(&self) -> Result<Runtime> {
        let socket = self.path("/run/containerd/containerd.sock");
        let ready = wait_until(&format!("network of {}", self.name), NETWORK_READY, || {
            let cri = Cri::connect(&socket).map_err(|error| error.to_string())?;
            let conditions = cri.conditions().map_err(|error| error.to_string())?;
            match conditions.iter().find(|condition| !condition.status) {
                None => Ok(cri),
                Some(condition) => Err(format!("{}: {} {}", condition.r#type, condition.reason, condition.message)),
            }
        });
        let cri = ready.with_context(|| docker(&self.engine, &["logs", "--tail", "20", &self.name]).unwrap_or_default())?;
        Ok(Runtime { cri })
    }

    /// The host's path to an absolute path of the container.
    fn path(&self, path: &str) -> PathBuf {
        self.engine.host_path(format!("/proc/{}/root{path}", self.pid))
    }
}

/// The containerd of a container.
pub(crate) struct Runtime {
    pub(crate) cri: Cri,
}

impl Runtime {
    pub(crate) fn run_pod(&self, name: &str) -> Result<Pod> {
        let spec = PodSpec { name: name.to_owned(), cgroup_parent: "/pods".to_owned(), host_ports: Vec::new() };
        Ok(Pod::start(&self.cri, &spec)?)
    }

    /// One ping from a pod, which must be answered within two seconds.
    pub(crate) fn ping(&self, pod: &Pod, to: &str) -> Result<()> {
        let answer = pod.exec(&self.cri, &["ping", "-c", "1", "-W", "2", to], DOCKER)?;
        if answer.exit_code != 0 {
            bail!("{} does not reach {to}: {}", pod.name, String::from_utf8_lossy(&answer.stdout).trim());
        }
        Ok(())
    }
}
