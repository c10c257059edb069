//! The image `barewire-node` of the topologies, for containerlab: a node's root file system, of the machine's own programs as those
//! of the lab's nodes are, with the versions that `barewire-lab up` runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BUSYBOX, Entry, Error, Image, libraries, pod, read};

/// Name that the topologies give it.
pub const NODE: &str = "barewire-node";

/// What `docker import --change` has to be told of it.
pub const NODE_CHANGES: [&str; 2] = [
    r#"CMD ["/usr/local/bin/start-node"]"#,
    // An overlay cannot be the upper layer of the snapshotter's own overlays; a volume can.
    "VOLUME /var/lib/containerd",
];

/// What runs in a node, and what one looks with. Everything else is busybox.
const PROGRAMS: [&str; 26] = [
    "bash",
    "busybox",
    "conntrack",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "ethtool",
    "ip",
    "ip6tables",
    "ip6tables-restore",
    "ip6tables-save",
    "iperf3",
    "iptables",
    "iptables-restore",
    "iptables-save",
    "mount",
    "nft",
    "nsenter",
    "ping",
    "ps",
    "runc",
    "sh",
    "ss",
    "sysctl",
    "tc",
    "tcpdump",
];

/// Where programs are looked for.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Where Debian's `containernetworking-plugins` puts the reference plugins.
const REFERENCE_PLUGINS: &str = "/usr/lib/cni";

/// What programs look up by name; not all machines have all of them.
const TABLES: [&str; 4] = ["/etc/group", "/etc/passwd", "/etc/protocols", "/etc/services"];

/// Directories that are there and empty.
const EMPTY: [&str; 10] =
    ["dev", "etc/cni/net.d", "proc", "root", "run", "sys", "tmp", "var/lib/barewire", "var/lib/containerd", "var/log"];

/// The node's image, with the `barewired` and `barewire-cni` of the directory `binaries`: for `docker import`, so it has no name.
///
/// # Errors
/// When a program is missing.
pub fn node(binaries: &Path) -> Result<Image, Error> {
    let mut root = Root::default();
    // `/bin` is `usr/bin` on most machines, and scripts name `/bin/sh`.
    for link in list(Path::new("/"))?.into_iter().filter(|entry| entry.is_symlink()) {
        let target = fs::read_link(&link).map_err(wrong(&link))?;
        root.put(&link, Entry::Link(target.display().to_string()));
    }
    for program in PROGRAMS {
        root.program(&find(program)?)?;
    }
    for plugin in list(Path::new(REFERENCE_PLUGINS))? {
        root.program(&plugin)?;
        root.put(&Path::new("/opt/cni/bin").join(plugin.file_name().unwrap_or_default()), Entry::Link(plugin.display().to_string()));
    }
    // iptables loads its matches and targets by name.
    for directory in list(Path::new("/usr/lib"))?.into_iter().map(|entry| entry.join("xtables")).filter(|entry| entry.is_dir()) {
        for library in list(&directory)? {
            root.program(&library)?;
        }
    }
    for (program, directory) in [("barewire-cni", "/opt/cni/bin"), ("barewired", "/usr/local/bin"), ("barewire-ebpf.o", "/usr/local/bin")] {
        let source = binaries.join(program);
        root.put(&Path::new(directory).join(program), Entry::Program(read(&source)?));
        root.linked.push(source);
    }
    root.copy_libraries()?;
    for table in TABLES.iter().map(Path::new).filter(|table| table.exists()) {
        root.copy(table)?;
    }
    let mut pods = Vec::new();
    pod(Path::new(BUSYBOX))?.write(&mut pods)?;
    root.put(Path::new("/usr/share/barewire/pod-image.tar"), Entry::Program(pods));
    let config = include_str!("../../labs/image/containerd.toml").to_owned();
    root.put(Path::new("/etc/containerd/config.toml"), Entry::Text(config));
    let start = include_bytes!("../../labs/image/start-node").to_vec();
    root.put(Path::new("/usr/local/bin/start-node"), Entry::Program(start));
    root.link_applets()?;
    Ok(Image { files: root.files, directories: EMPTY.map(str::to_owned).to_vec(), ..Image::default() })
}

/// A root file system to be.
#[derive(Debug, Default)]
struct Root {
    files: BTreeMap<String, Entry>,
    /// Files whose libraries are wanted.
    linked: Vec<PathBuf>,
}

impl Root {
    /// What is there already stays.
    fn put(&mut self, path: &Path, entry: Entry) {
        self.files.entry(key(path)).or_insert(entry);
    }

    /// A program or a library; those that it is linked with follow.
    fn program(&mut self, path: &Path) -> Result<(), Error> {
        let file = self.copy(path)?;
        self.linked.push(file);
        Ok(())
    }

    /// Copies a file of the machine to the same path, with the link of that name if it is one. Answers the file's own path.
    fn copy(&mut self, path: &Path) -> Result<PathBuf, Error> {
        let file = path.canonicalize().map_err(wrong(path))?;
        let directory = path.parent().unwrap_or(Path::new("/")).canonicalize().map_err(wrong(path))?;
        let named = directory.join(path.file_name().unwrap_or_default());
        if named != file {
            self.put(&named, Entry::Link(file.display().to_string()));
        }
        if !self.files.contains_key(&key(&file)) {
            self.put(&file, Entry::Program(read(&file)?));
        }
        Ok(file)
    }

    fn copy_libraries(&mut self) -> Result<(), Error> {
        // It fails where one of many is static, and says so of that one.
        let said = Command::new("ldd").args(&self.linked).output().map_err(wrong(Path::new("ldd")))?;
        for library in libraries::libraries(&String::from_utf8_lossy(&said.stdout)) {
            self.copy(Path::new(library))?;
        }
        Ok(())
    }

    /// Busybox stands in for every program that is not there.
    fn link_applets(&mut self) -> Result<(), Error> {
        let busybox = find("busybox")?.canonicalize().map_err(wrong(Path::new(BUSYBOX)))?;
        let said = Command::new(&busybox).arg("--list").output().map_err(wrong(&busybox))?;
        for applet in String::from_utf8_lossy(&said.stdout).lines() {
            if ["usr/sbin", "usr/bin"].iter().all(|directory| !self.files.contains_key(&format!("{directory}/{applet}"))) {
                self.put(&Path::new("/usr/bin").join(applet), Entry::Link(busybox.display().to_string()));
            }
        }
        Ok(())
    }
}

/// The path as an image has it.
fn key(path: &Path) -> String {
    path.display().to_string().trim_start_matches('/').to_owned()
}

fn find(program: &str) -> Result<PathBuf, Error> {
    let found = DIRECTORIES.iter().map(|directory| Path::new(directory).join(program)).find(|path| path.exists());
    found.ok_or_else(|| Error::Program { path: program.to_owned(), reason: format!("it is in none of {DIRECTORIES:?}") })
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(directory).map_err(wrong(directory))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(wrong(directory))).collect()
}

fn wrong(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |error| Error::Program { path, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_the_link_that_leads_to_it() {
        let machine = tempfile::tempdir().unwrap();
        let [real, link] = ["real", "link"].map(|name| machine.path().canonicalize().unwrap().join(name));
        fs::write(&real, "a program").unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        let mut root = Root::default();
        assert_eq!(root.copy(&link).unwrap(), real);
        assert!(matches!(&root.files[&key(&link)], Entry::Link(target) if Path::new(target) == real));
        assert!(matches!(&root.files[&key(&real)], Entry::Program(bytes) if bytes == b"a program"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let message = find("no-such-program").unwrap_err().to_string();
        assert!(message.contains("no-such-program") && message.contains("bootstrap"), "{message}");
    }
}
