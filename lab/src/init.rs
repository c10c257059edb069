//! The init of a node: process 1 of its own pid, mount, network, UTS and IPC namespaces.
//!
//! Promise: when this process ends, so does everything in the node, since the kernel kills a pid namespace with its first
//! process (`pid_namespaces(7)`) and the other namespaces vanish with their last user. It ends with its runner unless it was told
//! to stay: it is tethered by a pipe, so that even a runner killed with SIGKILL leaves no process behind.
//!
//! Talk on standard input and output, one line each: init says `pid N`, the runner records it and sends an `InitSpec`,
//! init prepares the node and says `ready` or `failed …`; a later `keep` cuts the tether.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::error::{Context, Error, Result};
use super::root;
use super::topology::Bind;

/// First argument that makes the runner's binary an init. The second is [`OUTER`] or [`INNER`], the third the node's name, for `ps`.
const ARGUMENT: &str = "__init";
/// The stage that unshares.
const OUTER: &str = "outer";
/// The stage that is process 1.
const INNER: &str = "inner";
/// What the runner says to let the node outlive it.
pub(super) const KEEP: &str = "keep\n";

/// How long an init may take for a word.
const ANSWER: Duration = Duration::from_secs(20);

/// What a node is made of.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct InitSpec {
    /// Host name.
    pub(super) name: String,
    /// Directory of the host over which the node's root is mounted, in the node's mount namespace only.
    pub(super) mount_point: PathBuf,
    /// Files and directories of the host.
    pub(super) binds: Vec<Bind>,
    /// Kernel parameters.
    pub(super) sysctls: BTreeMap<String, String>,
    /// Main program, empty for none.
    pub(super) program: Vec<String>,
    /// Its environment.
    pub(super) env: BTreeMap<String, String>,
}

/// Becomes an init when the arguments say so, and does not return then. Call it first thing in `main`.
pub fn become_init_if_asked() {
    let arguments: Vec<String> = env::args().take(4).collect();
    let stage = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, ARGUMENT, stage, _] => stage,
        _ => return,
    };
    let done = match stage {
        OUTER => outer(&arguments[3]),
        _ => inner(),
    };
    if let Err(error) = done {
        // Standard output is the runner's end of the talk.
        let _ = writeln!(io::stdout(), "failed {}", error.to_string().replace('\n', " "));
        std::process::exit(1);
    }
    std::process::exit(0);
}

/// Makes the namespaces and process 1 in them, and leaves: process 1 then has no parent that could reap it late.
fn outer(name: &str) -> Result<()> {
    unshare(
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC,
    )
    .context(|| "make the node's namespaces (needs root)".to_owned())?;
    let child = Command::new("/proc/self/exe")
        .args([ARGUMENT, INNER, name])
        .stdin(Stdio::inherit())
        .spawn()
        .context(|| "start the node's process 1".to_owned())?;
    writeln!(io::stdout(), "pid {}", child.id()).context(|| "answer the runner".to_owned())
}

fn inner() -> Result<()> {
    // Blocked before any child exists, so that none can end unseen.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context(|| "block signals".to_owned())?;

    let mut line = String::new();
    io::stdin().read_line(&mut line).context(|| "read the node's specification".to_owned())?;
    if line.is_empty() {
        // The runner died before it could record us: nothing is to be left.
        return Ok(());
    }
    let spec: InitSpec = serde_json::from_str(&line).context(|| "read the node's specification".to_owned())?;

    root::enter(&spec.mount_point, &spec.binds)?;
    nix::unistd::sethostname(&spec.name).context(|| format!("set the host name {}", spec.name))?;
    for (key, value) in &spec.sysctls {
        set_sysctl(key, value)?;
    }
    if let [program, arguments @ ..] = &spec.program[..] {
        let log = File::create("/var/log/program.log").context(|| "create /var/log/program.log".to_owned())?;
        Command::new(program)
            .args(arguments)
            .envs(&spec.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context(|| "duplicate a file".to_owned())?)
            .stderr(log)
            .spawn()
            .context(|| format!("execute {program:?}"))?;
    }
    writeln!(io::stdout(), "ready").context(|| "answer the runner".to_owned())?;
    let null = OpenOptions::new().write(true).open("/dev/null").context(|| "open /dev/null".to_owned())?;
    nix::unistd::dup2_stdout(&null).context(|| "close standard output".to_owned())?;
    nix::unistd::dup2_stderr(&null).context(|| "close standard error".to_owned())?;
    reap(&signals)
}

/// Reaps until SIGTERM, or until the runner is gone without having said `keep`.
fn reap(signals: &SigSet) -> Result<()> {
    let arrived = SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC).context(|| "make a signalfd".to_owned())?;
    let stdin = io::stdin();
    let mut tethered = true;
    loop {
        let mut fds = vec![PollFd::new(&arrived, PollFlags::IN)];
        if tethered {
            fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.context(|| "wait for signals".to_owned())?,
        };
        let (signalled, spoken) = (!fds[0].revents().is_empty(), tethered && !fds[1].revents().is_empty());
        if spoken {
            let mut word = [0; KEEP.len()];
            match stdin.lock().read(&mut word) {
                Ok(length) if length > 0 => tethered = false,
                _ => return Ok(()),
            }
        }
        if signalled {
            let signal = arrived.read_signal().context(|| "read a signal".to_owned())?;
            if signal.is_some_and(|info| info.ssi_signo == Signal::SIGTERM as u32) {
                return Ok(());
            }
            while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                if status == WaitStatus::StillAlive {
                    break;
                }
            }
        }
    }
}

fn set_sysctl(key: &str, value: &str) -> Result<()> {
    let path = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
    fs::write(&path, value).context(|| format!("sysctl {key} = {value}"))
}

/// Starts an init with `program`, the runner's own binary, and reads its first word: its pid.
pub(super) fn start(program: &Path, name: &str) -> Result<Talk> {
    let node_failed = |message: String| Error::Node { node: name.to_owned(), message };
    let mut outer = Command::new(program)
        .args([ARGUMENT, OUTER, name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C is for the runner: it takes the node with it by the tether.
        .process_group(0)
        .spawn()
        .context(|| format!("execute {}", program.display()))?;
    let (Some(stdin), Some(stdout)) = (outer.stdin.take(), outer.stdout.take()) else {
        return Err(node_failed("its init has no standard streams".to_owned()));
    };
    let mut talk = Talk { name: name.to_owned(), pid: 0, stdin, stdout: BufReader::new(stdout) };
    let first = talk.line();
    outer.wait().context(|| "wait for the outer init".to_owned())?;
    talk.pid = first?
        .strip_prefix("pid ")
        .and_then(|pid| pid.parse().ok())
        .ok_or_else(|| node_failed("its init does not say its pid".to_owned()))?;
    Ok(talk)
}

/// The runner's end of the talk with an init.
#[derive(Debug)]
pub(super) struct Talk {
    name: String,
    /// The init in the runner's pid namespace.
    pub(super) pid: u32,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Talk {
    /// Has the node prepared. The answer is the tether: dropping it ends the node.
    pub(super) fn prepare(mut self, spec: &InitSpec) -> Result<ChildStdin> {
        let mut line = serde_json::to_vec(spec).context(|| "write a node's specification".to_owned())?;
        line.push(b'\n');
        self.stdin.write_all(&line).context(|| format!("talk to the init of {}", self.name))?;
        match self.line()?.as_str() {
            "ready" => Ok(self.stdin),
            other => Err(self.failed(other)),
        }
    }

    fn line(&mut self) -> Result<String> {
        let what = || format!("listen to the init of {}", self.name);
        let limit = Timespec::try_from(ANSWER).unwrap_or_default();
        if poll(&mut [PollFd::new(self.stdout.get_ref(), PollFlags::IN)], Some(&limit)).context(what)? == 0 {
            return Err(Error::Timeout { what: what(), limit: ANSWER, detail: String::new() });
        }
        let mut line = String::new();
        self.stdout.read_line(&mut line).context(what)?;
        let line = line.trim_end();
        match line.strip_prefix("failed ") {
            Some(reason) => Err(self.failed(reason)),
            None => Ok(line.to_owned()),
        }
    }

    fn failed(&self, message: &str) -> Error {
        let message = if message.is_empty() { "its init ended" } else { message };
        Error::Node { node: self.name.clone(), message: message.to_owned() }
    }
}
