//! `cargo xtask test`: the stages, in order, each named and timed. A failing stage does not stop the next.

use std::path::PathBuf;
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use clap::ValueEnum;

use crate::binaries::{self, Kind};
use crate::bootstrap::{self, Purpose};
use crate::deny;
use crate::earlier;
use crate::kernels::{self, KERNELS, Kernel, Tested};
use crate::process::{self, Pace};
use crate::reference;
use crate::reproduce;
use crate::summary::{Failures, Outcome, Summary, Tally};
use crate::workspace::{Target, TargetKind, Workspace};

/// No stage takes longer on two cores, compilation from nothing included.
const STAGE_LIMIT: Duration = Duration::from_secs(40 * 60);

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

    /// Whether other people's programs are run in it: see [`crate::world`].
    fn needs_world(self) -> bool {
        matches!(self, Tier::Node | Tier::Conform | Tier::E2e | Tier::Cluster)
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

    let purpose = purpose_of(tiers);
    let needs_world = Tier::value_variants().iter().any(|tier| tier.needs_world() && wanted(*tier));
    let mut rest = None;
    let is_fit = timed(&mut summary, "bootstrap", || {
        if needs_world {
            rest = bootstrap::run_with_small_world(workspace, purpose)?;
            Ok(())
        } else {
            bootstrap::run(workspace, purpose)
        }
    });
    if is_fit {
        // What takes minutes to build, once, and is needed late: most stages leave much of two processors idle.
        let checks = wanted(Tier::Lint).then(|| Beside::start(|| bootstrap::build_checks(Pace::Beside)));
        let world = rest.filter(|_| wanted(Tier::Cluster)).map(|rest| Beside::start(move || rest.build(Pace::Beside)));
        if wanted(Tier::Lint) {
            summary.outcomes.extend(lints(workspace).into_iter().map(|stage| execute(stage, printed)));
            timed(&mut summary, "reference", || reference::check(workspace));
        }
        // Other kernels run no node.
        let kinds = if tiers == [Tier::Kernels] { &[Kind::Kernel][..] } else { &Kind::OF_TESTS };
        let is_built = timed(&mut summary, "build", || binaries::build(workspace, kinds).map(drop));
        if is_built {
            // What the upgrade begins with; without it its test fails, or says that this clone's history lacks it. Most of its libraries have
            // been built by now.
            let mut earlier = None;
            if wanted(Tier::Node) {
                timed(&mut summary, earlier::UPGRADED_FROM.tag, || earlier::for_tests(workspace).map(|told| earlier = Some(told)));
            }
            if wanted(Tier::Integration) {
                timed(&mut summary, "reproduce", || reproduce::run(workspace));
            }
            let stages = tests(workspace, json, earlier.as_ref()).into_iter().filter(|(tier, _)| wanted(*tier));
            summary.outcomes.extend(stages.map(|(_, stage)| {
                execute(stage, |line| {
                    printed(line);
                    object = line.starts_with('{').then(|| line.to_owned()).or_else(|| object.take());
                })
            }));
            if wanted(Tier::Kernels) {
                summary.outcomes.extend(other_kernels(workspace));
            }
        }
        if let Some(checks) = checks {
            timed(&mut summary, "cargo-deny", || checks.finish());
            summary.outcomes.push(execute(Stage::new("deny", deny::command(workspace, &[])), printed));
        }
        if is_built && wanted(Tier::Cluster) {
            timed(&mut summary, "world", || world.map_or(Ok(()), Beside::finish));
            summary.outcomes.push(execute(programs(workspace, "cluster", Tier::Cluster), printed));
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

/// What has to be installed before the first stage; what only checks of the source need is built beside them.
fn purpose_of(tiers: &[Tier]) -> Purpose {
    if tiers == [Tier::Kernels] { Purpose::Kernels } else { Purpose::Tests }
}

fn lints(workspace: &Workspace) -> [Stage; 3] {
    let mut documentation = workspace.cargo(&["doc", "--workspace", "--no-deps", "--keep-going"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    [
        Stage::new("format", Ok(workspace.cargo(&["fmt", "--all", "--check"]))),
        Stage::new("clippy", Ok(workspace.cargo(&["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"]))),
        Stage::new("documentation", Ok(documentation)),
    ]
}

/// Work that is done beside the stages.
struct Beside(JoinHandle<Result<()>>);

impl Beside {
    fn start(work: impl FnOnce() -> Result<()> + Send + 'static) -> Self {
        Self(thread::spawn(work))
    }

    /// Waits for its end.
    fn finish(self) -> Result<()> {
        self.0.join().map_err(|_panic| anyhow!("it has panicked"))?
    }
}

fn tests(workspace: &Workspace, json: bool, earlier: Option<&(&str, PathBuf)>) -> [(Tier, Stage); 8] {
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
    // Of the whole workspace, so that all libraries but ours have the features that they have in other stages, and are not built once more.
    workspace.cargo(&["test", "--workspace", "--features", "barewired/shuttle", "--test", "concurrency", "--", "--nocapture"])
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

/// The kernels side by side: an emulated machine has one processor. What each has said is shown once it has ended.
fn other_kernels(workspace: &Workspace) -> Vec<Outcome> {
    let tested = Tested::build(workspace);
    let stage = |kernel: Kernel| {
        let command = match &tested {
            Ok(tested) => kernel.machine(workspace, tested),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        Stage { limit: kernels::LIMIT, proof: Some(kernels::PROOF), ..Stage::new(kernel.series, command) }
    };
    // Fetched one after the other: apt locks.
    let stages = KERNELS.map(stage);
    let quietly = |stage| {
        let mut said = String::new();
        let outcome = execute(stage, |line| said.extend([line, "\n"]));
        (outcome, said)
    };
    let ended = thread::scope(|scope| {
        let running = stages.map(|stage| scope.spawn(move || quietly(stage)));
        running.map(|machine| machine.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let shown = |(outcome, said): (Outcome, String)| {
        print!("\n== {}\n{said}", outcome.stage);
        outcome
    };
    ended.map(shown).into()
}

fn printed(line: &str) {
    println!("{line}");
}

/// Runs a stage that is a command and counts the tests in its output; `heard` gets each line.
fn execute(stage: Stage, mut heard: impl FnMut(&str)) -> Outcome {
    let Stage { name, command, limit, proof } = stage;
    let started = Instant::now();
    let (mut tests, mut failures, mut proven) = (Tally::default(), Failures::default(), proof.is_none());
    let result = command.and_then(|mut command| {
        println!("\n== {name}: {}", process::line(&command));
        let status = process::each_line(&mut command, limit, |line| {
            proven |= proof == Some(line.trim_end());
            tests.read_line(line);
            failures.read_line(line);
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
    Outcome { stage: name, tests, failures, took: started.elapsed(), failure }
}

/// Runs a stage that is work of our own; says whether it succeeded.
fn timed(summary: &mut Summary, name: &'static str, work: impl FnOnce() -> Result<()>) -> bool {
    println!("\n== {name}");
    let started = Instant::now();
    let failure = work().err().map(|error| format!("{error:#}"));
    let succeeded = failure.is_none();
    summary.outcomes.push(Outcome {
        stage: name,
        tests: Tally::default(),
        failures: Failures::default(),
        took: started.elapsed(),
        failure,
    });
    succeeded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_tests_need_is_installed_before_them() {
        for tier in Tier::value_variants() {
            let least = if *tier == Tier::Kernels { Purpose::Kernels } else { Purpose::Tests };
            assert!(purpose_of(&[*tier]) >= least, "{tier:?}");
        }
        assert!(purpose_of(&[]) >= Purpose::Tests, "all of them");
        assert!(purpose_of(&[Tier::Kernels, Tier::Node]) >= Purpose::Tests);
    }

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
