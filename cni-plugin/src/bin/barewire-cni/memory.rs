//! Memory for a process that lives for a millisecond: a few pages that are there when it starts, and none given back until it ends.
//!
//! musl's own allocator asks the kernel for each kind of thing that it keeps; four pages of the program's own are enough for an ADD.
//! What is large (a configuration of megabytes) has pages of its own, which are given back.
//!
//! Where there is no more, the process ends with the error result that the specification has for it: nobody above could go on.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};

use nix::sys::mman::{MRemapFlags, MapFlags, ProtFlags, mmap_anonymous, mremap, munmap};

/// An ADD takes 14 KiB.
const FIRST: usize = 64 << 10;
/// Asked of the kernel once that is used up; only what is touched becomes memory.
const CHUNK: usize = 1 << 20;
/// From here on a block has pages of its own.
const LARGE: usize = 64 << 10;
/// Of every block at least, as malloc has it: nix lays control messages (`cmsghdr`) into a vector of bytes.
const ALIGNMENT: usize = 16;
/// The kernel's pages are no smaller.
const PAGE: usize = 4096;

/// The allocator.
pub(crate) struct Memory {
    taken: AtomicBool,
    state: UnsafeCell<State>,
    exhausted: fn() -> !,
}

struct State {
    /// Where the next block may begin; null before the first.
    next: *mut u8,
    /// How much is left from there.
    left: usize,
    first: [u8; FIRST],
}

// SAFETY: `state` is touched in `Memory::with` only, by one thread at a time, and its pointer by whoever was given a block there.
unsafe impl Sync for Memory {}

impl Memory {
    /// Nothing is taken yet. `exhausted` ends the process; it must not allocate.
    pub(crate) const fn new(exhausted: fn() -> !) -> Self {
        let state = State { next: ptr::null_mut(), left: 0, first: [0; FIRST] };
        Self { taken: AtomicBool::new(false), state: UnsafeCell::new(state), exhausted }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        while self.taken.swap(true, Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: whoever has set `taken` is alone until it is unset, and `work` does not call back.
        let outcome = work(unsafe { &mut *self.state.get() });
        self.taken.store(false, Release);
        outcome
    }

    fn or_end(&self, block: Option<NonNull<u8>>) -> *mut u8 {
        match block {
            Some(block) => block.as_ptr(),
            None => (self.exhausted)(),
        }
    }
}

impl State {
    fn take(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if self.next.is_null() {
            (self.next, self.left) = (self.first.as_mut_ptr(), FIRST);
        }
        if !self.fits(layout) {
            (self.next, self.left) = (pages(CHUNK)?.as_ptr(), CHUNK);
        }
        let skipped = self.next.align_offset(layout.align().max(ALIGNMENT));
        let block = self.next.wrapping_add(skipped);
        self.next = block.wrapping_add(layout.size());
        self.left -= skipped + layout.size();
        NonNull::new(block)
    }

    fn fits(&self, layout: Layout) -> bool {
        // Neither is more than half of the address space (`Layout`); an offset that cannot be is the largest number.
        self.next.align_offset(layout.align().max(ALIGNMENT)).saturating_add(layout.size()) <= self.left
    }

    /// Whether the block was the last to be taken.
    fn is_last(&self, block: *mut u8, size: usize) -> bool {
        block.wrapping_add(size) == self.next
    }

    fn give_back(&mut self, block: *mut u8, size: usize) {
        if self.is_last(block, size) {
            self.next = block;
            self.left += size;
        }
    }

    /// Makes the last block longer or shorter where it is.
    fn resize_in_place(&mut self, block: *mut u8, size: usize, new_size: usize) -> bool {
        let resizes = self.is_last(block, size) && new_size <= size + self.left;
        if resizes {
            self.next = block.wrapping_add(new_size);
            self.left = size + self.left - new_size;
        }
        resizes
    }
}

const fn is_large(size: usize) -> bool {
    size >= LARGE
}

fn pages(size: usize) -> Option<NonNull<u8>> {
    // SAFETY: an anonymous mapping of the kernel's choice is nobody else's.
    let mapped =
        unsafe { mmap_anonymous(None, NonZeroUsize::new(size)?, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE) };
    Some(mapped.ok()?.cast())
}

fn pages_resized(block: NonNull<c_void>, size: usize, new_size: usize) -> Option<NonNull<u8>> {
    // SAFETY: the caller has the mapping, of this size, and goes on with the one that is returned.
    let moved = unsafe { mremap(block, size, new_size, MRemapFlags::MREMAP_MAYMOVE, None) };
    Some(moved.ok()?.cast())
}

// SAFETY: blocks are cut off one after the other from memory that is theirs alone, aligned as asked, or are mappings of their own;
// a block that is not the last to be cut off stays where it is.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = match is_large(layout.size()) {
            true if layout.align() > PAGE => None,
            true => pages(layout.size()),
            false => self.with(|state| state.take(layout)),
        };
        self.or_end(block)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !is_large(layout.size()) {
            self.with(|state| state.give_back(block, layout.size()));
        } else if let Some(block) = NonNull::new(block) {
            // SAFETY: `alloc` has mapped it with this size, and the caller has no use for it any more. What cannot be unmapped stays.
            let _ = unsafe { munmap(block.cast(), layout.size()) };
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        match (is_large(layout.size()), is_large(new_size)) {
            (true, true) => {
                let resized = NonNull::new(block).and_then(|block| pages_resized(block.cast(), layout.size(), new_size));
                return self.or_end(resized);
            }
            (false, false) if self.with(|state| state.resize_in_place(block, layout.size(), new_size)) => return block,
            _ => {}
        }
        // SAFETY: `new_size` with this alignment is a layout (the caller's promise).
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: `new_size` is not zero (the caller's promise).
        let moved = unsafe { self.alloc(new_layout) };
        // SAFETY: both blocks are at least as long, and a new block is none that is in use.
        unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size)) };
        // SAFETY: the caller has no use for it any more.
        unsafe { self.dealloc(block, layout) };
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exhausted() -> ! {
        panic!("exhausted")
    }

    /// A block as its owner sees it: what it was filled with.
    struct Block {
        start: *mut u8,
        layout: Layout,
        fill: u8,
    }

    impl Block {
        fn is_whole(&self) -> bool {
            // SAFETY: the block is in use, `size` bytes long and written from end to end.
            let bytes = unsafe { std::slice::from_raw_parts(self.start, self.layout.size()) };
            self.start.addr().is_multiple_of(self.layout.align()) && bytes.iter().all(|byte| *byte == self.fill)
        }

        fn fill(&mut self, fill: u8) {
            self.fill = fill;
            // SAFETY: the block is in use and `size` bytes long.
            unsafe { ptr::write_bytes(self.start, fill, self.layout.size()) };
        }
    }

    fn size() -> impl Strategy<Value = usize> {
        prop_oneof![8 => 1..400_usize, 2 => 400..LARGE, 1 => LARGE - 1..LARGE + 2, 1 => LARGE..4 * LARGE]
    }

    #[derive(Debug, Clone)]
    enum Step {
        Alloc { size: usize, align: usize },
        Dealloc { which: prop::sample::Index },
        Realloc { which: prop::sample::Index, size: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (size(), 0..7_u32).prop_map(|(size, power)| Step::Alloc { size, align: 1 << power }),
            1 => any::<prop::sample::Index>().prop_map(|which| Step::Dealloc { which }),
            3 => (any::<prop::sample::Index>(), size()).prop_map(|(which, size)| Step::Realloc { which, size }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_block_is_aligned_and_keeps_what_is_written_until_it_is_given_back(steps in prop::collection::vec(step(), 1..120)) {
            let memory = Box::new(Memory::new(exhausted));
            let mut blocks: Vec<Block> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let fill = u8::try_from(number % 251).unwrap_or(0);
                match step {
                    Step::Alloc { size, align } => {
                        let layout = Layout::from_size_align(size, align).unwrap();
                        // SAFETY: the size is not zero.
                        let start = unsafe { memory.alloc(layout) };
                        blocks.push(Block { start, layout, fill });
                        blocks.last_mut().unwrap().fill(fill);
                    }
                    Step::Dealloc { which } if !blocks.is_empty() => {
                        let Block { start, layout, .. } = blocks.swap_remove(which.index(blocks.len()));
                        // SAFETY: it is in use, with this layout.
                        unsafe { memory.dealloc(start, layout) };
                    }
                    Step::Realloc { which, size } if !blocks.is_empty() => {
                        let at = which.index(blocks.len());
                        let block = &mut blocks[at];
                        // SAFETY: it is in use, with this layout, and the size is not zero.
                        block.start = unsafe { memory.realloc(block.start, block.layout, size) };
                        let kept = block.layout.size().min(size);
                        block.layout = Layout::from_size_align(size, block.layout.align()).unwrap();
                        // SAFETY: `kept` bytes were written before and came along.
                        let bytes = unsafe { std::slice::from_raw_parts(block.start, kept) };
                        prop_assert!(bytes.iter().all(|byte| *byte == block.fill));
                        block.fill(fill);
                    }
                    Step::Dealloc { .. } | Step::Realloc { .. } => {}
                }
            }
            prop_assert!(blocks.iter().all(Block::is_whole));
            for Block { start, layout, .. } in blocks {
                // SAFETY: it is in use, with this layout.
                unsafe { memory.dealloc(start, layout) };
            }
        }
    }

    #[test]
    fn what_grows_at_the_end_stays_where_it_is() {
        let memory = Box::new(Memory::new(exhausted));
        let layout = Layout::from_size_align(16, 8).unwrap();
        // SAFETY: the size is not zero.
        let start = unsafe { memory.alloc(layout) };
        // SAFETY: the block is in use with this layout, and the size is not zero.
        let grown = unsafe { memory.realloc(start, layout, 4096) };
        assert_eq!(start, grown);
    }

    #[test]
    #[should_panic(expected = "exhausted")]
    fn what_cannot_be_had_ends_it() {
        let memory = Box::new(Memory::new(exhausted));
        // SAFETY: the size is not zero.
        unsafe { memory.alloc(Layout::from_size_align(1 << 48, 8).unwrap()) };
    }
}
