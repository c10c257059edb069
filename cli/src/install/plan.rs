//! What is to be done, and in which order: only what differs from what is there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::act::Act;
use super::checks::{self, Found};
use super::layout::{
    CONFIGURATION, Content, DAEMON, ENABLED, FOLDERS, LISTS, MANAGERS, PROGRAMS, Part, Reader, STATE, TEXTS, UNIT, UNREAD, below,
};
use super::{Install, Uninstall, lists};

const MODE_OF_CONFIGURATION: u32 = 0o600;

/// Programs, configuration, service and drop-ins; then whoever reads them; then other lists give way; then the daemon. A runtime that asks
/// in between finds no network, which is true.
pub(super) fn install(options: &Install, found: Found) -> Vec<Act> {
    let root = &options.root;
    let mut acts = Vec::new();
    let mut readers = found.unread;
    let mut put = |part: Part, content: Vec<u8>| {
        let path = below(root, part.path);
        if !stands(&path, part.mode, &content) {
            readers.push(part.reader);
            acts.push(Act::Write { path, mode: part.mode, content });
        }
    };
    for (part, bytes) in PROGRAMS.into_iter().zip(found.programs) {
        put(part, bytes);
    }
    if let Some(bytes) = found.configuration {
        let content = Content::Text("");
        put(Part { path: CONFIGURATION, mode: MODE_OF_CONFIGURATION, content, reader: Reader::Daemon }, bytes);
    }
    for part in TEXTS {
        if let Content::Text(text) = part.content {
            put(part, text.into());
        }
    }
    let has_readers = !options.is_image() && readers.iter().any(|reader| *reader != Reader::Nobody);
    if has_readers {
        let names: String =
            Reader::ALL.iter().filter(|reader| readers.contains(reader)).map(|reader| format!("{}\n", reader.name())).collect();
        acts.insert(0, Act::Write { path: below(root, UNREAD), mode: 0o600, content: names.into() });
        acts.extend(reread(&readers, &found.managers));
    }
    acts.extend(found.set_aside.into_iter().map(|list| Act::Rename { to: lists::set_aside(&list), from: list }));
    let (enabled, unit) = ENABLED;
    let enabled = below(root, enabled);
    if !fs::read_link(&enabled).is_ok_and(|to| to == Path::new(unit)) {
        acts.push(Act::Link { path: enabled, to: unit });
    }
    if !options.is_image() {
        let is_new = readers.iter().any(|reader| [Reader::Daemon, Reader::ServiceManager].contains(reader));
        // A restart interrupts no pod.
        let verb = if !found.runs { Some("start") } else { is_new.then_some("restart") };
        if let Some(verb) = verb {
            acts.push(Act::run(&["systemctl", "--no-block", verb, UNIT]));
        }
        if has_readers {
            acts.push(Act::Remove(below(root, UNREAD)));
        }
        if verb.is_some() {
            acts.push(Act::AwaitReady(options.wait));
        }
    }
    acts
}

/// Whoever has to look at new files before the daemon starts.
fn reread(readers: &[Reader], managers: &[Reader]) -> Vec<Act> {
    let reload: &[&str] = &["systemctl", "daemon-reload"];
    let service_manager = readers.contains(&Reader::ServiceManager).then(|| Act::run(reload));
    let concerned = MANAGERS.into_iter().filter(|(reader, _)| readers.contains(reader) && managers.contains(reader));
    let manager = |(reader, unit)| Act::run(&["systemctl", if reader == Reader::Networkd { "restart" } else { "reload" }, unit]);
    service_manager.into_iter().chain(concerned.map(manager)).collect()
}

fn stands(path: &Path, mode: u32, content: &[u8]) -> bool {
    let has_mode = fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o7777 == mode);
    has_mode && fs::read(path).is_ok_and(|present| present == content)
}

/// The other way round: the daemon, what it keeps in the kernel, the service, other networks' lists, the programs.
pub(super) fn uninstall(options: &Uninstall) -> Vec<Act> {
    let root = &options.root;
    let mut acts = Vec::new();
    let present: Vec<_> = checks::present(root).collect();
    let is_there = |path: &str| present.contains(&below(root, path));
    let has_unit = is_there(TEXTS[0].path);
    if !options.is_image() {
        if has_unit {
            acts.push(Act::run(&["systemctl", "stop", UNIT]));
        }
        if is_there(DAEMON) && below(root, CONFIGURATION).exists() {
            acts.push(Act::run(&[&format!("/{DAEMON}"), "--uninstall", "--config", &format!("/{CONFIGURATION}")]));
        }
    }
    acts.extend(present.iter().cloned().map(Act::Remove));
    if !options.is_image() && has_unit {
        acts.push(Act::run(&["systemctl", "daemon-reload"]));
    }
    acts.extend(lists::to_restore(&below(root, LISTS)).into_iter().map(|(from, to)| Act::Rename { from, to }));
    if options.purge {
        let kept = [STATE, "etc/barewire"].map(|path| below(root, path));
        acts.extend(kept.into_iter().filter(|path| path.exists()).map(Act::RemoveTree));
    }
    acts.extend(FOLDERS.map(|path| below(root, path)).into_iter().filter(|path| path.exists()).map(Act::RemoveIfEmpty));
    acts
}
