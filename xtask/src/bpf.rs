//! The kernel programs: for a machine of their own, `bpfel-unknown-none`, linked by bpf-linker.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::bootstrap;
use crate::compiler::Compiler;
use crate::process;
use crate::workspace::{Target, Workspace};

const TARGET: &str = "bpfel-unknown-none";

/// A warning is an error here, because clippy does not run on this target.
///
/// The kernels of x86-64 and arm64 let programs read packets at any alignment; without that leave an IPv6 address is put together byte
/// by byte, and the programs need more stack than there is.
const RUSTFLAGS: &str = "-C linker=bpf-linker -C debuginfo=2 -C link-arg=--btf -C link-arg=--cpu-features=+allows-misaligned-mem-access \
                         -C panic=abort -D warnings";

/// Builds `targets` and returns the folder they are in.
pub(crate) fn build(workspace: &Workspace, targets: &[&Target]) -> Result<PathBuf> {
    let compiler = Compiler::find(&workspace.rust_version)?;
    let linker = bootstrap::installed_crate(bootstrap::BPF_LINKER)?.context("bpf-linker is not installed: run `cargo xtask bootstrap`")?;
    // What another linker has linked is not up to date either.
    let purpose = format!("bpf-*-linker-{}", bootstrap::BPF_LINKER_VERSION);
    let (mut command, target_dir) = compiler.build(workspace, &purpose, "core", linker.parent())?;
    command.args(["--release", "--features", "bpf", "--target", TARGET]).env("RUSTFLAGS", RUSTFLAGS);
    for target in targets {
        command.args(["--package", &target.package, "--bin", &target.name]);
    }
    eprintln!("kernel programs: {compiler}");
    process::run(&mut command)?;
    Ok(target_dir.join(TARGET).join("release"))
}
