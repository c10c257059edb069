//! A program of this machine with the libraries that it is linked with, at their places.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::{Entry, Error, read};

/// The program, the dynamic loader and the libraries, by their paths without the leading slash.
pub(super) fn program_with_libraries(program: &Path) -> Result<BTreeMap<String, Entry>, Error> {
    let failed = |reason: String| Error::Program { path: program.display().to_string(), reason };
    let said = Command::new("ldd").arg(program).output().map_err(|error| failed(format!("ldd: {error}")))?;
    let said = String::from_utf8_lossy(&said.stdout);
    let paths = libraries(&said).chain([program.to_str().unwrap_or_default()]);
    paths.map(|path| Ok((path.trim_start_matches('/').to_owned(), Entry::Program(read(Path::new(path))?)))).collect()
}

/// The paths in what ldd(1) says: `name => /path (address)` or `/path (address)`, below `/program:` where it was asked of several.
pub(super) fn libraries(said: &str) -> impl Iterator<Item = &str> {
    said.lines().filter_map(|line| line.split_ascii_whitespace().find(|word| word.starts_with('/') && !word.ends_with(':')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_in_what_ldd_says() {
        let said = "/bin/a:\n\tlinux-vdso.so.1 (0x7f)\n\tlibz.so.1 => /lib/x/libz.so.1 (0x7f)\n\t/lib64/ld-linux.so.2 (0x7f)\n";
        assert_eq!(libraries(said).collect::<Vec<_>>(), ["/lib/x/libz.so.1", "/lib64/ld-linux.so.2"]);
    }

    #[test]
    fn a_program_comes_with_its_loader() {
        let files = program_with_libraries(&std::env::current_exe().unwrap()).unwrap();
        assert!(files.keys().any(|path| path.contains("ld-linux")), "{:?}", files.keys());
        assert!(program_with_libraries(Path::new("/nowhere/program")).is_err());
    }
}
