//! The filter in front of the notes ([`ebpf::filter`]), as the daemon keeps it.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use aya::maps::{Array, MapData, MapError};
use ebpf::filter::Generations;
use ebpf::layout::NOTE_MARKS_MAX;
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::tables::lock;

/// The bytes, shared with the programs, and the generations that count.
pub(super) struct NoteFilter {
    marks: Marks,
    /// Held while a note of the daemon's own is marked and written: a sweep that begins meanwhile sees it.
    generations: Mutex<Array<MapData, u32>>,
}

/// A generation that has begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    generations: Generations,
    /// No program is left that knows only the one before.
    is_alone: bool,
}

/// The value of the map, as memory.
struct Marks(NonNull<AtomicU8>);

// SAFETY: bytes that are read and written as atomics only.
unsafe impl Send for Marks {}
// SAFETY: as above.
unsafe impl Sync for Marks {}

impl Marks {
    fn map(fd: &OwnedFd) -> Result<Self, Errno> {
        let length = NonZeroUsize::new(NOTE_MARKS_MAX).ok_or(Errno::EINVAL)?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let memory = unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd.as_fd(), 0) }?;
        Ok(Self(memory.cast()))
    }

    fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: the mapping has this length and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), NOTE_MARKS_MAX) }
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and nothing refers to it any more.
        let _gone = unsafe { munmap(self.0.cast(), NOTE_MARKS_MAX) };
    }
}

impl NoteFilter {
    /// Of the two maps, and a descriptor of the first.
    pub(super) fn new(marks: &OwnedFd, generations: Array<MapData, u32>) -> Result<Self, MapError> {
        let marks = Marks::map(marks).map_err(|errno| MapError::IoError(errno.into()))?;
        Ok(Self { marks, generations: Mutex::new(generations) })
    }

    /// Marks a flow's place and then calls `write`, which notes it.
    pub(super) fn mark_and(&self, place: usize, write: impl FnOnce() -> Result<(), MapError>) -> Result<(), MapError> {
        let generations = lock(&self.generations);
        self.mark(Generations(generations.get(&0, 0)?), place);
        write()
    }

    /// Begins a generation, and returns once no program is left that knows only the one before. Where the kernel cannot tell, that one goes
    /// on, and the filter lets more and more through.
    pub(super) fn begin(&self) -> Result<Begun, MapError> {
        let mut generations = lock(&self.generations);
        let begun = Generations(generations.get(&0, 0)?).begin();
        generations.set(0, begun.0, 0)?;
        // Notes of the daemon's own are written meanwhile.
        drop(generations);
        // Once for those that write the old generation still; once more for those whose new one such a program may have overwritten:
        // their notes are in the table by then, and are marked again.
        Ok(Begun { generations: begun, is_alone: wait_for_programs() && wait_for_programs() })
    }

    /// Marks the place of a note that stays.
    pub(super) fn keep(&self, begun: Begun, place: usize) {
        self.mark(begun.generations, place);
    }

    fn mark(&self, generations: Generations, place: usize) {
        if let Some(byte) = self.marks.bytes().get(place) {
            byte.store(generations.current(), Ordering::Relaxed);
        }
    }

    /// Ends the generation before, where nobody marks with it any more. Every note that stays must have been marked.
    pub(super) fn end(&self, begun: Begun) -> Result<(), MapError> {
        if begun.is_alone { lock(&self.generations).set(0, begun.generations.end().0, 0) } else { Ok(()) }
    }
}

/// Waits until every program that runs now has ended: they run in a read side of RCU, and this waits for a grace period
/// (`membarrier(MEMBARRIER_CMD_GLOBAL)`). A kernel that keeps the tick off some CPUs refuses it; one with a single CPU does not wait, though
/// a program may stand still in the midst of it where the kernel is preemptible throughout (kernel/sched/membarrier.c).
fn wait_for_programs() -> bool {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes a number only.
    let has_several_cpus = || unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) } > 1;
    // SAFETY: the call takes numbers only.
    let waits = || unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } == 0;
    // Asked twice: one may be taken away meanwhile.
    has_several_cpus() && waits() && has_several_cpus()
}
