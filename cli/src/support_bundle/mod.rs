//! `barewire support-bundle`: what somebody who helps from afar asks for, in one file.
//!
//! Read-only, bounded in time and size, and of use whatever is broken: what could not be had is told in `errors.txt`, and the rest is there.
//! Secrets are left out ([`secrets`]); names and addresses of pods are in it, so only its owner can read the file.

mod pieces;
mod secrets;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::daemon::Daemon;
use crate::exit::Exit;
use crate::inventory::Told;
use pieces::{Had, Piece};

/// For all pieces together; each has a limit of its own.
const TOTAL: Duration = Duration::from_secs(90);
const ERRORS: &str = "errors.txt";

/// Where to.
#[derive(Debug, Args)]
pub(crate) struct SupportBundle {
    /// The file to make, which must not exist; by default barewire-support-HOST-TIME.tar.gz in this directory
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// The daemon's configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/barewire/barewired.toml")]
    config: PathBuf,
}

impl SupportBundle {
    /// Collects, and writes; where the file is.
    pub(crate) fn run(&self, daemon: Daemon) -> Told {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let path = self.write.clone().unwrap_or_else(|| PathBuf::from(format!("barewire-support-{}-{seconds}.tar.gz", host_name())));
        match bundle(&path, &pieces::all(daemon, &self.config), seconds, TOTAL) {
            Ok(errors) => {
                let missing = match errors.len() {
                    0 => String::new(),
                    count => format!("; {count} pieces are not, or not all, in it: see {ERRORS}"),
                };
                let text =
                    format!("{}{missing}\nIt names pods and addresses: pass it on to those alone who may know these.\n", path.display());
                (text, json!({ "file": path, "errors": errors }), Exit::Fine)
            }
            Err(error) => {
                let text =
                    format!("{}: {error}; name a file that does not exist, in a directory with room, with --write\n", path.display());
                (text.clone(), json!({ "error": text.trim_end() }), Exit::Degraded)
            }
        }
    }
}

/// Writes a bundle of these pieces; what of them is not in it. A file that was begun and cannot be finished is removed.
fn bundle(path: &Path, pieces: &[Piece], seconds: u64, total: Duration) -> std::io::Result<Vec<String>> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = fill(file, pieces, seconds, total);
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(path);
    }
    written
}

fn fill(file: File, pieces: &[Piece], seconds: u64, total: Duration) -> std::io::Result<Vec<String>> {
    let until = Instant::now() + total;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let mut errors = Vec::new();
    for piece in pieces {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            errors.push(format!("{}: not asked for: the pieces before it took {} s", piece.name, total.as_secs_f32()));
            continue;
        }
        let Had { bytes, error } = piece.get(left);
        if let Some(bytes) = bytes {
            append(&mut archive, piece.name, &bytes, seconds)?;
        }
        errors.extend(error.map(|error| format!("{}: {error}", piece.name)));
    }
    let told = errors.iter().fold(String::new(), |all, line| all + line + "\n");
    append(&mut archive, ERRORS, told.as_bytes(), seconds)?;
    archive.into_inner()?.finish()?.sync_all()?;
    Ok(errors)
}

fn append(archive: &mut tar::Builder<GzEncoder<File>>, name: &str, bytes: &[u8], seconds: u64) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(seconds);
    archive.append_data(&mut header, format!("barewire-support/{name}"), bytes)
}

/// As a part of a file's name.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.')).collect();
    if name.is_empty() { "node".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    use flate2::read::GzDecoder;

    use super::pieces::{Keep, Source};
    use super::*;

    fn files(path: &Path) -> BTreeMap<String, String> {
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).unwrap()));
        let read = |mut entry: tar::Entry<'_, GzDecoder<File>>| {
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        };
        archive.entries().unwrap().map(|entry| read(entry.unwrap())).collect()
    }

    fn piece(name: &'static str, argv: &[&'static str]) -> Piece {
        Piece { name, source: Source::Command(argv.to_vec()), keep: Keep::Start, limit: Duration::from_secs(30) }
    }

    #[test]
    fn what_cannot_be_had_is_told_and_the_rest_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.tar.gz");
        let slow = Piece { limit: Duration::from_millis(100), ..piece("slow.txt", &["sleep", "60"]) };
        let pieces =
            [piece("words.txt", &["echo", "words"]), piece("none.txt", &["barewire-no-such"]), slow, piece("false.txt", &["false"])];
        let errors = bundle(&path, &pieces, 7, Duration::from_secs(60)).unwrap();
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let found = files(&path);
        assert_eq!(found["barewire-support/words.txt"], "words\n");
        let told = &found["barewire-support/errors.txt"];
        assert!(told.contains("none.txt: there is no barewire-no-such") && told.contains("slow.txt: sleep has not ended"), "{told}");
        assert!(bundle(&path, &pieces, 7, Duration::from_secs(60)).is_err(), "what is there is nobody's to overwrite");
        assert_eq!(files(&path), found);
    }

    #[test]
    fn all_of_it_has_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.tar.gz");
        let errors = bundle(&path, &[piece("words.txt", &["echo", "words"])], 7, Duration::ZERO).unwrap();
        assert!(errors[0].contains("words.txt: not asked for"), "{errors:?}");
        assert_eq!(files(&path).len(), 1);
    }

    #[test]
    fn a_node_without_a_daemon_has_a_bundle_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.tar.gz");
        let config = folder.path().join("barewired.toml");
        std::fs::write(&config, "[fleet]\nurl = \"https://a:b@fleet\"\n").unwrap();
        let wanted = SupportBundle { write: Some(path.clone()), config };
        // Nobody listens on the port for nobody (tcpmux).
        let (text, json, exit) = wanted.run(Daemon { address: "127.0.0.1:1".parse().unwrap() });
        assert!(exit == Exit::Fine && text.contains(&path.display().to_string()), "{text}");
        let errors = json["errors"].to_string();
        assert!(errors.contains("status.json: barewired does not answer"), "{errors}");
        let found = files(&path);
        assert!(found["barewire-support/config.toml"].contains("fleet") && !found["barewire-support/config.toml"].contains("a:b"));
        assert!(found.contains_key("barewire-support/kernel.txt"));
    }
}
