//! Holds RTNL, the kernel's one lock of network configuration, for as long as a test wants.
//!
//! An ethtool request is read under the lock. This one stands at a page's end, so that its second word is in the next page, which
//! userfaultfd(2) keeps missing: the kernel sleeps in the middle of reading it (`__dev_ethtool`, net/ethtool/ioctl.c, `ETHTOOL_PERQUEUE`).
//! The lock is let go when the descriptor is closed, which the end of this process does as well, however it ends.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Both as on every machine that we build for.
const PAGE: usize = 4096;
/// linux/ethtool.h
const ETHTOOL_PERQUEUE: u32 = 0x4b;
/// linux/userfaultfd.h
const UFFD_API: u64 = 0xaa;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const REGISTER_MODE_MISSING: u64 = 1;
/// The lock may be somebody else's for a while.
const TAKEN_WITHIN: Duration = Duration::from_secs(20);

#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct ifreq` with a pointer.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: usize,
    rest: [u8; 16],
}

/// The lock is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Rtnl {
    fault: Option<OwnedFd>,
    holder: Option<JoinHandle<()>>,
    pages: usize,
}

impl Rtnl {
    /// Takes the lock and has it when this returns.
    ///
    /// # Errors
    /// Where the kernel has no userfaultfd, or somebody else has the lock for long.
    pub(crate) fn hold() -> Result<Self> {
        // SAFETY: an anonymous mapping of two pages at a place that the kernel chooses.
        let pages = unsafe {
            libc::mmap(ptr::null_mut(), 2 * PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        ensure!(pages != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        let command = pages.wrapping_byte_add(PAGE - size_of::<u32>()).cast::<u32>();
        // SAFETY: the last word of the first page, which is ours.
        unsafe { command.write(ETHTOOL_PERQUEUE) };
        let fault = keep_missing(pages as usize + PAGE)?;
        let request = command as usize;
        let holder = std::thread::Builder::new().name("holds-rtnl".into()).spawn(move || ask(request))?;
        let held = Self { fault: Some(fault), holder: Some(holder), pages: pages as usize };
        let fault = held.fault.as_ref().context("a descriptor")?;
        let ready = poll(&mut [PollFd::new(fault.as_fd(), PollFlags::POLLIN)], PollTimeout::try_from(TAKEN_WITHIN)?)?;
        ensure!(ready == 1, "the lock could not be had within {TAKEN_WITHIN:?}");
        Ok(held)
    }
}

/// A descriptor as long as which is open the page is not there.
fn keep_missing(page: usize) -> Result<OwnedFd> {
    // SAFETY: a system call that takes flags alone.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    ensure!(fd >= 0, "userfaultfd: {}", std::io::Error::last_os_error());
    // SAFETY: a descriptor that the kernel has just made, and nobody else has.
    let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) };
    let mut api = UffdioApi { api: UFFD_API, features: 0, ioctls: 0 };
    // SAFETY: the request's own structure, which outlives the call.
    let outcome = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) };
    ensure!(outcome == 0, "UFFDIO_API: {}", std::io::Error::last_os_error());
    let mut register = UffdioRegister { start: page as u64, len: PAGE as u64, mode: REGISTER_MODE_MISSING, ioctls: 0 };
    // SAFETY: as above; the page is ours, and nothing of this program is in it.
    let outcome = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) };
    ensure!(outcome == 0, "UFFDIO_REGISTER: {}", std::io::Error::last_os_error());
    Ok(fd)
}

/// Comes back when the second page is there.
fn ask(data: usize) {
    let Ok(socket) = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None) else { return };
    let mut request = Request { name: [0; libc::IFNAMSIZ], data, rest: [0; 16] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: the request's own structure; what it points to is mapped for as long as this thread runs. It is refused in the end, and
    // whether is all the same.
    let _ = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
}

impl Drop for Rtnl {
    fn drop(&mut self) {
        self.fault = None;
        if let Some(holder) = self.holder.take() {
            let _ = holder.join();
        }
        // SAFETY: the mapping of `hold`, which nobody uses any more.
        unsafe { libc::munmap(self.pages as *mut libc::c_void, 2 * PAGE) };
    }
}
