//! Programs of others that run beside a measurement.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// A program that ends with this process, or when it is dropped.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it in the network of the calling thread.
    pub(super) fn start(path: &Path, arguments: &[&str], log: PathBuf) -> Result<Self> {
        let output = fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(path)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("cannot share a log")?)
            .stderr(output)
            .spawn()
            .context("cannot run setpriv: install the Debian package util-linux")?;
        Ok(Self { child, log })
    }

    /// Asks `ready` until it says yes, for at most a minute; an error says what the program wrote last.
    pub(super) fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
        let started = Instant::now();
        while !ready() {
            let ended = self.child.try_wait().context("cannot wait for a child")?;
            if ended.is_some() || started.elapsed() > LIMIT {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let last = log.lines().rev().take(5).collect::<Vec<_>>();
                bail!("{what}; {} ends with, last line first: {last:#?}", self.log.display());
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Has it stand still: what it set up carries packets without it, and others are measured beside it.
    pub(super) fn pause(&self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a process has no such number")?;
        kill(Pid::from_raw(pid), Signal::SIGSTOP).context("cannot stop a child")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It is gone already where this fails.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
