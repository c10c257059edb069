//! Commands with a bound: none outlives its limit, and a failed one says its command line and its stderr.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::error::{Context, Error, Result};

/// Limit of a command that configures something.
pub const CONFIGURE: Duration = Duration::from_secs(20);

/// How often a waiting loop looks.
const POLL: Duration = Duration::from_millis(5);

/// What a command said, whether it succeeded or not.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The command line, for messages.
    pub command: String,
}

impl Said {
    /// The standard output of a command that must have succeeded.
    ///
    /// # Errors
    /// [`Error::Command`] when it ended with a failure.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let said = if self.stderr.trim().is_empty() { self.stdout } else { self.stderr };
        Err(Error::Command { command: self.command, status: self.status.to_string(), stderr: said.trim().to_owned() })
    }
}

/// A command that is running, with its output kept in unnamed files: a descendant that holds them open cannot block the wait.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    command: String,
}

impl Running {
    /// Starts `command` with no standard input unless one was set.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn start(command: &mut Command, stdin: Stdio) -> Result<Self> {
        let line = command_line(command);
        let stdout = tempfile::tempfile().context(|| "temporary file for output".to_owned())?;
        let stderr = tempfile::tempfile().context(|| "temporary file for output".to_owned())?;
        let dup = |file: &File| file.try_clone().context(|| "duplicate a file".to_owned());
        let child = command.stdin(stdin).stdout(dup(&stdout)?).stderr(dup(&stderr)?).spawn().context(|| format!("execute `{line}`"))?;
        Ok(Self { child, stdout, stderr, command: line })
    }

    /// The process as the caller sees it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the command; kills it when it takes longer than `limit`.
    ///
    /// # Errors
    /// [`Error::Timeout`] past the limit.
    pub fn wait(mut self, limit: Duration) -> Result<Said> {
        let deadline = Instant::now() + limit;
        let status = loop {
            let ended = self.child.try_wait().context(|| format!("wait for `{}`", self.command))?;
            match ended {
                Some(status) => break status,
                None if Instant::now() >= deadline => {
                    let detail = self.stop();
                    return Err(Error::Timeout { what: format!("`{}`", self.command), limit, detail });
                }
                None => thread::sleep(POLL),
            }
        };
        Ok(Said {
            status,
            stdout: contents(&mut self.stdout),
            stderr: contents(&mut self.stderr),
            command: std::mem::take(&mut self.command),
        })
    }

    fn stop(&mut self) -> String {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let stderr = contents(&mut self.stderr);
        stderr.trim().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

/// Runs `command` to its end.
///
/// # Errors
/// When it cannot be executed or exceeds `limit`; its own failure is in the answer.
pub fn run(command: &mut Command, limit: Duration) -> Result<Said> {
    Running::start(command, Stdio::null())?.wait(limit)
}

/// Polls `probe` until it answers something.
///
/// # Errors
/// [`Error::Timeout`] with the last reason that `probe` gave.
pub fn wait_until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> std::result::Result<T, String>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(detail) if Instant::now() >= deadline => {
                return Err(Error::Timeout { what: what.to_owned(), limit, detail });
            }
            Err(_) => thread::sleep(POLL * 4),
        }
    }
}

fn contents(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // An unreadable temporary file costs only the detail of a message.
    let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn command_line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_the_command_and_its_stderr() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo broken wire >&2; exit 3"]);
        let message = run(&mut command, CONFIGURE).unwrap().success().unwrap_err().to_string();
        assert!(message.contains("broken wire") && message.contains("exit status: 3"), "{message}");
    }

    #[test]
    fn a_command_past_its_limit_is_killed() {
        let begun = Instant::now();
        let mut command = Command::new("sleep");
        let message = run(command.arg("60"), Duration::from_millis(100)).unwrap_err().to_string();
        assert!(message.contains("`sleep 60`: not within 0.1 s"), "{message}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn waiting_reports_the_last_reason() {
        let message = wait_until::<()>("a door", Duration::from_millis(10), || Err("still shut".to_owned())).unwrap_err().to_string();
        assert!(message.contains("a door") && message.contains("still shut"), "{message}");
    }
}
