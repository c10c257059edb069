//! Network namespaces without a name: they live as long as a file descriptor of this process.

use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};

/// The calling thread's own network namespace, in whichever mount namespace.
const OF_THIS_THREAD: &str = "/proc/thread-self/ns/net";

/// A network namespace that is gone, with all links in it, once this value and its users are.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
}

impl Namespace {
    /// Makes a new, empty one. The calling thread stays where it is.
    ///
    /// # Errors
    /// Without the capability `CAP_SYS_ADMIN`, or when out of file descriptors.
    pub fn create() -> Result<Self> {
        let home = Home::remember()?;
        unshare(CloneFlags::CLONE_NEWNET).context("cannot create a network namespace")?;
        let created = Self::current();
        drop(home);
        created
    }

    /// The one that the calling thread is in.
    ///
    /// # Errors
    /// When out of file descriptors.
    pub fn current() -> Result<Self> {
        let file = File::open(OF_THIS_THREAD).with_context(|| format!("cannot open {OF_THIS_THREAD}"))?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd()));
        Ok(Self { file, path })
    }

    /// A path to it that every process of the same PID namespace can open.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open namespace, for a request that refers to it.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Takes the calling thread, and the processes it starts, into the namespace until the guard is dropped.
    ///
    /// # Errors
    /// Without the capability `CAP_SYS_ADMIN`.
    pub fn enter(&self) -> Result<Home> {
        let home = Home::remember()?;
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter the network namespace {}", self.path.display()))?;
        Ok(home)
    }
}

/// Brings the calling thread back to the network namespace it was in. Stays on its thread.
#[derive(Debug)]
#[must_use = "dropping it ends the visit"]
pub struct Home {
    namespace: File,
    not_send: PhantomData<*const ()>,
}

impl Home {
    fn remember() -> Result<Self> {
        let namespace = File::open(OF_THIS_THREAD).with_context(|| format!("cannot open {OF_THIS_THREAD}"))?;
        Ok(Self { namespace, not_send: PhantomData })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if setns(&self.namespace, CloneFlags::CLONE_NEWNET).is_err() {
            // Whatever this thread did next would happen to the wrong network.
            process::abort();
        }
    }
}
