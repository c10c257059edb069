//! Other people's programs that the suite runs.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};
use lab::world;

/// What the engine needs beyond what a node has.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) containerlab: PathBuf,
    pub(crate) dockerd: PathBuf,
    pub(crate) docker: PathBuf,
}

impl Programs {
    /// Finds them.
    ///
    /// # Errors
    /// With the one that is not here.
    pub(crate) fn find() -> Result<Self> {
        Ok(Self { containerlab: world::program("containerlab", "containerlab")?, dockerd: engine("dockerd")?, docker: engine("docker")? })
    }
}

/// A program of Docker's, of those that `cargo xtask bootstrap` has unpacked, or the machine's own.
fn engine(program: &str) -> Result<PathBuf> {
    let unpacked = world::unpacked("docker.io").map(|package| package.join("bin").join(program));
    unpacked.or_else(|missing| in_path(program).ok_or(missing)).with_context(|| program.to_owned())
}

fn in_path(program: &str) -> Option<PathBuf> {
    let directories = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&directories).map(|directory| directory.join(program)).find(|path| path.is_file())
}
