//! Keeps the files that plugins find: the socket, and the directory that nobody else may look into. (The configuration list has a keeper of
//! its own, as what others append to it counts.)

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::conditions::{Finding, Kind, NodeConditions};
use crate::serve::ServedSocket;
use datapath::repairs;

/// Of the run directory.
const MODE: u32 = 0o700;
const ALL_BITS: u32 = 0o7777;
/// What the daemon holds open, and cannot make again: whoever starts next must find it.
const HELD: [&str; 2] = ["lock", "store.redb"];

/// The files' reconciler.
pub(crate) struct Files {
    run_dir: PathBuf,
    socket: ServedSocket,
    /// Those of [`HELD`] with their inodes, as they were at the start.
    held: Vec<(PathBuf, u64)>,
    conditions: Arc<NodeConditions>,
}

impl Files {
    /// Takes the files for right that are there now.
    pub(crate) fn new(run_dir: &Path, socket: ServedSocket, conditions: Arc<NodeConditions>) -> Self {
        let paths = HELD.iter().map(|name| run_dir.join(name));
        let held = paths.filter_map(|path| fs::metadata(&path).ok().map(|found| (path, found.ino()))).collect();
        Self { run_dir: run_dir.to_owned(), socket, held, conditions }
    }

    /// Looks at all of them.
    pub(crate) fn look(&self) {
        if let Err(error) = self.keep_run_dir() {
            tracing::warn!(run_dir = %self.run_dir.display(), %error, "mode of the run directory not set");
        }
        let refused = match self.socket.keep() {
            Ok(None) => None,
            Ok(Some(why)) => {
                repairs::note(repairs::Kind::Socket, &format!("{}: {why}", self.socket.path().display()));
                None
            }
            Err(error) => {
                let message = format!("plugins do not reach barewired: {} cannot be made again: {error}", self.socket.path().display());
                Some(Finding::new("ListenFailed", message, "remove what is in its place, or restart barewired; running pods are well"))
            }
        };
        self.conditions.report(Kind::SocketNotServed, refused);
        let gone: Vec<_> =
            self.held.iter().filter(|(path, inode)| !is_there(path, *inode)).map(|(path, _)| path.display().to_string()).collect();
        let message = format!("somebody has removed or replaced {}", gone.join(", "));
        let remedy = "restart barewired: it finds its pods again by their links, and running pods stay as they are";
        self.conditions.report(Kind::RunDirectoryLost, (!gone.is_empty()).then(|| Finding::new("FilesRemoved", message, remedy)));
    }

    fn keep_run_dir(&self) -> io::Result<()> {
        let found = match fs::metadata(&self.run_dir) {
            // What was in it is gone as well, and told.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        let mode = found.permissions().mode() & ALL_BITS;
        if mode == MODE {
            return Ok(());
        }
        fs::set_permissions(&self.run_dir, fs::Permissions::from_mode(MODE))?;
        repairs::note(repairs::Kind::RunDirectory, &format!("{} had mode {mode:o}", self.run_dir.display()));
        Ok(())
    }
}

/// Not to be able to look is no news.
fn is_there(path: &Path, inode: u64) -> bool {
    match fs::metadata(path) {
        Ok(found) => found.ino() == inode,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}
