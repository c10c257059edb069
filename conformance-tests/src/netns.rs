//! Network namespaces of the suite's own: made, named by a bind mount, entered, and gone when dropped.
//!
//! A namespace lives exactly as long as its mount: no process stays in it.

use std::{
    fs::File,
    io,
    marker::PhantomData,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// The calling thread's own network namespace. (`/proc/self` would be the main thread's.)
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// A namespace could not be made, opened or entered.
#[derive(Debug, thiserror::Error)]
#[error("cannot {call} the network namespace {path:?} (is it one, and does conform run as root?)")]
pub struct NetnsError {
    call: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn error(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetnsError {
    let path = path.to_owned();
    move |source| NetnsError { call, path, source }
}

/// A network namespace under a path.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    mounted: bool,
}

impl Netns {
    /// Makes a namespace and mounts it at `path`, which must not exist yet. Dropping it unmounts it again.
    pub fn create(path: PathBuf) -> Result<Self, NetnsError> {
        File::create_new(&path).map_err(error("create the file of", &path))?;
        let made = thread::scope(|scope| {
            let maker = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                mount(Some(OWN_NETNS), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            });
            maker.join().expect("the thread that makes a namespace does not panic")
        });
        if let Err(errno) = made {
            // Not worth a word beside the error that is being reported.
            let _ = std::fs::remove_file(&path);
            return Err(error("make", &path)(errno.into()));
        }
        Ok(Self { path, mounted: true })
    }

    /// Opens a namespace that belongs to somebody else and will outlive the suite.
    pub fn open(path: PathBuf) -> Result<Self, NetnsError> {
        let netns = Self { path, mounted: false };
        // A path that is no network namespace is better found before the first case than in each of them.
        drop(netns.enter()?);
        Ok(netns)
    }

    /// Where the namespace is mounted: a value for `CNI_NETNS`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes name and namespace away, as after a container's end: `path` does not exist any more.
    pub fn vanish(&self) {
        if self.mounted {
            unmount(&self.path);
        }
    }

    /// Moves the calling thread into the namespace until the guard is dropped. Children started meanwhile live in it.
    pub fn enter(&self) -> Result<Entered, NetnsError> {
        let own = Path::new(OWN_NETNS);
        let home = File::open(own).map_err(error("open", own))?;
        let inside = File::open(&self.path).map_err(error("open", &self.path))?;
        setns(inside, CloneFlags::CLONE_NEWNET).map_err(|errno| error("enter", &self.path)(errno.into()))?;
        Ok(Entered { home, not_send: PhantomData })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.vanish();
    }
}

/// Unmounts a namespace's name, however often something was mounted there, and removes the file. A name that is not
/// mounted is just removed.
pub(super) fn unmount(path: &Path) {
    while umount2(path, MntFlags::MNT_DETACH).is_ok() {}
    // The run directory's own removal reports what could not be removed.
    let _ = std::fs::remove_file(path);
}

/// The calling thread is in another namespace; dropping this brings it home.
#[derive(Debug)]
pub struct Entered {
    home: File,
    /// It is the thread that was moved, so the guard must not leave it.
    not_send: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // A thread that cannot come home would run everything after this in a foreign namespace.
        setns(&self.home, CloneFlags::CLONE_NEWNET).expect("return to the namespace that the thread came from");
    }
}
