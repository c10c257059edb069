//! The maps' pins: by them a daemon that starts finds what pods have, and whoever removes them would have the next one begin anew. So they are
//! made again while this daemon still has the maps.

use std::path::{Path, PathBuf};

use aya::maps::MapData;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{BPF_FS, FastPathError, map};
use crate::repairs::{self, Kind};

/// Every map that was pinned at the start, with its pin.
#[derive(Debug)]
pub(super) struct MapPins(Vec<(PathBuf, MapData)>);

impl MapPins {
    /// Those in a directory.
    pub(super) fn of(folder: &Path) -> Result<Self, FastPathError> {
        let failed = |source| FastPathError::Pins { path: folder.to_owned(), source };
        let mut maps = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let pinned = MapData::from_pin(&path).map_err(map("a pinned map"))?;
            maps.push((path, pinned));
        }
        Ok(Self(maps))
    }

    /// Pins again what is pinned no more.
    pub(super) fn restore(&self) -> Result<(), FastPathError> {
        is_bpf_fs()?;
        for (path, pinned) in self.0.iter().filter(|(path, _)| !path.exists()) {
            let failed = |source| FastPathError::Pins { path: path.clone(), source };
            path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
            pinned.pin(path).map_err(|error| failed(std::io::Error::other(error)))?;
            repairs::note(Kind::Pin, &path.display().to_string());
        }
        Ok(())
    }
}

/// Whether pins can be made at all.
pub(super) fn is_bpf_fs() -> Result<(), FastPathError> {
    let is_one = statfs(Path::new(BPF_FS)).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    if is_one { Ok(()) } else { Err(FastPathError::NoBpfFs) }
}
