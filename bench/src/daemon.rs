//! `barewired`, started for a measurement and ended with it.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const LOG: &str = "barewired.log";
/// Both file systems show what belongs to whoever mounted them. The one sysfs cannot lie on itself, so the other goes first;
/// a kernel without BPF has no file system for it.
const OWN_MOUNTS: &str =
    "umount --lazy /sys && mount -t sysfs sysfs /sys && { mount -t bpf bpf /sys/fs/bpf 2>/dev/null || true; } && exec \"$0\" \"$@\"";
const READY_LIMIT: Duration = Duration::from_secs(10);
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
const HTTP_LIMIT: Duration = Duration::from_secs(5);
/// In the network namespace of the calling thread, so the port is always free.
const TELEMETRY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9_807);

/// The daemon's own figures, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// Durable commits.
    pub commit_p50_us: f64,
    /// Durable commits.
    pub commit_p99_us: f64,
    /// ADDs, from the request's arrival to the answer.
    pub add_p50_us: f64,
}

/// What a measurement chooses of the daemon's configuration.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// `source.ranges`.
    pub ranges: &'a [&'a str],
    /// `network.native_cidrs`.
    pub native_cidrs: &'a [&'a str],
    /// `network.masquerade`.
    pub masquerade: bool,
    /// `network.fast_path`; left out where `None`.
    pub fast_path: Option<&'a str>,
    /// `network.service_cidrs`.
    pub service_cidrs: &'a [&'a str],
    /// Further sections.
    pub more: &'a str,
}

/// A running daemon. Dropping it lets it drain, then ends it; it ends with this process in any case.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    run_dir: PathBuf,
    http: ureq::Agent,
}

impl Daemon {
    /// Starts it with the addresses of `ranges` and waits until an ADD would succeed.
    ///
    /// `run_dir` is an empty folder, in memory, for all that the daemon keeps.
    ///
    /// # Errors
    /// When it is not ready within 10 s; the message ends with the end of its log.
    pub fn start(binaries: &Path, run_dir: PathBuf, ranges: &[&str]) -> Result<Self> {
        let settings = Settings {
            ranges,
            native_cidrs: &["10.0.0.0/8", "fd00::/8"],
            masquerade: false,
            fast_path: None,
            service_cidrs: &[],
            more: "",
        };
        Self::start_with(binaries, run_dir, &settings)
    }

    /// Starts it in a mount namespace of its own, with the sysfs of the calling thread's network and a BPF file system
    /// that no other daemon sees, and waits until an ADD would succeed.
    ///
    /// # Errors
    /// When it is not ready within 10 s; the message ends with the end of its log.
    pub fn start_with(binaries: &Path, run_dir: PathBuf, settings: &Settings<'_>) -> Result<Self> {
        let config = run_dir.join("barewired.toml");
        fs::write(&config, configuration(binaries, &run_dir, settings)).with_context(|| format!("cannot write {}", config.display()))?;
        let program = program(binaries)?;
        let log = run_dir.join(LOG);
        // setpriv has the kernel end the daemon when this process ends in whatever way.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--", "sh", "-c", OWN_MOUNTS])
            .arg(program)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).with_context(|| format!("cannot create {}", log.display()))?)
            .spawn()
            .context("cannot run setpriv: install the Debian package util-linux")?;
        let http = ureq::Agent::config_builder().timeout_global(Some(HTTP_LIMIT)).build().new_agent();
        let mut daemon = Self { child, run_dir, http };
        match daemon.wait_until_ready() {
            Ok(()) => Ok(daemon),
            Err(error) => Err(error.context("barewired does not become ready").context(daemon.end_of_log())),
        }
    }

    /// The end of its log, to go with an error: the log itself ends with this process.
    #[must_use]
    pub fn end_of_log(&self) -> String {
        const LINES: usize = 20;
        let log = fs::read_to_string(self.run_dir.join(LOG)).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        format!("the log of barewired ends with:\n{}\n", lines[lines.len().saturating_sub(LINES)..].join("\n"))
    }

    /// Where plugins reach it.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("cni.sock")
    }

    /// What it measured of itself since its start.
    ///
    /// # Errors
    /// When its telemetry does not answer, or has nothing to tell.
    pub fn latency(&self) -> Result<Latency> {
        let body = self.get("/debug/latency")?;
        let told: Value = serde_json::from_str(&body).with_context(|| format!("/debug/latency is not JSON: {body}"))?;
        let micros = |operation: &str, quantile: &str| {
            told[operation][quantile].as_f64().with_context(|| format!("/debug/latency has no {operation}.{quantile}: {body}"))
        };
        Ok(Latency {
            commit_p50_us: micros("commit_us", "p50")?,
            commit_p99_us: micros("commit_us", "p99")?,
            add_p50_us: micros("add_us", "p50")?,
        })
    }

    /// Its memory in RAM, in bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}: has barewired ended?"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).with_context(|| format!("{path} has no VmRSS"))?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("VmRSS is {line:?}"))?;
        Ok(kibibytes * 1_024)
    }

    /// Its page about itself.
    ///
    /// # Errors
    /// When its telemetry does not answer with JSON.
    pub fn status(&self) -> Result<Value> {
        serde_json::from_str(&self.get("/status")?).context("/status is not JSON")
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Whether this daemon's configuration can switch the fast path; else, why not.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn refusal_of_fast_path(binaries: &Path, folder: &Path) -> Result<Option<String>> {
        let config = folder.join("check.toml");
        let settings = Settings {
            ranges: &["10.10.0.0/24"],
            native_cidrs: &["10.10.0.0/16"],
            masquerade: true,
            fast_path: Some("auto"),
            service_cidrs: &[],
            more: "",
        };
        fs::write(&config, configuration(binaries, folder, &settings)).with_context(|| format!("cannot write {}", config.display()))?;
        let output = Command::new(program(binaries)?)
            .arg("--config")
            .arg(&config)
            .arg("--check")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .output()
            .context("cannot run barewired --check")?;
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let line = told.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
        Ok((!output.status.success()).then_some(line))
    }

    fn get(&self, path: &str) -> Result<String> {
        let url = format!("http://{TELEMETRY}{path}");
        let mut response = self.http.get(&url).call().with_context(|| format!("GET {url}"))?;
        response.body_mut().read_to_string().with_context(|| format!("GET {url}"))
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for barewired")? {
                bail!("barewired ended: {status}");
            }
            match self.get("/readyz") {
                Ok(_) => return Ok(()),
                Err(error) if started.elapsed() > READY_LIMIT => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok()
        {
            let asked = Instant::now();
            while asked.elapsed() < DRAIN_LIMIT {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        // It did not drain in time, or is gone already: either way there is nobody left to tell.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn program(binaries: &Path) -> Result<PathBuf> {
    let program = binaries.join("barewired");
    if !program.exists() {
        bail!("{} does not exist: use `cargo xtask bench`, which builds it", program.display());
    }
    Ok(program)
}

fn configuration(binaries: &Path, run_dir: &Path, settings: &Settings<'_>) -> String {
    let Settings { ranges, native_cidrs, masquerade, fast_path, service_cidrs, more } = settings;
    let fast_path = fast_path.map_or_else(String::new, |chosen| format!("fast_path = {chosen:?}\n"));
    format!(
        "[node]\n\
         name = \"bench\"\n\
         [paths]\n\
         run_dir = {run_dir:?}\n\
         cni_conf_file = {conf:?}\n\
         [uplink]\n\
         interface = \"eth1\"\n\
         [network]\n\
         native_cidrs = {native_cidrs:?}\n\
         masquerade = {masquerade}\n\
         service_cidrs = {service_cidrs:?}\n\
         {fast_path}\
         [source]\n\
         kind = \"fixed\"\n\
         ranges = {ranges:?}\n\
         [pool]\n\
         cooldown_seconds = 1\n\
         [cni]\n\
         bin_dirs = [{bin_dir:?}]\n\
         [telemetry]\n\
         listen = \"{TELEMETRY}\"\n\
         {more}",
        conf = run_dir.join("00-barewire.conflist"),
        bin_dir = std::path::absolute(binaries).unwrap_or_else(|_| binaries.to_owned()),
    )
}
