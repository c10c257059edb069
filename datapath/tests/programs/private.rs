//! A place of a test's own: a thread in fresh mount and network namespaces, with an empty BPF file system.

use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where the loader looks for it.
pub(crate) const BPF_FS: &str = "/sys/fs/bpf";

/// Runs `work` there. What it mounts and every link it makes go with it, however it ends.
pub(crate) fn run(work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // unshare(2): a new mount namespace implies CLONE_FS, so this concerns no other thread.
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("make mount and network namespaces")?;
            let nothing = None::<&str>;
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).context("keep mounts private")?;
            mount(Some("bpf"), Path::new(BPF_FS), Some("bpf"), MsFlags::empty(), nothing).context("mount a BPF file system")?;
            work()
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
