//! A pod's network namespace, and work inside it.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};

/// `NSFS_MAGIC`, linux/magic.h
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// `NSIO`, linux/nsfs.h
const NSIO: u8 = 0xb7;

nix::ioctl_none_bad!(
    /// `NS_GET_NSTYPE`, `ioctl_ns(2)`: which kind of namespace a descriptor refers to.
    ns_get_nstype,
    nix::request_code_none!(NSIO, 0x3)
);

/// Why a namespace is of no use.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// It could not be looked at or entered.
    #[error("{call}: {source}")]
    Call {
        /// The system call.
        call: &'static str,
        /// Its errno.
        source: io::Error,
    },
    /// It is a file or another kind of namespace.
    #[error("it is not a network namespace")]
    NotNetns,
    /// It is the one that we run in.
    #[error("it is the host's own network namespace")]
    HostsOwn,
}

fn call(call: &'static str) -> impl FnOnce(nix::Error) -> NetnsError {
    move |errno| NetnsError::Call { call, source: errno.into() }
}

/// The identity of a network namespace for as long as it exists (`namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetnsId {
    /// The device number of nsfs.
    pub device: u64,
    /// The inode number in it.
    pub inode: u64,
}

/// The host's network namespace: the one that the daemon runs in and every thread of it comes home to.
#[derive(Debug, Clone)]
pub struct HostNetns {
    file: Arc<File>,
    id: NetnsId,
}

impl HostNetns {
    /// The calling thread's.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn current() -> Result<Self, NetnsError> {
        let open = File::open("/proc/thread-self/ns/net");
        let file = open.map_err(|source| NetnsError::Call { call: "open /proc/thread-self/ns/net", source })?;
        Ok(Self { id: NetnsId::of(file.as_fd())?, file: Arc::new(file) })
    }
}

/// An open network namespace that is not the host's.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    id: NetnsId,
    home: HostNetns,
}

impl Netns {
    /// Takes a descriptor from outside and checks what it is.
    ///
    /// # Errors
    /// See [`NetnsError`].
    pub fn new(fd: OwnedFd, home: &HostNetns) -> Result<Self, NetnsError> {
        if fstatfs(&fd).map_err(call("fstatfs"))?.filesystem_type() != FsType(NSFS_MAGIC) {
            return Err(NetnsError::NotNetns);
        }
        // SAFETY: the request takes no argument and writes no memory; the descriptor is open for the length of the call.
        let kind = unsafe { ns_get_nstype(fd.as_raw_fd()) }.map_err(call("ioctl NS_GET_NSTYPE"))?;
        if kind != libc::CLONE_NEWNET {
            return Err(NetnsError::NotNetns);
        }
        let id = NetnsId::of(fd.as_fd())?;
        if id == home.id {
            return Err(NetnsError::HostsOwn);
        }
        Ok(Self { fd, id, home: home.clone() })
    }

    /// Which namespace it is.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `work` with the calling thread, which must be in the host's namespace, inside this one.
    ///
    /// # Errors
    /// Where the namespace cannot be entered. `work`'s own outcome is the value.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T, NetnsError> {
        let _inside = Inside::enter(self.fd.as_fd(), &self.home.file)?;
        Ok(work())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl NetnsId {
    fn of(fd: BorrowedFd<'_>) -> Result<Self, NetnsError> {
        let stat = nix::sys::stat::fstat(fd).map_err(call("fstat"))?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// The way back out of a namespace, taken however the work inside ends. It belongs to one thread.
struct Inside<'a> {
    home: &'a File,
    _bound_to_thread: PhantomData<*const ()>,
}

impl<'a> Inside<'a> {
    fn enter(netns: BorrowedFd<'_>, home: &'a File) -> Result<Self, NetnsError> {
        setns(netns, CloneFlags::CLONE_NEWNET).map_err(call("setns into the pod"))?;
        Ok(Self { home, _bound_to_thread: PhantomData })
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if let Err(errno) = setns(self.home, CloneFlags::CLONE_NEWNET) {
            // A thread that is lost in a pod would wire the next pod into this one. A restart is harmless beside that.
            tracing::error!(%errno, "return to the host's network namespace failed; aborting");
            std::process::abort();
        }
    }
}
