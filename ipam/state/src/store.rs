//! What survives a crash of the daemon: attachments, when which address was freed, and what is being given back to the cloud.
//!
//! One redb file in the run directory. Its lifetime is the kernel's: it bears the boot ID, and a store of another boot is
//! moved aside, for every veth that it speaks of is gone. A store that is damaged is moved aside too, never deleted
//! (invariant I6), and the kernel, which keeps owner and addresses of every link, is asked instead (docs/adr/0004).
//!
//! Only damage counts as damage. A store that cannot be opened (no descriptor, no permission, another process has it) or that a newer
//! program has laid out is refused in words, and the file is not touched (docs/adr/0019). To tell, a copy in memory is opened first:
//! what is wrong with that is wrong with the bytes, and what is wrong afterwards is not.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, WriteTransaction};

use crate::changes;
pub use crate::changes::Change;
use crate::contents::Contents;
use crate::schema::{self, BOOT_ID, META, Rows, SCHEMA};

const FILE: &str = "store.redb";
/// Where a damaged store is kept, the last one: a daemon that is started again and again must not fill the run directory.
const DAMAGED: &str = "store.damaged.redb";
const OTHER_BOOT: &str = "store.other-boot.redb";
/// redb's default of a gigabyte is for data sets; this one is some kilobytes.
const CACHE_BYTES: usize = 1 << 20;

/// A store that cannot be opened, read or written. What it holds stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused.
    #[error("the store {}: {source}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What the database says.
        #[source]
        source: Box<redb::Error>,
    },
    /// The file cannot be opened, read or moved.
    #[error("the store {}: {source}; it stays as it is: {}", path.display(), remedy(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("another process has the store {} open; `fuser -v` names it: end it, and start barewired again", .0.display())]
    InUse(PathBuf),
    /// A newer program has laid it out.
    #[error(
        "the store {} has schema {found}, and this barewired reads up to {SCHEMA}: start the version that wrote it or a newer one, or drain the node and remove the file",
        path.display()
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// What it says of itself.
        found: u32,
    },
    /// Another version of the database has written it.
    #[error(
        "the store {} has file format {found}, which this barewired does not read: start the version that wrote it, or drain the node and remove the file",
        path.display()
    )]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// What it says of itself.
        found: u8,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE) => "allow barewired more open files (LimitNOFILE), or close some",
        Some(Errno::EACCES | Errno::EPERM) => "run barewired as root, and let no security module keep the file from it",
        Some(Errno::ENOSPC | Errno::EDQUOT) => "free space in the run directory",
        _ => "see the kernel's log, and start barewired again",
    }
}

/// How a store was found.
#[derive(Debug)]
pub enum Found {
    /// It is of this boot and whole.
    Present(Box<Contents>),
    /// There was none.
    Absent,
    /// It was of another boot and was moved to this file.
    OfAnotherBoot(PathBuf),
    /// It could not be read, was moved to this file, and this is why.
    Damaged(PathBuf, String),
}

impl Found {
    /// What a start should say of it; nothing where all is as it should be.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        match self {
            Self::Present(_) | Self::Absent => None,
            Self::OfAnotherBoot(aside) => Some(format!("the store was of another boot; it is kept as {}", aside.display())),
            Self::Damaged(aside, why) => {
                Some(format!("the store was damaged ({why}); it is kept as {}, and the kernel is asked instead", aside.display()))
            }
        }
    }

    /// What it held, where it held anything that can be used.
    #[must_use]
    pub fn into_contents(self) -> Option<Contents> {
        match self {
            Self::Present(contents) => Some(*contents),
            Self::Absent | Self::OfAnotherBoot(_) | Self::Damaged(..) => None,
        }
    }
}

/// The store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// `None` after a failed write: redb refuses all further work on such a handle, so it is opened anew.
    database: Mutex<Option<Database>>,
}

impl Store {
    /// Opens or makes the store in `run_dir`.
    ///
    /// # Errors
    /// Where the file system does not let us, another process has it, or a newer program has laid it out.
    pub fn open(run_dir: &Path, boot_id: &str) -> Result<(Self, Found), StoreError> {
        let path = run_dir.join(FILE);
        let Some(bytes) = read_whole(&path)? else {
            return Ok((Self::write(path, boot_id, &Rows::default())?, Found::Absent));
        };
        let (aside, found) = match look(&bytes, boot_id) {
            Seen::Whole(SCHEMA, rows) => {
                let database = open_database(&path).map_err(|source| failed(&path, source))?;
                return Ok((Self { path, database: Mutex::new(Some(database)) }, Found::Present(Box::new(rows.into()))));
            }
            Seen::Whole(older, rows) => {
                let rows = schema::migrate(older, rows);
                return Ok((Self::write(path, boot_id, &rows)?, Found::Present(Box::new(rows.into()))));
            }
            Seen::Newer(found) => return Err(StoreError::NewerSchema { path, found }),
            Seen::OtherFormat(found) => return Err(StoreError::OtherFormat { path, found }),
            Seen::OfAnotherBoot => {
                let aside = run_dir.join(OTHER_BOOT);
                (aside.clone(), Found::OfAnotherBoot(aside))
            }
            Seen::Damaged(why) => {
                let aside = run_dir.join(DAMAGED);
                (aside.clone(), Found::Damaged(aside, why))
            }
        };
        std::fs::rename(&path, aside).map_err(|source| StoreError::Unreadable { path: path.clone(), source })?;
        Ok((Self::write(path, boot_id, &Rows::default())?, found))
    }

    /// Writes all that it holds, in one transaction.
    fn write(path: PathBuf, boot_id: &str, rows: &Rows) -> Result<Self, StoreError> {
        let store = Self { path, database: Mutex::new(None) };
        store.transact(|transaction| schema::write(transaction, boot_id, rows))?;
        Ok(store)
    }

    /// Makes a change durable. When it returns an error nothing of the change is in the store.
    ///
    /// # Errors
    /// A full disk, for instance; the next commit starts afresh.
    pub fn commit(&self, change: &Change<'_>) -> Result<(), StoreError> {
        self.transact(|transaction| changes::apply(transaction, change))
    }

    /// Whether a commit would succeed: makes one that changes nothing.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn probe(&self) -> Result<(), StoreError> {
        self.transact(|transaction| {
            let boot_id = transaction.open_table(META)?.get(BOOT_ID)?.map(|found| found.value().to_owned());
            transaction.open_table(META)?.insert(BOOT_ID, boot_id.unwrap_or_default().as_str())?;
            Ok(())
        })
    }

    fn transact(&self, work: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>) -> Result<(), StoreError> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = transact(&self.path, &mut slot, work);
        outcome.map_err(|source| {
            *slot = None;
            failed(&self.path, source)
        })
    }
}

fn transact(
    path: &Path,
    slot: &mut Option<Database>,
    work: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let database = match slot {
        Some(database) => database,
        None => slot.insert(open_database(path)?),
    };
    let transaction = database.begin_write()?;
    work(&transaction)?;
    Ok(transaction.commit()?)
}

fn failed(path: &Path, source: redb::Error) -> StoreError {
    match source {
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        source => StoreError::Failed { path: path.to_owned(), source: Box::new(source) },
    }
}

fn open_database(path: &Path) -> Result<Database, redb::Error> {
    Ok(Database::builder().set_cache_size(CACHE_BYTES).create(path)?)
}

/// The file's bytes; nothing where there is no file. Nobody writes meanwhile: redb's lock is taken for it.
fn read_whole(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let unreadable = |source| StoreError::Unreadable { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        outcome => outcome.map_err(unreadable)?,
    };
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => StoreError::InUse(path.to_owned()),
        TryLockError::Error(source) => unreadable(source),
    })?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(Some(bytes))
}

/// What the bytes of a store are.
enum Seen {
    /// Of this boot, readable, and of this version or an older one.
    Whole(u32, Rows),
    OfAnotherBoot,
    Newer(u32),
    OtherFormat(u8),
    Damaged(String),
}

/// Looks at a copy. Whatever is wrong with it is wrong with the bytes: no descriptor, disk or lock is in play.
fn look(bytes: &[u8], boot_id: &str) -> Seen {
    if bytes.is_empty() {
        return Seen::Damaged("the file is empty".to_owned());
    }
    // Not every byte that the database goes by has a checksum; it can trip over one.
    match catch_unwind(AssertUnwindSafe(|| look_closely(bytes, boot_id))) {
        Ok(Ok(seen)) => seen,
        Ok(Err(redb::Error::UpgradeRequired(format))) => Seen::OtherFormat(format),
        Ok(Err(why)) => Seen::Damaged(why.to_string()),
        Err(_) => Seen::Damaged("the database broke off over it".to_owned()),
    }
}

fn look_closely(bytes: &[u8], boot_id: &str) -> Result<Seen, redb::Error> {
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64).map_err(redb::Error::Io)?;
    copy.write(0, bytes).map_err(redb::Error::Io)?;
    let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(copy)?;
    let transaction = database.begin_read()?;
    let label = schema::label(&transaction)?;
    if label.boot_id.as_deref() != Some(boot_id) {
        return Ok(Seen::OfAnotherBoot);
    }
    Ok(match label.version {
        None => Seen::Damaged("its schema is no number".to_owned()),
        Some(newer) if newer > SCHEMA => Seen::Newer(newer),
        Some(version) => Seen::Whole(version, schema::read(&transaction)?),
    })
}

#[cfg(test)]
mod tests;
