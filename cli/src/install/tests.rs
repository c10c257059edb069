use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

/// An image, and a folder with what is installed. The programs are for the kernel's machine and for none: nothing here is executed.
struct Image {
    root: TempDir,
    from: TempDir,
}

impl Image {
    fn new() -> Self {
        let image = Self { root: tempfile::tempdir().unwrap(), from: tempfile::tempdir().unwrap() };
        for (name, machine) in [("barewired", 1), ("barewire-cni", 1), ("barewire", 1), ("barewire-ebpf.o", 247)] {
            let mut bytes = b"\x7fELF".to_vec();
            bytes.resize(64, 0);
            bytes[18] = machine;
            fs::write(image.from.path().join(name), bytes).unwrap();
        }
        fs::write(image.from.path().join("node.toml"), "[source]\n").unwrap();
        image
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn options(&self) -> Install {
        Install {
            from: Some(self.from.path().to_owned()),
            config: Some(self.from.path().join("node.toml")),
            root: self.root.path().to_owned(),
            dry_run: false,
            other_lists: OtherLists::Refuse,
            wait: Duration::ZERO,
        }
    }

    fn uninstall(&self, purge: bool) -> (String, Value, Exit) {
        Uninstall { root: self.root.path().to_owned(), dry_run: false, purge, force: false }.execute(|_| ())
    }

    /// Every file with its mode, and every folder, below the root.
    fn contents(&self) -> Vec<(String, u32)> {
        let mut found = Vec::new();
        walk(self.root.path(), self.root.path(), &mut found);
        found.sort();
        found
    }
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<(String, u32)>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
        found.push((entry.path().strip_prefix(root).unwrap().display().to_string(), mode));
        if entry.file_type().unwrap().is_dir() {
            walk(root, &entry.path(), found);
        }
    }
}

#[test]
fn an_image_gets_all_files_once() {
    let image = Image::new();
    let planned = Install { dry_run: true, ..image.options() }.execute(|_| ());
    assert_eq!((planned.2, image.contents()), (Exit::Fine, Vec::new()), "a dry run changes nothing");

    let mut told = Vec::new();
    let (text, page, exit) = image.options().execute(|line| told.push(line.to_owned()));
    assert_eq!((text.as_str(), exit), ("done\n", Exit::Fine));
    assert_eq!(page["done"], planned.1["planned"], "what is done is what was said");
    assert_eq!(page["done"], json!(told));
    for (path, mode) in [
        ("opt/cni/bin/barewire-cni", 0o755),
        ("usr/bin/barewired", 0o755),
        ("usr/lib/barewire/barewire-ebpf.o", 0o644),
        ("etc/barewire/barewired.toml", 0o600),
        ("etc/systemd/system/barewired.service", 0o644),
        ("etc/systemd/networkd.conf.d/90-barewire.conf", 0o644),
    ] {
        assert_eq!(fs::metadata(image.path(path)).unwrap().permissions().mode() & 0o7777, mode, "{path}");
    }
    let wanted = image.path("etc/systemd/system/multi-user.target.wants/barewired.service");
    assert_eq!(fs::read_link(wanted).unwrap(), Path::new("/etc/systemd/system/barewired.service"));
    assert!(!image.path("etc/cni/net.d").exists(), "the list is barewired's, once an ADD would succeed");

    let after = image.contents();
    assert_eq!(image.options().execute(|_| ()).0, "nothing to do\n");
    assert_eq!(image.contents(), after);
}

#[test]
fn what_was_altered_is_put_right_and_nothing_else() {
    let image = Image::new();
    image.options().execute(|_| ());
    fs::set_permissions(image.path("usr/bin/barewired"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(image.path("etc/systemd/system/barewired.service"), "[Unit]\n").unwrap();
    let (_, page, _) = image.options().execute(|_| ());
    let done: Vec<_> = page["done"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect();
    assert!(done.len() == 2 && done[0].contains("usr/bin/barewired ") && done[1].contains("barewired.service "), "{done:?}");
    // Without a new configuration the one that is there stays.
    fs::write(image.path("etc/barewire/barewired.toml"), "# mine\n").unwrap();
    assert_eq!(Install { config: None, ..image.options() }.execute(|_| ()).0, "nothing to do\n");
}

#[test]
fn nothing_is_left() {
    let image = Image::new();
    for folder in
        ["opt", "usr/bin", "usr/lib", "etc/systemd/system/multi-user.target.wants", "etc/systemd/network", "etc/NetworkManager/conf.d"]
    {
        fs::create_dir_all(image.path(folder)).unwrap();
    }
    let before = image.contents();
    image.options().execute(|_| ());
    assert_eq!(image.uninstall(false).2, Exit::Fine);
    assert!(image.path("etc/barewire/barewired.toml").exists(), "the configuration goes with --purge");
    assert_eq!(image.uninstall(true).2, Exit::Fine);
    assert_eq!(image.contents(), before);
    assert_eq!(image.uninstall(true).0, "nothing to do\n");
}

#[test]
fn another_network_is_named_and_gives_way_only_if_told_to() {
    let image = Image::new();
    let list = image.path("etc/cni/net.d/10-flannel.conflist");
    fs::create_dir_all(list.parent().unwrap()).unwrap();
    fs::write(&list, "{}").unwrap();
    let before = image.contents();
    let (text, _, exit) = image.options().execute(|_| ());
    assert!(exit == Exit::Degraded && text.contains("10-flannel.conflist") && text.contains("--other-lists=set-aside"), "{text}");
    assert_eq!(image.contents(), before);

    Install { other_lists: OtherLists::SetAside, ..image.options() }.execute(|_| ());
    assert!(!list.exists());
    image.uninstall(true);
    assert_eq!(fs::read_to_string(&list).unwrap(), "{}");

    assert_eq!(Install { other_lists: OtherLists::Keep, ..image.options() }.execute(|_| ()).2, Exit::Fine);
    fs::write(image.path("etc/cni/net.d/00-a.conf"), "{}").unwrap();
    let (text, _, _) = Install { other_lists: OtherLists::Keep, ..image.options() }.execute(|_| ());
    assert!(text.contains("00-a.conf sorts before") && !text.contains("10-flannel"), "{text}");
}

#[test]
fn all_that_is_wrong_is_told_at_once_and_nothing_is_changed() {
    let image = Image::new();
    fs::remove_file(image.from.path().join("barewire")).unwrap();
    fs::write(image.from.path().join("barewire-cni"), "#!/bin/sh\n").unwrap();
    fs::write(image.path("usr"), "a file where a folder belongs").unwrap();
    let (text, _, exit) = Install { config: None, ..image.options() }.execute(|_| ());
    assert_eq!(exit, Exit::Degraded);
    for part in [
        "nothing was changed",
        "barewire: No such file",
        "--from DIR",
        "barewire-cni is no program",
        "--config FILE",
        "usr cannot be written to",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert_eq!(image.contents().len(), 1);
}
