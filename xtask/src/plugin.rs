//! What a runtime executes for every pod: static, on musl, which starts in a quarter of the time that glibc takes
//! (docs/adr/0016), and the same bytes wherever it is built.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::compiler::Compiler;
use crate::process;
use crate::workspace::{Target, Workspace};

const PROFILE: &str = "plugin";

/// Not position-independent, so that nothing is relocated at the start; linked with Debian's musl instead of one that comes with the
/// compiler, which has none for this target.
const RUSTFLAGS: [&str; 8] =
    ["-C", "linker=musl-gcc", "-C", "link-self-contained=no", "-C", "target-feature=+crt-static", "-C", "relocation-model=static"];

/// Builds `targets` and returns the folder they are in.
///
/// # Errors
/// Where there is no compiler for it, or they do not build.
pub(crate) fn build(workspace: &Workspace, targets: &[&Target]) -> Result<PathBuf> {
    let compiler = Compiler::find(&workspace.rust_version)?;
    let (mut command, target_dir) = compiler.build(workspace, "musl-*", "std,panic_abort", None)?;
    let architecture = workspace.host.split('-').next().unwrap_or_default();
    let triple = format!("{architecture}-unknown-linux-musl");
    command
        // Without the symbols and line numbers of backtraces: nobody would read them.
        .args(["-Z", "build-std-features=optimize_for_size", "--locked", "--profile", PROFILE, "--target", &triple])
        .env("CARGO_ENCODED_RUSTFLAGS", encoded(&[&RUSTFLAGS.map(OsString::from)[..], &remapped(&places(workspace, &compiler)?)].concat()));
    for target in targets {
        command.args(["--package", &target.package, "--bin", &target.name]);
    }
    eprintln!("plugin: {compiler}");
    process::run(&mut command)?;
    Ok(target_dir.join(triple).join(PROFILE))
}

/// Where sources are on this machine, and how the program calls it. Of two that match, the later holds (rustc's rule).
fn places(workspace: &Workspace, compiler: &Compiler) -> Result<[(PathBuf, &'static str); 3]> {
    Ok([(workspace.root.clone(), "/barewire"), (cargo_home()?, "/cargo"), (compiler.sysroot()?.join("lib/rustlib/src/rust"), "/rust")])
}

fn remapped(places: &[(PathBuf, &str)]) -> Vec<OsString> {
    let flag = |(place, name): &(PathBuf, &str)| {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(place);
        flag.push("=");
        flag.push(name);
        flag
    };
    places.iter().map(flag).collect()
}

/// As cargo finds it (its documentation, "Cargo Home").
fn cargo_home() -> Result<PathBuf> {
    match env::var_os("CARGO_HOME") {
        Some(home) => Ok(PathBuf::from(home)),
        None => Ok(Path::new(&env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo")),
    }
}

/// A flag may hold spaces that way: a folder does.
fn encoded(flags: &[OsString]) -> OsString {
    flags.join(&OsString::from("\x1f"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_may_have_spaces_in_its_name() {
        let flags = remapped(&[(PathBuf::from("/home/a b"), "/x"), (PathBuf::from("/c"), "/y")]);
        assert_eq!(encoded(&flags), OsString::from("--remap-path-prefix=/home/a b=/x\x1f--remap-path-prefix=/c=/y"));
    }
}
