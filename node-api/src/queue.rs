//! DELs that found no daemon, one file each, until the daemon applies them.
//!
//! Promise: once [`enqueue`] has returned, the DEL survives a crash of anything but the machine (and after a reboot there
//! is nothing left to detach). A file is whole or absent: it is written under another name, synced and renamed.
//! A DEL applies only to an attachment that is older than it: one that was made after the DEL was queued, under the
//! same name, is not the one that was meant.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock::{BootMillis, boot_id};
use crate::message::DelRequest;

const SUFFIX: &str = ".del";

/// A queued DEL.
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
    /// Its content, or why it cannot be understood.
    pub content: Result<QueuedDel, String>,
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
    let name = format!("{}-{}", del.container_id, del.ifname);
    let queued = QueuedDel { boot_id: boot_id()?, queued_at: BootMillis::now()?, del };
    // Two plugins may queue the same DEL at once: each writes a file of its own, and the later rename wins.
    let draft = directory.join(format!(".{name}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let written =
        serde_json::to_vec(&queued).map_err(io::Error::from).and_then(|bytes| file.write_all(&bytes)).and_then(|()| file.sync_all());
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
            let content = std::fs::read(&path).map_err(|why| why.to_string());
            let content = content.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|why| why.to_string()));
            entries.push(Entry { path, content });
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn del(id: &str) -> DelRequest {
        DelRequest { container_id: id.parse().unwrap(), ifname: "eth0".parse().unwrap() }
    }

    #[test]
    fn what_is_queued_is_read_once_each() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("queue");
        assert!(read(&directory).unwrap().is_empty());
        for id in ["a", "b", "a"] {
            enqueue(&directory, del(id)).unwrap();
        }
        let mut ids: Vec<_> =
            read(&directory).unwrap().into_iter().map(|entry| entry.content.unwrap().del.container_id.to_string()).collect();
        ids.sort();
        assert_eq!(ids, ["a", "b"]);
    }

    #[test]
    fn a_damaged_file_is_reported_and_does_not_hide_the_others() {
        let home = tempfile::tempdir().unwrap();
        enqueue(home.path(), del("a")).unwrap();
        std::fs::write(home.path().join("x.del"), "{").unwrap();
        std::fs::write(home.path().join(".draft.1"), "half").unwrap();
        let entries = read(home.path()).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries.iter().filter(|entry| entry.content.is_err()).count(), 1);
    }
}
