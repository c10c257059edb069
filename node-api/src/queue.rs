//! DELs that found no daemon, one file each, until the daemon applies them.
//!
//! Promise: once [`enqueue`] has returned, the DEL survives a crash of anything but the machine (and after a reboot there
//! is nothing left to detach). A file is whole or absent: it is written under another name, synced and renamed.
//! A DEL applies only to an attachment that is older than it: one that was made after the DEL was queued, under the
//! same name, is not the one that was meant.
//!
//! A file's name tells nothing; it is one for each attachment, so that a DEL that is asked for again takes no more room. The
//! form of its content is that of every version, as a DEL's is: [`QueuedDel`].

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{BootMillis, boot_id};
use crate::message::DelRequest;

const SUFFIX: &str = ".del";
/// What no container ID and no interface name has: `a-b` with `c` and `a` with `b-c` are two files.
const SEPARATOR: char = ':';
/// A draft is renamed within milliseconds; what is as old as this belongs to a plugin that was killed.
const ABANDONED: Duration = Duration::from_secs(60);

/// A queued DEL. Its fields stay as they are for good; others may come, and are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedDel {
    /// The boot it was queued in.
    pub boot_id: String,
    /// When it was queued.
    pub queued_at: BootMillis,
    /// What it asks.
    pub del: DelRequest,
}

/// A file of the queue and what could be read of it.
#[derive(Debug)]
pub struct Entry {
    /// The file, to be removed when the DEL is applied.
    pub path: PathBuf,
    /// Its content.
    pub content: Result<QueuedDel, EntryError>,
}

/// Why a file of the queue says nothing.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// It cannot be read now, for want of descriptors perhaps. It may be later.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is no queued DEL, now or later.
    #[error("is not understood: {0}")]
    NotUnderstood(#[from] serde_json::Error),
}

/// The queue that belongs to a daemon's socket.
#[must_use]
pub fn directory_beside(socket: &Path) -> PathBuf {
    socket.with_file_name("queue")
}

/// Writes `del` to the queue in `directory`, which is made where it is missing.
///
/// # Errors
/// What the file system says.
pub fn enqueue(directory: &Path, del: DelRequest) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let name = format!("{}{SEPARATOR}{}", del.container_id, del.ifname);
    let queued = QueuedDel { boot_id: boot_id()?, queued_at: BootMillis::now(), del };
    // Two plugins may queue the same DEL at once: each writes a file of its own, and the later rename wins.
    let draft = directory.join(format!(".{name}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let written =
        serde_json::to_vec(&queued).map_err(io::Error::other).and_then(|bytes| file.write_all(&bytes)).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| std::fs::rename(&draft, directory.join(name + SUFFIX))) {
        // Best effort: the DEL is reported as failed, and the runtime will ask again.
        let _ = std::fs::remove_file(&draft);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

/// Reads the queue; a directory that does not exist is an empty queue.
///
/// # Errors
/// What the file system says of the directory; a file that cannot be read is an entry that says so.
pub fn read(directory: &Path) -> io::Result<Vec<Entry>> {
    let files = match std::fs::read_dir(directory) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut entries = Vec::new();
    for file in files {
        let path = file?.path();
        if path.to_str().is_some_and(|name| name.ends_with(SUFFIX)) {
            let content = std::fs::read(&path).map_err(EntryError::from);
            let content = content.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
            entries.push(Entry { path, content });
        }
    }
    Ok(entries)
}

/// Removes drafts of plugins that were killed while they wrote. A directory that does not exist has none.
///
/// # Errors
/// What the file system says.
pub fn remove_abandoned_drafts(directory: &Path) -> io::Result<()> {
    let gone = |outcome: io::Result<()>| outcome.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) });
    let files = match std::fs::read_dir(directory) {
        Ok(files) => files,
        Err(error) => return gone(Err(error)),
    };
    for file in files {
        let file = file?;
        if file.file_name().as_encoded_bytes().starts_with(b".") {
            // Younger than the clock, after a step of it, is young.
            let age = |file: &std::fs::DirEntry| Ok(file.metadata()?.modified()?.elapsed().unwrap_or_default());
            gone(age(&file).and_then(|age| if age >= ABANDONED { std::fs::remove_file(file.path()) } else { Ok(()) }))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
