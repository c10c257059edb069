//! One execution of somebody else's program. Bounded in time and output whatever it does; nothing of its process group is left.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// What of its complaints is kept.
const STDERR_MAX: usize = 4 << 10;

/// How an execution ended.
#[derive(Debug)]
pub(crate) enum Executed {
    /// By itself.
    Ended { status: ExitStatus, stdout: Vec<u8>, stderr: Vec<u8> },
    /// It was killed: it took too long.
    TimedOut,
    /// It was killed: whoever wanted to know does not any more.
    Stopped,
    /// It was killed: it printed more than that.
    TooMuchOutput(usize),
}

/// What an execution may use.
pub(crate) struct Bounds<'a> {
    pub(crate) time: Duration,
    /// Bytes of what it prints.
    pub(crate) output: usize,
    /// Once this is so, nobody wants to know.
    pub(crate) stop: &'a AtomicBool,
}

/// Executes `command` with `input`, which is less than a pipe holds, in a process group of its own, which is killed whole at the end, as it is
/// at its bounds.
pub(crate) fn execute(mut command: Command, input: Option<&str>, bounds: &Bounds<'_>) -> io::Result<Executed> {
    let deadline = Instant::now() + bounds.time;
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn()?;
    // Less than any pipe holds, so that this does not wait; that it is not read is no fault.
    if let Some((mut stdin, input)) = child.stdin.take().zip(input) {
        let _ = stdin.write_all(input.as_bytes());
    }
    let ended = attend(&mut child, deadline, bounds);
    let group = Pid::from_raw(child.id().cast_signed());
    // Before it is reaped, so that the number is still its own; what it has started goes as well.
    let _ = killpg(group, Signal::SIGKILL);
    let status = child.wait()?;
    Ok(match ended? {
        None if bounds.stop.load(Ordering::Relaxed) => Executed::Stopped,
        None => Executed::TimedOut,
        Some(Output { stdout, .. }) if stdout.len() > bounds.output => Executed::TooMuchOutput(bounds.output),
        Some(Output { stdout, stderr }) => Executed::Ended { status, stdout, stderr },
    })
}

/// What it printed.
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Reads until both pipes end and the program has ended, or it has printed too much; nothing where the time is up before, or nobody
/// wants to know.
fn attend(child: &mut Child, deadline: Instant, bounds: &Bounds<'_>) -> io::Result<Option<Output>> {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    for pipe in [out.as_ref().map(AsFd::as_fd), err.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let mut read = Output { stdout: Vec::new(), stderr: Vec::new() };
    let most = bounds.output;
    loop {
        if read.stdout.len() > most {
            return Ok(Some(read));
        }
        if has_ended(child)? {
            // What is in the pipes now is all that it said; what it has started may keep them open.
            drain(&mut out, &mut read.stdout, most + 1)?;
            drain(&mut err, &mut read.stderr, STDERR_MAX)?;
            return Ok(Some(read));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || bounds.stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        wait_for_output(out.as_ref(), err.as_ref(), left)?;
        drain(&mut out, &mut read.stdout, most + 1)?;
        drain(&mut err, &mut read.stderr, STDERR_MAX)?;
    }
}

/// Tells without reaping it, so that its number stays its own.
fn has_ended(child: &Child) -> io::Result<bool> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let status = waitid(Id::Pid(Pid::from_raw(child.id().cast_signed())), flags)?;
    Ok(!matches!(status, WaitStatus::StillAlive))
}

/// A program that has closed its pipes and goes on is looked at every few milliseconds.
fn wait_for_output(out: Option<&ChildStdout>, err: Option<&ChildStderr>, left: Duration) -> io::Result<()> {
    const LOOK: Duration = Duration::from_millis(5);
    let mut fds: Vec<_> =
        [out.map(AsFd::as_fd), err.map(AsFd::as_fd)].into_iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::POLLIN)).collect();
    // A pipe tells of its end, but a program may end while another holds its pipes.
    let wait = left.min(if fds.is_empty() { LOOK } else { LOOK * 4 });
    match poll(&mut fds, PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Takes what is in a pipe, `most` bytes in all; the rest is read and forgotten. An ended pipe is closed.
fn drain(pipe: &mut Option<impl Read>, into: &mut Vec<u8>, most: usize) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while let Some(open) = pipe {
        match open.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(count) => {
                into.extend_from_slice(&buffer[..count.min(most.saturating_sub(into.len()))]);
                if into.len() >= most {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
