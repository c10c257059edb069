//! The clusters: one lab for all cases, once with the fast path and once without, taken down whatever happens.

use std::env;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::cni::{self, DAEMON_CONFIG, FastPath, NodeCni, ReferencePlugin, barewire_binaries};
use lab::command::{Said, run as run_command};
use lab::cri::pod::Pod;
use lab::harness::{self, Harness};
use lab::network::Network;
use lab::node::tail;
use lab::telemetry;
use lab::topology::Topology;
use lab::worker::Worker;
use lab::{Lab, Options};

/// Limit of one command in a pod or node.
pub(crate) const COMMAND: Duration = Duration::from_secs(30);

/// Addresses of the node behind the fabric's way out.
pub(crate) const INTERNET: [&str; 2] = ["203.0.113.10", "2001:db8:113::10"];

/// A case by name.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs_barewire: bool,
    pub(crate) run: fn(&mut Cluster) -> Result<()>,
}

impl Case {
    /// A case that holds for every CNI.
    pub(crate) const fn any(name: &'static str, run: fn(&mut Cluster) -> Result<()>) -> Self {
        Self { name, needs_barewire: false, run }
    }

    /// A case about `barewired`.
    pub(crate) const fn barewire(name: &'static str, run: fn(&mut Cluster) -> Result<()>) -> Self {
        Self { name, needs_barewire: true, run }
    }
}

/// Two nodes with three pods that live as long as the suite: `a1` and `a2` on the first, `b1` on the second.
pub(crate) struct Cluster {
    pub(crate) lab: Lab,
    pub(crate) cni: NodeCni,
    /// What the daemons are told of their fast path.
    pub(crate) fast_path: FastPath,
    pub(crate) a: Worker,
    pub(crate) b: Worker,
    pub(crate) a1: Pod,
    pub(crate) a2: Pod,
    pub(crate) b1: Pod,
}

impl Cluster {
    fn up(Pass { cni, fast_path }: Pass) -> Result<Self> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/two-nodes.clab.yml");
        let options = Options { name: Some("e2e".to_owned()), ..Options::of_this_program()? };
        let lab = Lab::up(Topology::read(&file)?, &options)?;
        let worker = |name: &str| -> Result<Worker> {
            let config = match cni {
                NodeCni::Barewire => cni::configure(lab.node(name)?, &[("fast_path", format!("\"{}\"", fast_path.value()))])?,
                NodeCni::Reference(_) => DAEMON_CONFIG,
            };
            Ok(Worker::start_configured(&lab, name, cni, config)?)
        };
        let (a, b) = (worker("node1")?, worker("node2")?);
        let (a1, a2, b1) = (a.run_pod("a1")?, a.run_pod("a2")?, b.run_pod("b1")?);
        Ok(Self { lab, cni, fast_path, a, b, a1, a2, b1 })
    }

    /// That the programs are attached where they are to be, and nowhere else.
    pub(crate) fn is_carried_as_configured(&self) -> Result<()> {
        for worker in [&self.a, &self.b] {
            let attached = telemetry::fast_path_is_attached(&Network::of(&worker.node)?)?;
            ensure!(
                attached == (self.fast_path == FastPath::Auto),
                "{}: attached is {attached} with {:?}",
                worker.node.name(),
                self.fast_path
            );
        }
        Ok(())
    }

    /// That a pod reaches all of `to`. With Barewire the very first packet must arrive; a reference plugin's IPv6 gateway is silent until
    /// duplicate address detection ends, so it has some seconds.
    pub(crate) fn all_reached(&self, worker: &Worker, from: &Pod, to: &[IpAddr]) -> Result<()> {
        let tries = if self.cni == NodeCni::Barewire { 1 } else { 5 };
        for address in to {
            let reached = (0..tries).any(|_| worker.ping(from, *address, COMMAND).unwrap_or(false));
            ensure!(reached, "{} {:?} does not reach {address}", from.name, from.addresses);
        }
        Ok(())
    }

    /// A case that failed may have left a node without its daemon.
    fn recover(&mut self) -> Result<()> {
        if self.cni == NodeCni::Barewire {
            for worker in [&mut self.a, &mut self.b] {
                worker.ensure_daemon()?;
            }
        }
        Ok(())
    }
}

/// Runs `ping` of the machine (iputils, with its options) in a pod's network namespace.
pub(crate) fn ping(worker: &Worker, pod: &Pod, arguments: &[&str]) -> Result<Said> {
    let argv = [&["ping"][..], arguments].concat();
    Ok(run_command(&mut worker.in_pod(pod, &argv)?, COMMAND)?)
}

/// A run of all cases on a lab of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass {
    cni: NodeCni,
    fast_path: FastPath,
}

impl Pass {
    /// Both settings of the fast path; a reference plugin has none.
    fn all(cni: NodeCni) -> Vec<Self> {
        match cni {
            NodeCni::Barewire => FastPath::ALL.map(|fast_path| Self { cni, fast_path }).to_vec(),
            NodeCni::Reference(_) => vec![Self { cni, fast_path: FastPath::Off }],
        }
    }

    fn name(self, case: &Case) -> String {
        match self.cni {
            NodeCni::Barewire => format!("{}/{}", self.fast_path.value(), case.name),
            NodeCni::Reference(_) => case.name.to_owned(),
        }
    }
}

/// Lists cases.
pub(crate) fn list(cases: &[Case]) {
    for pass in Pass::all(NodeCni::Barewire) {
        cases.iter().for_each(|case| harness::list(&pass.name(case)));
    }
}

/// Runs those of `cases` whose name contains `filter`.
pub(crate) fn run(harness: &mut Harness, cases: &[Case], filter: &str) {
    let chosen = |pass: Pass| -> Vec<&Case> { cases.iter().filter(|case| pass.name(case).contains(filter)).collect() };
    let cni = match prerequisites() {
        Ok(cni) => cni,
        Err(reason) => {
            let count = Pass::all(NodeCni::Barewire).into_iter().map(|pass| chosen(pass).len()).sum();
            return harness.skip("containerd", &format!("{reason:#}"), count);
        }
    };
    for pass in Pass::all(cni) {
        let cases = chosen(pass);
        if !cases.is_empty() {
            run_pass(harness, pass, &cases);
        }
    }
}

fn run_pass(harness: &mut Harness, pass: Pass, cases: &[&Case]) {
    let mut cluster = match Cluster::up(pass) {
        Ok(cluster) => cluster,
        Err(error) => return harness.fail("bring the cluster up", &format!("{error:#}"), cases.len()),
    };
    for case in cases {
        let name = pass.name(case);
        if case.needs_barewire && pass.cni != NodeCni::Barewire {
            harness.skip(&name, "it is about barewired", 1);
            continue;
        }
        if !harness.case(&name, || (case.run)(&mut cluster)) {
            for worker in [&cluster.a, &cluster.b] {
                note_logs(harness, worker);
            }
            if let Err(error) = cluster.recover() {
                harness.note(&format!("FAIL recover from it: {error:#}"));
            }
        }
    }
    if let Err(error) = cluster.lab.down().context("take the lab down") {
        harness.fail("take the lab down", &format!("{error:#}"), 1);
    }
}

/// The end of the services' logs; of containerd's only what is not its daily talk.
fn note_logs(harness: &Harness, worker: &Worker) {
    for service in ["barewired", "containerd"] {
        let log = tail(&worker.node.logs().join(format!("{service}.log")), 40);
        let telling: Vec<&str> = log.lines().filter(|line| !line.contains("level=info")).collect();
        for line in &telling[telling.len().saturating_sub(12)..] {
            let short: String = line.chars().take(300).collect();
            harness.note(&format!("{} {service}: {short}", worker.node.name()));
        }
    }
}

fn prerequisites() -> Result<NodeCni> {
    harness::require_programs(&["containerd", "ctr", "runc", "ip", "nft", "nsenter", "ping", "busybox", "iptables", "ip6tables", "ss"])?;
    match env::var("BAREWIRE_E2E_CNI").as_deref() {
        Ok("ptp") => Ok(NodeCni::Reference(ReferencePlugin::Ptp)),
        Ok("bridge") => Ok(NodeCni::Reference(ReferencePlugin::Bridge)),
        Ok("barewire") | Err(_) => {
            barewire_binaries()?;
            Ok(NodeCni::Barewire)
        }
        Ok(other) => anyhow::bail!("BAREWIRE_E2E_CNI={other}: set barewire, ptp or bridge"),
    }
}
