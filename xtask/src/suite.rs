//! `cargo xtask test`: the stages, in order, each named and timed. A failing stage does not stop the next.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use clap::ValueEnum;

use crate::binaries::{self, Kind};
use crate::bootstrap::{self, Purpose};
use crate::deny;
use crate::earlier;
use crate::kernels::{self, KERNELS, Kernel, Tested};
use crate::process;
use crate::reference;
use crate::reproduce;
use crate::summary::{Outcome, Summary, Tally};
use crate::workspace::{Target, TargetKind, Workspace};

/// No stage takes longer on two cores, compilation from nothing included.
const STAGE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Makes a test that cannot run fail instead of printing SKIP: this command has installed all that a test may need.
const REQUIRE_ALL: (&str, &str) = ("BAREWIRE_REQUIRE_ALL", "1");

/// A group of stages that can be asked for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tier {
    /// Formatting, clippy, documentation and the policy on dependencies
    Lint,
    /// Unit tests, property tests and documentation examples
    Unit,
    /// Test programs that belong to no other tier, most of them in network namespaces
    Integration,
    /// The real plugin and the real daemon: everything wrong that can be fed to them, crashes, a full disk
    Node,
    /// The CNI specification, case by case, on the reference plugins and on barewire-cni
    Conform,
    /// Real containerd, nodes and a fabric
    E2e,
    /// Every kind of flow with the fast path and without: both ends see and hear the same
    Paths,
    /// A real Kubernetes: kubelets, kube-proxy, containerd 1.6 and 2.x, Kubernetes' own tests
    Cluster,
    /// The kernel programs in other kernels, emulated
    Kernels,
}

impl Tier {
    /// The tier that a test program belongs to, by its file name.
    fn of(target: &Target) -> Self {
        const BY_PREFIX: [(&str, Tier); 8] = [
            ("bounds", Tier::Node),
            ("node", Tier::Node),
            ("conform", Tier::Conform),
            ("cluster", Tier::Cluster),
            ("containerd", Tier::E2e),
            ("demo", Tier::E2e),
            ("lab", Tier::E2e),
            ("paths", Tier::Paths),
        ];
        let tier = BY_PREFIX.iter().find(|(prefix, _)| target.name.starts_with(prefix));
        tier.map_or(Tier::Integration, |(_, tier)| *tier)
    }
}

struct Stage {
    name: &'static str,
    command: Result<Command>,
    limit: Duration,
    /// A line that a success prints, where the exit status does not tell.
    proof: Option<&'static str>,
}

impl Stage {
    fn new(name: &'static str, command: Result<Command>) -> Self {
        Self { name, command, limit: STAGE_LIMIT, proof: None }
    }
}

/// Runs the stages of `tiers`, or all where none is named. With `json`, what the paths' test program says to programs is said once more,
/// on the last line.
///
/// # Errors
/// Where a stage failed; the summary has been printed then.
pub(crate) fn run(workspace: &Workspace, tiers: &[Tier], json: bool) -> Result<()> {
    ensure!(!json || tiers == [Tier::Paths], "--json is what the tier `paths` has: write `test --tier paths --json`");
    let wanted = |tier: Tier| tiers.is_empty() || tiers.contains(&tier);
    let mut summary = Summary::default();
    let mut object = None;

    let purpose = match (wanted(Tier::Lint), wanted(Tier::Kernels)) {
        (true, _) => Purpose::Checks,
        (false, true) => Purpose::Kernels,
        (false, false) => Purpose::Tests,
    };
    let needs_world = wanted(Tier::Cluster) || wanted(Tier::E2e) || wanted(Tier::Conform);
    let bootstrap = if needs_world { bootstrap::run_with_world } else { bootstrap::run };
    if timed(&mut summary, "bootstrap", || bootstrap(workspace, purpose)) {
        // What the upgrade begins with; without it its test fails, or says that this clone's history lacks it.
        let mut earlier = None;
        if wanted(Tier::Node) {
            timed(&mut summary, earlier::UPGRADED_FROM.tag, || earlier::for_tests(workspace).map(|told| earlier = Some(told)));
        }
        if wanted(Tier::Lint) {
            summary.outcomes.extend(lints(workspace).into_iter().map(|stage| execute(stage, |_| ())));
            timed(&mut summary, "reference", || reference::check(workspace));
        }
        // Other kernels run no node.
        let kinds = if tiers == [Tier::Kernels] { &[Kind::Kernel][..] } else { &Kind::ALL };
        if timed(&mut summary, "build", || binaries::build(workspace, kinds).map(drop)) {
            if wanted(Tier::Integration) {
                timed(&mut summary, "reproduce", || reproduce::run(workspace));
            }
            let stages = tests(workspace, json, earlier.as_ref()).into_iter().filter(|(tier, _)| wanted(*tier));
            summary.outcomes.extend(stages.map(|(_, stage)| {
                execute(stage, |line| object = line.starts_with('{').then(|| line.to_owned()).or_else(|| object.take()))
            }));
            if wanted(Tier::Kernels) {
                summary.outcomes.extend(other_kernels(workspace).into_iter().map(|stage| execute(stage, |_| ())));
            }
        }
    }
    print!("\n{summary}");
    if let Some(object) = object.filter(|_| json) {
        println!("{object}");
    }
    if summary.has_failed() {
        // Nothing more is printed: the last line stays the last.
        std::process::exit(1);
    }
    Ok(())
}

fn lints(workspace: &Workspace) -> [Stage; 4] {
    let mut documentation = workspace.cargo(&["doc", "--workspace", "--no-deps", "--keep-going"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    [
        Stage::new("format", Ok(workspace.cargo(&["fmt", "--all", "--check"]))),
        Stage::new("clippy", Ok(workspace.cargo(&["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"]))),
        Stage::new("documentation", Ok(documentation)),
        Stage::new("deny", deny::command(workspace, &[])),
    ]
}

fn tests(workspace: &Workspace, json: bool, earlier: Option<&(&str, PathBuf)>) -> [(Tier, Stage); 9] {
    let mut node = programs(workspace, "node", Tier::Node);
    if let (Ok(command), Some((variable, value))) = (&mut node.command, earlier) {
        command.env(variable, value);
    }
    [
        (Tier::Unit, Stage::new("unit", Ok(test(workspace, &["--lib", "--bins"])))),
        (Tier::Unit, Stage::new("examples", Ok(test(workspace, &["--doc"])))),
        (Tier::Integration, programs(workspace, "integration", Tier::Integration)),
        (Tier::Integration, Stage::new("concurrency", Ok(concurrency(workspace)))),
        (Tier::Node, node),
        (Tier::Conform, programs(workspace, "conform", Tier::Conform)),
        (Tier::E2e, programs(workspace, "e2e", Tier::E2e)),
        (Tier::Paths, told_to(programs(workspace, "paths", Tier::Paths), json.then_some("--json"))),
        (Tier::Cluster, programs(workspace, "cluster", Tier::Cluster)),
    ]
}

fn test(workspace: &Workspace, which: &[&str]) -> Command {
    let mut command = workspace.cargo(&["test", "--workspace", "--no-fail-fast"]);
    command.args(which).env(binaries::BIN_DIR, workspace.dist()).env(REQUIRE_ALL.0, REQUIRE_ALL.1);
    // Set by `cargo run` for this program; children of the tests would inherit it.
    command.env_remove("LD_LIBRARY_PATH");
    command
}

/// Operations of the daemon in every order that threads could run them in: its locks are another library's for that.
fn concurrency(workspace: &Workspace) -> Command {
    workspace.cargo(&["test", "--package", "barewired", "--features", "shuttle", "--test", "concurrency", "--", "--nocapture"])
}

fn programs(workspace: &Workspace, name: &'static str, tier: Tier) -> Stage {
    let targets: Vec<_> = workspace.targets(TargetKind::Test).filter(|target| Tier::of(target) == tier).collect();
    let command = if targets.is_empty() {
        Err(anyhow!("no test program belongs to this tier: see Tier::of in xtask/src/suite.rs"))
    } else {
        let names = targets.iter().flat_map(|target| ["--test", target.name.as_str()]);
        Ok(test(workspace, &names.collect::<Vec<_>>()))
    };
    Stage::new(name, command)
}

/// The stage with an argument for its test programs.
fn told_to(mut stage: Stage, argument: Option<&str>) -> Stage {
    if let (Ok(command), Some(argument)) = (&mut stage.command, argument) {
        command.args(["--", argument]);
    }
    stage
}

fn other_kernels(workspace: &Workspace) -> Vec<Stage> {
    let tested = Tested::build(workspace);
    let stage = |kernel: Kernel| {
        let command = match &tested {
            Ok(tested) => kernel.machine(workspace, tested),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        Stage { limit: kernels::LIMIT, proof: Some(kernels::PROOF), ..Stage::new(kernel.series, command) }
    };
    KERNELS.into_iter().map(stage).collect()
}

/// Runs a stage that is a command, shows its output and counts the tests in it; `heard` gets each line.
fn execute(stage: Stage, mut heard: impl FnMut(&str)) -> Outcome {
    let Stage { name, command, limit, proof } = stage;
    let started = Instant::now();
    let (mut tests, mut proven) = (Tally::default(), proof.is_none());
    let result = command.and_then(|mut command| {
        println!("\n== {name}: {}", process::line(&command));
        let status = process::each_line(&mut command, limit, |line| {
            println!("{line}");
            proven |= proof == Some(line.trim_end());
            tests.read_line(line);
            heard(line);
        })?;
        if !status.success() {
            bail!("{status}");
        }
        if !proven {
            bail!("it did not say {:?}", proof.unwrap_or_default());
        }
        Ok(())
    });
    let failure = result.err().map(|error| format!("{error:#}"));
    Outcome { stage: name, tests, took: started.elapsed(), failure }
}

/// Runs a stage that is work of our own; says whether it succeeded.
fn timed(summary: &mut Summary, name: &'static str, work: impl FnOnce() -> Result<()>) -> bool {
    println!("\n== {name}");
    let started = Instant::now();
    let failure = work().err().map(|error| format!("{error:#}"));
    let succeeded = failure.is_none();
    summary.outcomes.push(Outcome { stage: name, tests: Tally::default(), took: started.elapsed(), failure });
    succeeded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_that_no_rule_names_is_still_run() {
        let tier = |name: &str| Tier::of(&Target { package: "any".to_owned(), name: name.to_owned(), kind: TargetKind::Test });
        assert_eq!(tier("containerd"), Tier::E2e);
        assert_eq!(tier("conform_reference"), Tier::Conform);
        assert_eq!(tier("node"), Tier::Node);
        assert_eq!(tier("bounds"), Tier::Node);
        assert_eq!(tier("cluster"), Tier::Cluster);
        assert_eq!(tier("paths"), Tier::Paths);
        assert_eq!(tier("lab_paths"), Tier::E2e);
        assert_eq!(tier("wiring"), Tier::Integration);
    }
}
