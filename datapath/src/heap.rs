//! How the C library keeps memory for the process (mallopt(3)).

/// Has the process keep little more than it uses: all threads have one heap, and of what is free at its end the kernel gets back what is
/// more than 128 KiB. To be called before the first thread begins.
///
/// By itself glibc gives eight heaps to each processor, and keeps at the end of each as much as was ever given back at once: after a start,
/// which reads all that the kernel says of its types, that is megabytes. Threads that allocate at the same moment wait for each other; most
/// of what they ask for they have from a cache of their own.
#[cfg(target_env = "gnu")]
pub fn keep_small() {
    use nix::libc::{M_ARENA_MAX, M_TRIM_THRESHOLD, mallopt};
    // A refusal changes nothing but how much is kept.
    for (what, value) in [(M_ARENA_MAX, 1), (M_TRIM_THRESHOLD, 128 * 1024)] {
        // SAFETY: it takes no pointer; no other thread is there that would allocate meanwhile.
        unsafe { mallopt(what, value) };
    }
}

/// The C library has one heap, and keeps little, by itself.
#[cfg(not(target_env = "gnu"))]
pub const fn keep_small() {}
