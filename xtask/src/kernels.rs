//! Other kernels than the one that runs here: Debian's, each started in an emulated machine with one program, the kernel
//! programs' tests (`datapath/tests/programs`), linked statically.
//!
//! Emulation (TCG) needs neither `/dev/kvm` nor the kernel to be installed. A kernel is fetched once and kept in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::initramfs::Initramfs;
use crate::process;
use crate::workspace::{self, Workspace};

/// From the start of the emulator to its end.
pub(crate) const LIMIT: Duration = Duration::from_secs(540);
/// What the machine says last where every test passed; an emulator's exit status does not tell.
pub(crate) const PROOF: &str = "every test passed";

/// Kernels that Barewire promises to run on, see docs/kernels.md. The running one is tested by every other tier.
pub(crate) const KERNELS: [Kernel; 2] = [
    Kernel { series: "linux-6.1", package: "linux-image-amd64", release: "bookworm" },
    Kernel { series: "linux-6.12", package: "linux-image-cloud-amd64", release: "bookworm-backports" },
];

/// Modules of what Debian's kernels have not built in. fq is for departure times, which the kernel that runs here may not be able to keep.
const MODULES: [&str; 4] = ["veth", "sch_ingress", "cls_bpf", "sch_fq"];

const SOURCES: &str = "\
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm-backports main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security bookworm-security main
";

const BUSYBOX: &str = "/bin/busybox";

/// Without what measures rates of many connections, talks to services, or goes by tables of ours alone: emulated it takes most of the time, and
/// tells nothing about a kernel.
const INIT: &str = "\
#!/bin/busybox sh
box=/bin/busybox
$box mount -t proc proc /proc
$box mount -t sysfs sysfs /sys
$box mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do $box insmod $module || echo \"cannot load $module\"; done
echo \"kernel $($box uname -r)\"
BAREWIRE_BIN_DIR=/ BAREWIRE_REQUIRE_ALL=1 BAREWIRE_REQUIRE_FQ=1 RUST_BACKTRACE=0 /programs --test-threads=1 --nocapture --skip share:: --skip services:: --skip allowed:: --skip notes:: && echo 'every test passed'
$box poweroff -f
";

/// A kernel of Debian's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    /// The name of its stage.
    pub(crate) series: &'static str,
    /// The package that depends on the newest of its series.
    package: &'static str,
    release: &'static str,
}

/// The static test program and the object file, for every kernel.
pub(crate) struct Tested {
    program: PathBuf,
    object: PathBuf,
}

impl Tested {
    pub(crate) fn build(workspace: &Workspace) -> Result<Self> {
        let mut command = workspace.cargo(&["test", "--no-run", "--package", "datapath", "--test", "programs", "--message-format", "json"]);
        command.args(["--target", &workspace.host]).env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("LD_LIBRARY_PATH");
        command.env("RUSTFLAGS", "-C target-feature=+crt-static -C debuginfo=0 -C strip=symbols");
        let messages = process::stdout_of(&mut command)?;
        let mut executables =
            messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["executable"].as_str().map(PathBuf::from));
        let program = executables.next_back().context("cargo names no executable of the test program")?;
        Ok(Self { program, object: workspace.dist().join("barewire-ebpf.o") })
    }
}

impl Kernel {
    /// The emulator, ready to run the tests in this kernel.
    ///
    /// # Errors
    /// Where the kernel cannot be fetched or its archive not be written.
    pub(crate) fn machine(self, workspace: &Workspace, tested: &Tested) -> Result<Command> {
        let installed = self.fetch()?;
        let image = only_file_in(&installed.join("boot"), "vmlinuz-")?;
        let folder = workspace.target_dir.join("kernels");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let archive = folder.join(format!("{}.cpio", self.series));
        fs::write(&archive, initramfs(&installed, tested)?).with_context(|| format!("cannot write {}", archive.display()))?;

        let mut command = Command::new("qemu-system-x86_64");
        // Without cmpxchg16b: QEMU 7.2 emulates it with wrong flags, which a kernel notices anywhere, as a spurious trap.
        command.args(["-accel", "tcg", "-cpu", "max,-cx16", "-smp", "1", "-m", "512", "-nic", "none", "-no-reboot"]);
        command.args(["-display", "none", "-monitor", "none", "-serial", "stdio"]);
        command.arg("-kernel").arg(image).arg("-initrd").arg(archive);
        command.args(["-append", "console=ttyS0 quiet oops=panic panic=-1"]);
        Ok(command)
    }

    /// The folder that the kernel's package is unpacked in. Fetched once; remove the folder to have a newer one.
    fn fetch(self) -> Result<PathBuf> {
        let kernels = workspace::cache_dir()?.join("kernels");
        let current = kernels.join(self.series);
        if current.join("boot").exists() {
            return Ok(current);
        }
        let apt = Apt::new(&kernels.join("apt"))?;
        apt.run(&["update"])?;
        let package = apt.newest(self.package, self.release)?;
        let unpacked = kernels.join(&package);
        if !unpacked.exists() {
            eprintln!("kernels: fetching {package}");
            let staged = kernels.join(format!(".{package}.{}", std::process::id()));
            fs::create_dir_all(&staged).with_context(|| format!("cannot create {}", staged.display()))?;
            apt.run_in(&staged, &["download", &package])?;
            let deb = only_file_in(&staged, &package)?;
            process::run(Command::new("dpkg").arg("-x").arg(&deb).arg(&staged))?;
            fs::remove_file(&deb).and_then(|()| fs::rename(&staged, &unpacked)).with_context(|| format!("cannot keep {package}"))?;
        }
        // A link that leads nowhere is in the way of a new one.
        let _absent = fs::remove_file(&current);
        std::os::unix::fs::symlink(&package, &current).with_context(|| format!("cannot link {}", current.display()))?;
        Ok(current)
    }
}

/// apt with sources and state of its own: the machine's are not touched.
struct Apt {
    configuration: PathBuf,
}

impl Apt {
    fn new(folder: &Path) -> Result<Self> {
        for state in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(state)).with_context(|| format!("cannot create {}", folder.join(state).display()))?;
        }
        let path = |name: &str| folder.join(name).display().to_string();
        let configuration = folder.join("apt.conf");
        let settings = format!(
            "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"-\";\nDir::State::lists \"{}\";\nDir::Cache \"{}\";\n\
             APT::Sandbox::User \"root\";\nAcquire::Retries \"3\";\n",
            path("sources.list"),
            path("lists"),
            path("cache"),
        );
        fs::write(folder.join("sources.list"), SOURCES)
            .and_then(|()| fs::write(&configuration, settings))
            .with_context(|| format!("cannot write to {}", folder.display()))?;
        Ok(Self { configuration })
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        self.run_in(Path::new("/"), arguments)
    }

    fn run_in(&self, folder: &Path, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("apt-get");
        process::run(command.arg("-qq").args(arguments).current_dir(folder).env("APT_CONFIG", &self.configuration))
    }

    /// The package that `package` of a release depends on.
    fn newest(&self, package: &str, release: &str) -> Result<String> {
        let mut command = Command::new("apt-cache");
        command.args(["show", &format!("{package}/{release}")]).env("APT_CONFIG", &self.configuration);
        kernel_package(&process::stdout_of(&mut command)?).with_context(|| format!("{package} of {release} names no kernel"))
    }
}

/// The kernel that a description of a package depends on.
fn kernel_package(description: &str) -> Option<String> {
    let depends = description.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let first = depends.split([' ', ',']).next()?;
    first.starts_with("linux-image-").then(|| first.to_owned())
}

fn initramfs(installed: &Path, tested: &Tested) -> Result<Vec<u8>> {
    let mut initramfs = Initramfs::with_directories(&["bin", "modules", "proc", "sys"]);
    initramfs.copy("bin/busybox", Path::new(BUSYBOX))?;
    for name in MODULES {
        initramfs.file(&format!("modules/{name}.ko"), &module(&installed.join("lib/modules"), name)?);
    }
    initramfs.copy("barewire-ebpf.o", &tested.object)?;
    initramfs.copy("programs", &tested.program)?;
    initramfs.file("init", INIT.as_bytes());
    Ok(initramfs.finish())
}

/// A module's contents; some kernels have theirs compressed.
fn module(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let Some(path) = find(folder, &format!("{name}.ko"))? else { bail!("no module {name} in {}", folder.display()) };
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
    }
    let output = Command::new("xz").arg("-dc").arg(&path).output().context("cannot run xz")?;
    if !output.status.success() {
        bail!("cannot unpack {}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

/// The file below `folder` whose name is `name`, perhaps followed by a dot and more.
fn find(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        let found = match path.file_name().and_then(|found| found.to_str()?.strip_prefix(name)) {
            _ if path.is_dir() => find(&path, name)?,
            Some(rest) if rest.is_empty() || rest.starts_with('.') => Some(path),
            _ => None,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn only_file_in(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut found = entries.filter_map(Result::ok).filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry.path()),
        _ => bail!("{} should hold one file {prefix}…: remove the folder and run again", folder.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_package_names_its_kernel() {
        let description = "Package: linux-image-amd64\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\nSection: kernel\n";
        assert_eq!(kernel_package(description).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(kernel_package("Depends: libc6\n"), None);
    }

    #[test]
    fn what_the_machine_says_last_is_what_is_waited_for() {
        assert!(INIT.contains(&format!("&& echo '{PROOF}'")));
    }
}
