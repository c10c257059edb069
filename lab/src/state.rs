//! What survives the runner: which processes are a lab's node inits.
//!
//! A process is identified by pid, start time and boot, and is signalled through a pidfd that was opened before the
//! identity was checked: a pid that the kernel has given to somebody else is never killed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::error::{Context, Error, Result};

/// Where labs are kept.
pub const BASE: &str = "/run/barewire-lab";

/// How long a killed init may take to vanish with everything in its pid namespace.
const DEATH: Duration = Duration::from_secs(20);

/// A process of which no other can be mistaken for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Pid in the runner's pid namespace.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks between boot and start.
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

impl ProcessIdentity {
    /// The identity of a process that lives now.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).context(|| path.clone())?;
        let (_, start_ticks) = parse_stat(&stat).ok_or_else(|| Error::Io { what: path, cause: std::io::ErrorKind::InvalidData.into() })?;
        Ok(Self { pid, start_ticks, boot_id: boot_id()? })
    }

    /// Whether this very process still runs. A zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        let same_boot = boot_id().is_ok_and(|boot| boot == self.boot_id);
        same_boot && parse_stat(&stat).is_some_and(|(state, start)| start == self.start_ticks && !matches!(state, 'Z' | 'X'))
    }

    /// Kills this very process and waits until it is gone.
    ///
    /// # Errors
    /// When it does not die in time. A process that is gone already is no error.
    pub fn kill(&self) -> Result<()> {
        self.end(Signal::KILL, DEATH)
    }

    /// Asks this very process to end and waits until it has.
    ///
    /// # Errors
    /// When it does not end within `limit`. A process that is gone already is no error.
    pub fn terminate(&self, limit: Duration) -> Result<()> {
        self.end(Signal::TERM, limit)
    }

    /// Tells this very process to read its configuration again (SIGHUP).
    ///
    /// # Errors
    /// When the kernel refuses. A process that is gone is no error.
    pub fn hang_up(&self) -> Result<()> {
        self.send(Signal::HUP).map(drop)
    }

    /// The process that the signal was sent to; none if it is gone.
    fn send(&self, signal: Signal) -> Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            return Ok(None);
        };
        // Checked after the pidfd is held: from here on the pid cannot change hands unnoticed.
        if !self.is_alive() {
            return Ok(None);
        }
        pidfd_send_signal(&pidfd, signal).context(|| format!("signal process {}", self.pid))?;
        Ok(Some(pidfd))
    }

    fn end(&self, signal: Signal, limit: Duration) -> Result<()> {
        let Some(pidfd) = self.send(signal)? else { return Ok(()) };
        let timeout = Timespec::try_from(limit).unwrap_or_default();
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => Err(Error::Timeout { what: format!("end of process {}", self.pid), limit, detail: format!("it was sent {signal:?}") }),
            Ok(_) => Ok(()),
            Err(error) => Err(error).context(|| format!("wait for process {}", self.pid)),
        }
    }
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(path).context(|| path.to_owned())?;
    Ok(id.trim().to_owned())
}

/// State letter and start time. The command name before them may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // The state is field 3, the start time field 22.
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

/// A lab as the state file has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabState {
    /// The topology file, absolute.
    pub topology: PathBuf,
    /// The nodes by name.
    pub nodes: BTreeMap<String, NodeState>,
}

/// A node as the state file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Its init: when this process ends, everything in the node does.
    pub init: ProcessIdentity,
    /// Environment of what is executed in it.
    pub env: BTreeMap<String, String>,
}

/// A lab's directory, held under a lock so that two runners never work on one lab.
#[derive(Debug)]
pub struct LabDirectory {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl LabDirectory {
    /// Opens the directory of `lab` below `base`, making it if it is missing.
    ///
    /// # Errors
    /// When another runner holds it.
    pub fn open(base: &Path, lab: &str) -> Result<Self> {
        let path = base.join(lab);
        fs::create_dir_all(&path).context(|| format!("create {}", path.display()))?;
        let lock_path = base.join(format!("{lab}.lock"));
        let what = || format!("lock {}", lock_path.display());
        loop {
            let lock = File::create(&lock_path).context(what)?;
            lock.try_lock().map_err(|_| Error::Lab {
                lab: lab.to_owned(),
                message: format!("another runner is at work on it ({} is locked)", lock_path.display()),
            })?;
            // The last holder may have removed the file between our open and our lock: then the lock is on nothing.
            let held = lock.metadata().context(what)?.ino();
            if fs::metadata(&lock_path).is_ok_and(|named| named.ino() == held) {
                return Ok(Self { path, lock_path, _lock: lock });
            }
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state, empty when there is none.
    ///
    /// # Errors
    /// When the file is there and cannot be read as state.
    pub fn load(&self) -> Result<LabState> {
        load(&self.path)
    }

    /// Writes the state so that a crash leaves the old or the new one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, state: &LabState) -> Result<()> {
        let path = self.path.join(STATE);
        let what = || format!("write {}", path.display());
        let mut file = tempfile::NamedTempFile::new_in(&self.path).context(what)?;
        let json = serde_json::to_vec_pretty(state).context(what)?;
        file.write_all(&json).context(what)?;
        file.persist(&path).map_err(|error| error.error).context(what)?;
        Ok(())
    }

    /// Empties the directory, keeping the lock.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn clear(&self) -> Result<()> {
        let what = || format!("empty {}", self.path.display());
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context(what),
            _ => {}
        }
        fs::create_dir_all(&self.path).context(what)
    }

    /// Removes the directory and gives the lock back.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        self.clear()?;
        let what = || format!("remove {}", self.path.display());
        fs::remove_dir(&self.path).context(what)?;
        fs::remove_file(&self.lock_path).context(what)?;
        // Not empty while another lab is up.
        let _ = self.path.parent().map(fs::remove_dir);
        Ok(())
    }
}

const STATE: &str = "state.json";

/// The state in a lab's directory without taking its lock.
///
/// # Errors
/// When the file is there and cannot be read as state.
pub fn load(directory: &Path) -> Result<LabState> {
    let path = directory.join(STATE);
    match fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json)
            .context(|| format!("{} is not a lab's state; look for its processes, then remove the file", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(LabState::default()),
        Err(error) => Err(error).context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn stat_with_parentheses_in_the_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 987654 1000 10 18446744073709551615";
        assert_eq!(parse_stat(stat), Some(('S', 987_654)));
        assert_eq!(parse_stat("42 (cut"), None);
    }

    #[test]
    fn a_recycled_pid_is_left_alone() {
        let mut bystander = Command::new("sleep").arg("30").spawn().unwrap();
        let mut identity = ProcessIdentity::of(bystander.id()).unwrap();
        assert!(identity.is_alive());
        identity.start_ticks -= 1;
        assert!(!identity.is_alive());
        identity.kill().unwrap();
        assert!(bystander.try_wait().unwrap().is_none(), "the bystander was killed");

        identity.start_ticks += 1;
        identity.boot_id = "another boot".to_owned();
        identity.kill().unwrap();
        assert!(bystander.try_wait().unwrap().is_none(), "the bystander was killed");

        ProcessIdentity::of(bystander.id()).unwrap().kill().unwrap();
        assert!(!bystander.wait().unwrap().success());
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("true").spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        let gone = super::super::command::wait_until("a zombie", Duration::from_secs(5), || {
            if identity.is_alive() { Err(String::new()) } else { Ok(()) }
        });
        assert!(gone.is_ok());
        identity.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn state_survives_and_one_runner_works_at_a_time() {
        let base = tempfile::tempdir().unwrap();
        let directory = LabDirectory::open(base.path(), "two").unwrap();
        assert_eq!(directory.load().unwrap(), LabState::default());
        let mut state = LabState { topology: "/somewhere/two.clab.yml".into(), nodes: BTreeMap::new() };
        let node = NodeState {
            init: ProcessIdentity::of(std::process::id()).unwrap(),
            env: BTreeMap::from([("COLOUR".to_owned(), "red".to_owned())]),
        };
        state.nodes.insert("n1".to_owned(), node);
        directory.save(&state).unwrap();
        assert_eq!(directory.load().unwrap(), state);
        let message = LabDirectory::open(base.path(), "two").unwrap_err().to_string();
        assert!(message.contains("another runner"), "{message}");
        drop(directory);
        let other = LabDirectory::open(base.path(), "other").unwrap();
        LabDirectory::open(base.path(), "two").unwrap().remove().unwrap();
        let left: Vec<_> = fs::read_dir(base.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name.to_string_lossy().starts_with("other")), "{left:?}");
        other.remove().unwrap();
    }

    #[test]
    fn a_state_file_that_is_none_says_so() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join(STATE), "{\"topology\": 3").unwrap();
        let message = load(base.path()).unwrap_err().to_string();
        assert!(message.contains("state.json is not a lab's state"), "{message}");
    }
}
