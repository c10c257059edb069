//! Other people's programs, which the tests run against, built from their published Go modules: each module once per version, into the
//! cache. What is built, in which version and why, stands in `lab/world.toml`.
//!
//! A published main module cannot be built in place, because its `replace` lines count only there. So each is built as a dependency of a
//! small module of ours that repeats them. Versions of everything below follow from the module's own `go.mod`, so that a version names
//! the same sources everywhere; the Go command checks them against the checksum database.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::{self, Pace};
use crate::workspace;

/// The pins, seen from the workspace's root.
const PINS: &str = "lab/world.toml";

/// The oldest Go that builds all modules.
const GO_VERSION: (u32, u32) = (1, 26);

/// `lab/world.toml`.
#[derive(Debug, Deserialize)]
struct Pins {
    #[serde(rename = "module")]
    modules: Vec<Module>,
}

/// One row of the pins.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Module {
    /// Short name, for the cache.
    name: String,
    /// The module's path.
    path: String,
    /// The module's version.
    version: String,
    /// Version of modules that it replaces by folders of its own.
    parts: Option<String>,
    /// Packages of programs, relative to the module; each program has its package's last name.
    #[serde(default)]
    programs: Vec<String>,
    /// The name of the program whose package is the module's root.
    root: Option<String>,
    /// The source of that package, where it is not to be the module's own.
    main: Option<String>,
    /// Test programs by name, with their packages relative to the module.
    #[serde(default)]
    tests: BTreeMap<String, String>,
    /// Whether only benchmarks run it.
    #[serde(default)]
    contender: bool,
    /// Whether only clusters need it, which the tests come to last.
    #[serde(default)]
    cluster: bool,
    /// Folders of the module that its programs read, kept beside them.
    #[serde(default)]
    keep: Vec<String>,
    /// Whether it has parts in C.
    #[serde(default)]
    cgo: bool,
    /// Versions of modules instead of those that it asks for.
    #[serde(default)]
    replace: BTreeMap<String, String>,
    /// Build tags.
    #[serde(default)]
    tags: String,
    /// String variables set at link time: package, then variable, then value.
    #[serde(default)]
    stamp: BTreeMap<String, BTreeMap<String, String>>,
}

/// The modules that are not built yet; those of contenders only `with_contenders`.
///
/// # Errors
/// Where the pins cannot be read.
pub(crate) fn missing(workspace_root: &Path, with_contenders: bool) -> Result<Vec<Module>> {
    let text = fs::read_to_string(workspace_root.join(PINS)).with_context(|| format!("cannot read {PINS}"))?;
    let pins: Pins = toml::from_str(&text).with_context(|| format!("cannot understand {PINS}"))?;
    let world = directory()?;
    let wanted = pins.modules.into_iter().filter(|module| with_contenders || !module.contender);
    Ok(wanted.filter(|module| !module.directory(&world).is_dir()).collect())
}

/// Builds `modules` with `go`.
///
/// # Errors
/// Where a module cannot be had or built; the message names it.
pub(crate) fn build(go: &Path, modules: &[Module], pace: Pace) -> Result<()> {
    let world = directory()?;
    for module in modules {
        module.build(go, &world, pace).with_context(|| format!("cannot build {} {} ({PINS})", module.path, module.version))?;
    }
    Ok(())
}

fn directory() -> Result<PathBuf> {
    Ok(workspace::cache_dir()?.join("world"))
}

impl Module {
    /// Where its programs are once it is built. `lab::world` forms the same name.
    fn directory(&self, world: &Path) -> PathBuf {
        world.join(format!("{}-{}", self.name, self.version))
    }

    /// Whether only clusters need it, which the tests come to last.
    pub(crate) fn is_for_clusters(&self) -> bool {
        self.cluster
    }

    fn build(&self, go: &Path, world: &Path, pace: Pace) -> Result<()> {
        eprintln!("bootstrap: building {} {}", self.name, self.version);
        let started = Instant::now();
        let directory = self.directory(world);
        // Built beside and renamed: what is there is whole.
        let draft = world.join(format!(".{}-{}", self.name, self.version));
        if draft.exists() {
            fs::remove_dir_all(&draft).with_context(|| format!("cannot remove {}", draft.display()))?;
        }
        fs::create_dir_all(draft.join("bin")).with_context(|| format!("cannot create {}", draft.display()))?;

        let command = |arguments: &[&str]| {
            let mut command = pace.command(go);
            // Static programs, unless C is needed: they run in images that hold nothing else.
            let cgo = if self.cgo { "1" } else { "0" };
            command.args(arguments).current_dir(&draft).env("CGO_ENABLED", cgo).env("GOFLAGS", "-mod=mod -trimpath -buildvcs=false");
            command
        };
        let at_version = format!("{}@{}", self.path, self.version);
        // Outside of a module: this one is not written yet.
        let download = process::stdout_of(command(&["mod", "download", "-json", &at_version]).env("GOFLAGS", "-mod=mod"))?;
        let downloaded: Downloaded = serde_json::from_str(&download).context("cannot read what `go mod download` said")?;
        let published = process::stdout_of(&mut command(&["mod", "edit", "-json", &downloaded.go_mod]))?;
        let published: Published = serde_json::from_str(&published).context("cannot read what `go mod edit` said")?;
        fs::write(draft.join("go.mod"), self.go_mod(&published)).context("cannot write go.mod")?;

        let link = self.link_flags();
        let packages: Vec<_> = self.programs.iter().map(|package| format!("{}/{package}", self.path)).collect();
        if !packages.is_empty() {
            let mut build = command(&["build", "-tags", &self.tags, "-ldflags", &link, "-o", "bin/"]);
            process::run(build.args(&packages))?;
        }
        if let Some(program) = &self.root {
            let output = format!("bin/{program}");
            let package = match &self.main {
                None => self.path.as_str(),
                Some(source) => {
                    fs::write(draft.join("main.go"), source).context("cannot write main.go")?;
                    "."
                }
            };
            process::run(&mut command(&["build", "-tags", &self.tags, "-ldflags", &link, "-o", &output, package]))?;
        }
        for (program, package) in &self.tests {
            let (output, package) = (format!("bin/{program}"), format!("{}/{package}", self.path));
            process::run(&mut command(&["test", "-c", "-vet=off", "-ldflags", &link, "-o", &output, &package]))?;
        }
        for folder in &self.keep {
            let from = Path::new(&downloaded.dir).join(folder);
            process::run(Command::new("cp").args(["--recursive", "--no-preserve=mode"]).arg(&from).arg(draft.join(folder)))?;
        }
        fs::rename(&draft, &directory).with_context(|| format!("cannot rename {} to {}", draft.display(), directory.display()))?;
        eprintln!("bootstrap: {} built in {} s", self.name, started.elapsed().as_secs());
        Ok(())
    }

    /// A module that asks for this one and repeats what counts only in a main module.
    fn go_mod(&self, published: &Published) -> String {
        let mut text = format!("module barewire.test/world/{}\n\ngo {}\n\n", self.name, published.go);
        for setting in published.godebug.iter().flatten() {
            let _ = writeln!(text, "godebug {}={}", setting.key, setting.value);
        }
        let _ = writeln!(text, "require {} {}", self.path, self.version);
        for Replacement { old, new } in published.replace.iter().flatten() {
            match (&new.version, &self.parts) {
                (Some(version), _) => {
                    let _ = writeln!(text, "replace {} => {} {version}", old.path, new.path);
                }
                (None, Some(parts)) => {
                    let _ = writeln!(text, "replace {} => {} {parts}", old.path, old.path);
                }
                // A folder of its repository, and the version that is asked for is published.
                (None, None) => {}
            }
        }
        for (module, version) in &self.replace {
            let _ = writeln!(text, "replace {module} => {module} {version}");
        }
        text
    }

    fn link_flags(&self) -> String {
        let stamps = self
            .stamp
            .iter()
            .flat_map(|(package, variables)| variables.iter().map(move |(variable, value)| format!(" -X {package}.{variable}={value}")));
        stamps.fold("-s -w".to_owned(), |flags, stamp| flags + &stamp)
    }
}

/// What `go mod download -json` tells.
#[derive(Debug, Deserialize)]
struct Downloaded {
    #[serde(rename = "Dir")]
    dir: String,
    #[serde(rename = "GoMod")]
    go_mod: String,
}

/// What `go mod edit -json` tells of a module.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Published {
    go: String,
    #[serde(rename = "GoDebug")]
    godebug: Option<Vec<Setting>>,
    replace: Option<Vec<Replacement>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Setting {
    key: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Replacement {
    old: Versioned,
    new: Versioned,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versioned {
    path: String,
    version: Option<String>,
}

/// The first of `candidates` that is a Go and new enough.
pub(crate) fn find_go(candidates: &[PathBuf]) -> Option<PathBuf> {
    candidates.iter().find(|go| go_version(go).is_some_and(|version| version >= GO_VERSION)).cloned()
}

fn go_version(go: &Path) -> Option<(u32, u32)> {
    let output = Command::new(go).args(["env", "GOVERSION"]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    parse_go_version(&String::from_utf8_lossy(&output.stdout))
}

/// Major and minor of `go1.26.8`.
fn parse_go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix("go")?.split('.');
    let mut next = || {
        let digits: String = numbers.next()?.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins() -> Vec<Module> {
        let text = include_str!("../../lab/world.toml");
        toml::from_str::<Pins>(text).unwrap().modules
    }

    #[test]
    fn every_pin_names_programs_and_a_version() {
        for module in pins() {
            assert!(module.version.starts_with('v'), "{}: {}", module.name, module.version);
            assert!(module.root.is_some() || !module.programs.is_empty(), "{} has no programs", module.name);
        }
    }

    #[test]
    fn folders_become_published_versions_and_forks_stay() {
        let published: Published = serde_json::from_str(
            r#"{"Go": "1.26.0", "GoDebug": [{"Key": "default", "Value": "go1.26"}], "Replace": [
                {"Old": {"Path": "k8s.io/api"}, "New": {"Path": "./staging/src/k8s.io/api"}},
                {"Old": {"Path": "a.example/x"}, "New": {"Path": "b.example/x", "Version": "v1.0.0"}}]}"#,
        )
        .unwrap();
        let mut module = pins().swap_remove(0);
        let text = module.go_mod(&published);
        for line in
            ["go 1.26.0", "godebug default=go1.26", "replace k8s.io/api => k8s.io/api v0.37.2", "replace a.example/x => b.example/x v1.0.0"]
        {
            assert!(text.lines().any(|found| found == line), "no {line:?} in {text}");
        }
        module.parts = None;
        assert!(!module.go_mod(&published).contains("replace k8s.io/api"));
    }

    #[test]
    fn stamps_are_link_flags() {
        let flags = pins().swap_remove(0).link_flags();
        assert!(flags.starts_with("-s -w -X ") && flags.contains("-X k8s.io/component-base/version.gitMinor=37"), "{flags}");
    }

    #[test]
    fn go_versions() {
        assert_eq!(parse_go_version("go1.26.8\n"), Some((1, 26)));
        assert_eq!(parse_go_version("go1.27rc1"), Some((1, 27)));
        assert_eq!(parse_go_version("devel"), None);
    }
}
