//! One run's directory, where its namespaces are mounted, and the removal of those of runs that died.
//!
//! A run holds a lock on a file beside its directory for as long as it lives, and the kernel drops locks of dead processes.
//! So a directory whose lock is free is a dead run's, whatever process now has that run's id.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use super::netns;

/// Where runs keep their directories.
pub const BASE: &str = "/run/conform";

/// Cleaning up after a dead run takes milliseconds for each of its namespaces.
const WAIT_FOR_OTHER_START: Duration = Duration::from_secs(10);

/// The directory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// A system call on one of its files failed.
    #[error("cannot use {path:?}, where conform keeps its namespaces (is it run as root?)")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Another run holds the start lock for too long.
    #[error("{0:?} stays locked: another conform is stuck in its start; end it and try again")]
    Locked(PathBuf),
}

/// A directory of this run's own. Dropped, it unmounts and removes all that is in it.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Removes what dead runs left in `base`, and makes a directory there for this one.
    pub fn create(base: &Path) -> Result<Self, RunDirError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| RunDirError::Io { path, source }
        };
        fs::create_dir_all(base).map_err(io(base))?;
        let start_lock = base.join(".lock");
        // Only one start at a time looks for dead runs: a run between its lock and its directory must not look dead.
        let _start = lock_within(&start_lock, WAIT_FOR_OTHER_START)?;
        sweep(base).map_err(io(base))?;

        // A process may run several suites, as the tests of this one do.
        for serial in 0_u32.. {
            let path = base.join(format!("{}-{serial}", process::id()));
            let lock_path = path.with_extension("lock");
            let lock = match File::create_new(&lock_path) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(io(&lock_path)(error)),
            };
            lock.lock().map_err(io(&lock_path))?;
            fs::create_dir(&path).map_err(io(&path))?;
            return Ok(Self { path, lock_path, _lock: lock });
        }
        unreachable!("a process does not run four billion suites at a time")
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        remove(&self.path, &self.lock_path);
    }
}

fn lock_within(path: &Path, bound: Duration) -> Result<File, RunDirError> {
    let io = |source| RunDirError::Io { path: path.to_owned(), source };
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(io)?;
    let deadline = Instant::now() + bound;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(io(source)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Err(RunDirError::Locked(path.to_owned())),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn sweep(base: &Path) -> io::Result<()> {
    for entry in fs::read_dir(base)? {
        let entry = entry?.path();
        // A run that died early has a lock and no directory yet.
        let path = entry.with_extension("");
        let is_run = entry.is_dir() || entry.extension().is_some_and(|extension| extension == "lock");
        if !is_run {
            continue;
        }
        let lock_path = path.with_extension("lock");
        let alive = File::open(&lock_path).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        if !alive {
            remove(&path, &lock_path);
        }
    }
    Ok(())
}

/// Never stops at the first failure: what cannot be removed now is found again by the next start.
fn remove(dir: &Path, lock: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        netns::unmount(&entry.path());
    }
    // Nothing is mounted in it any more.
    let _ = fs::remove_dir_all(dir);
    let _ = fs::remove_file(lock);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_removes_what_dead_runs_left_and_spares_the_living() {
        let base = tempfile::tempdir().unwrap();
        let living = RunDir::create(base.path()).unwrap();
        let dead = base.path().join("4294967295-0");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("pod-1"), "").unwrap();
        fs::write(dead.with_extension("lock"), "").unwrap();
        let died_early = base.path().join("4294967295-1.lock");
        fs::write(&died_early, "").unwrap();

        let next = RunDir::create(base.path()).unwrap();
        assert!(!dead.exists() && !dead.with_extension("lock").exists());
        assert!(!died_early.exists());
        assert!(living.path().exists());
        assert_ne!(living.path(), next.path());

        let path = next.path().to_owned();
        drop(next);
        assert!(!path.exists() && !path.with_extension("lock").exists());
    }
}
