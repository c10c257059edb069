//! Whether a program may be executed as root: only what nobody else can put another in place of.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::geteuid;

/// Everybody's write permission, and the group's.
const OTHERS: u32 = 0o002;
const GROUP: u32 = 0o020;
/// In such a folder nobody takes away what is another's.
const STICKY: u32 = 0o1000;

/// Looks at the file and at each folder on the way to it, links followed and not.
pub(super) fn may_be_executed(path: &Path) -> Result<(), String> {
    let with = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let real = fs::canonicalize(path).map_err(|error| with(&format!("{error}; install it there, or take it out of health.plugins")))?;
    let metadata = fs::metadata(&real).map_err(|error| with(&error))?;
    if !metadata.is_file() {
        return Err(with(&"is no file; name a program"));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(with(&"is not executable; `chmod 755` it"));
    }
    let folders = path.ancestors().skip(1).chain(real.ancestors()).filter(|folder| !folder.as_os_str().is_empty());
    for place in folders {
        let metadata = fs::metadata(place).map_err(|error| with(&error))?;
        let (mode, owner) = (metadata.mode(), metadata.uid());
        if owner != 0 && owner != geteuid().as_raw() {
            return Err(with(&format!("{} is user {owner}'s, who could put anything there; `chown root` it", place.display())));
        }
        let is_open = mode & OTHERS != 0 || (mode & GROUP != 0 && metadata.gid() != 0);
        if is_open && !(metadata.is_dir() && mode & STICKY != 0) {
            return Err(with(&format!("{} can be written by others than root; `chmod go-w` it", place.display())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    #[test]
    fn what_others_can_change_is_refused_with_a_remedy() {
        let root = tempfile::tempdir().unwrap();
        let (folder, file) = (root.path().join("checks"), root.path().join("checks/check"));
        let refused = |path: &Path| may_be_executed(path).unwrap_err();
        assert!(refused(&file).contains("install it there"));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "#!/bin/sh\n").unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        mode(&folder, 0o755);
        mode(&file, 0o644);
        assert!(refused(&file).contains("is not executable; `chmod 755` it"));
        mode(&file, 0o755);
        assert_eq!(may_be_executed(&file), Ok(()));
        mode(&file, 0o757);
        assert!(refused(&file).contains("checks/check can be written by others than root; `chmod go-w` it"));
        mode(&file, 0o755);
        mode(&folder, 0o777);
        assert!(refused(&file).contains("checks can be written"));
        mode(&folder, 0o755);
        assert!(refused(&folder).contains("is no file"));
        let link = root.path().join("link");
        symlink(&file, &link).unwrap();
        assert_eq!(may_be_executed(&link), Ok(()));
        if !geteuid().is_root() {
            println!("SKIP: only root can give a file away");
            return;
        }
        chown(&file, Some(4_711), None).unwrap();
        assert!(refused(&link).contains("is user 4711's"));
    }
}
