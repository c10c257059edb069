//! The pods' image, made on the spot from the machine's static busybox: the lab has no registry.
//!
//! One image serves as pause and as workload. It is an OCI image layout (image-spec v1.1, "image-layout") in a tar, with one
//! uncompressed layer. Promise: the same busybox gives the same bytes, whoever makes it and whenever.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Name under which the image is imported; containerd's `sandbox_image` in `labs/image/containerd.toml` is the same.
pub const REFERENCE: &str = "localhost/barewire/pod:1";

/// Busybox as Debian's `busybox-static` installs it.
pub const BUSYBOX: &str = "/bin/busybox";

/// Applets that tests run in a pod.
const APPLETS: [&str; 16] =
    ["cat", "dd", "echo", "false", "hostname", "httpd", "ifconfig", "ip", "ls", "mkdir", "nc", "ping", "ping6", "sh", "sleep", "true"];

/// Why the image could not be made.
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
    /// The tar could not be written.
    #[error("write the image: {0}")]
    Write(#[from] io::Error),
}

/// Writes the image to `into`, with the busybox at `busybox`.
///
/// # Errors
/// When the busybox is missing or dynamic, or `into` does not take the bytes.
pub fn write(busybox: &Path, into: impl Write) -> Result<(), Error> {
    let wrong = |reason: String| Error::Busybox { path: busybox.display().to_string(), reason };
    let program = fs::read(busybox).map_err(|error| wrong(error.to_string()))?;
    if is_dynamic(&program) {
        return Err(wrong("it is linked dynamically".to_owned()));
    }
    write_layout(&layer(&program)?, into)?;
    Ok(())
}

fn layer(busybox: &[u8]) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for directory in ["bin", "etc", "proc", "sys", "tmp"] {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        tar.append_data(&mut header, format!("{directory}/"), io::empty())?;
    }
    append(&mut tar, "bin/busybox", 0o755, busybox)?;
    for applet in APPLETS {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    append(&mut tar, "etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n")?;
    tar.into_inner()
}

fn write_layout(layer: &[u8], into: impl Write) -> io::Result<()> {
    let diff_id = digest(layer);
    let config = to_bytes(&json!({
        "architecture": architecture(),
        "os": "linux",
        // Long enough for any test. `sleep` as process 1 ignores SIGTERM: a pod is stopped with no grace.
        "config": { "Entrypoint": ["/bin/sleep", "2147483647"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    }));
    let manifest = to_bytes(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    }));
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({
        // containerd's importer takes the first as the full name.
        "io.containerd.image.name": REFERENCE,
        "org.opencontainers.image.ref.name": REFERENCE,
    });
    let index = to_bytes(&json!({ "schemaVersion": 2, "manifests": [entry] }));

    let mut tar = tar::Builder::new(into);
    append(&mut tar, "oci-layout", 0o644, &to_bytes(&json!({ "imageLayoutVersion": "1.0.0" })))?;
    append(&mut tar, "index.json", 0o644, &index)?;
    for blob in [&config[..], &manifest, layer] {
        append(&mut tar, &format!("blobs/sha256/{}", hex(blob)), 0o644, blob)?;
    }
    tar.finish()
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut header = header(tar::EntryType::Regular, mode, bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)
}

/// A header with everything fixed that would tell one machine or moment from another.
fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn to_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// The architecture in the words of Go, which image-spec uses.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
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
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn layout(busybox: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_layout(&layer(busybox).unwrap(), &mut bytes).unwrap();
        bytes
    }

    fn entries(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                (entry.path().unwrap().display().to_string(), bytes)
            })
            .collect()
    }

    #[test]
    fn the_same_busybox_gives_the_same_bytes() {
        let first = layout(b"a program");
        assert!(first == layout(b"a program"));
        assert!(first != layout(b"another program"));
    }

    #[test]
    fn every_digest_leads_to_its_blob() {
        let entries = entries(&layout(b"a program"));
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let bytes = &entries[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(digest, super::digest(bytes));
            assert_eq!(descriptor["size"], bytes.len());
            bytes.clone()
        };
        let index: Value = serde_json::from_slice(&entries["index.json"]).unwrap();
        let entry = &index["manifests"][0];
        assert_eq!(entry["annotations"]["io.containerd.image.name"], REFERENCE);
        let manifest: Value = serde_json::from_slice(&blob(entry)).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], super::digest(&layer));
        assert_eq!(super::tests::entries(&layer)["bin/busybox"], b"a program");
    }

    #[test]
    fn containerd_is_told_the_same_name() {
        let config = include_str!("../labs/image/containerd.toml");
        assert!(config.contains(&format!("sandbox_image = \"{REFERENCE}\"")));
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
