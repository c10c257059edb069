//! Where other people's programs are, built by `cargo xtask bootstrap` in the versions that `world.toml` pins, or unpacked by it as Debian
//! has them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

const PINS: &str = include_str!("../world.toml");

/// Why a program cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{what}; run `cargo xtask bootstrap`")]
pub struct Missing {
    what: String,
}

#[derive(Debug, Deserialize)]
struct Pins {
    module: Vec<Module>,
}

#[derive(Debug, Deserialize)]
struct Module {
    name: String,
    version: String,
}

/// The directory with the programs of a module, by its name in `world.toml`.
///
/// # Errors
/// When it has not been built.
pub fn directory(module: &str) -> Result<PathBuf, Missing> {
    let (name, version) = pin(module)?;
    let directory = cache()?.join("world").join(format!("{name}-{version}")).join("bin");
    if directory.is_dir() { Ok(directory) } else { Err(Missing { what: format!("{} is not there", directory.display()) }) }
}

/// A program of a module.
///
/// # Errors
/// When it has not been built.
pub fn program(module: &str, program: &str) -> Result<PathBuf, Missing> {
    let path = directory(module)?.join(program);
    if path.is_file() { Ok(path) } else { Err(Missing { what: format!("{} is not there", path.display()) }) }
}

/// The folder of a Debian package that is unpacked and not installed: to install it would start a service.
///
/// # Errors
/// When it has not been unpacked.
pub fn unpacked(package: &str) -> Result<PathBuf, Missing> {
    let tools = cache()?.join("tools");
    let begins = format!("{package}-");
    let is_meant = |tool: &fs::DirEntry| tool.file_name().to_string_lossy().starts_with(&begins);
    let mut found = fs::read_dir(&tools).into_iter().flatten().flatten().filter(is_meant);
    let found = found.next().map(|tool| tool.path());
    found.ok_or_else(|| Missing { what: format!("{} has no Debian package {package}", tools.display()) })
}

/// The pinned version of a module, for instance `v1.2.3`.
///
/// # Errors
/// When `world.toml` has no module of that name.
pub fn version(module: &str) -> Result<String, Missing> {
    pin(module).map(|(_, version)| version)
}

fn pin(module: &str) -> Result<(String, String), Missing> {
    let pins: Pins = toml::from_str(PINS).map_err(|error| Missing { what: format!("world.toml: {error}") })?;
    let found = pins.module.into_iter().find(|pin| pin.name == module);
    found.map(|pin| (pin.name, pin.version)).ok_or_else(|| Missing { what: format!("world.toml has no module {module:?}") })
}

/// As xtask has it.
fn cache() -> Result<PathBuf, Missing> {
    if let Some(directory) = env::var_os("BAREWIRE_CACHE") {
        return Ok(directory.into());
    }
    let home = env::var_os("HOME").ok_or_else(|| Missing { what: "neither BAREWIRE_CACHE nor HOME is set".to_owned() })?;
    Ok(Path::new(&home).join(".cache/barewire"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_found_by_name() {
        assert!(version("kubernetes").unwrap().starts_with("v1."));
        assert!(version("nothing").unwrap_err().to_string().contains("\"nothing\""));
    }
}
