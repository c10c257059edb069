//! Installs what is missing and says what it did; a second run changes nothing.
//!
//! Everything that is needed stands in [`TOOLS`], one row each. A new Debian package or cargo-installed program is a
//! new row; a new kind of source (Python packages, a BPF toolchain) is a variant of [`Source`] and its rows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace::{self, Workspace};

/// What a tool is needed for. A purpose includes the purposes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Building, and running nodes: the lab, the demo, the benchmarks.
    Nodes,
    /// Checking the source beyond what cargo itself can.
    Checks,
}

/// Where a tool comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A Debian package of the row's name.
    Debian,
    /// A program of the row's name on crates.io, built once per version into the cache.
    Crate { version: &'static str },
}

struct Tool {
    name: &'static str,
    source: Source,
    purpose: Purpose,
}

const fn debian(name: &'static str) -> Tool {
    Tool { name, source: Source::Debian, purpose: Purpose::Nodes }
}

pub(crate) const CARGO_DENY: &str = "cargo-deny";

const TOOLS: &[Tool] = &[
    // Compiling and linking.
    debian("gcc"),
    debian("libc6-dev"),
    // What a node runs: the container runtime, and the reference plugins that are chained and measured against.
    debian("containerd"),
    debian("runc"),
    debian("containernetworking-plugins"),
    debian("iptables"),
    debian("nftables"),
    debian("iproute2"),
    debian("busybox-static"),
    debian("procps"),
    debian("util-linux"),
    // What the tests and the demo look with.
    debian("iputils-ping"),
    debian("iperf3"),
    debian("tcpdump"),
    debian("ethtool"),
    debian("conntrack"),
    // Two minutes to build, once: see deny.toml.
    Tool { name: CARGO_DENY, source: Source::Crate { version: "0.20.2" }, purpose: Purpose::Checks },
];

/// Makes the machine fit for `purpose`.
///
/// # Errors
/// Where something is missing and cannot be installed here; the message says what to do by hand.
pub(crate) fn run(workspace: &Workspace, purpose: Purpose) -> Result<()> {
    if !compiler_is_new_enough(&workspace.rustc, &workspace.rust_version) {
        bail!(
            "rustc {} is older than {}, which Cargo.toml asks for: install a newer stable Rust (`rustup update stable`)",
            workspace.rustc,
            workspace.rust_version
        );
    }
    if !is_root()? {
        bail!("namespaces, containerd and apt-get need root: run the same command as root");
    }
    let needed = || TOOLS.iter().filter(|tool| tool.purpose <= purpose);

    let packages: Vec<_> = needed().filter(|tool| tool.source == Source::Debian).map(|tool| tool.name).collect();
    let missing = missing_packages(&packages)?;
    if !missing.is_empty() {
        install_packages(&missing)?;
    }
    let mut built = Vec::new();
    for tool in needed() {
        if let Source::Crate { version } = tool.source
            && !crate_program(tool.name, version)?.exists()
        {
            build_crate(tool.name, version)?;
            built.push(tool.name);
        }
    }
    if missing.is_empty() && built.is_empty() {
        eprintln!("bootstrap: rustc {}, {} tools: nothing is missing", workspace.rustc, needed().count());
    } else {
        eprintln!("bootstrap: installed {}", [missing, built].concat().join(" "));
    }
    Ok(())
}

/// The program of a row whose source is [`Source::Crate`], if it has been built.
pub(crate) fn installed_crate(name: &str) -> Result<Option<PathBuf>> {
    for tool in TOOLS.iter().filter(|tool| tool.name == name) {
        if let Source::Crate { version } = tool.source {
            return Ok(Some(crate_program(name, version)?).filter(|program| program.exists()));
        }
    }
    Ok(None)
}

fn compiler_is_new_enough(installed: &str, required: &str) -> bool {
    let numbers = |version: &str| -> Vec<u32> { version.split(['.', '-']).map_while(|part| part.parse().ok()).collect() };
    numbers(installed) >= numbers(required)
}

/// The owner of our own entry in /proc is our effective user.
fn is_root() -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata("/proc/self").context("cannot read /proc: is it mounted?")?.uid() == 0)
}

fn missing_packages<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\\n"])
        .args(wanted)
        .stdin(Stdio::null())
        .output();
    // The exit code only says that some package is unknown, which the output tells better.
    match output {
        Ok(output) => Ok(not_installed(wanted, &String::from_utf8_lossy(&output.stdout))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
            "dpkg-query is not here, so this is no Debian: install what these Debian packages hold by your own means, \
             then use cargo without xtask: {}",
            wanted.join(" ")
        ),
        Err(error) => Err(error).context("cannot run dpkg-query"),
    }
}

fn not_installed<'a>(wanted: &[&'a str], listing: &str) -> Vec<&'a str> {
    let installed: Vec<_> = listing.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    wanted.iter().copied().filter(|package| !installed.contains(package)).collect()
}

fn install_packages(missing: &[&str]) -> Result<()> {
    eprintln!("bootstrap: apt-get install {}", missing.join(" "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-o", "DPkg::Lock::Timeout=120"]).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let installed = process::run(&mut apt(&["update"]))
        .and_then(|()| process::run(apt(&["install", "--yes", "--no-install-recommends"]).args(missing)));
    installed.with_context(|| {
        format!(
            "could not install {0}: check the package sources and the network, or install by hand: apt-get install {0}",
            missing.join(" ")
        )
    })
}

fn crate_root(name: &str, version: &str) -> Result<PathBuf> {
    Ok(workspace::cache_dir()?.join("tools").join(format!("{name}-{version}")))
}

fn crate_program(name: &str, version: &str) -> Result<PathBuf> {
    Ok(crate_root(name, version)?.join("bin").join(name))
}

fn build_crate(name: &str, version: &str) -> Result<()> {
    let root = crate_root(name, version)?;
    eprintln!("bootstrap: building {name} {version} into {}", root.display());
    let started = Instant::now();
    let mut install = Command::new(workspace::cargo());
    install
        .args(["install", "--quiet", "--locked", "--version", version, "--root"])
        .arg(&root)
        .arg(name)
        // Outside of any workspace: neither our lints nor our target directory are meant for it.
        .current_dir("/")
        .env_remove("CARGO_TARGET_DIR");
    process::run(&mut install).with_context(|| by_hand(name, version, &root))?;
    eprintln!("bootstrap: {name} built in {} s", started.elapsed().as_secs());
    Ok(())
}

fn by_hand(name: &str, version: &str, root: &Path) -> String {
    format!(
        "could not build {name}: check the network, or by hand: \
         cargo install --locked --version {version} --root {} {name}",
        root.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_in_the_state_installed_count() {
        let listing = "runc installed\niptables config-files\n";
        assert_eq!(not_installed(&["runc", "iptables", "tcpdump"], listing), ["iptables", "tcpdump"]);
    }

    #[test]
    fn compilers_are_compared_by_number() {
        assert!(compiler_is_new_enough("1.95.0", "1.95"));
        assert!(compiler_is_new_enough("1.100.0", "1.95"));
        assert!(compiler_is_new_enough("1.96.0-nightly", "1.95.1"));
        assert!(!compiler_is_new_enough("1.94.1", "1.95"));
    }

    #[test]
    fn each_tool_has_one_row() {
        let mut names: Vec<_> = TOOLS.iter().map(|tool| tool.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TOOLS.len());
    }
}
