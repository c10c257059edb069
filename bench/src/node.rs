//! A node of our own: network and mount namespaces in which this process, its threads and its children are alone.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::netns::Namespace;

/// How large packets are on the uplink, as in a cloud network with jumbo frames.
pub const UPLINK_MTU: u32 = 9_001;

/// The node. Dropping it does not bring the process back: it ends with the process.
#[derive(Debug)]
pub struct Node {
    /// What the uplink's other end is in.
    _fabric: Namespace,
}

impl Node {
    /// Makes the calling process a node with `lo`, an uplink `eth1` with an address and a default route of each
    /// family, and its own `/run` (in memory) and `/sys`.
    ///
    /// # Errors
    /// Without root, and when other threads run already: they would stay outside.
    pub fn become_one() -> Result<Self> {
        let threads = fs::read_dir("/proc/self/task").context("cannot count threads")?.count();
        if threads != 1 {
            bail!("{threads} threads run already: become a node before starting any");
        }
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("cannot create namespaces: run as root")?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("cannot make mounts private")?;
        mount(Some("run"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
            .context("cannot mount a private /run")?;
        // A sysfs shows the links of the network namespace it was mounted in.
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, none)
            .context("cannot mount a private /sys")?;
        allow_many_files()?;

        let fabric = Namespace::create()?;
        ip(&format!(
            "link set lo up\n\
             link add eth1 mtu {UPLINK_MTU} type veth peer name port1 mtu {UPLINK_MTU} netns {}\n\
             link set eth1 up\n\
             address add 10.76.0.1/24 dev eth1\n\
             address add fd00:76::1/64 dev eth1 nodad\n",
            fabric.path().display()
        ))?;
        {
            let _home = fabric.enter()?;
            ip("link set port1 up\n")?;
        }
        ip("route add default via 10.76.0.254 dev eth1\nroute add default via fd00:76::fe dev eth1\n")?;
        Ok(Self { _fabric: fabric })
    }

    /// A new folder in memory.
    ///
    /// # Errors
    /// When there is one of that name.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = Path::new("/run").join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    /// How many links the node has; counted without taking a lock of the kernel's that wiring takes.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn links(&self) -> Result<usize> {
        Ok(fs::read_dir("/sys/class/net").context("cannot list /sys/class/net")?.count())
    }

    /// Waits until at most `count` links are there.
    ///
    /// # Errors
    /// When there are more after 20 s.
    pub fn wait_for_links(&self, count: usize) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(20);
        let started = Instant::now();
        while self.links()? > count {
            if started.elapsed() > LIMIT {
                bail!("{} links are left after {} s, expected {count}", self.links()?, LIMIT.as_secs());
            }
            thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }
}

/// Each pod's namespace is held by a file descriptor.
fn allow_many_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")
}

/// Runs a batch of iproute2's commands where the calling thread is.
pub(crate) fn ip(batch: &str) -> Result<()> {
    feed("ip", &["-batch", "-"], "iproute2", batch)
}

/// Runs a program where the calling thread is, with `input` as its stdin; `package` has it.
pub(crate) fn feed(program: &str, arguments: &[&str], package: &str, input: &str) -> Result<()> {
    const SHOWN: usize = 2_000;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        // What this process prints is a report.
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {program}: install the Debian package {package}"))?;
    let mut stdin = child.stdin.take().context("a piped child has no stdin")?;
    stdin.write_all(input.as_bytes()).with_context(|| format!("cannot write to {program}"))?;
    drop(stdin);
    let status = child.wait().with_context(|| format!("cannot wait for {program}"))?;
    if !status.success() {
        bail!("{program} failed ({status}) at one of:\n{}", input.chars().take(SHOWN).collect::<String>());
    }
    Ok(())
}
