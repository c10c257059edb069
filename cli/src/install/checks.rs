//! What is known before anything is changed, and what is refused for it: in words, with what to do, all of it at once.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::layout::{self, CONFIGURATION, Content, LISTS, MANAGERS, PROGRAMS, Reader, TEXTS, UNIT, UNREAD, below};
use super::{Install, OtherLists, Uninstall, act, lists};
use crate::config;
use crate::exit::Exit;

/// The oldest kernel that is still mended and has all that wiring needs. Tested is 6.1 and newer (docs/kernels.md).
const KERNEL_MIN: (u32, u32) = (5, 10);
/// How the list of ours is called unless `paths.cni_conf_file` says otherwise.
const OWN_LIST: &str = "00-barewire.conflist";

/// What was found, and is planned with.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The programs' bytes, in the order of [`PROGRAMS`].
    pub(super) programs: Vec<Vec<u8>>,
    /// The configuration to be put in place.
    pub(super) configuration: Option<Vec<u8>>,
    /// Lists that give way.
    pub(super) set_aside: Vec<PathBuf>,
    /// Whether the daemon runs, or is being started.
    pub(super) runs: bool,
    /// Network managers that run; one that does not reads its files when it is started.
    pub(super) managers: Vec<Reader>,
    /// Who had still to look at new files when an earlier run was cut short.
    pub(super) unread: Vec<Reader>,
}

/// Judges an installation.
pub(super) fn install(options: &Install) -> Result<Found, Vec<String>> {
    let mut refusals = Vec::new();
    let mut found = Found::default();
    if !options.is_image() {
        refusals.extend(rights().into_iter().chain(service_manager()).chain(kernel(&read("/proc/sys/kernel/osrelease"))));
        found.runs = ["active", "activating", "reloading"].contains(&act::state_of(UNIT).as_str());
        found.managers = MANAGERS.into_iter().filter(|(_, unit)| act::state_of(unit) == "active").map(|(reader, _)| reader).collect();
        found.unread =
            Reader::ALL.into_iter().filter(|reader| read(&format!("/{UNREAD}")).lines().any(|line| line == reader.name())).collect();
    }
    let targets = PROGRAMS.iter().chain(&TEXTS).map(|part| part.path).chain([CONFIGURATION, LISTS]);
    refusals.extend(not_writable(&options.root, targets));
    let from = options.from.clone().or_else(|| Some(std::env::current_exe().ok()?.parent()?.to_owned())).unwrap_or_default();
    match programs(&from, options.is_image()) {
        Ok(programs) => found.programs = programs,
        Err(more) => refusals.extend(more),
    }
    match configuration(options, &from, !found.programs.is_empty()) {
        Ok(bytes) => found.configuration = bytes,
        Err(more) => refusals.extend(more),
    }
    match other_lists(&below(&options.root, LISTS), options.other_lists) {
        Ok(set_aside) => found.set_aside = set_aside,
        Err(more) => refusals.extend(more),
    }
    if refusals.is_empty() { Ok(found) } else { Err(refusals) }
}

/// Judges a removal.
pub(super) fn uninstall(options: &Uninstall) -> Result<(), Vec<String>> {
    let mut refusals = Vec::new();
    if !options.is_image() {
        refusals.extend(rights());
        let interfaces = read("/proc/self/net/dev");
        let pods = host_ends(&interfaces);
        if !options.force && !pods.is_empty() {
            refusals.push(format!(
                "{} pods run ({}): drain the node first (kubectl drain NODE --ignore-daemonsets), and stop its runtime; or use --force",
                pods.len(),
                pods.join(", ")
            ));
        }
    }
    refusals.extend(not_writable(&options.root, PROGRAMS.iter().chain(&TEXTS).map(|part| part.path)));
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The owner of our own entry in /proc is our effective user.
fn rights() -> Option<String> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0);
    (!is_root).then(|| "this user may not change the node: run the same command as root".to_owned())
}

/// sd_booted(3).
fn service_manager() -> Option<String> {
    let words = "systemd does not run here: put the files into an image with --root DIR, or start barewired by what starts services here";
    (!Path::new("/run/systemd/system").is_dir()).then(|| words.to_owned())
}

/// `release` as uname(2) tells it. One that is not understood is let pass: the daemon probes what it uses.
fn kernel(release: &str) -> Option<String> {
    let mut numbers = release.trim().split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next()?, numbers.next()?);
    let (major, minor) = KERNEL_MIN;
    (version < KERNEL_MIN)
        .then(|| format!("kernel {} is older than {major}.{minor}: use a newer one (tested are 6.1 and newer)", release.trim()))
}

/// Where files cannot be put, each file system once.
fn not_writable<'a>(root: &Path, targets: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut refusals: Vec<String> = Vec::new();
    for target in targets {
        let path = below(root, target);
        let folder = path.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(root);
        let may = if folder.is_dir() {
            access(folder, Access::WRITE_OK).map_err(io::Error::from)
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        };
        let Err(why) = may else { continue };
        let remedy = match why.kind() {
            io::ErrorKind::ReadOnlyFilesystem => "put the files into the image that this is made from, with --root DIR",
            _ => "see who owns it",
        };
        let refusal = format!("{} cannot be written to ({why}): {remedy}", folder.display());
        if !refusals.contains(&refusal) {
            refusals.push(refusal);
        }
    }
    refusals
}

/// The machine that an ELF file is for, by its number (elf.h).
fn machine(bytes: &[u8]) -> Option<u16> {
    let number = bytes.strip_prefix(b"\x7fELF").and(bytes.get(18..20))?;
    Some(u16::from_le_bytes([number[0], number[1]]))
}

const BPF: u16 = 247;

/// The number of the machine that this program was built for.
fn own_machine() -> Option<u16> {
    [("x86_64", 62), ("aarch64", 183)].into_iter().find_map(|(name, number)| (name == std::env::consts::ARCH).then_some(number))
}

fn programs(from: &Path, is_image: bool) -> Result<Vec<Vec<u8>>, Vec<String>> {
    let mut refusals = Vec::new();
    let mut programs = Vec::new();
    for part in PROGRAMS {
        let Content::Program(name) = part.content else { continue };
        let path = from.join(name);
        match fs::read(&path) {
            Err(error) => refusals.push(format!("{}: {error}; name the folder of the unpacked release with --from DIR", path.display())),
            Ok(bytes) => {
                let wanted = if part.mode & 0o111 == 0 { Some(BPF) } else { own_machine() };
                match machine(&bytes) {
                    None => refusals.push(format!("{} is no program: unpack the release again", path.display())),
                    // An image may be another machine's.
                    found if found != wanted && !(is_image && wanted != Some(BPF)) => {
                        refusals.push(format!(
                            "{} is for another machine than this: take the release for {}",
                            path.display(),
                            std::env::consts::ARCH
                        ));
                    }
                    Some(_) => programs.push(bytes),
                }
            }
        }
    }
    if refusals.is_empty() { Ok(programs) } else { Err(refusals) }
}

/// The configuration to put in place, judged by the daemon that is about to read it.
fn configuration(options: &Install, from: &Path, has_programs: bool) -> Result<Option<Vec<u8>>, Vec<String>> {
    let present = below(&options.root, CONFIGURATION);
    let file = options.config.as_ref().unwrap_or(&present);
    let bytes = fs::read(file).map_err(|error| match &options.config {
        Some(file) => vec![format!("cannot read {}: {error}", file.display())],
        None => vec![format!(
            "{}: {error}; write this node's (deploy/barewired.toml shows every key) and name it with --config FILE",
            file.display()
        )],
    })?;
    let daemon = from.join("barewired");
    // Another machine's cannot be executed.
    let can_judge = has_programs && fs::read(&daemon).is_ok_and(|bytes| machine(&bytes) == own_machine());
    if can_judge {
        let (text, _, exit) = config::check_by(&daemon, file);
        if exit != Exit::Fine {
            return Err(text.lines().map(str::to_owned).collect());
        }
    }
    Ok(options.config.is_some().then_some(bytes))
}

/// The lists that give way.
fn other_lists(folder: &Path, what: OtherLists) -> Result<Vec<PathBuf>, Vec<String>> {
    let others = lists::others(folder);
    let first = |path: &PathBuf| path.file_name().is_some_and(|name| name < OWN_LIST);
    let refusal = |path: &PathBuf| match what {
        OtherLists::Refuse => Some(format!(
            "{} is another network's: drain the node and take that network off it first; or use --other-lists=set-aside, which renames it",
            path.display()
        )),
        OtherLists::Keep if first(path) => {
            Some(format!("{} sorts before {OWN_LIST}, so the runtime would take it: --other-lists=set-aside renames it", path.display()))
        }
        OtherLists::SetAside if lists::set_aside(path).exists() => {
            Some(format!("{} is there already: remove it, or {}", lists::set_aside(path).display(), path.display()))
        }
        OtherLists::Keep | OtherLists::SetAside => None,
    };
    let refusals: Vec<_> = others.iter().filter_map(refusal).collect();
    match what {
        _ if !refusals.is_empty() => Err(refusals),
        OtherLists::SetAside => Ok(others),
        OtherLists::Refuse | OtherLists::Keep => Ok(Vec::new()),
    }
}

/// The host ends of pods' links among a network namespace's interfaces: `bw` and ten hexadecimal digits.
fn host_ends(interfaces: &str) -> Vec<&str> {
    let is_host_end =
        |name: &&str| name.strip_prefix("bw").is_some_and(|rest| rest.len() == 10 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    interfaces.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).filter(is_host_end).collect()
}

/// Files and folders of an installation that are there.
pub(super) fn present(root: &Path) -> impl Iterator<Item = PathBuf> {
    let links = std::iter::once(layout::ENABLED.0);
    let parts = TEXTS.iter().chain(&PROGRAMS).map(|part| part.path);
    links.chain(parts).map(move |path| below(root, path)).filter(|path| path.symlink_metadata().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_refused_and_strange_ones_are_not() {
        for fine in ["5.10.0-26-amd64", "6.1.0\n", "6.12.9+deb12-cloud", "10.0", "", "custom"] {
            assert_eq!(kernel(fine), None, "{fine}");
        }
        for old in ["4.19.0-amd64", "5.9.16", "3.10.0-1160.el7.x86_64\n"] {
            let words = kernel(old).unwrap();
            assert!(words.contains(old.trim()) && words.contains("5.10"), "{words}");
        }
    }

    #[test]
    fn host_ends_are_told_from_other_interfaces() {
        let table = "Inter-|   Receive\n face |bytes\n    lo: 0 0\n  bw0000100000: 1 2\nbwan0: 1\nbw00001000000: 1\n bwzzzzzzzzzz: 1\n";
        assert_eq!(host_ends(table), ["bw0000100000"]);
    }

    #[test]
    fn machines() {
        let mut bytes = b"\x7fELF".to_vec();
        bytes.resize(20, 0);
        bytes[18] = 247;
        assert_eq!(machine(&bytes), Some(BPF));
        assert_eq!(machine(b"#!/bin/sh and more than twenty bytes"), None);
        assert_eq!(machine(b"\x7fELF"), None);
    }
}
