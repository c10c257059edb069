//! What cargo knows of this workspace: where it stands, where its artefacts go, which binaries and test targets it has.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;

/// The workspace that holds the current directory.
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
        let metadata = process::stdout_of(Command::new(cargo()).args(["metadata", "--no-deps", "--offline", "--format-version", "1"]))?;
        let metadata: Value = serde_json::from_str(&metadata).context("cannot read the output of cargo metadata")?;
        let verbose = process::stdout_of(Command::new(rustc()).arg("-vV"))?;
        let rustc = field(&verbose, "release")?.to_owned();
        let host = field(&verbose, "host")?.to_owned();

        let root = PathBuf::from(text(&metadata, "workspace_root")?);
        let target_dir = match cached_target_dir(&verbose)? {
            Some(dir) => dir,
            None => PathBuf::from(text(&metadata, "target_directory")?),
        };
        let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
        let rust_version =
            packages.iter().find_map(|package| package["rust_version"].as_str()).context("no package states its rust-version")?.to_owned();
        let mut targets = Vec::new();
        for package in packages {
            targets.extend(targets_of(package)?);
        }
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

fn targets_of(package: &Value) -> Result<Vec<Target>> {
    let mut found = Vec::new();
    for target in package["targets"].as_array().context("a package without targets in cargo metadata")? {
        let kind = match target["kind"][0].as_str() {
            Some("lib") => TargetKind::Library,
            Some("bin") => TargetKind::Binary,
            Some("test") => TargetKind::Test,
            _ => continue,
        };
        found.push(Target { package: text(package, "name")?.to_owned(), name: text(target, "name")?.to_owned(), kind });
    }
    Ok(found)
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("cargo metadata has no text under {key:?}"))
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
    use serde_json::json;

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

    #[test]
    fn build_scripts_are_no_targets_of_ours() {
        let package = json!({"name": "ipam", "targets": [
            {"name": "build-script-build", "kind": ["custom-build"]},
            {"name": "ipam", "kind": ["lib"]},
            {"name": "barewired", "kind": ["bin"]},
            {"name": "conform", "kind": ["test"]},
        ]});
        let kinds: Vec<_> = targets_of(&package).unwrap().iter().map(|target| target.kind).collect();
        assert_eq!(kinds, [TargetKind::Library, TargetKind::Binary, TargetKind::Test]);
    }
}
