//! `barewire-lab`: brings a topology up in network namespaces, runs commands in its nodes, and shows the demo.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program talks to a person")]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use lab::cloud::{self, LabCloud};
use lab::cni::{self, NodeCni, ReferencePlugin};
use lab::kubernetes::kubectl::Kubectl;
use lab::kubernetes::{self, Cluster, ProxyMode, conformance};
use lab::topology::Topology;
use lab::worker::Worker;
use lab::{self, Lab, Options, init, runtime, state};
use lab::{demo, image};

/// The topology that is deployed when none is named.
const DEFAULT_TOPOLOGY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/labs/two-nodes.clab.yml");

/// A lab of network namespaces, from a containerlab topology.
#[derive(Parser)]
#[command(name = "barewire-lab", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Brings a lab up and leaves it up; what is left of an earlier lab of that name is removed first.
    Up {
        /// Topology file in containerlab's format.
        #[arg(long, default_value = DEFAULT_TOPOLOGY)]
        topology: PathBuf,
        /// Name of the lab [default: the topology's].
        #[arg(long)]
        name: Option<String>,
        /// What wires the pods of nodes with label `barewire.role: node`; `none` starts no container runtime either.
        #[arg(long, value_enum, default_value_t = Cni::Barewire)]
        cni: Cni,
    },
    /// Takes labs down.
    Down {
        /// The lab [default: all].
        name: Option<String>,
    },
    /// Runs a command in a node.
    Exec {
        /// The lab [default: the only one that is up].
        #[arg(long)]
        lab: Option<String>,
        /// The node.
        node: String,
        /// The command [default: bash].
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Lists labs, nodes, processes and pods.
    Inspect,
    /// A Kubernetes cluster: control plane, two nodes, name server.
    Cluster {
        #[command(subcommand)]
        verb: ClusterVerb,
    },
    /// Serves the simulated cloud of a lab, until the lab's fabric ends. `up` starts it where a node is an instance.
    #[command(hide = true)]
    Cloud {
        /// The lab.
        lab: String,
    },
    /// Writes the pods' image, an OCI layout in a tar, to standard output.
    Image,
    /// Writes the nodes' image for containerlab, a root file system in a tar for `docker import`, to standard output.
    NodeImage,
    /// Kubernetes' own tests of networking on a cluster; writes their outcome into a page.
    Conformance {
        /// The page: what stands between its marks is replaced.
        #[arg(long)]
        document: PathBuf,
        /// Which tests: a regular expression of Go.
        #[arg(long, default_value = conformance::ALL)]
        focus: String,
    },
    /// Two nodes, four pods through containerd, pings and throughput; takes the lab down at the end.
    Demo {
        /// Topology file in containerlab's format.
        #[arg(long, default_value = DEFAULT_TOPOLOGY)]
        topology: PathBuf,
        /// Leaves the lab up and says how to enter it.
        #[arg(long)]
        keep: bool,
        /// On a real Kubernetes: a deployment and its service on two nodes.
        #[arg(long, conflicts_with_all = ["topology", "json"])]
        kubernetes: bool,
        /// Prints one JSON line at the end; the story goes to standard error.
        #[arg(long)]
        json: bool,
        /// What wires the pods.
        #[arg(long, value_enum, default_value_t = Cni::Barewire)]
        cni: Cni,
    },
}

#[derive(Subcommand)]
enum ClusterVerb {
    /// Brings the cluster up and leaves it up; what is left of an earlier one is removed first.
    Up {
        /// Who translates services: kube-proxy in a mode, or barewired, which a replica of the fleet tells of them.
        #[arg(long, value_enum, default_value_t = Proxy::Nftables)]
        proxy: Proxy,
        /// What wires the pods.
        #[arg(long, value_enum, default_value_t = Cni::Barewire)]
        cni: Cni,
    },
    /// Runs kubectl as the cluster's administrator.
    Kubectl {
        /// What kubectl is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Takes the cluster down.
    Down,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Proxy {
    Iptables,
    Nftables,
    Barewired,
}

impl Proxy {
    const fn mode(self) -> ProxyMode {
        match self {
            Self::Iptables => ProxyMode::Iptables,
            Self::Nftables => ProxyMode::Nftables,
            Self::Barewired => ProxyMode::Barewired,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Cni {
    Barewire,
    Ptp,
    Bridge,
    None,
}

impl Cni {
    fn of_nodes(self) -> Option<NodeCni> {
        match self {
            Self::Barewire => Some(NodeCni::Barewire),
            Self::Ptp => Some(NodeCni::Reference(ReferencePlugin::Ptp)),
            Self::Bridge => Some(NodeCni::Reference(ReferencePlugin::Bridge)),
            Self::None => None,
        }
    }
}

fn main() -> ExitCode {
    init::become_init_if_asked();
    match run(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("barewire-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Up { topology, name, cni } => up(&topology, name, cni)?,
        Verb::Down { name } => down(name)?,
        Verb::Exec { lab, node, command } => return exec(lab, &node, &command),
        Verb::Inspect => inspect()?,
        Verb::Cluster { verb } => return cluster(verb),
        Verb::Cloud { lab } => serve_cloud(&lab)?,
        Verb::Image => image::write(Path::new(image::BUSYBOX), std::io::stdout().lock())?,
        Verb::NodeImage => image::node(&cni::barewire_binaries()?)?.write_root(std::io::stdout().lock())?,
        Verb::Demo { kubernetes: true, keep, cni, .. } => show_kubernetes(keep, cni)?,
        Verb::Demo { topology, keep, json, cni, .. } => show_demo(&topology, keep, json, cni)?,
        Verb::Conformance { document, focus } => conformance(&document, &focus)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read(topology: &Path) -> Result<Topology> {
    let topology = Topology::read(topology)?;
    for warning in &topology.warnings {
        eprintln!("warning: {}: {warning}", topology.file.display());
    }
    Ok(topology)
}

fn up(topology: &Path, name: Option<String>, cni: Cni) -> Result<()> {
    let topology = read(topology)?;
    let options = Options { name, ..Options::of_this_program()? };
    let lab = Lab::up(topology, &options)?;
    cloud::start_beside(&lab, &options.program)?;
    if let Some(cni) = cni.of_nodes() {
        Worker::start_all(&lab, cni)?;
    }
    let name = lab.name().to_owned();
    lab.keep()?;
    how_to_enter(&name, &mut |line| println!("{line}"))
}

fn serve_cloud(lab: &str) -> Result<()> {
    let base = Path::new(state::BASE);
    let cloud = LabCloud::start(lab, &lab::topology_of(base, lab)?, &lab::nodes_of(base, lab)?)?;
    println!("{}", cloud::SERVES);
    let mut said = 0;
    loop {
        for complaint in cloud.complaints().iter().skip(said) {
            eprintln!("{complaint}");
            said += 1;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn how_to_enter(lab: &str, say: &mut dyn FnMut(String)) -> Result<()> {
    say(format!("lab {lab} is up; enter a node, or take it down:"));
    for node in lab::nodes_of(state::BASE.as_ref(), lab)?.keys() {
        say(format!("  barewire-lab exec --lab {lab} {node}"));
    }
    say(format!("  barewire-lab down {lab}"));
    Ok(())
}

fn down(name: Option<String>) -> Result<()> {
    let base = Path::new(state::BASE);
    let names = name.map_or_else(|| lab::names(base), |name| vec![name]);
    for name in names {
        lab::down(base, &name)?;
        println!("lab {name} is down");
    }
    Ok(())
}

fn exec(lab: Option<String>, node: &str, command: &[String]) -> Result<ExitCode> {
    let base = Path::new(state::BASE);
    let lab = match (lab, &lab::names(base)[..]) {
        (Some(lab), _) => lab,
        (None, [only]) => only.clone(),
        (None, []) => bail!("no lab is up: run `barewire-lab up`"),
        (None, names) => bail!("several labs are up: say which with --lab: {}", names.join(", ")),
    };
    let node = lab::node_of(base, &lab, node)?;
    if !node.init().is_alive() {
        bail!("lab {lab}: node {} is down: run `barewire-lab up`", node.name());
    }
    let (program, arguments) = match command {
        [] => ("bash", &[][..]),
        [program, arguments @ ..] => (program.as_str(), arguments),
    };
    // Returns only when it fails: the command takes this process's place, its terminal and its exit code.
    Err(node.command(program).args(arguments).exec()).context("execute nsenter")
}

fn show_kubernetes(keep: bool, cni: Cni) -> Result<()> {
    let cni = cni.of_nodes().context("the demo starts pods: choose a CNI")?;
    let name = if keep { CLUSTER } else { "demo" };
    let options = Options { name: Some(name.to_owned()), ..Options::of_this_program()? };
    demo::kubernetes::run(&options, cni, keep, &mut |line| println!("{line}"))?;
    if keep {
        how_to_use_the_cluster();
    }
    Ok(())
}

/// Between these lines of the page stands what the tests said.
const MARKS: [&str; 2] = ["<!-- written by `cargo xtask conformance kubernetes` -->", "<!-- end -->"];

/// How long all tests may take.
const CONFORMANCE: Duration = Duration::from_secs(45 * 60);

fn conformance(document: &Path, focus: &str) -> Result<()> {
    let page = std::fs::read_to_string(document).with_context(|| format!("read {}", document.display()))?;
    let (before, rest) = page.split_once(MARKS[0]).with_context(|| format!("{} has no line {:?}", document.display(), MARKS[0]))?;
    let (_, after) = rest.split_once(MARKS[1]).with_context(|| format!("{} has no line {:?}", document.display(), MARKS[1]))?;
    let options = Options { name: Some("conformance".to_owned()), ..Options::of_this_program()? };
    let plan = kubernetes::Plan { image_names: conformance::images()?, ..kubernetes::Plan::mixed(ProxyMode::Nftables, NodeCni::Barewire) };
    let cluster = Cluster::up(&plan, &options, &mut |line| eprintln!("{line}"))?;
    let verdicts = conformance::run_tests(&cluster, focus, CONFORMANCE)?;
    cluster.down()?;
    let table = conformance::table(&verdicts);
    std::fs::write(document, format!("{before}{}\n\n{table}\n{}{after}", MARKS[0], MARKS[1]))
        .with_context(|| format!("write {}", document.display()))?;
    println!("{table}");
    let failed = verdicts.iter().filter(|verdict| matches!(verdict.outcome, conformance::Outcome::Failed(_))).count();
    ensure!(failed == 0 && !verdicts.is_empty(), "{failed} of {} tests failed", verdicts.len());
    Ok(())
}

/// Name of the cluster that is left up, so that the tests' own are left alone.
const CLUSTER: &str = "cluster";

fn cluster(verb: ClusterVerb) -> Result<ExitCode> {
    match verb {
        ClusterVerb::Up { proxy, cni } => {
            let cni = cni.of_nodes().context("a node without a CNI is never Ready: choose one")?;
            ensure!(
                proxy != Proxy::Barewired || cni == NodeCni::Barewire,
                "with --proxy barewired the node's CNI is Barewire: leave --cni out"
            );
            let options = Options { name: Some(CLUSTER.to_owned()), ..Options::of_this_program()? };
            let cluster = Cluster::up(&kubernetes::Plan::mixed(proxy.mode(), cni), &options, &mut |line| println!("{line}"))?;
            cluster.keep()?;
            how_to_use_the_cluster();
        }
        ClusterVerb::Kubectl { arguments } => {
            let control = lab::node_of(Path::new(state::BASE), CLUSTER, kubernetes::CONTROL)?;
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            // Returns only when it fails: kubectl takes this process's place, its terminal and its exit code.
            return Err(Kubectl::new(&control)?.command(&arguments).exec()).context("execute nsenter");
        }
        ClusterVerb::Down => {
            lab::down(Path::new(state::BASE), CLUSTER)?;
            println!("the cluster is down");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn how_to_use_the_cluster() {
    println!("the cluster is up; use it, enter a node, or take it down:");
    println!("  barewire-lab cluster kubectl get pods --all-namespaces");
    println!("  barewire-lab exec --lab {CLUSTER} node1");
    println!("  barewire-lab cluster down");
}

fn inspect() -> Result<()> {
    let base = Path::new(state::BASE);
    let names = lab::names(base);
    if names.is_empty() {
        println!("no lab is up");
    }
    for name in names {
        println!("lab {name}");
        for (node, handle) in lab::nodes_of(base, &name)? {
            let state = if handle.init().is_alive() { "up" } else { "down" };
            println!("  {node:<12} {state:<5} init {}  logs {}", handle.init().pid, handle.logs().display());
            // A node without a runtime has no pods.
            if let Ok(cri) = runtime::cri_of(&handle) {
                for sandbox in cri.list_pod_sandbox()? {
                    let pod = sandbox.metadata.unwrap_or_default();
                    let status = cri.pod_sandbox_status(&sandbox.id)?.status.unwrap_or_default();
                    let network = status.network.unwrap_or_default();
                    let more = network.additional_ips.into_iter().map(|additional| additional.ip);
                    let addresses: Vec<String> = std::iter::once(network.ip).chain(more).collect();
                    println!("    pod {}/{}  {}", pod.namespace, pod.name, addresses.join("  "));
                }
            }
        }
    }
    Ok(())
}

fn show_demo(topology: &Path, keep: bool, json: bool, cni: Cni) -> Result<()> {
    let cni = cni.of_nodes().context("the demo starts pods: choose a CNI")?;
    let topology = read(topology)?;
    // A name of its own, so that a lab that somebody works in is not replaced.
    let options = Options { name: Some("demo".to_owned()), ..Options::of_this_program()? };
    let mut say = |line: String| if json { eprintln!("{line}") } else { println!("{line}") };
    let report = demo::run(topology, &options, cni, keep, &mut say)?;
    if keep {
        how_to_enter("demo", &mut say)?;
    }
    if json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}
