//! The list's file, and its neighbours in the runtime's directory.
//!
//! Runtimes read `*.conf`, `*.conflist` and `*.json`, sorted by name, and take the first. No other file of ours ends like that.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde_json::Value;

use super::{Present, plugin_type};
use crate::config::OWN_PLUGIN;

/// What runtimes read; the list tells nothing that is secret.
const MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;
/// A list is some kilobytes.
const SIZE_MAX: u64 = 1 << 20;
/// What earlier versions wrote, beside the file of today.
const EARLIER_NAME: &str = "10-barewire.conflist";

/// Reads the file; nothing where there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<Present>> {
    let file = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        outcome => outcome?,
    };
    let mut bytes = Vec::new();
    file.take(SIZE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_MAX {
        return Ok(Some(Present::Damaged(format!("it is larger than {SIZE_MAX} bytes"))));
    }
    Ok(Some(Present::parse(&String::from_utf8_lossy(&bytes))))
}

/// Writes the file so that a reader sees all of it or none, readable whatever our umask is.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = directory(path);
    make_directory(directory)?;
    let draft = path.with_extension("barewire-draft");
    let written = write_draft(&draft, text).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written?;
    File::open(directory)?.sync_all()
}

fn write_draft(draft: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(draft)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Only what we make ourselves: a directory that is there has the mode that somebody gave it.
fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))
}

/// Lets others read a file that an earlier version has written under a strict umask.
pub(crate) fn make_readable(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & MODE == MODE { Ok(()) } else { fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 | MODE)) }
}

/// Removes the list, and that of an earlier version.
///
/// # Errors
/// What the file system says; a list that is not there is no error.
pub(crate) fn withdraw(path: &Path) -> io::Result<()> {
    remove(path)?;
    remove(&kept(path))?;
    remove_earlier(path)
}

/// Takes a list of an earlier boot out of the runtime's sight: it would call this node ready before it is. What others have appended
/// to it is still to be had of [`take_kept`].
pub(crate) fn withdraw_of_earlier_boot(path: &Path) -> io::Result<()> {
    for list in [earlier(path).filter(|earlier| is_ours(earlier)), Some(path.to_owned())].into_iter().flatten() {
        match fs::rename(list, kept(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

/// The list of an earlier boot, or of an earlier version.
pub(crate) fn read_kept(path: &Path) -> Option<Present> {
    let places = [Some(kept(path)), earlier(path)];
    places.into_iter().flatten().find_map(|place| read(&place).ok().flatten().filter(|present| matches!(present, Present::Ours(_))))
}

/// Forgets what was kept: the list of today has it.
pub(crate) fn forget_kept(path: &Path) -> io::Result<()> {
    remove(&kept(path))?;
    remove_earlier(path)
}

/// Sets a damaged list aside, in place of one that was set aside before.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = with_suffix(path, ".damaged");
    fs::rename(path, &aside).map(|()| aside)
}

/// The names of the other configurations that a runtime reads in the directory, sorted.
pub(crate) fn neighbours(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        outcome => outcome?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let file = entry.path();
        let is_read = matches!(file.extension().and_then(OsStr::to_str), Some("conf" | "conflist" | "json"));
        if is_read && file != path && !entry.file_type()?.is_dir() && !(earlier(path).as_ref() == Some(&file) && is_ours(&file)) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The plugins that a runtime puts behind those of the list: of each `<network>/*.conf` beside it, in the order of their names (libcni from
/// 1.3 on, `NetworkPluginConfsFromFiles`).
pub(crate) fn drop_ins(path: &Path, network: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory(path).join(network)) else { return Vec::new() };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "conf"));
    files.sort_unstable();
    let kind = |file: &PathBuf| {
        let text = open(file).and_then(|file| io::read_to_string(file.take(SIZE_MAX))).ok()?;
        plugin_type(&serde_json::from_str(&text).ok()?).map(str::to_owned)
    };
    files.iter().filter_map(kind).collect()
}

/// Whether another agent's configuration executes our plugin, in its own list or by delegation.
pub(crate) fn wraps_ours(path: &Path) -> bool {
    let text = open(path).and_then(|file| io::read_to_string(file.take(SIZE_MAX)));
    text.is_ok_and(|text| text.contains(&format!("\"{OWN_PLUGIN}\"")))
}

/// Not to hang where somebody has put a pipe.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Where a list of an earlier boot waits for its successor.
fn kept(path: &Path) -> PathBuf {
    with_suffix(path, ".earlier-boot")
}

/// Where an earlier version had it, if that is not where it is now.
fn earlier(path: &Path) -> Option<PathBuf> {
    Some(path.with_file_name(EARLIER_NAME)).filter(|earlier| earlier != path)
}

/// Whether the file is a list that an earlier version wrote: our plugin is its first.
fn is_ours(path: &Path) -> bool {
    let Ok(Some(Present::Ours(list))) = read(path) else { return false };
    list.get("plugins").and_then(|plugins| plugins.get(0)).and_then(|plugin: &Value| plugin_type(plugin)) == Some(OWN_PLUGIN)
}

fn remove_earlier(path: &Path) -> io::Result<()> {
    earlier(path).filter(|earlier| is_ours(earlier)).map_or(Ok(()), |earlier| remove(&earlier))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"name":"barewire","cniVersion":"1.0.0","plugins":[{"type":"barewire-cni"},{"type":"istio-cni"}]}"#;
    const FOREIGN: &str = r#"{"name":"k8s-pod-network","cniVersion":"1.0.0","plugins":[{"type":"calico"}]}"#;

    fn home() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("net.d/00-barewire.conflist");
        (home, path)
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_write_leaves_one_file_that_everybody_can_read() {
        let (_home, path) = home();
        for _ in 0..2 {
            write(&path, LIST).unwrap();
        }
        assert_eq!(names(&path), ["00-barewire.conflist"]);
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o644, 0o755));
        assert!(matches!(read(&path), Ok(Some(Present::Ours(_)))));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        make_readable(&path).unwrap();
        assert_eq!(mode(&path), 0o644);
        for _ in 0..2 {
            withdraw(&path).unwrap();
        }
        assert!(names(&path).is_empty() && read(&path).unwrap().is_none());
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let (home, path) = home();
        fs::create_dir_all(&path).unwrap();
        assert!(write(&path, LIST).is_err(), "the name is a directory's");
        assert_eq!(names(&path), ["00-barewire.conflist"]);
        drop(home);
    }

    #[test]
    fn the_file_of_an_earlier_version_goes_if_it_is_ours() {
        let (_home, path) = home();
        let earlier = path.with_file_name(EARLIER_NAME);
        write(&earlier, LIST).unwrap();
        assert!(neighbours(&path).unwrap().is_empty());
        assert!(matches!(read_kept(&path), Some(Present::Ours(_))));
        forget_kept(&path).unwrap();
        assert!(names(&path).is_empty());
        write(&earlier, FOREIGN).unwrap();
        forget_kept(&path).unwrap();
        withdraw(&path).unwrap();
        withdraw_of_earlier_boot(&path).unwrap();
        assert_eq!((names(&path), neighbours(&path).unwrap()), (vec![EARLIER_NAME.to_owned()], vec![EARLIER_NAME.to_owned()]));
        // Where somebody has chosen that very name, it is the file of today.
        write(&earlier, LIST).unwrap();
        forget_kept(&earlier).unwrap();
        assert_eq!(names(&path), [EARLIER_NAME]);
    }

    #[test]
    fn a_list_of_an_earlier_boot_is_out_of_sight_and_not_lost() {
        let (_home, path) = home();
        withdraw_of_earlier_boot(&path).unwrap();
        write(&path, LIST).unwrap();
        withdraw_of_earlier_boot(&path).unwrap();
        assert!(read(&path).unwrap().is_none() && neighbours(&path).unwrap().is_empty());
        // The daemon ends before it is ready, and the next start finds no list.
        withdraw_of_earlier_boot(&path).unwrap();
        assert!(matches!(read_kept(&path), Some(Present::Ours(_))));
        forget_kept(&path).unwrap();
        assert!(read_kept(&path).is_none() && names(&path).is_empty());
    }

    #[test]
    fn neighbours_are_what_a_runtime_reads() {
        let (_home, path) = home();
        write(&path, LIST).unwrap();
        for name in ["10-calico.conflist", "87-podman.conf", "99-x.json", "README", "10-calico.conflist.bak", "calico-kubeconfig"] {
            fs::write(path.with_file_name(name), FOREIGN).unwrap();
        }
        fs::create_dir(path.with_file_name("00-a.conf")).unwrap();
        assert_eq!(neighbours(&path).unwrap(), ["10-calico.conflist", "87-podman.conf", "99-x.json"]);
        assert!(neighbours(Path::new("/nowhere/at/all/x.conflist")).unwrap().is_empty());
    }

    #[test]
    fn drop_ins_are_read_as_a_runtime_does() {
        let (_home, path) = home();
        write(&path, LIST).unwrap();
        let directory = path.with_file_name("barewire");
        assert!(drop_ins(&path, "barewire").is_empty());
        fs::create_dir(&directory).unwrap();
        for (name, text) in
            [("20-b.conf", r#"{"type":"b"}"#), ("10-a.conf", r#"{"type":"a"}"#), ("x.json", r#"{"type":"x"}"#), ("y.conf", "{")]
        {
            fs::write(directory.join(name), text).unwrap();
        }
        assert_eq!(drop_ins(&path, "barewire"), ["a", "b"]);
        assert!(neighbours(&path).unwrap().is_empty());
    }

    #[test]
    fn what_is_damaged_is_set_aside_once() {
        let (_home, path) = home();
        for text in ["{", "}"] {
            write(&path, text).unwrap();
            assert!(matches!(read(&path), Ok(Some(Present::Damaged(_)))));
            set_aside(&path).unwrap();
        }
        assert_eq!(names(&path), ["00-barewire.conflist.damaged"]);
        assert!(neighbours(&path).unwrap().is_empty());
        assert_eq!(fs::read_to_string(path.with_file_name("00-barewire.conflist.damaged")).unwrap(), "}");
    }
}
