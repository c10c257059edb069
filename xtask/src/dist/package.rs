//! Archives whose bytes depend on nothing but what is in them: a tarball by tar and gzip, a Debian package by dpkg-deb.
//!
//! dpkg-deb instead of a library: the tree below is all that a package is, it is on every machine that this runs on, and it takes times
//! from `SOURCE_DATE_EPOCH`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// What names a release.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) version: &'a str,
    /// As Rust calls it.
    pub(super) architecture: &'a str,
    /// Seconds since 1970: the time of every file.
    pub(super) epoch: &'a str,
}

impl Named<'_> {
    pub(super) fn stem(&self) -> String {
        format!("barewire-{}-{}", self.version, self.architecture)
    }

    /// As Debian calls it.
    fn debian(&self) -> Result<&'static str> {
        match self.architecture {
            "x86_64" => Ok("amd64"),
            "aarch64" => Ok("arm64"),
            other => bail!("what Debian calls {other} is not known here"),
        }
    }
}

type Program = (&'static str, PathBuf);

/// Puts a file in place with its mode.
fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let copied = fs::create_dir_all(to.parent().unwrap_or(to)).and_then(|()| fs::copy(from, to));
    copied.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).with_context(|| format!("cannot change the mode of {}", to.display()))
}

fn mode_of(program: &str) -> u32 {
    if program.ends_with(".o") { 0o644 } else { 0o755 }
}

/// Writes the tarball into `release`; its name.
pub(super) fn tarball(named: &Named<'_>, programs: &[Program], texts: &[PathBuf], release: &Path) -> Result<String> {
    let stem = named.stem();
    let tree = release.join(&stem);
    for (name, file) in programs {
        put(file, &tree.join(name), mode_of(name))?;
    }
    for text in texts {
        put(text, &tree.join(text.file_name().unwrap_or_default()), 0o644)?;
    }
    let (tar, name) = (format!("{stem}.tar"), format!("{stem}.tar.gz"));
    let mut archive = Command::new("tar");
    archive.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=go-w", "--format=ustar"]);
    archive.arg(format!("--mtime=@{}", named.epoch)).args(["--file", &tar, &stem]).current_dir(release);
    process::run(&mut archive)?;
    // Without a name and a time in its head.
    process::run(Command::new("gzip").args(["--no-name", "--force", &tar]).current_dir(release))?;
    fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    Ok(name)
}

/// What a Debian package has beside its programs: where in the workspace, and where on a node. In the vendor's places; an administrator's
/// file of the same name in /etc goes before them.
const OF_VENDOR: [(&str, &str); 6] = [
    ("deploy/barewired.service", "usr/lib/systemd/system/barewired.service"),
    ("deploy/networkd/90-barewire.conf", "usr/lib/systemd/networkd.conf.d/90-barewire.conf"),
    ("deploy/networkd/05-barewire.network", "usr/lib/systemd/network/05-barewire.network"),
    ("deploy/NetworkManager/90-barewire.conf", "usr/lib/NetworkManager/conf.d/90-barewire.conf"),
    ("deploy/barewired.toml", "usr/share/doc/barewire/examples/barewired.toml"),
    ("LICENSE", "usr/share/doc/barewire/copyright"),
];

/// The unit starts nothing while there is no configuration. A restart interrupts no pod.
const POSTINST: &str = "\
#!/bin/sh
set -e
if [ \"$1\" = configure ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable --quiet barewired.service
    if [ -n \"$2\" ]; then systemctl --no-block try-restart barewired.service; else systemctl --no-block start barewired.service; fi
fi
";

/// Of a node with pods nothing is taken away that they need, but by `barewire uninstall`.
const PRERM: &str = "\
#!/bin/sh
set -e
if [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --quiet --now barewired.service
    if [ -e /etc/barewire/barewired.toml ]; then barewired --uninstall || true; fi
fi
";

const POSTRM: &str = "\
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
if [ \"$1\" = purge ]; then rm -rf /etc/barewire /run/barewire; fi
";

/// Writes the Debian package into `release`; its name.
pub(super) fn debian(named: &Named<'_>, programs: &[Program], root: &Path, release: &Path) -> Result<String> {
    let architecture = named.debian()?;
    let tree = release.join("debian");
    for (name, file) in programs {
        let folder = match *name {
            "barewire-cni" => "opt/cni/bin",
            "barewire-ebpf.o" => "usr/lib/barewire",
            _ => "usr/bin",
        };
        put(file, &tree.join(folder).join(name), mode_of(name))?;
    }
    for (from, to) in OF_VENDOR {
        put(&root.join(from), &tree.join(to), 0o644)?;
    }
    let control = format!(
        "Package: barewire\nVersion: {}\nArchitecture: {architecture}\nMaintainer: Barewire <maintainers@barewire.invalid>\nSection: net\n\
         Priority: optional\nRecommends: nftables, containernetworking-plugins\nDescription: native pod networking for Kubernetes\n \
         The CNI plugin, the node daemon and the operator's command. The service starts once\n /etc/barewire/barewired.toml is there.\n",
        named.version
    );
    let meta = tree.join("DEBIAN");
    fs::create_dir_all(&meta)?;
    for (name, text, mode) in
        [("control", control.as_str(), 0o644), ("postinst", POSTINST, 0o755), ("prerm", PRERM, 0o755), ("postrm", POSTRM, 0o755)]
    {
        fs::write(meta.join(name), text)?;
        fs::set_permissions(meta.join(name), fs::Permissions::from_mode(mode))?;
    }
    let name = format!("barewire_{}_{architecture}.deb", named.version);
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "-Zgzip", "--build"]).arg(&tree).arg(&name).current_dir(release);
    process::run(build.env("SOURCE_DATE_EPOCH", named.epoch))?;
    fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: Named<'_> = Named { version: "1.2.3", architecture: "x86_64", epoch: "1700000000" };

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("barewire-dist-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn programs(&self) -> Vec<Program> {
            let file = |name: &'static str| {
                let path = self.0.join(name);
                fs::write(&path, format!("the bytes of {name}")).unwrap();
                (name, path)
            };
            ["barewired", "barewire", "barewire-cni", "barewire-ebpf.o"].map(file).to_vec()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn the_same_programs_make_the_same_archives() {
        let archives = ["one", "other"].map(|name| {
            let folder = Folder::new(name);
            let (programs, texts) = (folder.programs(), [root().join("LICENSE")]);
            let tarball = tarball(&NAMED, &programs, &texts, &folder.0).unwrap();
            let debian = debian(&NAMED, &programs, &root(), &folder.0).unwrap();
            assert_eq!((tarball.as_str(), debian.as_str()), ("barewire-1.2.3-x86_64.tar.gz", "barewire_1.2.3_amd64.deb"));
            [tarball, debian].map(|name| fs::read(folder.0.join(name)).unwrap())
        });
        assert!(archives[0] == archives[1]);
    }

    #[test]
    fn a_package_puts_its_files_where_the_unit_and_the_runtime_look() {
        let folder = Folder::new("contents");
        let name = debian(&NAMED, &folder.programs(), &root(), &folder.0).unwrap();
        let contents = process::stdout_of(Command::new("dpkg-deb").arg("--contents").arg(folder.0.join(name))).unwrap();
        for line in [
            "-rwxr-xr-x root/root",
            " ./opt/cni/bin/barewire-cni\n",
            " ./usr/bin/barewired\n",
            " ./usr/lib/barewire/barewire-ebpf.o\n",
            " ./usr/lib/systemd/system/barewired.service\n",
        ] {
            assert!(contents.contains(line), "no {line:?} in {contents}");
        }
        assert!(!contents.contains("etc/"), "what is an administrator's is not a package's: {contents}");
    }
}
