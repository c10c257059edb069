//! The machine that the suite runs on: what it has before and after, and what the engine leaves there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use lab::command::{CONFIGURE, run};
use lab::state::{BASE, ProcessIdentity};

use crate::engine::LAB;

/// Commands whose answer is the state of the host's network.
const LOOK: [&[&str]; 6] = [
    &["ip", "-brief", "link", "show"],
    &["ip", "-brief", "address", "show"],
    &["ip", "-4", "route", "show", "table", "all"],
    &["ip", "-6", "route", "show", "table", "all"],
    &["ip", "rule", "show"],
    &["nft", "--stateless", "list", "ruleset"],
];

/// What containerlab and Docker write on a machine that is theirs: kernel parameters, and names.
const FILES: [&str; 7] = [
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/conf/all",
    "/proc/sys/net/ipv4/conf/default",
    "/proc/sys/net/ipv6/conf/all",
    "/proc/sys/net/ipv6/conf/default",
    "/etc/hosts",
    "/etc/ssh/ssh_config.d",
];

/// The host's network, line by line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Network(BTreeMap<String, Vec<String>>);

impl Network {
    pub(crate) fn look() -> Result<Self> {
        let mut seen = BTreeMap::new();
        for argv in LOOK {
            let said = run(Command::new(argv[0]).args(&argv[1..]), CONFIGURE)?.success()?;
            seen.insert(argv.join(" "), said.lines().map(without_lifetime).collect());
        }
        for file in FILES.iter().map(Path::new).flat_map(files) {
            // Some kernel parameters cannot be read.
            if let Ok(text) = fs::read_to_string(&file) {
                seen.insert(file.display().to_string(), text.lines().map(str::to_owned).collect());
            }
        }
        Ok(Self(seen))
    }

    /// That it is what it was.
    pub(crate) fn must_be(&self, now: &Self) -> Result<()> {
        for what in self.0.keys().chain(now.0.keys()) {
            let (before, after) = (self.0.get(what), now.0.get(what));
            ensure!(before == after, "{what}: {before:?} before, {after:?} after");
        }
        Ok(())
    }
}

/// A route that was learned says how many seconds it has.
fn without_lifetime(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_lifetime = |at: usize| words[at] == "expires" || at > 0 && words[at - 1] == "expires";
    (0..words.len()).filter(|at| !is_lifetime(*at)).map(|at| words[at]).collect::<Vec<_>>().join(" ")
}

/// The file, or those of the directory.
fn files(path: &Path) -> Vec<PathBuf> {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => vec![path.to_owned()],
    }
}

/// What an engine has on the host besides its namespaces.
#[derive(Debug)]
pub(crate) struct Traces {
    pub(crate) processes: Vec<ProcessIdentity>,
    cgroups: Vec<PathBuf>,
}

impl Traces {
    /// Those of the engine that is up: its containers by their cgroups, and `more`.
    pub(crate) fn look(more: &[&ProcessIdentity]) -> Result<Self> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup")?.flatten().map(|entry| entry.path());
        let roots = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|root| root.join("barewire-lab").join(LAB));
        let cgroups: Vec<PathBuf> = roots.filter(|cgroup| cgroup.is_dir()).collect();
        let mut processes: Vec<ProcessIdentity> = more.iter().map(|process| (*process).clone()).collect();
        for pid in cgroups.first().into_iter().flat_map(|cgroup| members(cgroup)) {
            processes.extend(ProcessIdentity::of(pid));
        }
        Ok(Self { processes, cgroups })
    }

    pub(crate) fn must_be_gone(&self) -> Result<()> {
        let alive: Vec<_> = self.processes.iter().filter(|process| process.is_alive()).collect();
        ensure!(alive.is_empty(), "processes are left: {alive:?}");
        let directories = self.cgroups.iter().cloned().chain([Path::new(BASE).join(LAB)]);
        let left: Vec<_> = directories.filter(|directory| directory.exists()).collect();
        ensure!(left.is_empty(), "directories are left: {left:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let left: Vec<_> = mounts.lines().filter(|mount| mount.contains("docker") || mount.contains(LAB)).collect();
        ensure!(left.is_empty(), "mounts are left: {left:?}");
        Ok(())
    }
}

/// The processes of a cgroup and of those below it.
fn members(cgroup: &Path) -> Vec<u32> {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let below = fs::read_dir(cgroup).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    own.lines().filter_map(|pid| pid.parse().ok()).chain(below.flat_map(|child| members(&child))).collect()
}
