//! The container's network namespace, opened by the one who has the runtime's view of the file system.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use cni_spec::{Code, Error};
use nix::fcntl::OFlag;
use nix::sys::statfs::{FsType, fstatfs};

/// `NSFS_MAGIC`, linux/magic.h
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);
const OWN: &str = "/proc/self/ns/net";

/// Opens `CNI_NETNS` and refuses what cannot be a container's: a path that is not there, a file that is no namespace, and
/// the runtime's own. The daemon, which is handed the descriptor, looks again with its own eyes.
pub(crate) fn open(path: &str) -> Result<File, Error> {
    let refuse = |why: &str| {
        let msg = format!("CNI_NETNS {path:?} {why}; give the path of the container's network namespace");
        Error::new(Code::InvalidEnvironment, msg)
    };
    // Without O_NONBLOCK, opening a FIFO by mistake would hang.
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|why| refuse(&format!("cannot be opened: {why}")))?;
    let kind = fstatfs(&file).map_err(|errno| refuse(&format!("cannot be looked at: {errno}")))?.filesystem_type();
    if kind != NSFS_MAGIC {
        return Err(refuse("is not a network namespace"));
    }
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let own = std::fs::metadata(OWN).map_err(|why| refuse(&format!("cannot be told from our own: {why}")))?;
    let theirs = file.metadata().map_err(|why| refuse(&format!("cannot be looked at: {why}")))?;
    if identity(own) == identity(theirs) {
        return Err(refuse("is the host's own network namespace"));
    }
    Ok(file)
}
