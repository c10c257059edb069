//! The plugins of the chain, as a runtime finds and executes them: which CNI versions each answers to VERSION, and which all do.
//!
//! A runtime picks the newest version that the list offers and it knows itself, and gives it to every plugin of the list without asking
//! any (libcni, `NetworkConfFromBytes`). A list that offers what one plugin lacks makes every ADD fail, and STATUS with it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use cni_spec::Version;
use serde::Deserialize;

use crate::conditions::{Finding, Kind};
use crate::execute::{Bounds, Executed, execute};

/// A plugin of Go answers in 10 ms; on a node that starts 200 pods at once, in a second or two.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A plugin that did not answer is asked again after that, though its file is the same: what it needs may have come.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// An answer has some hundred bytes.
const STDOUT_MAX: usize = 64 << 10;

/// Why a plugin of the chain cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// In none of the directories.
    #[error("plugin {name:?} is not in {dirs}")]
    NotFound {
        /// `type`
        name: String,
        /// `cni.bin_dirs`
        dirs: String,
    },
    /// Something else than a program.
    #[error("{} is no program: {why}", path.display())]
    NotAProgram {
        /// Its file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It did not end in time.
    #[error("{} does not answer VERSION within {} s", path.display(), limit.as_secs_f32())]
    TimedOut {
        /// Its file.
        path: PathBuf,
        /// The time.
        limit: Duration,
    },
    /// It refused.
    #[error("{} fails at VERSION: {why}", path.display())]
    Failed {
        /// Its file.
        path: PathBuf,
        /// Its own words.
        why: String,
    },
    /// It printed something else.
    #[error("{} answers VERSION with something else than a list of versions: {why}", path.display())]
    NotAnAnswer {
        /// Its file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl PluginError {
    /// In one word.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "NotFound",
            Self::NotAProgram { .. } => "NotAProgram",
            Self::TimedOut { .. } => "NoAnswer",
            Self::Failed { .. } => "Failed",
            Self::NotAnAnswer { .. } => "NotAnAnswer",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => {
                "install it there (Debian's package containernetworking-plugins has its own in /usr/lib/cni), set cni.bin_dirs, or take it \
                 out of cni.chained_plugins"
            }
            Self::NotAProgram { .. } | Self::Failed { .. } | Self::NotAnAnswer { .. } => {
                "install the plugin anew, or take it out of cni.chained_plugins"
            }
            Self::TimedOut { .. } => "see what it waits for, or name the versions to offer in cni.versions",
        }
    }

    /// Whether an ADD is sure to fail, even where the versions need not be asked for.
    const fn is_hopeless(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NotAProgram { .. })
    }
}

/// What a plugin of the chain answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginAnswer {
    /// `type`
    pub name: String,
    /// The versions that it speaks, as it spells them.
    pub versions: Result<Vec<String>, PluginError>,
}

/// The plugins of one runtime: asked once, and again when a file changes.
#[derive(Debug)]
pub struct Plugins {
    bin_dirs: Vec<PathBuf>,
    limit: Duration,
    known: BTreeMap<String, Known>,
}

/// An answer, and what would make it stale.
#[derive(Debug, Clone)]
struct Known {
    file: Option<FileId>,
    answer: Result<Vec<String>, PluginError>,
    asked: Instant,
}

/// A file as it is now: where it is, which one, and how it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileId {
    path: PathBuf,
    inode: (u64, u64),
    size: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileId {
    fn of(path: PathBuf, metadata: &Metadata) -> Self {
        Self {
            path,
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            mode: metadata.mode(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Plugins {
    /// Plugins in these directories, of which nothing is known yet.
    #[must_use]
    pub fn new(bin_dirs: Vec<PathBuf>) -> Self {
        Self { bin_dirs, limit: ANSWER_LIMIT, known: BTreeMap::new() }
    }

    /// What each of these answers, in their order. Costs a look at each file; those that are new, have changed or did not answer are
    /// executed, side by side, within a time limit.
    pub fn ask(&mut self, names: &[&str]) -> Vec<PluginAnswer> {
        let names_once: std::collections::BTreeSet<_> = names.iter().copied().collect();
        self.known.retain(|name, _| names_once.contains(name.as_str()));
        let mut stale = Vec::new();
        for name in names_once {
            let file = find(name, &self.bin_dirs);
            let fresh = self
                .known
                .get(name)
                .is_some_and(|known| known.file == file && (known.answer.is_ok() || file.is_none() || known.asked.elapsed() < ASK_AGAIN));
            if !fresh {
                stale.push((name, file));
            }
        }
        let answered: Vec<_> = std::thread::scope(|scope| {
            let asked = stale.into_iter().map(|(name, file)| {
                let this = &*self;
                let answer = scope.spawn({
                    let file = file.clone();
                    move || this.answer_of(name, file.as_ref())
                });
                (name, file, answer)
            });
            let asked: Vec<_> = asked.collect();
            let ended = asked.into_iter().map(|(name, file, answer)| {
                let answer = answer.join().unwrap_or_else(|_| {
                    let path = self.bin_dirs.first().map_or_else(PathBuf::new, |dir| dir.join(name));
                    Err(PluginError::Failed { path, why: "it could not be asked".to_owned() })
                });
                (name.to_owned(), Known { file, answer, asked: Instant::now() })
            });
            ended.collect()
        });
        self.known.extend(answered);
        let answer = |name: &&str| {
            let known = self.known.get(*name)?;
            Some(PluginAnswer { name: (*name).to_owned(), versions: known.answer.clone() })
        };
        names.iter().filter_map(answer).collect()
    }

    fn answer_of(&self, name: &str, file: Option<&FileId>) -> Result<Vec<String>, PluginError> {
        let Some(file) = file else {
            let dirs = self.bin_dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ");
            return Err(PluginError::NotFound { name: name.to_owned(), dirs });
        };
        let path = file.path.clone();
        let metadata = fs::metadata(&path).map_err(|error| PluginError::NotAProgram { path: path.clone(), why: error.to_string() })?;
        if !metadata.is_file() {
            return Err(PluginError::NotAProgram { path, why: "it is not a file".to_owned() });
        }
        if metadata.permissions().mode() & 0o111 == 0 {
            return Err(PluginError::NotAProgram { path, why: format!("nobody may execute it (mode {:o})", metadata.mode() & 0o7777) });
        }
        let bin_dirs = self.bin_dirs.iter().map(|dir| dir.as_os_str().to_owned()).collect::<Vec<_>>().join(std::ffi::OsStr::new(":"));
        let (command, input) = (version_command(&path, &bin_dirs), format!("{{\"cniVersion\":\"{}\"}}", Version::LATEST));
        let bounds = Bounds { time: self.limit, output: STDOUT_MAX, stop: &AtomicBool::new(false) };
        match execute(command, Some(&input), &bounds) {
            Err(error) => Err(PluginError::NotAProgram { path, why: error.to_string() }),
            Ok(Executed::TimedOut | Executed::Stopped) => Err(PluginError::TimedOut { path, limit: self.limit }),
            Ok(Executed::TooMuchOutput(most)) => Err(PluginError::NotAnAnswer { path, why: format!("more than {most} bytes") }),
            Ok(Executed::Ended { status, stdout, stderr }) if !status.success() => {
                Err(PluginError::Failed { path, why: format!("{status}{}", told(&stdout, &stderr)) })
            }
            Ok(Executed::Ended { stdout, .. }) => versions(&stdout).map_err(|why| PluginError::NotAnAnswer { path, why }),
        }
    }
}

/// `path` with `CNI_COMMAND=VERSION`, as libcni executes it.
fn version_command(path: &Path, bin_dirs: &OsStr) -> Command {
    let mut command = Command::new(path);
    command.env("CNI_COMMAND", "VERSION").env("CNI_PATH", bin_dirs);
    // Old plugins want all parameters for every command.
    for parameter in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        command.env(parameter, "dummy");
    }
    command
}

/// The plugin's file: the first of that name, whatever it is, as an operator would look for it. A runtime passes over what is no file;
/// one that stands before a plugin is told all the same, unless a file follows.
fn find(name: &str, bin_dirs: &[PathBuf]) -> Option<FileId> {
    let found = |dir: &PathBuf| {
        let path = dir.join(name);
        fs::metadata(&path).ok().map(|metadata| (metadata.is_file(), FileId::of(path, &metadata)))
    };
    let mut found: Vec<_> = bin_dirs.iter().filter_map(found).collect();
    let index = found.iter().position(|(is_file, _)| *is_file).unwrap_or(0);
    (index < found.len()).then(|| found.swap_remove(index).1)
}

/// What a plugin says of its failure: an error result (section 5 of the specification), or whatever it printed.
fn told(stdout: &[u8], stderr: &[u8]) -> String {
    #[derive(Deserialize)]
    struct ErrorResult {
        msg: String,
    }
    const MOST: usize = 200;
    let words = serde_json::from_slice(stdout)
        .map_or_else(|_| String::from_utf8_lossy(if stdout.is_empty() { stderr } else { stdout }).into_owned(), |ErrorResult { msg }| msg);
    let words: String = words.trim().chars().take(MOST).collect();
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

/// The answer to VERSION (section 5, "Version").
fn versions(stdout: &[u8]) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        supported_versions: Vec<String>,
    }
    let answer: Answer = serde_json::from_slice(stdout).map_err(|why| why.to_string())?;
    if answer.supported_versions.is_empty() {
        return Err("supportedVersions is empty".to_owned());
    }
    Ok(answer.supported_versions)
}

/// The versions that every plugin speaks and Barewire knows, oldest first. One that did not answer has no say.
#[must_use]
pub fn common_versions(answers: &[PluginAnswer]) -> Vec<Version> {
    let speaks = |answer: &PluginAnswer, version: Version| {
        answer.versions.as_ref().is_ok_and(|versions| versions.iter().any(|known| known == version.as_str()))
    };
    let answered: Vec<_> = answers.iter().filter(|answer| answer.versions.is_ok()).collect();
    Version::ALL.into_iter().filter(|version| !answered.is_empty() && answered.iter().all(|answer| speaks(answer, *version))).collect()
}

/// What a chain can offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// What a list is to offer; where something is wrong, what it offers to those who have it already.
    pub versions: Vec<Version>,
    /// What is wrong: an ADD through the chain fails.
    pub unusable: Option<Finding>,
    /// What is wrong beside it: there is nothing to offer.
    pub no_common: Option<Finding>,
}

impl Offer {
    /// Whether an ADD through the chain can succeed.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.unusable.is_none() && self.no_common.is_none()
    }

    /// The conditions.
    pub(crate) fn findings(&self) -> [(Kind, Option<Finding>); 2] {
        [(Kind::PluginUnusable, self.unusable.clone()), (Kind::NoCommonVersion, self.no_common.clone())]
    }
}

/// What to offer of what the plugins answered. With `chosen` (`cni.versions`) their answers decide nothing; that they are there does.
#[must_use]
pub fn offer(answers: &[PluginAnswer], chosen: Option<&[Version]>) -> Offer {
    let failed = answers.iter().filter_map(|answer| answer.versions.as_ref().err());
    let failed: Vec<_> = failed.filter(|error| chosen.is_none() || error.is_hopeless()).collect();
    let unusable = failed.first().map(|first| {
        let messages = failed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Finding::new(first.reason(), messages, first.remedy())
    });
    let versions = chosen.map_or_else(|| common_versions(answers), <[Version]>::to_vec);
    let no_common = (versions.is_empty() && answers.iter().any(|answer| answer.versions.is_ok())).then(|| {
        let each =
            answers.iter().filter_map(|answer| Some(format!("{} speaks {}", answer.name, answer.versions.as_ref().ok()?.join(", "))));
        let message = format!("there is no CNI version that all plugins of the chain speak: {}", each.collect::<Vec<_>>().join("; "));
        Finding::new("NoCommonVersion", message, "upgrade the older plugin, or take it out of cni.chained_plugins")
    });
    Offer { versions, unusable, no_common }
}

/// Where a plugin's file is, for people.
#[must_use]
pub fn path_of(name: &str, bin_dirs: &[PathBuf]) -> Option<PathBuf> {
    find(name, bin_dirs).map(|file| file.path)
}

/// Whether a path is one that the runtime would take a plugin from.
#[must_use]
pub fn is_there(name: &str, bin_dirs: &[PathBuf]) -> bool {
    find(name, bin_dirs).is_some_and(|file| Path::new(&file.path).is_file())
}

#[cfg(test)]
mod tests;
