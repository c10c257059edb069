//! Running other programs: each failure names the command line, each long run has an end.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How much of the processors a program gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Its share: somebody waits for it.
    Now,
    /// What others leave (`SCHED_IDLE`). It ends with us, since nobody else waits for it.
    Beside,
}

impl Pace {
    /// `program`, at this pace.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Pace::Now => Command::new(program),
            Pace::Beside => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", "--", "chrt", "--idle", "0"]).arg(program);
                command
            }
        }
    }
}

/// The command line as one would type it, without the program's folder.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let words = std::iter::once(program.file_name().unwrap_or(program.as_os_str())).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs `command` to its end and returns what it wrote to stdout; its stderr is shown as it comes.
pub(crate) fn stdout_of(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().with_context(|| format!("cannot run `{}`", line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed no UTF-8", line(command)))
}

/// Runs `command` with both its outputs on our stderr, so that stdout stays free for results.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let stderr = io::stderr().as_fd().try_clone_to_owned().context("cannot duplicate stderr")?;
    let status = command.stdin(Stdio::null()).stdout(stderr).status().with_context(|| format!("cannot run `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs `command` and hands over each line of its stdout as it comes; kills it and its descendants after `limit`.
pub(crate) fn each_line(command: &mut Command, limit: Duration, mut seen: impl FnMut(&str)) -> Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run `{}`", line(command)))?;
    let stdout = child.stdout.take().context("a piped child has no stdout")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for read in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&read).into_owned()).is_err() {
                return;
            }
        }
    });
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(text) => seen(&text),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                end(&mut child);
                bail!("`{}` was still running after {} s and was killed", line(command), limit.as_secs());
            }
        }
    }
    child.wait().with_context(|| format!("cannot wait for `{}`", line(command)))
}

/// Kills the child and everything it started: cargo's own death would leave its test program running.
fn end(child: &mut Child) {
    let mut family = vec![child.id()];
    let mut next = 0;
    while let Some(&pid) = family.get(next) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        family.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        next += 1;
    }
    let pids = family.iter().map(u32::to_string);
    // A descendant that has ended since is no failure, and the caller reports the overrun itself.
    let _ended = Command::new("kill").arg("-KILL").args(pids).stderr(Stdio::null()).status();
    let _reaped = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_in_order_and_the_status_is_the_childs() {
        let mut lines = Vec::new();
        let status = each_line(Command::new("sh").args(["-c", "echo one; echo two; exit 3"]), Duration::from_secs(10), |text| {
            lines.push(text.to_owned())
        })
        .unwrap();
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_with_its_descendants() {
        let mut pid = String::new();
        let error = each_line(
            Command::new("sh").args(["-c", "sh -c 'sh -c \"echo \\$\\$; exec sleep 30\"; true'; true"]),
            Duration::from_millis(500),
            |text| pid = text.to_owned(),
        )
        .unwrap_err();
        assert!(error.to_string().contains("still running"), "{error}");
        let ended = || {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z")
        };
        let killed = Instant::now();
        while !ended() {
            assert!(killed.elapsed() < Duration::from_secs(5), "{pid} still runs");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_failure_names_the_command_line() {
        let error = stdout_of(Command::new("false").arg("--flag")).unwrap_err().to_string();
        assert!(error.contains("`false --flag`"), "{error}");
    }
}
