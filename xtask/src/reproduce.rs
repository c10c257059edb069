//! `cargo xtask reproduce`: the plugin is built a second time, of a copy of the sources in another folder, and must be the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::binaries::Kind;
use crate::plugin;
use crate::process;
use crate::workspace::{Target, TargetKind, Workspace};

/// Builds twice and compares.
///
/// # Errors
/// Where the two differ; the message says where they are.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let elsewhere = workspace.target_dir.join("a copy in another place");
    // Of a run that was interrupted, or whose difference somebody has looked at.
    let _ = fs::remove_dir_all(&elsewhere);
    let copy = Workspace { root: elsewhere.join("sources"), target_dir: elsewhere.join("built"), ..workspace.clone() };
    copy_sources(&workspace.root, &copy.root)?;

    let targets: Vec<&Target> = workspace.targets(TargetKind::Binary).filter(|target| Kind::of(target) == Some(Kind::Plugin)).collect();
    let (here, there) = (plugin::build(workspace, &targets)?, plugin::build(&copy, &targets)?);
    for target in &targets {
        let paths = [here.join(&target.name), there.join(&target.name)];
        if let Some(at) = first_difference(&read(&paths[0])?, &read(&paths[1])?) {
            bail!("{} and {} differ from byte {at} on: is a path of this machine in them?", paths[0].display(), paths[1].display());
        }
        eprintln!("{} is the same in {} and {}", target.name, workspace.root.display(), copy.root.display());
    }
    fs::remove_dir_all(&elsewhere).with_context(|| format!("cannot remove {}", elsewhere.display()))
}

/// What git knows or would add: no artefacts.
fn copy_sources(from: &Path, to: &Path) -> Result<()> {
    let mut list = Command::new("git");
    list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(from);
    for name in process::stdout_of(&mut list)?.split('\0').filter(|name| !name.is_empty()) {
        let (source, target) = (from.join(name), to.join(name));
        // One that was removed and not yet committed.
        if !source.exists() {
            continue;
        }
        let folder = target.parent().unwrap_or(to);
        fs::create_dir_all(folder)
            .and_then(|()| fs::copy(&source, &target))
            .with_context(|| format!("cannot copy {} to {}", source.display(), target.display()))?;
    }
    Ok(())
}

fn read(path: &PathBuf) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    let differ = one.iter().zip(other).position(|(one, other)| one != other);
    differ.or_else(|| (one.len() != other.len()).then_some(one.len().min(other.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_goes_on_differs_from_where_the_other_ends() {
        assert_eq!(first_difference(b"ab", b"ab"), None);
        assert_eq!(first_difference(b"ab", b"ac"), Some(1));
        assert_eq!(first_difference(b"ab", b"abc"), Some(2));
    }
}
