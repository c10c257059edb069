//! Other people's programs that the suite runs.

use std::env;
use std::path::{Path, PathBuf};

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
    let cache = env::var_os("BAREWIRE_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache/barewire")));
    let tools = cache.and_then(|cache| std::fs::read_dir(cache.join("tools")).ok()).into_iter().flatten().flatten();
    let unpacked = tools.filter(|tool| tool.file_name().to_string_lossy().starts_with("docker.io-"));
    let unpacked = unpacked.map(|tool| tool.path().join("bin").join(program)).find(|path| path.exists());
    unpacked.or_else(|| in_path(program)).with_context(|| format!("{program} is not here: `cargo xtask bootstrap` unpacks it"))
}

fn in_path(program: &str) -> Option<PathBuf> {
    let directories = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&directories).map(|directory| directory.join(program)).find(|path| path.is_file())
}
