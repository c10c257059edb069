//! The root of a node: the machine's own root under a writable layer of its own.
//!
//! Promise: whatever is written in a node is seen in that node only and is gone with it, and the paths that a production node uses
//! (`/run`, `/etc/cni/net.d`, `/opt/cni/bin`, `/var/lib/containerd` …) are there and empty at the start. Nothing is written to the host.
//! File systems mounted below the machine's root are not part of the layer; what a node needs of them is bound in by the topology.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::error::{Context, Result};
use super::topology::Bind;

/// Directories that start empty in every node.
const PRIVATE: [&str; 9] = [
    "run",
    "etc/barewire",
    "etc/cni/net.d",
    "etc/containerd",
    "opt/cni/bin",
    "var/lib/barewire",
    "var/lib/cni",
    // Also because an overlay cannot be the upper layer of the snapshotter's own overlays: a tmpfs can.
    "var/lib/containerd",
    "tmp",
];

/// Makes the root over `mount_point` and moves the calling process into it. Needs a mount namespace of its own.
///
/// # Errors
/// With the mount that failed.
pub(super) fn enter(mount_point: &Path, binds: &[Bind]) -> Result<()> {
    set_propagation("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    fs::create_dir_all(mount_point).context(|| format!("create {}", mount_point.display()))?;
    mount_new("tmpfs", mount_point, MsFlags::empty(), "mode=0755")?;
    let root = mount_point.join("root");
    let [upper, work] = ["upper", "work"].map(|layer| mount_point.join(layer));
    for directory in [&root, &upper, &work] {
        fs::create_dir(directory).context(|| format!("create {}", directory.display()))?;
    }
    let layers = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    mount_new("overlay", &root, MsFlags::empty(), &layers)?;

    let no_code = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_new("proc", &root.join("proc"), no_code, "")?;
    // A sysfs of the node's own network namespace, or /sys/class/net would show the host's interfaces.
    mount_new("sysfs", &root.join("sys"), no_code, "")?;
    bind(Path::new("/sys/fs/cgroup"), &root.join("sys/fs/cgroup"), MsFlags::MS_REC)?;
    if root.join("sys/fs/bpf").is_dir() {
        mount_new("bpf", &root.join("sys/fs/bpf"), no_code, "mode=0700")?;
    }
    bind(Path::new("/dev"), &root.join("dev"), MsFlags::MS_REC)?;
    mount_new("tmpfs", &root.join("dev/shm"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777")?;
    for directory in PRIVATE {
        let path = root.join(directory);
        fs::create_dir_all(&path).context(|| format!("create {}", path.display()))?;
        let mode = if directory == "tmp" { "mode=1777" } else { "mode=0755" };
        mount_new("tmpfs", &path, MsFlags::empty(), mode)?;
    }
    for wanted in binds {
        bind_into(&root, wanted)?;
    }

    std::env::set_current_dir(&root).context(|| format!("enter {}", root.display()))?;
    // The old root ends up mounted over the new one and is detached from there: no directory is needed to put it in.
    nix::unistd::pivot_root(".", ".").context(|| "pivot the root".to_owned())?;
    umount2(".", MntFlags::MNT_DETACH).context(|| "detach the old root".to_owned())?;
    std::env::set_current_dir("/").context(|| "enter /".to_owned())
}

fn bind_into(root: &Path, wanted: &Bind) -> Result<()> {
    let target = root.join(wanted.target.strip_prefix("/").unwrap_or(&wanted.target));
    let what = || format!("bind {} to {}", wanted.source.display(), wanted.target.display());
    let is_directory = fs::metadata(&wanted.source).context(what)?.is_dir();
    if is_directory {
        fs::create_dir_all(&target).context(what)?;
    } else if !target.exists() {
        fs::create_dir_all(target.parent().map_or_else(PathBuf::new, Path::to_path_buf)).context(what)?;
        File::create(&target).context(what)?;
    }
    bind(&wanted.source, &target, MsFlags::MS_REC)?;
    if wanted.read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, &target, None::<&str>, flags, None::<&str>).context(what)?;
    }
    Ok(())
}

fn mount_new(kind: &str, target: &Path, flags: MsFlags, options: &str) -> Result<()> {
    mount(Some(kind), target, Some(kind), flags, Some(options)).context(|| format!("mount {kind} at {} ({options})", target.display()))
}

fn bind(source: &Path, target: &Path, more: MsFlags) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | more, None::<&str>)
        .context(|| format!("bind {} to {}", source.display(), target.display()))
}

fn set_propagation(target: &str, propagation: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, propagation, None::<&str>).context(|| format!("make the mounts below {target} private"))
}
