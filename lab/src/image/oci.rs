//! An image as bytes: an OCI image layout (image-spec v1.1, "image-layout") in a tar, with one uncompressed layer.
//!
//! Promise: the same contents give the same bytes, whoever writes them and whenever.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What an image holds and is called.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Full names under which it is imported.
    pub references: Vec<String>,
    /// What a container of it executes.
    pub entrypoint: Vec<String>,
    /// What the entrypoint is told where the container says nothing.
    pub arguments: Vec<String>,
    /// Its files by path, without the leading slash. Directories on the way are made.
    pub files: BTreeMap<String, Entry>,
    /// Directories that are empty, likewise.
    pub directories: Vec<String>,
}

/// What is at a path.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A file that anybody may execute.
    Program(Vec<u8>),
    /// A file that anybody may read.
    Text(String),
    /// A symbolic link.
    Link(String),
}

impl Image {
    /// Writes it.
    ///
    /// # Errors
    /// When `into` does not take the bytes.
    pub fn write(&self, into: impl Write) -> io::Result<()> {
        let layer = self.layer()?;
        let config = to_bytes(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.arguments,
                "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        }));
        let manifest = to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        }));
        let entries = self.references.iter().map(|reference| {
            let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
            entry["annotations"] = json!({
                // containerd's importer takes the first as the full name.
                "io.containerd.image.name": reference,
                "org.opencontainers.image.ref.name": reference,
            });
            entry
        });
        let index = to_bytes(&json!({ "schemaVersion": 2, "manifests": entries.collect::<Vec<_>>() }));

        let mut tar = tar::Builder::new(into);
        append(&mut tar, "oci-layout", 0o644, &to_bytes(&json!({ "imageLayoutVersion": "1.0.0" })))?;
        append(&mut tar, "index.json", 0o644, &index)?;
        for blob in [&config, &manifest, &layer] {
            append(&mut tar, &format!("blobs/sha256/{}", hex(blob)), 0o644, blob)?;
        }
        tar.finish()
    }

    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.write_root(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes its root file system alone, in a tar: what `docker import` takes.
    ///
    /// # Errors
    /// When `into` does not take the bytes.
    pub fn write_root(&self, into: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(into);
        for directory in &self.directories {
            let mut header = header(tar::EntryType::Directory, 0o755, 0);
            tar.append_data(&mut header, format!("{directory}/"), io::empty())?;
        }
        for (path, entry) in &self.files {
            match entry {
                Entry::Program(bytes) => append(&mut tar, path, 0o755, bytes)?,
                Entry::Text(text) => append(&mut tar, path, 0o644, text.as_bytes())?,
                Entry::Link(target) => {
                    let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        tar.finish()
    }
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn image(program: &[u8]) -> Image {
        Image {
            references: ["localhost/a:1", "localhost/b:2"].map(str::to_owned).to_vec(),
            entrypoint: vec!["/bin/program".to_owned()],
            files: BTreeMap::from([
                ("bin/program".to_owned(), Entry::Program(program.to_vec())),
                ("bin/other".to_owned(), Entry::Link("program".to_owned())),
            ]),
            ..Image::default()
        }
    }

    fn layout(program: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        image(program).write(&mut bytes).unwrap();
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
    fn the_same_contents_give_the_same_bytes() {
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
        let names: Vec<_> =
            index["manifests"].as_array().unwrap().iter().map(|entry| &entry["annotations"]["io.containerd.image.name"]).collect();
        assert_eq!(names, ["localhost/a:1", "localhost/b:2"]);
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][1])).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], super::digest(&layer));
        assert_eq!(super::tests::entries(&layer)["bin/program"], b"a program");
    }
}
