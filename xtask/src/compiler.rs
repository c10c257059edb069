//! The compilers that build for where no built standard library is installed: the kernel, and musl.
//!
//! Cargo then compiles the library from its source, which only a nightly compiler, or a stable one told to behave like one,
//! agrees to. The stable Rust that builds everything else has no such source; Debian's packages and rustup's component
//! rust-src have.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace::{self, Workspace};

/// The LLVM that bpf-linker is built with; it reads what this version and those before it write.
const LLVM: u32 = 22;

/// What the cargo that runs this program, rustup and the user say about *their* compiler; ours is another.
const OF_ANOTHER_COMPILER: [&str; 10] = [
    "CARGO",
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "LD_LIBRARY_PATH",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTUP_TOOLCHAIN",
    "RUST_RECURSION_COUNT",
];

/// A compiler with the source of its library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiler {
    owner: Owner,
    /// The folder of its cargo and its rustc.
    bin: PathBuf,
    release: String,
}

/// Whose compiler it is, in the order of preference: Debian's does not change under us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Debian,
    Nightly,
}

impl Compiler {
    /// The first compiler on this machine that will do.
    ///
    /// # Errors
    /// Where none will; the message has the reason for each, and what to do.
    pub(crate) fn find(rust_version: &str) -> Result<Self> {
        let mut reasons = Vec::new();
        for owner in [Owner::Debian, Owner::Nightly] {
            match owner.bin().and_then(|bin| Self::examine(owner, bin, rust_version)) {
                Ok(compiler) => return Ok(compiler),
                Err(reason) => reasons.push(format!("{owner}: {reason:#}")),
            }
        }
        bail!(
            "no compiler here can build the kernel programs and the plugin ({}): run `cargo xtask bootstrap`, \
             or `rustup toolchain install nightly --component rust-src`",
            reasons.join("; ")
        )
    }

    fn examine(owner: Owner, bin: PathBuf, rust_version: &str) -> Result<Self> {
        for program in ["cargo", "rustc"] {
            if !bin.join(program).exists() {
                bail!("{} is not there", bin.join(program).display());
            }
        }
        let rustc = |arguments: &[&str]| process::stdout_of(by(&bin, "rustc").args(arguments));
        let verbose = rustc(&["-vV"])?;
        let sysroot = rustc(&["--print", "sysroot"])?;
        fitness(&verbose, Path::new(sysroot.trim_end()), rust_version)?;
        Ok(Self { owner, bin, release: workspace::field(&verbose, "release")?.to_owned() })
    }

    /// Its cargo, which compiles what `build_std` names from source. `first` goes before what PATH holds.
    ///
    /// Artefacts have a folder of their own, named after the compiler and `purpose`: another compiler's are not up to date for it.
    ///
    /// # Errors
    /// Where a folder has a name that PATH cannot hold.
    pub(crate) fn build(&self, workspace: &Workspace, purpose: &str, build_std: &str, first: Option<&Path>) -> Result<(Command, PathBuf)> {
        let target_dir = workspace.target_dir.join(purpose.replacen('*', &self.release, 1));
        let mut command = by(&self.bin, "cargo");
        command
            .args(["build", "-Z", &format!("build-std={build_std}")])
            .current_dir(&workspace.root)
            .env("CARGO_TARGET_DIR", &target_dir)
            .env("PATH", search_path([self.bin.as_path()].into_iter().chain(first))?)
            .env("RUSTC_BOOTSTRAP", "1");
        Ok((command, target_dir))
    }

    /// Where the source of its library is.
    ///
    /// # Errors
    /// Where it does not tell.
    pub(crate) fn sysroot(&self) -> Result<PathBuf> {
        let told = process::stdout_of(by(&self.bin, "rustc").args(["--print", "sysroot"]))?;
        Ok(PathBuf::from(told.trim_end()))
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} rustc {} in {}", self.owner, self.release, self.bin.display())
    }
}

impl Owner {
    fn bin(self) -> Result<PathBuf> {
        match self {
            Owner::Debian => Ok(PathBuf::from("/usr/bin")),
            Owner::Nightly => {
                let mut rustup = Command::new("rustup");
                rustup.args(["which", "--toolchain", "nightly", "rustc"]).env("RUSTUP_AUTO_INSTALL", "0");
                // Its own words for a toolchain that is missing are a stack trace.
                let output = rustup.stdin(Stdio::null()).stderr(Stdio::null()).output().context("rustup is not in PATH")?;
                let rustc = String::from_utf8(output.stdout).context("the path of its rustc is no UTF-8")?;
                match Path::new(rustc.trim_end()).parent() {
                    Some(bin) if output.status.success() => Ok(bin.to_owned()),
                    _ => bail!("not installed"),
                }
            }
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Owner::Debian => "Debian's",
            Owner::Nightly => "rustup's nightly",
        })
    }
}

/// Whether a compiler of this description, which lives in `sysroot`, will do.
fn fitness(verbose: &str, sysroot: &Path, rust_version: &str) -> Result<()> {
    let release = workspace::field(verbose, "release")?;
    if !is_new_enough(release, rust_version) {
        bail!("rustc {release} is older than {rust_version}, which Cargo.toml asks for");
    }
    let llvm = workspace::field(verbose, "LLVM version")?;
    if llvm.split('.').next().and_then(|major| major.parse().ok()).is_none_or(|major: u32| major > LLVM) {
        bail!("rustc {release} is built on LLVM {llvm}, which bpf-linker with LLVM {LLVM} cannot read");
    }
    let core = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if !core.exists() {
        bail!("rustc {release} is here without the library's source (component rust-src): no {}", core.display());
    }
    Ok(())
}

/// A program of the compiler in `bin`, out of the reach of whichever compiler started us.
fn by(bin: &Path, program: &str) -> Command {
    let mut command = Command::new(bin.join(program));
    for name in OF_ANOTHER_COMPILER {
        command.env_remove(name);
    }
    // An empty wrapper also overrides one from a configuration file.
    command.env("RUSTC", bin.join("rustc")).env("RUSTC_WRAPPER", "");
    command
}

/// `first`, then what PATH holds.
fn search_path<'a>(first: impl IntoIterator<Item = &'a Path>) -> Result<OsString> {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let first = first.into_iter().map(Path::to_owned);
    env::join_paths(first.chain(env::split_paths(&inherited))).context("a folder with a colon in its name cannot be in PATH")
}

/// Whether a version is the required one or later, by its numbers.
pub(crate) fn is_new_enough(installed: &str, required: &str) -> bool {
    let numbers = |version: &str| -> Vec<u32> { version.split(['.', '-']).map_while(|part| part.parse().ok()).collect() };
    numbers(installed) >= numbers(required)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "/nonexistent";

    fn reason(release: &str, llvm: &str) -> String {
        fitness(&format!("release: {release}\nLLVM version: {llvm}\n"), Path::new(HERE), "1.95").unwrap_err().to_string()
    }

    #[test]
    fn a_compiler_without_the_source_of_core_is_refused() {
        let reason = reason("1.97.0-nightly", "22.1.4");
        assert!(reason.contains("rust-src") && reason.contains(HERE), "{reason}");
    }

    #[test]
    fn a_compiler_with_the_source_of_core_will_do() {
        let sysroot = env::temp_dir().join(format!("barewire-xtask-sysroot-{}", std::process::id()));
        let core = sysroot.join("lib/rustlib/src/rust/library/core");
        std::fs::create_dir_all(&core).unwrap();
        std::fs::write(core.join("Cargo.toml"), "").unwrap();
        let fit = fitness("release: 1.96.0\nLLVM version: 22.1.8\n", &sysroot, "1.95");
        std::fs::remove_dir_all(&sysroot).unwrap();
        fit.unwrap();
    }

    #[test]
    fn a_compiler_that_the_linker_cannot_follow_is_refused() {
        let reason = reason("1.99.0-nightly", "23.1.0");
        assert!(reason.contains("LLVM 23.1.0"), "{reason}");
    }

    #[test]
    fn a_compiler_that_is_too_old_is_refused() {
        let reason = reason("1.63.0", "14.0.6");
        assert!(reason.contains("older than 1.95"), "{reason}");
    }

    #[test]
    fn the_outer_compiler_does_not_reach_the_inner() {
        let command = by(Path::new("/usr/bin"), "cargo");
        let removed: Vec<_> = command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name.to_owned()).collect();
        for name in ["RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "CARGO_ENCODED_RUSTFLAGS"] {
            assert!(removed.contains(&name.into()), "{name} is inherited");
        }
        assert_eq!(search_path([Path::new("/first")]).unwrap().to_str().unwrap().split(':').next(), Some("/first"));
    }

    #[test]
    fn compilers_are_compared_by_number() {
        assert!(is_new_enough("1.95.0", "1.95"));
        assert!(is_new_enough("1.100.0", "1.95"));
        assert!(is_new_enough("1.96.0-nightly", "1.95.1"));
        assert!(!is_new_enough("1.94.1", "1.95"));
    }
}
