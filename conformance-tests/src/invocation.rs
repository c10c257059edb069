//! One execution of a plugin: environment and stdin in, exit status, stdout and stderr out, within a bound.
//!
//! Source: specification section 2, "Parameters" and "Errors".

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs::File,
    io::{self, Read, Seek, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::netns::{Netns, NetnsError};

/// Far more than any result; what a plugin writes beyond it is not read.
const MAX_OUTPUT: u64 = 1 << 20;
/// Fine enough to not add to a plugin's few milliseconds, coarse enough to cost nothing.
const POLL: Duration = Duration::from_millis(1);

/// A plugin could not be executed at all.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The program could not be started, or its files not be made.
    #[error("cannot execute {plugin:?} (is it an executable file?)")]
    Io {
        /// The plugin.
        plugin: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Its network namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The run was asked to end.
    #[error("interrupted")]
    Interrupted,
}

/// A plugin, and how to execute it.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// Its executable file.
    pub path: PathBuf,
    /// A plugin that takes longer is killed, with its children.
    pub timeout: Duration,
    /// Set when the run shall end.
    pub interrupted: Arc<AtomicBool>,
}

/// Environment and stdin of one execution.
#[derive(Clone, Debug, Default)]
pub struct Invocation {
    /// The `CNI_*` variables; those not named here are not set.
    pub variables: BTreeMap<&'static str, OsString>,
    /// What the plugin reads.
    pub stdin: Vec<u8>,
}

/// What an execution came to.
#[derive(Clone, Debug)]
pub struct Reply {
    /// How it ended; `None` if it was killed at the bound.
    pub status: Option<ExitStatus>,
    /// What it printed, up to 1 MiB.
    pub stdout: Vec<u8>,
    /// What it logged, up to 1 MiB.
    pub stderr: Vec<u8>,
    /// How long it took.
    pub took: Duration,
}

impl Plugin {
    /// Executes the plugin in the network namespace `host`, which takes the place of the runtime's own.
    pub fn execute(&self, host: &Netns, invocation: &Invocation) -> Result<Reply, ExecError> {
        self.execute_unless(host, invocation, &self.interrupted)
    }

    /// As [`execute`](Self::execute), but not cut short when the run shall end: for cleaning up.
    pub fn execute_to_end(&self, host: &Netns, invocation: &Invocation) -> Result<Reply, ExecError> {
        self.execute_unless(host, invocation, &AtomicBool::new(false))
    }

    fn execute_unless(&self, host: &Netns, invocation: &Invocation, interrupted: &AtomicBool) -> Result<Reply, ExecError> {
        let io = |source| ExecError::Io { plugin: self.path.clone(), source };
        // Files, not pipes: a grandchild that keeps stdout open cannot make the suite wait.
        let mut stdin = tempfile::tempfile().map_err(io)?;
        let stdout = tempfile::tempfile().map_err(io)?;
        let stderr = tempfile::tempfile().map_err(io)?;
        stdin.write_all(&invocation.stdin).and_then(|()| stdin.rewind()).map_err(io)?;

        let mut command = Command::new(&self.path);
        for (name, _) in env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"CNI_") {
                command.env_remove(name);
            }
        }
        command
            .envs(&invocation.variables)
            .stdin(stdin)
            .stdout(stdout.try_clone().map_err(io)?)
            .stderr(stderr.try_clone().map_err(io)?)
            .process_group(0);
        let started = Instant::now();
        let mut child = {
            let _inside = host.enter()?;
            command.spawn().map_err(io)?
        };

        let status = loop {
            if let Some(status) = child.try_wait().map_err(io)? {
                break Some(status);
            }
            let ending = interrupted.load(Ordering::Relaxed);
            if ending || started.elapsed() >= self.timeout {
                kill_group(child.id());
                child.wait().map_err(io)?;
                if ending {
                    return Err(ExecError::Interrupted);
                }
                break None;
            }
            thread::sleep(POLL);
        };
        let took = started.elapsed();
        Ok(Reply { status, stdout: read(stdout).map_err(io)?, stderr: read(stderr).map_err(io)?, took })
    }

    /// Where plugins that this one delegates to are looked for: the caller's `CNI_PATH`, and the plugin's own folder.
    #[must_use]
    pub fn search_path(&self) -> OsString {
        let mut path = self.path.parent().map(|folder| folder.as_os_str().to_owned()).unwrap_or_default();
        if let Some(callers) = env::var_os("CNI_PATH") {
            path.push(":");
            path.push(callers);
        }
        path
    }
}

/// The plugin leads a process group of its own, so that what it started ends with it.
fn kill_group(leader: u32) {
    if let Ok(leader) = i32::try_from(leader) {
        // ESRCH: it has just ended by itself.
        let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
    }
}

fn read(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
    Ok(bytes)
}
