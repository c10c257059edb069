//! The harness: one lab for all cases, one line a case, the lab taken down whatever happens.

use std::env;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use conformance_tests::cri::pod::Pod;
use conformance_tests::lab::cni::{NodeCni, ReferencePlugin, barewire_binaries};
use conformance_tests::lab::command::{Said, run as run_command};
use conformance_tests::lab::node::tail;
use conformance_tests::lab::topology::Topology;
use conformance_tests::lab::worker::Worker;
use conformance_tests::lab::{Lab, Options};

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
    pub(crate) a: Worker,
    pub(crate) b: Worker,
    pub(crate) a1: Pod,
    pub(crate) a2: Pod,
    pub(crate) b1: Pod,
}

impl Cluster {
    fn up(cni: NodeCni) -> Result<Self> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/two-nodes.clab.yml");
        let options = Options { name: Some("e2e".to_owned()), ..Options::of_this_program()? };
        let lab = Lab::up(Topology::read(&file)?, &options)?;
        let a = Worker::start(&lab, "node1", cni)?;
        let b = Worker::start(&lab, "node2", cni)?;
        let (a1, a2, b1) = (a.run_pod("a1")?, a.run_pod("a2")?, b.run_pod("b1")?);
        Ok(Self { lab, cni, a, b, a1, a2, b1 })
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

/// Runs `cases` on one lab.
pub(crate) fn run(cases: &[Case]) -> ExitCode {
    if cases.is_empty() {
        return summary(0, 0, 0);
    }
    let required = env::var("BAREWIRE_REQUIRE_ALL").is_ok_and(|value| value == "1");
    let cni = match prerequisites() {
        Ok(cni) => cni,
        Err(reason) => {
            println!("SKIP containerd: {reason:#}");
            let (failed, skipped) = if required { (cases.len(), 0) } else { (0, cases.len()) };
            return summary(0, failed, skipped);
        }
    };
    let mut cluster = match Cluster::up(cni) {
        Ok(cluster) => cluster,
        Err(error) => {
            println!("FAIL bring the cluster up: {error:#}");
            return summary(0, cases.len(), 0);
        }
    };
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for case in cases {
        if case.needs_barewire && cni != NodeCni::Barewire {
            println!("SKIP {}: it is about barewired", case.name);
            skipped += 1;
            continue;
        }
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (case.run)(&mut cluster)))
            .unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked, as said above")));
        let took = begun.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => {
                println!("ok   {} ({took:.1} s)", case.name);
                passed += 1;
            }
            Err(error) => {
                println!("FAIL {} ({took:.1} s): {error:#}", case.name);
                failed += 1;
                for worker in [&cluster.a, &cluster.b] {
                    print_logs(worker);
                }
                if let Err(error) = cluster.recover() {
                    println!("FAIL recover from it: {error:#}");
                }
            }
        }
    }
    if let Err(error) = cluster.lab.down().context("take the lab down") {
        println!("FAIL {error:#}");
        failed += 1;
    }
    if required {
        failed += skipped;
        skipped = 0;
    }
    summary(passed, failed, skipped)
}

/// The end of the services' logs; of containerd's only what is not its daily talk.
fn print_logs(worker: &Worker) {
    for service in ["barewired", "containerd"] {
        let log = tail(&worker.node.logs().join(format!("{service}.log")), 40);
        let telling: Vec<&str> = log.lines().filter(|line| !line.contains("level=info")).collect();
        for line in &telling[telling.len().saturating_sub(12)..] {
            let short: String = line.chars().take(300).collect();
            println!("  {} {service}: {short}", worker.node.name());
        }
    }
}

fn prerequisites() -> Result<NodeCni> {
    ensure!(nix::unistd::geteuid().is_root(), "it needs root");
    let programs = ["containerd", "ctr", "runc", "ip", "nft", "nsenter", "ping", "busybox", "iptables", "ip6tables", "ss"];
    for program in programs {
        let found = env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|directory| directory.join(program).is_file());
        ensure!(found, "{program} is not installed");
    }
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

fn summary(passed: usize, failed: usize, skipped: usize) -> ExitCode {
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
