//! Earlier versions of this project, built from its history: what an upgrade begins with, and what figures are compared with.
//!
//! A build is kept in the cache, one folder a commit and compiler, and made once. It has what a node runs, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::bpf;
use crate::plugin;
use crate::process;
use crate::workspace::{self, Target, TargetKind, Workspace};

/// Tells the tests where the binaries of [`UPGRADED_FROM`] are.
pub(crate) const BIN_DIR: &str = "BAREWIRE_V0_1_0_BIN_DIR";
/// Tells them why there are none.
pub(crate) const MISSING: &str = "BAREWIRE_V0_1_0_MISSING";

/// A commit with the name that it has among people. A clone may lack tags; it is the commit that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) tag: &'static str,
    commit: &'static str,
}

/// What the upgrade test begins with.
pub(crate) const UPGRADED_FROM: Version = Version { tag: "v0.1.0", commit: "f6b1116217dde06db93bee0a2d1fcaa77293bb95" };

/// Glibc's, linked statically: how the plugin was built before it was built for musl.
const STATIC: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// What a node runs.
const PROGRAMS: [&str; 3] = ["barewired", "barewire-cni", "barewire-ebpf.o"];

/// The commit that a revision names, `v0.1.0` in a clone without tags too; `None` where the history that this clone has does not hold it.
///
/// # Errors
/// Where git cannot be executed.
pub(crate) fn commit(workspace: &Workspace, revision: &str) -> Result<Option<String>> {
    let revision = if revision == UPGRADED_FROM.tag { UPGRADED_FROM.commit } else { revision };
    let mut git = git(workspace);
    git.args(["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{revision}^{{commit}}")]);
    let output = git.stdin(Stdio::null()).stderr(Stdio::null()).output().context("execute git")?;
    let text = String::from_utf8(output.stdout).context("a commit's name")?;
    Ok(output.status.success().then(|| text.trim().to_owned()))
}

fn git(workspace: &Workspace) -> Command {
    let mut git = Command::new("git");
    // CI may run as another user than the clone's owner.
    git.arg("-c").arg(format!("safe.directory={}", workspace.root.display())).arg("-C").arg(&workspace.root);
    git
}

/// What the tests are told of [`UPGRADED_FROM`]: a variable and its value. It is built where it is not.
///
/// # Errors
/// Where it cannot be built.
pub(crate) fn for_tests(workspace: &Workspace) -> Result<(&'static str, PathBuf)> {
    let Version { tag, commit: wanted } = UPGRADED_FROM;
    match commit(workspace, tag)? {
        Some(commit) => Ok((BIN_DIR, build(workspace, &commit)?)),
        None => {
            let why = format!("this clone's history lacks {wanted} ({tag}): fetch all of it (git fetch --unshallow)");
            eprintln!("NOT TESTED: the upgrade from {tag}: {why}");
            Ok((MISSING, why.into()))
        }
    }
}

/// Builds what a node runs as it was at a commit, and returns the folder.
///
/// # Errors
/// Where it does not build.
pub(crate) fn build(workspace: &Workspace, commit: &str) -> Result<PathBuf> {
    let place = place(workspace, commit)?;
    let dist = place.join("dist");
    if PROGRAMS.iter().all(|program| dist.join(program).is_file()) {
        return Ok(dist);
    }
    eprintln!("building what nodes ran at {commit} (some minutes, once)");
    let then = checked_out(workspace, commit, &place)?;
    let built = [daemon(&then)?, plugin(&then)?, kernel_programs(&then)?];
    keep(&then, &dist, built.iter().zip(PROGRAMS))?;
    Ok(dist)
}

/// The simulation as it was at a commit, for who compares figures: it goes beside what nodes ran.
fn simulation(workspace: &Workspace, commit: &str) -> Result<()> {
    const PROGRAM: &str = "barewire-scale";
    let place = place(workspace, commit)?;
    let dist = place.join("dist");
    if dist.join(PROGRAM).is_file() {
        return Ok(());
    }
    let then = checked_out(workspace, commit, &place)?;
    process::run(&mut then.cargo(&["build", "--release", "--locked", "--package", "simulation", "--bin", PROGRAM]))?;
    keep(&then, &dist, [(&then.target_dir.join("release").join(PROGRAM), PROGRAM)])
}

/// One folder a commit and compiler.
fn place(workspace: &Workspace, commit: &str) -> Result<PathBuf> {
    Ok(workspace::cache_dir()?.join("earlier").join(format!("{commit}-{}", workspace.rustc)))
}

/// The source of a commit, below `place`.
fn checked_out(workspace: &Workspace, commit: &str, place: &Path) -> Result<Workspace> {
    let source = place.join("source");
    if source.exists() {
        fs::remove_dir_all(&source).with_context(|| format!("remove {}", source.display()))?;
    }
    fs::create_dir_all(&source).with_context(|| format!("make {}", source.display()))?;
    let archive = place.join("source.tar");
    process::run(git(workspace).args(["archive", "--output"]).arg(&archive).arg(commit))?;
    // As old as now: what has been built of today's sources, under the same names, is not up to date for them.
    process::run(Command::new("tar").args(["--touch", "-xf"]).arg(&archive).arg("-C").arg(&source))?;
    fs::remove_file(&archive).context("remove the archive")?;
    let then = Workspace { root: source, target_dir: place.join("target"), ..workspace.clone() };
    copy_what_is_built(&workspace.target_dir, &then.target_dir)?;
    Ok(then)
}

/// Most libraries of then are today's, and need not be built again where today's release is.
fn copy_what_is_built(from: &Path, to: &Path) -> Result<()> {
    const FOLDER: &str = "release";
    for part in [".fingerprint", "build", "deps"] {
        let (from, to) = (from.join(FOLDER).join(part), to.join(FOLDER));
        if from.exists() {
            fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
            process::run(Command::new("cp").arg("--archive").arg(&from).arg(&to))?;
        }
    }
    Ok(())
}

/// Puts what was built into `dist`, and removes what it was built in: gigabytes that nobody needs again.
fn keep<'a>(then: &Workspace, dist: &Path, built: impl IntoIterator<Item = (&'a PathBuf, &'a str)>) -> Result<()> {
    fs::create_dir_all(dist).with_context(|| format!("make {}", dist.display()))?;
    for (built, name) in built {
        let staged = dist.join(format!(".{name}"));
        fs::copy(built, &staged)
            .and_then(|_| fs::rename(&staged, dist.join(name)))
            .with_context(|| format!("keep {} in {}", built.display(), dist.display()))?;
    }
    for rest in [&then.root, &then.target_dir] {
        fs::remove_dir_all(rest).with_context(|| format!("remove {}", rest.display()))?;
    }
    Ok(())
}

/// By its package alone, as it was shipped: others have features of their libraries that it is not to have.
fn daemon(then: &Workspace) -> Result<PathBuf> {
    let package = if then.root.join("ipam/daemon").exists() { "barewired" } else { "ipam" };
    process::run(&mut then.cargo(&["build", "--release", "--locked", "--package", package, "--bin", PROGRAMS[0]]))?;
    Ok(then.target_dir.join("release").join(PROGRAMS[0]))
}

/// As it was built then: for musl since there is a module for that.
fn plugin(then: &Workspace) -> Result<PathBuf> {
    let target = binary("cni-plugin", PROGRAMS[1]);
    if then.root.join("xtask/src/plugin.rs").exists() {
        return Ok(plugin::build(then, &[&target])?.join(&target.name));
    }
    let mut cargo = then.cargo(&["build", "--profile", "plugin", "--locked", "--target", &then.host]);
    cargo.args(["--package", &target.package, "--bin", &target.name]);
    process::run(cargo.env("RUSTFLAGS", STATIC).env_remove("CARGO_ENCODED_RUSTFLAGS"))?;
    Ok(then.target_dir.join(&then.host).join("plugin").join(&target.name))
}

fn kernel_programs(then: &Workspace) -> Result<PathBuf> {
    let target = binary("ebpf", "barewire-ebpf");
    Ok(bpf::build(then, &[&target])?.join(&target.name))
}

fn binary(package: &str, name: &str) -> Target {
    Target { package: package.to_owned(), name: name.to_owned(), kind: TargetKind::Binary }
}

/// A folder with the programs of a revision beside those that drive them, which are today's.
///
/// # Errors
/// Where the revision is not known here, or does not build.
pub(crate) fn dist_beside(workspace: &Workspace, revision: &str, dist: &Path, with_simulation: bool) -> Result<PathBuf> {
    let Some(commit) = commit(workspace, revision)? else {
        bail!("{revision:?} names no commit that this clone's history holds: `git log`, or `git fetch --unshallow --tags`");
    };
    let then = build(workspace, &commit)?;
    if with_simulation {
        simulation(workspace, &commit)?;
    }
    let beside = workspace.target_dir.join(format!("against-{commit}"));
    fs::create_dir_all(&beside).with_context(|| format!("make {}", beside.display()))?;
    for entry in fs::read_dir(dist).context("read the folder of binaries")? {
        let path = entry?.path();
        let Some(name) = path.file_name().filter(|_| path.is_file()) else { continue };
        let earlier = then.join(name);
        fs::copy(if earlier.is_file() { &earlier } else { &path }, beside.join(name)).with_context(|| format!("copy {name:?}"))?;
    }
    Ok(beside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_needs_no_tag_and_what_is_not_there_is_none() {
        let workspace = Workspace::load().unwrap();
        // In a clone of the whole history; in a source archive there is none.
        if let Some(head) = commit(&workspace, "HEAD").unwrap() {
            assert_eq!(head.len(), 40);
            assert!(commit(&workspace, UPGRADED_FROM.tag).unwrap().is_none_or(|found| found == UPGRADED_FROM.commit));
        }
        assert_eq!(commit(&workspace, "0123456789012345678901234567890123456789").unwrap(), None);
    }
}
