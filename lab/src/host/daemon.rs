//! `barewired` in a [`Host`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Host;
use crate::command::wait_until;

/// A start takes some 50 ms on an idle machine.
const READY: Duration = Duration::from_secs(20);
/// What was begun is finished first: that is a plugin's time for an answer at most.
const STOP: Duration = Duration::from_secs(35);
const HTTP: Duration = Duration::from_secs(5);
/// The default; the namespace is the daemon's own.
const TELEMETRY: &str = "http://127.0.0.1:9807";
const LOG_LINES: usize = 20;

/// A daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon<'a> {
    host: &'a Host,
    child: RefCell<Child>,
    log: PathBuf,
}

/// What is wrong with the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// In one word.
    pub reason: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// Counts of the pool and of attachments, as telemetry tells them: `ipv4 held`, `attachments` and so on.
pub type Pool = BTreeMap<String, i64>;

impl<'a> Daemon<'a> {
    pub(super) fn spawn(host: &'a Host, config: &Path, by: &[&str]) -> Result<Self> {
        let log = host.path("barewired.log");
        let stderr = File::options().create(true).append(true).open(&log).with_context(|| format!("open {}", log.display()))?;
        let mut command = Command::new("unshare");
        if host.settings.fast_path {
            command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /sys/fs/bpf && exec \"$@\""]).arg(host.bpf_fs());
        }
        // setpriv has the kernel end the daemon when this thread ends in whatever way.
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]).args(by).arg(host.binary("barewired")).arg("--config").arg(config);
        let _inside = host.netns.enter()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .context("execute unshare and setpriv (util-linux)")?;
        Ok(Self { host, child: RefCell::new(child), log })
    }

    /// Waits until an ADD would succeed.
    ///
    /// # Errors
    /// When the daemon ends or is not ready in time; the end of its log is in the message.
    pub fn wait_until_ready(&self) -> Result<()> {
        self.wait_until("barewired is ready", || self.get("/readyz").map(drop))
    }

    /// Polls `probe` until it succeeds.
    ///
    /// # Errors
    /// When the daemon ends, or `probe` still fails after twenty seconds; the end of its log is in the message.
    pub fn wait_until(&self, what: &str, mut probe: impl FnMut() -> Result<()>) -> Result<()> {
        let mut ended = None;
        let outcome = wait_until(what, READY, || {
            ended = self.child.borrow_mut().try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() { Ok(()) } else { probe().map_err(|error| format!("{error:#}")) }
        });
        if let Some(status) = ended {
            bail!("barewired ended with {status}; {}", self.end_of_log());
        }
        outcome.with_context(|| self.end_of_log())
    }

    /// Waits until the daemon has ended by itself.
    ///
    /// # Errors
    /// When it goes on.
    pub fn wait(&self) -> Result<ExitStatus> {
        let ended = || match self.child.borrow_mut().try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it goes on".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        wait_until("the end of barewired", STOP, ended).with_context(|| self.end_of_log())
    }

    /// Whether it has ended by itself.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn has_ended(&self) -> Result<bool> {
        Ok(self.child.borrow_mut().try_wait()?.is_some())
    }

    /// Sends SIGTERM and does not wait.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::SIGTERM)
    }

    /// Sends SIGTERM and waits for a clean end.
    ///
    /// # Errors
    /// When it does not end, or not with 0.
    pub fn stop(self) -> Result<()> {
        self.terminate()?;
        let status = self.wait()?;
        ensure!(status.success(), "barewired ended with {status}; {}", self.end_of_log());
        Ok(())
    }

    /// Kills it where it stands.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn kill(self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait().map(drop)
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.borrow().id()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.process()).context("a process ID")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to barewired"))
    }

    /// A page of its telemetry.
    ///
    /// # Errors
    /// When it is not served, or with another status than 200; the page is in the message.
    pub fn get(&self, page: &str) -> Result<String> {
        let agent = ureq::Agent::config_builder().timeout_global(Some(HTTP)).http_status_as_error(false).build().new_agent();
        let _inside = self.host.netns.enter()?;
        let mut response = agent.get(format!("{TELEMETRY}{page}")).call().with_context(|| format!("GET {page}"))?;
        let body = response.body_mut().read_to_string().with_context(|| format!("GET {page}"))?;
        ensure!(response.status().is_success(), "GET {page}: {}: {body}", response.status());
        Ok(body)
    }

    /// The conditions that hold, by type.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn conditions(&self) -> Result<BTreeMap<String, Condition>> {
        let page = self.get("/status")?;
        let page: serde_json::Value = serde_json::from_str(&page).with_context(|| page.clone())?;
        let of = |condition: &serde_json::Value| {
            let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
            (text("type"), Condition { reason: text("reason"), message: text("message"), remedy: text("remedy") })
        };
        Ok(page["conditions"].as_array().with_context(|| format!("no conditions in {page}"))?.iter().map(of).collect())
    }

    /// Waits for a condition with this reason, and with each of `parts` in message or remedy.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn wait_for_condition(&self, kind: &str, reason: &str, parts: &[&str]) -> Result<()> {
        self.wait_until(&format!("condition {kind}"), || {
            let all = self.conditions()?;
            let found = all.get(kind).with_context(|| format!("it is not among {all:?}"))?;
            let text = format!("{}; {}", found.message, found.remedy);
            ensure!(found.reason == reason && parts.iter().all(|part| text.contains(part)), "{found:?}");
            Ok(())
        })
    }

    /// Waits until a condition is over.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn wait_for_end_of(&self, kind: &str) -> Result<()> {
        self.wait_until(&format!("the end of condition {kind}"), || {
            let all = self.conditions()?;
            ensure!(!all.contains_key(kind), "{all:?}");
            Ok(())
        })
    }

    /// The value of a series of `/metrics`, named as it is written there.
    ///
    /// # Errors
    /// When there is no such series.
    pub fn metric(&self, series: &str) -> Result<f64> {
        let page = self.get("/metrics")?;
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no {series} in {page}"))?.parse()?)
    }

    /// Its log and those of the daemons before it.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What `/metrics` tells of addresses and attachments.
    ///
    /// # Errors
    /// When it cannot be read, or tells nothing.
    pub fn pool(&self) -> Result<Pool> {
        let page = self.get("/metrics")?;
        let mut pool = Pool::new();
        for line in page.lines() {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let name = match name.strip_prefix("barewire_addresses{") {
                Some(labels) => labels.split('"').skip(1).step_by(2).collect::<Vec<_>>().join(" "),
                None if name == "barewire_attachments" => "attachments".to_owned(),
                None => continue,
            };
            pool.insert(name, value.parse().with_context(|| format!("not a count: {line}"))?);
        }
        ensure!(pool.contains_key("attachments") && pool.len() > 1, "no counts in {page}");
        Ok(pool)
    }

    /// The end of its log and of those of the daemons before it.
    #[must_use]
    pub fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        format!("the log of barewired ends with:\n{}\n", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        if matches!(child.try_wait(), Ok(None)) {
            // Both fail only where it has just ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
