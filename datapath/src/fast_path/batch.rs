//! Reads a whole hash in a few system calls (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6): a table of 262,144 entries in milliseconds, not in a
//! second.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

/// Entries that are read at once. A bucket of the hash is never split: more than it holds.
const CHUNK: usize = 8192;

/// `struct { … } batch` of `union bpf_attr` (linux/bpf.h).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Calls `each` with every entry of the hash behind `map`, whose keys and values are a `K` and a `V`. Entries that come and go meanwhile
/// may be missing or seen twice. `false` where the kernel cannot do that; then nothing was called.
///
/// # Safety
/// Keys and values of the map must be of the size of `K` and `V`, and any bytes a value of either.
pub(super) unsafe fn for_each<K: Copy, V: Copy>(map: BorrowedFd<'_>, mut each: impl FnMut(K, V)) -> io::Result<bool> {
    const LOOKUP_BATCH: libc::c_long = 24;
    let mut keys = vec![MaybeUninit::<K>::uninit(); CHUNK];
    let mut values = vec![MaybeUninit::<V>::uninit(); CHUNK];
    // Where the next call goes on: of a hash, the number of a bucket.
    let (mut from, mut to) = (0_u32, 0_u32);
    let mut is_first = true;
    loop {
        let mut attributes = Attributes {
            in_batch: if is_first { 0 } else { (&raw const from).addr() as u64 },
            out_batch: (&raw mut to).addr() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: CHUNK as u32,
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads and writes what the attributes point to: two numbers, and `count` elements of each array. All live
        // for the length of the call.
        let outcome = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut attributes, size_of::<Attributes>()) };
        let errno = if outcome == 0 { None } else { Some(Errno::last()) };
        match errno {
            None | Some(Errno::ENOENT) => {}
            Some(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOTSUP) if is_first => return Ok(false),
            Some(errno) => return Err(errno.into()),
        }
        for at in 0..attributes.count as usize {
            // SAFETY: the kernel has written this many, and any bytes are a value, as the caller promises.
            let key = unsafe { keys[at].assume_init() };
            // SAFETY: as above.
            let value = unsafe { values[at].assume_init() };
            each(key, value);
        }
        if errno.is_some() {
            return Ok(true);
        }
        (from, is_first) = (to, false);
    }
}
