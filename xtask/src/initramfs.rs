//! A file system for a kernel to start with: a cpio archive in the format "newc" (cpio(5), Linux's
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// Where the kernel opens the standard streams of the first process: device 5, 1 (Documentation/admin-guide/devices.txt).
const CONSOLE: (u32, u32) = (5, 1);

/// An archive that grows.
#[derive(Default)]
pub(crate) struct Initramfs {
    archive: Vec<u8>,
    entries: u32,
}

impl Initramfs {
    /// With these directories, parents first, and `dev/console`.
    pub(crate) fn with_directories(directories: &[&str]) -> Self {
        let mut initramfs = Self::default();
        for name in directories {
            initramfs.entry(name, DIRECTORY, (0, 0), &[]);
        }
        initramfs.entry("dev", DIRECTORY, (0, 0), &[]);
        initramfs.entry("dev/console", CHARACTER_DEVICE, CONSOLE, &[]);
        initramfs
    }

    pub(crate) fn file(&mut self, name: &str, contents: &[u8]) {
        self.entry(name, EXECUTABLE, (0, 0), contents);
    }

    pub(crate) fn copy(&mut self, name: &str, from: &Path) -> Result<()> {
        let contents = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(name, &contents);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.archive
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let length = u32::try_from(contents.len()).unwrap_or(u32::MAX);
        let name_length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [self.entries, mode, 0, 0, 1, 0, length, 0, 0, major, minor, name_length, 0];
        self.archive.extend(b"070701");
        for field in fields {
            self.archive.extend(format!("{field:08x}").bytes());
        }
        self.archive.extend(name.bytes());
        self.archive.push(0);
        self.pad();
        self.archive.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.archive.resize(self.archive.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_header_a_name_and_contents_each_padded_to_four_bytes() {
        let mut initramfs = Initramfs::default();
        initramfs.file("init", b"12345");
        let archive = initramfs.finish();
        let header = "070701 00000001 000081ed 00000000 00000000 00000001 00000000 00000005 \
                      00000000 00000000 00000000 00000000 00000005 00000000"
            .replace(' ', "");
        assert!(archive.starts_with(header.as_bytes()));
        assert_eq!(archive[110..], *[b"init\0\0", &b"12345\0\0\0"[..], &archive[124..]].concat());
        assert!(archive[124..].starts_with(b"070701") && archive.len().is_multiple_of(4));
    }
}
