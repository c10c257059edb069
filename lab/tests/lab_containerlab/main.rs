//! The lab's topologies deployed by containerlab itself, with a real Docker: their nodes are what the lab's own runner makes of the same
//! file, pods of two nodes reach each other, and nothing is left.
//!
//! `cargo test --test lab_containerlab [-- FILTER]`. Needs root, what a node of the lab needs, `barewired` and `barewire-cni` in
//! `BAREWIRE_BIN_DIR` or beside the test, containerlab and Docker's dockerd. Where the suite cannot run it says `SKIP` and why; with
//! `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![forbid(unsafe_code)]

mod engine;
mod host;
mod programs;
mod view;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use lab::harness::{self, Harness, Request};
use lab::topology::Topology;
use lab::{Lab, Options, cni, init};

use engine::{Engine, LAB, LABS};
use host::Traces;
use programs::Programs;

/// The cases, in their order: each builds on those before it.
const CASES: [&str; 7] = [
    "nodes_are_those_of_our_runner",
    "nodes_reach_each_other_and_the_internet",
    "pods_of_both_nodes_reach_each_other",
    "destroy_leaves_nothing",
    "two_uplinks_are_those_of_our_runner",
    "an_engine_that_is_killed_leaves_nothing",
    "the_hosts_network_is_as_before",
];

fn main() -> ExitCode {
    init::become_init_if_asked();
    let mut harness = Harness::default();
    match Request::of_this_program() {
        Request::List => CASES.iter().for_each(|case| harness::list(case)),
        // They build on each other: all or none.
        Request::Run(filter) if CASES.iter().any(|case| case.contains(&filter)) => run(&mut harness),
        Request::Run(_) => {}
    }
    harness.finish()
}

fn run(harness: &mut Harness) {
    const SUITE: &str = "lab_containerlab";
    let can_run = harness::require_programs(&["ip", "nft", "nsenter", "ldd", "containerd", "runc", "ping"]);
    let programs = match can_run.and_then(|()| cni::barewire_binaries().map_err(Into::into)).and_then(|_| Programs::find()) {
        Ok(programs) => programs,
        Err(why) => return harness.skip(SUITE, &format!("{why:#}"), CASES.len()),
    };
    let suite = host::Network::look().and_then(|before| Ok((before, Suite::start(&programs)?)));
    let (before, suite) = match suite {
        Ok(started) => started,
        Err(error) => return harness.fail(SUITE, &format!("{error:#}"), CASES.len()),
    };
    let [same, nodes, pods, destroy, uplinks, kill, host] = CASES;
    harness.case(same, || suite.nodes_are_those_of_our_runner(&suite.topology));
    harness.case(nodes, || suite.nodes_reach_each_other_and_the_internet());
    harness.case(pods, || suite.pods_of_both_nodes_reach_each_other());
    harness.case(destroy, || suite.destroy_leaves_nothing());
    harness.case(uplinks, || suite.two_uplinks_are_those_of_our_runner());
    harness.case(kill, move || suite.an_engine_that_is_killed_leaves_nothing());
    harness.case(host, || before.must_be(&host::Network::look()?));
}

fn read(file: &str) -> Result<Topology> {
    let topology = Topology::read(&Path::new(LABS).join(file))?;
    ensure!(topology.warnings.is_empty(), "our runner passes over a part of the file: {:?}", topology.warnings);
    Ok(topology)
}

struct Suite {
    engine: Engine,
    topology: Topology,
}

impl Suite {
    fn start(programs: &Programs) -> Result<Self> {
        let topology = read("two-nodes.clab.yml")?;
        let engine = Engine::start(programs).context("start Docker")?;
        engine.deploy(&topology.file)?;
        Ok(Self { engine, topology })
    }

    fn container(&self, node: &str) -> Result<engine::Container> {
        self.engine.container(&self.topology.name, node)
    }

    /// `topology` has been deployed.
    fn nodes_are_those_of_our_runner(&self, topology: &Topology) -> Result<()> {
        let options = Options { name: Some(format!("{LAB}-twin")), ..Options::of_this_program()? };
        let twin = Lab::up(topology.clone(), &options)?;
        for (name, spec) in &topology.nodes {
            let ours = view::of(spec, &|argv| Ok(twin.node(name)?.run(argv)?)).with_context(|| format!("our {name}"))?;
            let container = self.engine.container(&topology.name, name)?;
            let theirs = view::of(spec, &|argv| container.run(argv)).with_context(|| format!("containerlab's {name}"))?;
            view::must_be_equal(name, &ours, &theirs)?;
        }
        Ok(twin.down()?)
    }

    fn nodes_reach_each_other_and_the_internet(&self) -> Result<()> {
        let node1 = self.container("node1")?;
        for to in ["10.0.0.12", "fd00:10::12", "203.0.113.10", "2001:db8:113::10"] {
            node1.run(&["ping", "-c", "1", "-W", "2", to])?;
        }
        Ok(())
    }

    fn pods_of_both_nodes_reach_each_other(&self) -> Result<()> {
        let runtimes = [self.container("node1")?.runtime()?, self.container("node2")?.runtime()?];
        let pods = [runtimes[0].run_pod("pod1")?, runtimes[1].run_pod("pod2")?];
        for (from, to) in [(0, 1), (1, 0)] {
            ensure!(pods[to].addresses.len() == 2, "{}: {:?}", pods[to].name, pods[to].addresses);
            for address in &pods[to].addresses {
                runtimes[from].ping(&pods[from], &address.to_string())?;
            }
            for internet in ["203.0.113.10", "2001:db8:113::10"] {
                runtimes[from].ping(&pods[from], internet)?;
            }
        }
        for (runtime, pod) in runtimes.iter().zip(&pods) {
            pod.remove(&runtime.cri)?;
        }
        Ok(())
    }

    fn destroy_leaves_nothing(&self) -> Result<()> {
        self.engine.destroy(&self.topology.file)?;
        let containers = self.engine.containers()?;
        ensure!(containers.is_empty(), "containers are left: {containers:?}");
        let node = self.engine.node()?;
        let left = node.run(&["sh", "-c", "ls /run/netns /run/docker/netns /tmp; grep -i clab /etc/hosts; true"])?;
        ensure!(!left.contains("clab") && !left.contains("two-nodes"), "{left}");
        let links = node.run(&["ip", "-brief", "link", "show"])?;
        ensure!(links.lines().all(|link| link.starts_with("lo ")), "{links}");
        Ok(())
    }

    fn two_uplinks_are_those_of_our_runner(&self) -> Result<()> {
        let topology = read("two-uplinks.clab.yml")?;
        self.engine.deploy(&topology.file)?;
        self.nodes_are_those_of_our_runner(&topology)?;
        self.engine.destroy(&topology.file)
    }

    fn an_engine_that_is_killed_leaves_nothing(self) -> Result<()> {
        self.engine.deploy(&self.topology.file)?;
        let traces = Traces::look(&self.engine.processes()?)?;
        ensure!(traces.processes.len() > 6, "two processes of the engine, four containers, two with a containerd: {traces:?}");
        self.engine.processes()?[0].kill()?;
        // What `up` and `down` do first with whatever is left of a lab.
        self.engine.down()?;
        traces.must_be_gone()
    }
}
