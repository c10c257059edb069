//! What cargo knows of this workspace: where it stands, where its artefacts go, which binaries and test targets it has.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cargo_metadata::{MetadataCommand, Package};

use crate::process;

/// The workspace that holds the current directory.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// Where cargo puts artefacts: `CARGO_TARGET_DIR`, or the cache (see [`cache_dir`]), or `target` in the root.
    pub(crate) target_dir: PathBuf,
    pub(crate) targets: Vec<Target>,
    /// The oldest compiler that the packages accept, e.g. `1.95`.
    pub(crate) rust_version: String,
    /// The installed compiler, e.g. `1.95.0`.
    pub(crate) rustc: String,
    /// The triple that the installed compiler builds for by itself.
    pub(crate) host: String,
}

/// A thing cargo can build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) package: String,
    pub(crate) name: String,
    pub(crate) kind: TargetKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetKind {
    Library,
    Binary,
    Test,
}

impl Workspace {
    pub(crate) fn load() -> Result<Self> {
        let metadata = MetadataCommand::new()
            .cargo_path(cargo())
            .no_deps()
            .other_options(["--offline".to_owned()])
            .exec()
            .context("cargo metadata")?;
        let verbose = process::stdout_of(Command::new(rustc()).arg("-vV"))?;
        let rustc = field(&verbose, "release")?.to_owned();
        let host = field(&verbose, "host")?.to_owned();

        let root = metadata.workspace_root.clone().into_std_path_buf();
        let target_dir = match cached_target_dir(&verbose)? {
            Some(dir) => dir,
            None => metadata.target_directory.clone().into_std_path_buf(),
        };
        let rust_version = metadata.packages.iter().find_map(|package| package.rust_version.as_ref());
        let rust_version = rust_version.context("no package states its rust-version")?;
        let rust_version = format!("{}.{}", rust_version.major, rust_version.minor);
        let targets = metadata.packages.iter().flat_map(targets_of).collect();
        Ok(Self { root, target_dir, targets, rust_version, rustc, host })
    }

    /// A cargo command at the workspace's root that shares this workspace's target directory.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(cargo());
        command.args(arguments).current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target_dir);
        command
    }

    /// Where the built binaries are collected.
    pub(crate) fn dist(&self) -> PathBuf {
        self.target_dir.join("dist")
    }

    pub(crate) fn targets(&self, kind: TargetKind) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(move |target| target.kind == kind)
    }
}

/// `$BAREWIRE_CACHE`, or `~/.cache/barewire`: what outlives a clone (tools, target directories in CI).
pub(crate) fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("BAREWIRE_CACHE") {
        return Ok(PathBuf::from(dir));
    }
    let home = env::var_os("HOME").context("neither BAREWIRE_CACHE nor HOME is set: set BAREWIRE_CACHE to a folder")?;
    Ok(Path::new(&home).join(".cache/barewire"))
}

/// The target directory outside of the clone, one per compiler, which CI and `BAREWIRE_CACHE` ask for.
///
/// An explicit `CARGO_TARGET_DIR` goes before it: then this is `None` and cargo's own answer holds.
fn cached_target_dir(rustc_verbose: &str) -> Result<Option<PathBuf>> {
    let wanted = env::var_os("BAREWIRE_CACHE").is_some() || env::var("CI").is_ok_and(|ci| ci == "true");
    if !wanted || env::var_os("CARGO_TARGET_DIR").is_some() {
        return Ok(None);
    }
    Ok(Some(cache_dir()?.join(target_dir_name(rustc_verbose)?)))
}

/// `target-<release>-<commit>`; `.ci/run` forms the same name.
fn target_dir_name(rustc_verbose: &str) -> Result<String> {
    let commit: String = field(rustc_verbose, "commit-hash")?.chars().take(9).collect();
    Ok(format!("target-{}-{commit}", field(rustc_verbose, "release")?))
}

fn targets_of(package: &Package) -> impl Iterator<Item = Target> {
    let of = |target: &cargo_metadata::Target| {
        let kind = match target.kind.first()? {
            cargo_metadata::TargetKind::Lib => TargetKind::Library,
            cargo_metadata::TargetKind::Bin => TargetKind::Binary,
            cargo_metadata::TargetKind::Test => TargetKind::Test,
            _ => return None,
        };
        Some(Target { package: package.name.to_string(), name: target.name.clone(), kind })
    };
    // A test that needs a feature has a stage of its own; a binary that does is built with it.
    let has_its_turn = |target: &&cargo_metadata::Target| !target.is_test() || target.required_features.is_empty();
    package.targets.iter().filter(has_its_turn).filter_map(of)
}

pub(crate) fn field<'a>(rustc_verbose: &'a str, key: &str) -> Result<&'a str> {
    let found = rustc_verbose.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    match found {
        Some(value) => Ok(value),
        None => bail!("`rustc -vV` does not say its {key:?}: {rustc_verbose}"),
    }
}

/// The cargo that runs this program, so that a chosen toolchain stays chosen.
pub(crate) fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn rustc() -> OsString {
    env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERBOSE: &str = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\ncommit-hash: 59807616e1fa2540\n\
                           host: x86_64-unknown-linux-gnu\nrelease: 1.95.0\n";

    #[test]
    fn a_target_directory_belongs_to_one_compiler() {
        assert_eq!(target_dir_name(VERBOSE).unwrap(), "target-1.95.0-59807616e");
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = field("release: 1.95.0", "host").unwrap_err().to_string();
        assert!(error.contains("\"host\""), "{error}");
    }
}
