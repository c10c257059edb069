//! The file of what a node knows.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleet_api::{NodeState, Saved, SavedError};

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LastError {
    /// It cannot be read.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("{path}: {source}; it is replaced by what the fleet tells", path = .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SavedError,
    },
}

/// What was saved; nothing where nothing was.
///
/// # Errors
/// See [`LastError`].
pub fn load(path: &Path) -> Result<Option<Saved>, LastError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LastError::Io { path: path.to_owned(), source }),
    };
    Saved::decode(&bytes).map(Some).map_err(|source| LastError::Content { path: path.to_owned(), source })
}

/// Replaces the file as a whole. Where that fails, the old one stays.
///
/// # Errors
/// See [`LastError`].
pub fn save(path: &Path, state: &NodeState) -> Result<(), LastError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&Saved::encode(state, now().unwrap_or(UNKNOWN)))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| LastError::Io { path: path.to_owned(), source })
}

/// When a file was saved by a clock that did not know: its age is nobody's to tell.
const UNKNOWN: u64 = 0;

/// How old what was saved at `at` is; nothing where the clock does not tell, or did not.
pub(crate) fn age(at: u64) -> Option<Duration> {
    (at != UNKNOWN).then(now).flatten().map(|now| Duration::from_millis(now.saturating_sub(at)))
}

/// Milliseconds since 1970; nothing by a clock that is before.
fn now() -> Option<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}
