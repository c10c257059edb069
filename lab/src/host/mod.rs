//! A node in a network namespace of its own: an uplink, a real `barewired`, and pods for a real `barewire-cni`.
//!
//! Promise: what a [`Host`] makes is private and goes with it. Its namespaces and directories, in memory, bear this process's
//! number; those of a run that was killed are removed by the next one's start. The daemons die with the thread that started
//! them. Nothing of the machine's own network is touched.
//!
//! It is for what one node does and a runtime sees. Several nodes with a fabric between them are a [`Lab`](crate::Lab).

mod call;
mod daemon;

use std::fs;
use std::io::{Seek, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

pub use self::call::{Answer, Call, Refusal};
pub use self::daemon::{Daemon, Pool};
use crate::command::{CONFIGURE, Running};
use conformance_tests::invocation::Plugin;
use conformance_tests::kernel::{Kernel, Link};
use conformance_tests::netns::Netns;
use conformance_tests::rundir::RunDir;

/// Directories of hosts, in memory: a commit of the store costs what it costs in `/run`.
const BASE: &str = "/dev/shm/barewire-host";
/// The daemon's run directory, below the host's.
const RUN_DIR: &str = "run";
/// As in the cloud networks that Barewire is for.
pub const UPLINK_MTU: u32 = 9001;
/// A plugin gives the daemon 30 s; beside other tests on a small machine that has been seen to be needed.
const PLUGIN_LIMIT: Duration = Duration::from_secs(60);
/// The uplink is a veth whose other end stands for the fabric, so that it has a carrier.
const UPLINK: &str = "\
link add eth1 mtu 9001 type veth peer name fabric0 mtu 9001
link set fabric0 up
link set eth1 up
address add 10.0.0.10/24 dev eth1
address add fd00:10::10/64 dev eth1 nodad
route add default via 10.0.0.1 dev eth1
route add ::/0 via fd00:10::1 dev eth1
";

/// What the daemon's configuration says.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `source.ranges`
    pub ranges: Vec<String>,
    /// `pool.cooldown_seconds`
    pub cooldown_seconds: u64,
    /// `network.fast_path`: `auto`, and the kernel must take it, or `off`.
    pub fast_path: bool,
}

impl Default for Settings {
    /// Addresses of both families for as many pods as a test may start, and no waiting for them.
    fn default() -> Self {
        let ranges = ["10.0.1.0/24", "fd00:10:0:1::/80"].map(str::to_owned).to_vec();
        Self { ranges, cooldown_seconds: 0, fast_path: false }
    }
}

impl Settings {
    /// Only these IPv4 addresses.
    #[must_use]
    pub fn scarce(range: &str, cooldown_seconds: u64) -> Self {
        Self { ranges: vec![range.to_owned()], cooldown_seconds, fast_path: false }
    }

    /// The same with the kernel programs, or without.
    #[must_use]
    pub fn with_fast_path(self, fast_path: bool) -> Self {
        Self { fast_path, ..self }
    }
}

/// How a daemon is started otherwise than plainly.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start<'a> {
    /// What its configuration says besides: keys of `[cni]`, then whole sections.
    pub keys: &'a str,
    /// A program that executes it, with its arguments.
    pub by: &'a [&'a str],
}

/// A node.
#[derive(Debug)]
pub struct Host {
    binaries: PathBuf,
    settings: Settings,
    serial: AtomicU32,
    netns: Netns,
    /// Last: it takes with it whatever the others leave.
    dir: RunDir,
}

/// A container as a runtime makes it before it calls a plugin: an ID and a network namespace.
#[derive(Debug, Clone)]
pub struct Pod {
    /// `CNI_CONTAINERID`
    pub id: String,
    /// Its path is `CNI_NETNS`.
    pub netns: Arc<Netns>,
}

fn execute(netns: &Netns, command: &mut Command, stdin: Stdio) -> Result<String> {
    let running = {
        let _inside = netns.enter()?;
        Running::start(command, stdin)?
    };
    Ok(running.wait(CONFIGURE)?.success()?)
}

impl Pod {
    /// Executes a line of words in the pod's network namespace, which must succeed; what it printed.
    ///
    /// # Errors
    /// When it fails or does not end in time.
    pub fn run(&self, line: &str) -> Result<String> {
        let words: Vec<_> = line.split_whitespace().collect();
        execute(&self.netns, Command::new(words[0]).args(&words[1..]), Stdio::null())
    }

    /// The link of that name, if the pod has it.
    ///
    /// # Errors
    /// When the namespace cannot be looked into.
    pub fn link(&self, name: &str) -> Result<Option<Link>> {
        Ok(Kernel::of(&self.netns)?.link(name)?)
    }

    /// The names of its links, but for the loopback.
    ///
    /// # Errors
    /// When the namespace cannot be looked into.
    pub fn links(&self) -> Result<Vec<String>> {
        let links = Kernel::of(&self.netns)?.links()?;
        Ok(links.into_iter().map(|link| link.name).filter(|name| name != "lo").collect())
    }
}

impl Host {
    /// Brings a node up with an uplink; `binaries` is the directory of `barewired` and `barewire-cni`.
    ///
    /// # Errors
    /// When it is not run as root, or `ip` is missing.
    pub fn with_uplink(binaries: &Path, settings: Settings) -> Result<Self> {
        let host = Self::without_uplink(binaries, settings)?;
        host.add_uplink()?;
        Ok(host)
    }

    /// Brings a node up that is not connected to anything.
    ///
    /// # Errors
    /// As [`Host::with_uplink`].
    pub fn without_uplink(binaries: &Path, settings: Settings) -> Result<Self> {
        let dir = RunDir::create(Path::new(BASE))?;
        let netns = Netns::create(dir.path().join("host"))?;
        let host = Self { binaries: binaries.to_owned(), settings, serial: AtomicU32::new(0), netns, dir };
        host.ip("link set lo up\n")?;
        let plugins = host.bin_dir();
        fs::create_dir(&plugins).with_context(|| format!("make {}", plugins.display()))?;
        symlink(host.binary("barewire-cni"), plugins.join("barewire-cni")).context("install barewire-cni")?;
        if host.settings.fast_path {
            fs::create_dir(host.bpf_fs()).context("make a directory for the BPF file system")?;
            mount(Some("bpf"), &host.bpf_fs(), Some("bpf"), MsFlags::empty(), Some("mode=0700")).context("mount a BPF file system")?;
        }
        Ok(host)
    }

    /// Connects the node: an uplink with addresses and default routes of both families.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn add_uplink(&self) -> Result<()> {
        self.ip(UPLINK)
    }

    /// Executes lines of `ip -batch` in the node.
    ///
    /// # Errors
    /// When `ip` refuses one.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut script = tempfile::tempfile().context("a temporary file")?;
        script.write_all(lines.as_bytes()).and_then(|()| script.rewind()).context("write a batch for ip")?;
        self.execute(Command::new("ip").args(["-batch", "-"]), script.into()).map(drop)
    }

    /// Executes a program in the node, which must succeed; what it printed.
    ///
    /// # Errors
    /// When it fails or does not end in time.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        self.execute(Command::new(argv[0]).args(&argv[1..]), Stdio::null())
    }

    fn execute(&self, command: &mut Command, stdin: Stdio) -> Result<String> {
        execute(&self.netns, command, stdin)
    }

    /// The node's network namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The file of a program under test.
    #[must_use]
    pub fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// `paths.run_dir`
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join(RUN_DIR)
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("cni.sock")
    }

    /// `paths.cni_conf_file`
    #[must_use]
    pub fn conflist(&self) -> PathBuf {
        self.dir.path().join("net.d/00-barewire.conflist")
    }

    /// `cni.bin_dirs`: where a runtime would look for plugins. It has `barewire-cni`.
    #[must_use]
    pub fn bin_dir(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    /// Installs a shell script as a plugin, as installers do: by renaming.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn install_plugin(&self, name: &str, script: &str) -> Result<()> {
        let (draft, file) = (self.dir.path().join("plugin-draft"), self.bin_dir().join(name));
        fs::write(&draft, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
        fs::rename(draft, &file).with_context(|| format!("install {}", file.display()))
    }

    /// A path of the node's that nothing else uses.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts the daemon's run directory on a file system of its own, which holds `bytes`.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn limit_run_dir(&self, bytes: u64) -> Result<()> {
        let run_dir = self.run_dir();
        fs::create_dir(&run_dir).with_context(|| format!("make {}", run_dir.display()))?;
        let options = format!("size={bytes},mode=0700");
        mount(Some("tmpfs"), &run_dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).context("mount a tmpfs")
    }

    /// Starts the daemon and waits until an ADD would succeed.
    ///
    /// # Errors
    /// When it ends or is not ready in time; the end of its log is in the message.
    pub fn start(&self) -> Result<Daemon<'_>> {
        let daemon = self.spawn()?;
        daemon.wait_until_ready()?;
        if self.settings.fast_path {
            let page = daemon.get("/debug/fast_path")?;
            ensure!(page.replace(' ', "").contains("\"attached\":true"), "no fast path: {page}; {}", daemon.end_of_log());
        }
        Ok(daemon)
    }

    /// Starts the daemon and does not wait.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn spawn(&self) -> Result<Daemon<'_>> {
        self.spawn_with(Start::default())
    }

    /// Starts the daemon in another way, and does not wait.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn spawn_with(&self, start: Start<'_>) -> Result<Daemon<'_>> {
        let config = self.write_configuration(start.keys)?;
        Daemon::spawn(self, &config, start.by)
    }

    /// Starts the daemon with a configuration that was written before, and does not wait.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn spawn_as_configured(&self, config: &Path) -> Result<Daemon<'_>> {
        Daemon::spawn(self, config, &[])
    }

    /// Writes the daemon's configuration, with `keys` at its end; its file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_configuration(&self, keys: &str) -> Result<PathBuf> {
        let config = self.dir.path().join("barewired.toml");
        fs::write(&config, self.configuration() + keys).with_context(|| format!("write {}", config.display()))?;
        Ok(config)
    }

    /// Where the daemon's pins are kept, over its restarts; it sees them where it looks for them.
    fn bpf_fs(&self) -> PathBuf {
        self.dir.path().join("bpf")
    }

    fn configuration(&self) -> String {
        let Settings { ranges, cooldown_seconds, fast_path } = &self.settings;
        let fast_path = if *fast_path { "auto" } else { "off" };
        format!(
            "[paths]\nrun_dir = {:?}\ncni_conf_file = {:?}\n\
             [network]\nfast_path = \"{fast_path}\"\nnative_cidrs = [\"10.0.0.0/16\", \"fd00:10::/32\"]\n\
             [source]\nkind = \"fixed\"\nranges = {ranges:?}\n\
             [pool]\ncooldown_seconds = {cooldown_seconds}\n\
             [cni]\nbin_dirs = [{:?}, \"/usr/lib/cni\"]\n",
            self.run_dir(),
            self.conflist(),
            self.bin_dir(),
        )
    }

    /// A call for another interface of a pod.
    pub fn call_for_interface(&self, command: &str, pod: &Pod, ifname: &str) -> Call<'_> {
        self.call_for(command, pod).with("CNI_IFNAME", ifname)
    }

    /// A new container.
    ///
    /// # Errors
    /// When its namespace cannot be made.
    pub fn pod(&self) -> Result<Pod> {
        let id = format!("pod-{}", self.serial.fetch_add(1, Ordering::Relaxed));
        let netns = Arc::new(Netns::create(self.dir.path().join(&id))?);
        Ok(Pod { id, netns })
    }

    /// A call of `barewire-cni` with a plain configuration and no parameter but `CNI_COMMAND`.
    pub fn call(&self, command: &str) -> Call<'_> {
        Call::new(self, command)
    }

    /// A call for interface `eth0` of a pod.
    pub fn call_for(&self, command: &str, pod: &Pod) -> Call<'_> {
        self.call(command).with("CNI_CONTAINERID", &pod.id).with("CNI_NETNS", pod.netns.path()).with("CNI_IFNAME", "eth0")
    }

    /// A pod that is attached, with the result of its ADD.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn attached(&self) -> Result<(Pod, serde_json::Value)> {
        let pod = self.pod()?;
        let result = self.call_for("ADD", &pod).run()?.result()?;
        Ok((pod, result))
    }

    /// The names of the host ends of pods' links.
    ///
    /// # Errors
    /// When the namespace cannot be looked into.
    pub fn host_ends(&self) -> Result<Vec<String>> {
        let links = Kernel::of(&self.netns)?.links()?;
        Ok(links.into_iter().map(|link| link.name).filter(|name| name.starts_with("bw")).collect())
    }

    /// Waits until the node has `count` host ends: a link goes soon after its DEL was answered, not before.
    ///
    /// # Errors
    /// When it has another number of them after twenty seconds, a third of what a sweep of what nobody told may take.
    pub fn wait_for_host_ends(&self, count: usize) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(20);
        Ok(crate::command::wait_until(&format!("{count} host ends"), LIMIT, || {
            let names = self.host_ends().map_err(|error| format!("{error:#}"))?;
            if names.len() == count { Ok(()) } else { Err(format!("{names:?}")) }
        })?)
    }

    /// The plugin under test.
    #[must_use]
    pub fn plugin(&self) -> Plugin {
        Plugin { path: self.binary("barewire-cni"), timeout: PLUGIN_LIMIT, interrupted: Arc::new(AtomicBool::new(false)) }
    }

    /// A reference plugin that stands behind ours in a chain.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn reference_plugin(&self, name: &str) -> Result<Plugin> {
        let path = Path::new("/usr/lib/cni").join(name);
        ensure!(path.exists(), "{} is missing: install containernetworking-plugins", path.display());
        Ok(Plugin { path, ..self.plugin() })
    }
}
