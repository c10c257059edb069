//! Mends what a finding says can be mended, and tells what it did.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where sysctls are kept over a boot. One file: a line of it is replaced, others stay.
const SYSCTLS: &str = "/etc/sysctl.d/90-barewire.conf";

/// What mends a finding without a question left open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fix {
    Sysctl { name: String, value: i64 },
    File { path: PathBuf, text: &'static str, then: &'static str },
    Mode { path: PathBuf, mode: u32 },
}

/// What became of a fix.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) what: String,
    pub(super) succeeded: bool,
}

/// `root` is where the node's file system is.
pub(super) fn apply(fix: &Fix, root: &Path) -> Done {
    let (what, outcome) = match fix {
        Fix::Sysctl { name, value } => (format!("{name} = {value}, now and in {SYSCTLS}"), sysctl(name, *value, root)),
        Fix::File { path, text, then } => (format!("{} written; {then}", path.display()), write(&below(root, path), text)),
        Fix::Mode { path, mode } => {
            (format!("mode of {} is {mode:o}", path.display()), fs::set_permissions(below(root, path), fs::Permissions::from_mode(*mode)))
        }
    };
    match outcome {
        Ok(()) => Done { what, succeeded: true },
        Err(error) => Done { what: format!("{what}: {error}"), succeeded: false },
    }
}

/// A path of the node's, as this process sees it.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    // Whoever reads the directory meanwhile sees all of it or nothing.
    let draft = path.with_extension("barewire-draft");
    fs::write(&draft, text)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o644))?;
    fs::rename(&draft, path)
}

fn sysctl(name: &str, value: i64, root: &Path) -> std::io::Result<()> {
    fs::write(Path::new("/proc/sys").join(name), value.to_string())?;
    let file = below(root, Path::new(SYSCTLS));
    let before = fs::read_to_string(&file).unwrap_or_default();
    write(&file, &with_sysctl(&before, name, value))
}

/// The file with this line, and no other of the same name. Pure.
fn with_sysctl(before: &str, name: &str, value: i64) -> String {
    let of_name = |line: &&str| line.split('=').next().is_some_and(|key| key.trim() == name);
    let kept: String = before.lines().filter(|line| !of_name(line)).map(|line| format!("{line}\n")).collect();
    format!("{kept}{name} = {value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_stands_once_in_its_file() {
        let file = with_sysctl("# mine\n", "net/ipv4/ip_forward", 1);
        assert_eq!(file, "# mine\nnet/ipv4/ip_forward = 1\n");
        assert_eq!(with_sysctl(&file, "net/ipv4/ip_forward", 0), "# mine\nnet/ipv4/ip_forward = 0\n");
    }

    #[test]
    fn paths_are_below_the_root() {
        assert_eq!(below(Path::new("/host"), Path::new("/etc/x")), Path::new("/host/etc/x"));
        assert_eq!(below(Path::new("/"), Path::new("/etc/x")), Path::new("/etc/x"));
    }
}
