//! `cargo xtask dist`: what is released. A tarball that `barewire install` installs from, a Debian package, a bill of materials, and the
//! digests of all three. The programs are those that every test runs: the plugin static, the others linked with glibc.
//!
//! Times, owners and orders of files are fixed, so that the same programs give the same archives.

mod bill;
mod package;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::binaries::{self, Kind};
use crate::process;
use crate::workspace::Workspace;

/// Files of a release beside its programs, by their place in the workspace.
const TEXTS: [&str; 4] = ["deploy/barewired.toml", "LICENSE", "CHANGELOG.md", "docs/install.md"];

const PROGRAMS: [&str; 4] = ["barewired", "barewire", "barewire-cni", "barewire-ebpf.o"];

/// Builds a release into the folder `release-files` of the target directory; where `is_built`, of what `cargo xtask build` has left.
///
/// # Errors
/// Where it does not build, or a program of Debian's is missing.
pub(crate) fn run(workspace: &Workspace, is_built: bool) -> Result<()> {
    let dist = if is_built { workspace.dist() } else { binaries::build(workspace, &[Kind::Plugin, Kind::Kernel, Kind::Node])? };
    let programs = PROGRAMS.map(|name| (name, dist.join(name)));
    let release = workspace.target_dir.join("release-files");
    let _ = fs::remove_dir_all(&release);
    fs::create_dir_all(&release).with_context(|| format!("cannot create {}", release.display()))?;
    let epoch = process::stdout_of(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(&workspace.root))?;
    let named = package::Named { version: env!("CARGO_PKG_VERSION"), architecture: std::env::consts::ARCH, epoch: epoch.trim() };
    let texts: Vec<_> = TEXTS.iter().map(|text| workspace.root.join(text)).collect();
    let mut files = vec![package::tarball(&named, &programs, &texts, &release)?];
    files.push(package::debian(&named, &programs, &workspace.root, &release)?);
    files.push(bill::write(workspace, &named, &release)?);
    let sums = digests(&release, &files)?;
    fs::write(release.join("SHA256SUMS"), &sums)?;
    print!("{sums}");
    eprintln!("the release is in {}", release.display());
    Ok(())
}

/// As sha256sum writes and checks them.
fn digests(folder: &Path, files: &[String]) -> Result<String> {
    process::stdout_of(Command::new("sha256sum").args(files).current_dir(folder))
}
