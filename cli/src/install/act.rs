//! What an installation does to a machine: values that can be printed, and are done one by one.

use std::fmt;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::layout::UNIT;

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// Puts a whole file in place at once, with its folders.
    Write { path: PathBuf, mode: u32, content: Vec<u8> },
    /// Puts a symbolic link in place.
    Link { path: PathBuf, to: &'static str },
    /// Gives a file another name in its folder.
    Rename { from: PathBuf, to: PathBuf },
    /// Takes a file or a symbolic link away.
    Remove(PathBuf),
    /// Takes a folder away with all that is in it.
    RemoveTree(PathBuf),
    /// Takes a folder away if nothing is in it.
    RemoveIfEmpty(PathBuf),
    /// Executes a program, which must succeed.
    Run(Vec<String>),
    /// Waits until the service manager calls the daemon active: the network list stands then.
    AwaitReady(Duration),
}

/// Why an act was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActError {
    #[error("cannot {act}: {source}")]
    File { act: String, source: io::Error },
    #[error("{line}: {what}")]
    Program { line: String, what: String },
    #[error(
        "the node is not ready after {} s: `barewire status` says what is wrong, `journalctl -u barewired` what was tried; all files are in \
         place, and it goes on trying",
        .0.as_secs()
    )]
    NotReady(Duration),
}

impl fmt::Display for Act {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { path, mode, content } => write!(formatter, "write {} ({} bytes, mode {mode:04o})", path.display(), content.len()),
            Self::Link { path, to } => write!(formatter, "link {} to {to}", path.display()),
            Self::Rename { from, to } => write!(formatter, "rename {} to {}", from.display(), to.display()),
            Self::Remove(path) => write!(formatter, "remove {}", path.display()),
            Self::RemoveTree(path) => write!(formatter, "remove {} and all in it", path.display()),
            Self::RemoveIfEmpty(path) => write!(formatter, "remove {} if it is empty", path.display()),
            Self::Run(argv) => write!(formatter, "run {}", argv.join(" ")),
            Self::AwaitReady(limit) => write!(formatter, "wait until the node is ready, {} s at most", limit.as_secs()),
        }
    }
}

impl Act {
    pub(super) fn run(argv: &[&str]) -> Self {
        Self::Run(argv.iter().map(|word| (*word).to_owned()).collect())
    }

    /// Does it.
    pub(super) fn perform(&self) -> Result<(), ActError> {
        let file = |outcome: io::Result<()>| outcome.map_err(|source| ActError::File { act: self.to_string(), source });
        match self {
            Self::Write { path, mode, content } => file(write(path, *mode, content)),
            Self::Link { path, to } => file(link(path, to)),
            Self::Rename { from, to } => file(fs::rename(from, to)),
            Self::Remove(path) => file(unless_absent(fs::remove_file(path))),
            Self::RemoveTree(path) => file(unless_absent(fs::remove_dir_all(path))),
            Self::RemoveIfEmpty(path) => file(remove_if_empty(path)),
            Self::Run(argv) => run(argv),
            Self::AwaitReady(limit) => await_ready(*limit),
        }
    }
}

/// A name that no runtime, service manager or network manager takes for one of its files.
fn draft_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.draft", std::process::id()))
}

fn write(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let draft = draft_of(path);
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        // Whatever the umask is.
        file.set_permissions(Permissions::from_mode(mode))?;
        // Before the name is given: after a power failure the file is whole or is not there.
        file.sync_all()?;
        fs::rename(&draft, path)?;
        fs::File::open(folder)?.sync_all()
    };
    written().inspect_err(|_| drop(fs::remove_file(&draft)))
}

fn link(path: &Path, to: &str) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let draft = draft_of(path);
    let linked = || symlink(to, &draft).and_then(|()| fs::rename(&draft, path));
    linked().inspect_err(|_| drop(fs::remove_file(&draft)))
}

fn unless_absent(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn remove_if_empty(path: &Path) -> io::Result<()> {
    let is_left = |error: &io::Error| matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound);
    fs::remove_dir(path).or_else(|error| if is_left(&error) { Ok(()) } else { Err(error) })
}

fn run(argv: &[String]) -> Result<(), ActError> {
    let failed = |what: String| ActError::Program { line: argv.join(" "), what };
    let output = Command::new(&argv[0]).args(&argv[1..]).env("RUST_BACKTRACE", "0").output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}

/// What the service manager says of a unit: `active`, `activating`, `inactive`, `failed`.
pub(super) fn state_of(unit: &str) -> String {
    let output = Command::new("systemctl").args(["is-active", unit]).output();
    output.map_or_else(|_no_systemctl| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn await_ready(limit: Duration) -> Result<(), ActError> {
    const EVERY: Duration = Duration::from_millis(200);
    let begun = Instant::now();
    while state_of(UNIT) != "active" {
        if begun.elapsed() >= limit {
            return Err(ActError::NotReady(limit));
        }
        std::thread::sleep(EVERY);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_put_in_place_with_its_mode_and_no_draft_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file");
        for content in [b"one".to_vec(), b"two".to_vec()] {
            Act::Write { path: path.clone(), mode: 0o755, content: content.clone() }.perform().unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o755);
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        // What stands in the way is told with the act.
        let error = Act::Write { path: path.join("below a file"), mode: 0o644, content: Vec::new() }.perform().unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
    }

    #[test]
    fn what_is_gone_already_is_no_error_and_what_is_full_stays() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        for act in [Act::Remove(inner.clone()), Act::RemoveTree(inner.clone()), Act::RemoveIfEmpty(inner.clone())] {
            act.perform().unwrap();
        }
        fs::create_dir(&inner).unwrap();
        Act::RemoveIfEmpty(folder.path().to_owned()).perform().unwrap();
        assert!(inner.exists());
        Act::RemoveIfEmpty(inner.clone()).perform().unwrap();
        assert!(!inner.exists());
    }

    #[test]
    fn a_program_that_fails_is_told_with_its_words() {
        let error = Act::run(&["sh", "-c", "echo why >&2; exit 3"]).perform().unwrap_err().to_string();
        assert!(error.contains("exit status: 3: why"), "{error}");
    }
}
