//! Other networks' configuration lists, where the runtime looks for its own: it takes the first by name.

use std::fs;
use std::path::{Path, PathBuf};

/// What a list is called that gives way: runtimes look for `.conf`, `.conflist` and `.json`.
const SET_ASIDE: &str = "before-barewire";
/// In whatever list this is, pods are Barewire's: agents that wrap another network's list copy it.
const OWN_PLUGIN: &str = "\"barewire-cni\"";

/// Lists in `folder` that are not Barewire's, by name.
pub(super) fn others(folder: &Path) -> Vec<PathBuf> {
    let is_list =
        |path: &PathBuf| path.extension().is_some_and(|extension| ["conf", "conflist", "json"].iter().any(|known| extension == *known));
    // What cannot be read is nobody's that we know.
    let is_ours = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains(OWN_PLUGIN));
    entries(folder, |path| is_list(path) && !is_ours(path))
}

/// Where a list goes that gives way.
pub(super) fn set_aside(list: &Path) -> PathBuf {
    let mut name = list.as_os_str().to_owned();
    name.push(".");
    name.push(SET_ASIDE);
    name.into()
}

/// Lists that gave way, each with the name that it had, where nothing has that name now.
pub(super) fn to_restore(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let aside = entries(folder, |path| path.extension().is_some_and(|extension| extension == SET_ASIDE));
    let with_old_name = aside.into_iter().map(|path| (path.clone(), path.with_extension("")));
    with_old_name.filter(|(_, old)| !old.exists()).collect()
}

fn entries(folder: &Path, wanted: impl Fn(&PathBuf) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(wanted).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gave_way_comes_back_under_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, text) in [
            ("00-barewire.conflist", "{\"plugins\": [{\"type\": \"barewire-cni\"}]}"),
            ("02-istio-cni.conflist", "{\"plugins\": [{\"type\": \"barewire-cni\"}, {\"type\": \"istio-cni\"}]}"),
            ("10-flannel.conflist", "{}"),
            ("05-cilium.conf", "{}"),
            ("README", ""),
        ] {
            fs::write(path(name), text).unwrap();
        }
        assert_eq!(others(folder.path()), [path("05-cilium.conf"), path("10-flannel.conflist")]);
        for list in others(folder.path()) {
            fs::rename(&list, set_aside(&list)).unwrap();
        }
        assert_eq!(others(folder.path()), [] as [PathBuf; 0]);
        // Somebody has written a new one meanwhile.
        fs::write(path("05-cilium.conf"), "{}").unwrap();
        assert_eq!(to_restore(folder.path()), [(path("10-flannel.conflist.before-barewire"), path("10-flannel.conflist"))]);
    }
}
