//! The lab: a containerlab topology deployed in network namespaces, so that it runs wherever root and Linux are.
//!
//! Promises: nodes see each other only through the links of the topology; nothing of the host is changed; a lab that is not kept
//! ends with its runner, however the runner ends; [`Lab::up`] first removes whatever an earlier runner left of the same lab.
//!
//! Needs root, overlayfs, and `ip`, `nft`, `sysctl` and `nsenter` on the host.

#![forbid(unsafe_code)]

pub mod bare;
pub mod capture;
pub mod cloud;
pub mod cni;
pub mod command;
pub mod cri;
pub mod demo;
pub mod echo;
pub mod ends;
mod error;
pub mod harness;
pub mod host;
pub mod image;
pub mod init;
pub mod kube_proxy;
pub mod kubernetes;
mod link;
pub mod network;
pub mod node;
pub mod raw;
mod root;
pub mod runtime;
pub mod services;
pub mod side_by_side;
pub mod state;
pub mod telemetry;
pub mod topology;
pub mod vpc;
pub mod worker;
pub mod world;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::time::Duration;

pub use error::{Error, Result};

use command::CONFIGURE;
use error::Context;
use init::InitSpec;
use node::Node;
use state::{LabDirectory, NodeState, ProcessIdentity};
use topology::{NodeSpec, Topology};

/// How long cgroups of killed pods may take to become empty.
const CGROUPS_EMPTY: Duration = Duration::from_secs(10);

/// How long duplicate address detection may take.
const ADDRESSES_USABLE: Duration = Duration::from_secs(10);

/// How a lab is brought up.
#[derive(Debug, Clone)]
pub struct Options {
    /// The binary whose `main` calls [`init::become_init_if_asked`].
    pub program: PathBuf,
    /// Where labs are kept, [`state::BASE`] as a rule.
    pub base: PathBuf,
    /// Name of the lab, if not the topology's own: two labs of one topology can then be up at once.
    pub name: Option<String>,
}

impl Options {
    /// The calling binary is its own init, and the lab has the topology's name.
    ///
    /// # Errors
    /// When the calling binary cannot be found.
    pub fn of_this_program() -> Result<Self> {
        Ok(Self {
            program: std::env::current_exe().context(|| "find this program's file".to_owned())?,
            base: state::BASE.into(),
            name: None,
        })
    }
}

/// A lab that is up. Dropping it takes it down, unless it was kept.
#[derive(Debug)]
pub struct Lab {
    name: String,
    topology: Topology,
    directory: LabDirectory,
    nodes: BTreeMap<String, Node>,
    tethers: BTreeMap<String, ChildStdin>,
    is_up: bool,
}

impl Lab {
    /// Removes what is left of an earlier lab of that name, then makes nodes and links and runs the nodes' `exec`.
    ///
    /// # Errors
    /// With the step that failed; everything made until then is removed.
    pub fn up(topology: Topology, options: &Options) -> Result<Self> {
        let name = options.name.clone().unwrap_or_else(|| topology.name.clone());
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::Lab { lab: name, message: "namespaces need root: run it with sudo".to_owned() });
        }
        let directory = LabDirectory::open(&options.base, &name)?;
        remove_what_is_left(&directory, &name)?;
        directory.clear()?;
        let mut lab = Self { name, topology, directory, nodes: BTreeMap::new(), tethers: BTreeMap::new(), is_up: true };
        lab.start_nodes(&options.program)?;
        for node in lab.nodes.values() {
            node.run(&["ip", "link", "set", "lo", "up"])?;
        }
        for link in &lab.topology.links {
            link::create(&lab.nodes, link)?;
        }
        for name in lab.topology.nodes.keys() {
            lab.configure(name)?;
        }
        lab.wait_until_addresses_are_usable()?;
        Ok(lab)
    }

    /// A node cannot ask for its gateway before its link-local address has passed duplicate address detection, which takes up to two
    /// seconds (RFC 4862 section 5.4): the first packets of others that it forwards would be lost.
    fn wait_until_addresses_are_usable(&self) -> Result<()> {
        for node in self.nodes.values() {
            command::wait_until(&format!("usable IPv6 addresses in {}", node.name()), ADDRESSES_USABLE, || {
                let tentative = node.run(&["ip", "-6", "address", "show", "tentative"]).map_err(|error| error.to_string())?;
                if tentative.trim().is_empty() { Ok(()) } else { Err(tentative) }
            })?;
        }
        Ok(())
    }

    fn start_nodes(&mut self, program: &Path) -> Result<()> {
        let names: Vec<String> = self.topology.nodes.keys().cloned().collect();
        names.iter().try_for_each(|name| self.start_node(program, name))
    }

    fn start_node(&mut self, program: &Path, name: &str) -> Result<()> {
        let spec = self.spec(name)?.clone();
        let mut state = self.directory.load()?;
        state.topology.clone_from(&self.topology.file);
        let talk = init::start(program, name)?;
        let node = NodeState { init: ProcessIdentity::of(talk.pid)?, env: spec.env.clone() };
        self.nodes.insert(name.to_owned(), Node::new(name, &node, self.directory.path()));
        state.nodes.insert(name.to_owned(), node);
        // Recorded before it is told to do anything: until then it ends by itself when we do.
        self.directory.save(&state)?;
        let prepared = talk.prepare(&InitSpec {
            name: name.to_owned(),
            mount_point: self.directory.path().join(name).join("mount"),
            binds: spec.binds,
            sysctls: spec.sysctls,
            program: spec.program,
            env: spec.env,
        })?;
        self.tethers.insert(name.to_owned(), prepared);
        Ok(())
    }

    fn spec(&self, name: &str) -> Result<&NodeSpec> {
        self.topology
            .nodes
            .get(name)
            .ok_or_else(|| Error::Node { node: name.to_owned(), message: "the topology has no such node".to_owned() })
    }

    /// Runs the commands that the topology has for a node.
    fn configure(&self, name: &str) -> Result<()> {
        let node = self.node(name)?;
        for argv in &self.spec(name)?.exec {
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            node.try_run(&argv, CONFIGURE)?
                .success()
                .map_err(|error| Error::Node { node: name.to_owned(), message: format!("exec: {error}") })?;
        }
        Ok(())
    }

    /// Ends everything in a node at once, as a power failure does, and starts it again with the links that it had. All of its files are as
    /// at the first start. What is at the links' other ends sees the carrier go and come.
    ///
    /// # Errors
    /// With the step that failed.
    pub fn reboot(&mut self, name: &str, program: &Path) -> Result<()> {
        let links: Vec<_> = self.topology.links.iter().filter(|link| link.ends.iter().any(|end| end.node == name)).cloned().collect();
        for link in &links {
            link::unplug(&self.nodes, link, name)?;
        }
        self.node(name)?.init().kill()?;
        self.start_node(program, name)?;
        for link in &links {
            link::plug_in(&self.nodes, link, name)?;
        }
        self.configure(name)?;
        self.wait_until_addresses_are_usable()
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was made from.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// A node by name.
    ///
    /// # Errors
    /// When the topology has none of that name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        find(&self.nodes, &self.name, name)
    }

    /// All nodes by name.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<String, Node> {
        &self.nodes
    }

    /// Lets the lab outlive this program, and gives its lock back.
    ///
    /// # Errors
    /// When a node is gone.
    pub fn keep(mut self) -> Result<()> {
        for tether in self.tethers.values_mut() {
            tether.write_all(init::KEEP.as_bytes()).context(|| "tell a node to stay".to_owned())?;
        }
        self.is_up = false;
        Ok(())
    }

    /// Ends all nodes and removes everything of the lab.
    ///
    /// # Errors
    /// With what could not be removed.
    pub fn down(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        self.is_up = false;
        remove_what_is_left(&self.directory, &self.name)?;
        self.directory.remove()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.is_up {
            // On this path an error is being reported already; the next `up` or `down` finishes what this could not.
            let _ = self.take_down();
        }
    }
}

/// Takes the lab `name` down; that it is not up is no error.
///
/// # Errors
/// When another runner holds it, or something cannot be removed.
pub fn down(base: &Path, name: &str) -> Result<()> {
    let directory = LabDirectory::open(base, name)?;
    remove_what_is_left(&directory, name)?;
    directory.remove()
}

/// The labs of which there is a directory, in order of name.
#[must_use]
pub fn names(base: &Path) -> Vec<String> {
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter(|entry| entry.path().is_dir()).filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The nodes of a lab that another runner brought up.
///
/// # Errors
/// When its state cannot be read.
pub fn nodes_of(base: &Path, name: &str) -> Result<BTreeMap<String, Node>> {
    let directory = base.join(name);
    let state = state::load(&directory)?;
    let nodes = state.nodes.iter();
    Ok(nodes.map(|(node, state)| (node.clone(), Node::new(node, state, &directory))).collect())
}

/// What a lab that another runner brought up was made from.
///
/// # Errors
/// When its state or its topology file cannot be read.
pub fn topology_of(base: &Path, name: &str) -> Result<Topology> {
    Topology::read(&state::load(&base.join(name))?.topology)
}

/// One node of a lab that another runner brought up.
///
/// # Errors
/// When there is no such lab or node.
pub fn node_of(base: &Path, lab: &str, node: &str) -> Result<Node> {
    let nodes = nodes_of(base, lab)?;
    find(&nodes, lab, node).cloned()
}

fn find<'a>(nodes: &'a BTreeMap<String, Node>, lab: &str, node: &str) -> Result<&'a Node> {
    nodes.get(node).ok_or_else(|| Error::Lab {
        lab: lab.to_owned(),
        message: match nodes.keys().cloned().collect::<Vec<_>>()[..] {
            [] => "it is not up: run `barewire-lab up`".to_owned(),
            ref names => format!("there is no node {node:?}; it has: {}", names.join(", ")),
        },
    })
}

/// The cgroup under which pods of a node are put, so that they can be found when all else is lost.
#[must_use]
pub fn cgroup_parent(lab: &str, node: &str) -> String {
    format!("/barewire-lab/{lab}/{node}")
}

fn remove_what_is_left(directory: &LabDirectory, name: &str) -> Result<()> {
    for node in directory.load()?.nodes.values() {
        node.init.kill()?;
    }
    remove_cgroups(name)
}

/// Namespaces and mounts vanish with their processes; cgroups do not.
fn remove_cgroups(lab: &str) -> Result<()> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let roots = hierarchies.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
    for root in roots {
        let all = root.join("barewire-lab");
        let ours = all.join(lab);
        if ours.is_dir() {
            command::wait_until(&format!("empty cgroup {}", ours.display()), CGROUPS_EMPTY, || {
                remove_cgroup(&ours).map_err(|error| error.to_string())
            })?;
            // Not empty while another lab is up.
            let _ = fs::remove_dir(&all);
        }
    }
    Ok(())
}

fn remove_cgroup(directory: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
