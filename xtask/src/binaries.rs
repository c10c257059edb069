//! Builds every binary the way it is shipped and collects them in one folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, ensure};

use crate::bpf;
use crate::plugin;
use crate::workspace::{Target, TargetKind, Workspace};

/// Tells tests, the lab and the benchmarks where the built binaries are.
pub(crate) const BIN_DIR: &str = "BAREWIRE_BIN_DIR";

/// How a binary is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// What a runtime executes for every pod. See [`plugin`].
    Plugin,
    /// The yardstick of the benchmarks: an empty program built exactly as the plugin is.
    Floor,
    /// The kernel programs: one object file for another machine, the kernel. See [`bpf`].
    Kernel,
    /// Everything else that is shipped: profile `release`, optimised over all crates, which is most of the time that a build takes.
    Node,
    /// What drives nodes, or stands for something beside them: profile `dev`. The tests build most of it in any case.
    Driver,
    /// The benchmarks: profile `release`, as what they compare with.
    Bench,
    /// The simulation: profile `release` in a build of its own, because its tokio has a clock that can be paused, and what runs on nodes
    /// is not to have it.
    Simulation,
    /// The leader's decisions, simulated: profile `release`, of a few small crates.
    Leader,
}

impl Kind {
    /// What nodes run, and the lab that runs them.
    pub(crate) const OF_NODES: [Kind; 4] = [Kind::Plugin, Kind::Kernel, Kind::Node, Kind::Driver];
    /// What the tests run.
    pub(crate) const OF_TESTS: [Kind; 5] = [Kind::Plugin, Kind::Floor, Kind::Kernel, Kind::Node, Kind::Driver];
    /// All but the simulations, which nothing else needs.
    pub(crate) const ALL: [Kind; 6] = [Kind::Plugin, Kind::Floor, Kind::Kernel, Kind::Node, Kind::Driver, Kind::Bench];

    /// The kind of a workspace binary; `None` for this program itself.
    pub(crate) fn of(target: &Target) -> Option<Self> {
        match (target.package.as_str(), target.name.as_str()) {
            ("xtask", _) => None,
            ("ebpf", _) => Some(Kind::Kernel),
            ("cni-plugin", "exec-floor") => Some(Kind::Floor),
            ("cni-plugin", _) => Some(Kind::Plugin),
            ("simulation", _) => Some(Kind::Simulation),
            ("fleet-simulation", _) => Some(Kind::Leader),
            ("barewired" | "fleet" | "cli", _) => Some(Kind::Node),
            ("bench", _) => Some(Kind::Bench),
            _ => Some(Kind::Driver),
        }
    }

    fn is_executed_for_pods(self) -> bool {
        matches!(self, Kind::Plugin | Kind::Floor)
    }
}

/// Builds the binaries of `kinds` and returns the folder they are in.
pub(crate) fn build(workspace: &Workspace, kinds: &[Kind]) -> Result<PathBuf> {
    let binaries: Vec<_> = workspace
        .targets(TargetKind::Binary)
        .filter_map(|target| Some((Kind::of(target)?, target)))
        .filter(|(kind, _)| kinds.contains(kind))
        .collect();
    for kind in kinds {
        // Else what an earlier build has left in `dist` would be taken for this one's.
        ensure!(binaries.iter().any(|(found, _)| found == kind), "the workspace has no binary of the kind {kind:?}");
    }
    let of =
        |wanted: fn(Kind) -> bool| -> Vec<_> { binaries.iter().filter(|(kind, _)| wanted(*kind)).map(|(_, target)| *target).collect() };
    let for_pods = of(Kind::is_executed_for_pods);
    let kernel = of(|kind| kind == Kind::Kernel);
    let by_cargo: [(&[&str], &str, Vec<_>); 5] = [
        (&["--release"], "release", of(|kind| kind == Kind::Node)),
        (&["--release"], "release", of(|kind| kind == Kind::Bench)),
        (&["--release"], "release", of(|kind| kind == Kind::Simulation)),
        (&["--release"], "release", of(|kind| kind == Kind::Leader)),
        (&[], "debug", of(|kind| kind == Kind::Driver)),
    ];

    let dist = workspace.dist();
    fs::create_dir_all(&dist).with_context(|| format!("cannot create {}", dist.display()))?;
    if !for_pods.is_empty() {
        let built = plugin::build(workspace, &for_pods)?;
        for target in for_pods {
            collect(&built.join(&target.name), &dist, &target.name)?;
        }
    }
    for (how, _, targets) in by_cargo.iter().filter(|(.., targets)| !targets.is_empty()) {
        crate::process::run(&mut cargo_build(workspace, how, targets))?;
    }
    if !kernel.is_empty() {
        let built = bpf::build(workspace, &kernel)?;
        for target in kernel {
            collect(&built.join(&target.name), &dist, &format!("{}.o", target.name))?;
        }
    }
    for (_, folder, targets) in by_cargo {
        for target in targets {
            collect(&workspace.target_dir.join(folder).join(&target.name), &dist, &target.name)?;
        }
    }
    Ok(dist)
}

fn cargo_build(workspace: &Workspace, how: &[&str], targets: &[&Target]) -> Command {
    let mut command = workspace.cargo(&["build"]);
    command.args(how);
    for package in targets.iter().map(|target| &target.package).collect::<BTreeSet<_>>() {
        command.args(["--package", package]);
    }
    for target in targets {
        command.args(["--bin", &target.name]);
    }
    command
}

/// Puts `built` into `dist` as `name`, in one step, so that a program running from there is never half replaced.
fn collect(built: &Path, dist: &Path, name: &str) -> Result<()> {
    let staged = dist.join(format!(".{name}.{}", process::id()));
    fs::hard_link(built, &staged)
        .or_else(|_another_filesystem| fs::copy(built, &staged).map(drop))
        .and_then(|()| fs::rename(&staged, dist.join(name)))
        // A rename between two names of one file does nothing and leaves both.
        .and_then(|()| if staged.exists() { fs::remove_file(&staged) } else { Ok(()) })
        .with_context(|| format!("cannot collect {} in {}", built.display(), dist.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(package: &str, name: &str) -> Target {
        Target { package: package.to_owned(), name: name.to_owned(), kind: TargetKind::Binary }
    }

    #[test]
    fn what_a_runtime_executes_and_its_yardstick_are_built_alike() {
        let for_pods = |package, name| Kind::of(&binary(package, name)).map(Kind::is_executed_for_pods);
        assert_eq!(for_pods("cni-plugin", "barewire-cni"), Some(true));
        assert_eq!(for_pods("cni-plugin", "exec-floor"), Some(true));
        assert_eq!(for_pods("lab", "barewire-lab"), Some(false));
        assert_eq!(for_pods("barewired", "barewired"), Some(false));
        assert_eq!(for_pods("xtask", "xtask"), None);
        assert!(!Kind::OF_NODES.contains(&Kind::of(&binary("cni-plugin", "exec-floor")).unwrap()), "nodes run no yardstick");
    }

    #[test]
    fn only_what_is_shipped_or_measured_is_optimised() {
        let kind = |package, name| Kind::of(&binary(package, name)).unwrap();
        for (package, name) in [("barewired", "barewired"), ("fleet", "barewire-fleet"), ("cli", "barewire")] {
            assert_eq!(kind(package, name), Kind::Node, "{name} is shipped");
        }
        assert_eq!(kind("lab", "barewire-lab"), Kind::Driver);
        assert!(!Kind::OF_TESTS.contains(&kind("bench", "barewire-bench")), "the tests measure nothing");
    }

    #[test]
    fn the_kernel_programs_go_where_nodes_run() {
        let kind = Kind::of(&binary("ebpf", "barewire-ebpf")).unwrap();
        assert_eq!(kind, Kind::Kernel);
        assert!(Kind::OF_NODES.contains(&kind) && Kind::ALL.contains(&kind));
    }
}
