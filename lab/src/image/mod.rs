//! Images for the lab's pods, made on the spot from programs of this machine and of [`crate::world`]: the lab has no registry.

mod libraries;
mod node;
mod oci;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

pub use node::{NODE, NODE_CHANGES, node};
pub use oci::{Entry, Image};

use crate::world;

/// Name of the image that serves as pause and as workload; containerd's `sandbox_image` in `labs/image/containerd.toml` is the same.
pub const REFERENCE: &str = "localhost/barewire/pod:1";

/// Name of the image of Kubernetes' own test program.
pub const AGNHOST: &str = "localhost/barewire/agnhost:1";

/// Name of the image of the cluster's name server.
pub const COREDNS: &str = "localhost/barewire/coredns:1";

/// Busybox as Debian's `busybox-static` installs it.
pub const BUSYBOX: &str = "/bin/busybox";

/// Applets that tests run in a pod.
const APPLETS: [&str; 16] =
    ["cat", "dd", "echo", "false", "hostname", "httpd", "ifconfig", "ip", "ls", "mkdir", "nc", "ping", "ping6", "sh", "sleep", "true"];

/// More of them, which Kubernetes' own tests call by the shell.
const MORE_APPLETS: [&str; 17] = [
    "awk", "basename", "chmod", "cut", "date", "env", "grep", "head", "kill", "printf", "ps", "rm", "sed", "seq", "tail", "timeout", "wget",
];

/// Programs with libraries, which Kubernetes' own tests call by the shell.
const TOOLS: [&str; 7] =
    ["/bin/dash", "/bin/nc.openbsd", "/bin/ss", "/usr/bin/curl", "/usr/bin/dig", "/usr/bin/getent", "/usr/bin/nslookup"];

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no busybox, or it needs libraries that the image would not have.
    #[error("{path}: {reason}; install the Debian package busybox-static")]
    Busybox {
        /// Where it was looked for.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A program that belongs into it is not there.
    #[error("{path}: {reason}; run `cargo xtask bootstrap`")]
    Program {
        /// Where it was looked for.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A program of the world has not been built.
    #[error(transparent)]
    World(#[from] world::Missing),
    /// A certificate could not be made.
    #[error("make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The tar could not be written.
    #[error("write the image: {0}")]
    Write(#[from] io::Error),
}

/// Writes the pods' image to `into`, with the busybox at `busybox`.
///
/// # Errors
/// When the busybox is missing or dynamic, or `into` does not take the bytes.
pub fn write(busybox: &Path, into: impl Write) -> Result<(), Error> {
    Ok(pod(busybox)?.write(into)?)
}

/// The pods' image.
fn pod(busybox: &Path) -> Result<Image, Error> {
    Ok(Image {
        references: vec![REFERENCE.to_owned()],
        // Long enough for any test. `sleep` as process 1 ignores SIGTERM: a pod is stopped with no grace.
        entrypoint: ["/bin/sleep", "2147483647"].map(str::to_owned).to_vec(),
        arguments: Vec::new(),
        files: busybox_files(busybox, &APPLETS)?,
        directories: ["bin", "etc", "proc", "sys", "tmp"].map(str::to_owned).to_vec(),
    })
}

/// Kubernetes' own test program beside the tools that its tests call, under our name for it and under `more`.
///
/// # Errors
/// When a program is missing.
pub fn agnhost(more: &[String]) -> Result<Image, Error> {
    let applets = [&APPLETS[..], &MORE_APPLETS].concat();
    let mut files = busybox_files(Path::new(BUSYBOX), &applets)?;
    files.insert("agnhost".to_owned(), Entry::Program(read(&world::program("kubernetes", "agnhost")?)?));
    files.insert("agnhost-2".to_owned(), Entry::Link("agnhost".to_owned()));
    // What its HTTPS servers show; no client of the tests looks at it.
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    files.insert("localhost.crt".to_owned(), Entry::Text(identity.cert.pem()));
    files.insert("localhost.key".to_owned(), Entry::Text(identity.signing_key.serialize_pem()));
    for tool in TOOLS {
        files.extend(libraries::program_with_libraries(Path::new(tool))?);
    }
    // Its options are those that the tests use, the applet's are others; and busybox's shell prefers its applets to what is in PATH.
    files.insert("bin/nc".to_owned(), Entry::Link("nc.openbsd".to_owned()));
    files.insert("bin/sh".to_owned(), Entry::Link("dash".to_owned()));
    Ok(Image {
        references: [AGNHOST.to_owned()].into_iter().chain(more.iter().cloned()).collect(),
        entrypoint: vec!["/agnhost".to_owned()],
        arguments: vec!["pause".to_owned()],
        files,
        directories: ["bin", "etc", "proc", "sys", "tmp", "uploads"].map(str::to_owned).to_vec(),
    })
}

/// The cluster's name server.
///
/// # Errors
/// When it has not been built.
pub fn coredns() -> Result<Image, Error> {
    Ok(Image {
        references: vec![COREDNS.to_owned()],
        entrypoint: vec!["/coredns".to_owned()],
        files: BTreeMap::from([("coredns".to_owned(), Entry::Program(read(&world::program("coredns", "coredns")?)?))]),
        ..Image::default()
    })
}

fn busybox_files(busybox: &Path, applets: &[&str]) -> Result<BTreeMap<String, Entry>, Error> {
    let wrong = |reason: String| Error::Busybox { path: busybox.display().to_string(), reason };
    let program = fs::read(busybox).map_err(|error| wrong(error.to_string()))?;
    if is_dynamic(&program) {
        return Err(wrong("it is linked dynamically".to_owned()));
    }
    let mut files = BTreeMap::from([
        ("bin/busybox".to_owned(), Entry::Program(program)),
        ("etc/passwd".to_owned(), Entry::Text("root:x:0:0:root:/:/bin/sh\n".to_owned())),
    ]);
    files.extend(applets.iter().map(|applet| (format!("bin/{applet}"), Entry::Link("busybox".to_owned()))));
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::Program { path: path.display().to_string(), reason: error.to_string() })
}

/// Whether a 64-bit little-endian ELF file asks for a dynamic loader (a program header of type `PT_INTERP`, elf(5)).
fn is_dynamic(elf: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = 3u32.to_le_bytes();
    let field = |at: usize, length: usize| {
        let bytes = elf.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0usize, |value, byte| value << 8 | usize::from(*byte)))
    };
    let headers = || Some((field(32, 8)?, field(54, 2)?, field(56, 2)?));
    let Some((start, size, count)) = headers() else {
        return false;
    };
    (0..count).any(|number| {
        let at = start.saturating_add(number * size);
        elf.get(at..at.saturating_add(4)) == Some(&PT_INTERP)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_is_told_the_same_name() {
        let config = include_str!("../../labs/image/containerd.toml");
        assert!(config.contains(&format!("sandbox_image = \"{REFERENCE}\"")));
        let config = include_str!("../../labs/image/containerd-2.toml");
        assert!(config.contains(&format!("sandbox = \"{REFERENCE}\"")));
    }

    #[test]
    fn a_missing_and_a_dynamic_busybox_are_refused() {
        let message = write(Path::new("/nowhere/busybox"), io::sink()).unwrap_err().to_string();
        assert!(message.contains("/nowhere/busybox") && message.contains("busybox-static"), "{message}");
        // The test program itself is linked dynamically.
        let message = write(&std::env::current_exe().unwrap(), io::sink()).unwrap_err().to_string();
        assert!(message.contains("dynamically"), "{message}");
    }
}
