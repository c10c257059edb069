//! What the plugin's binary promises: small, linked statically, and nothing in it that it does not need.

use std::env;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::command::run;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, elf};

use crate::binaries;

const BYTES_MAX: usize = 1_500_000;
const LIMIT: Duration = Duration::from_secs(60);
/// Crates that cost a plugin its start-up time, by name or by the beginning of it.
const UNWANTED: [&str; 10] = ["tokio", "clap", "aya", "netlink-", "rtnetlink", "redb", "tracing", "hyper", "ipam", "datapath"];

#[test]
fn the_plugin_is_small_and_linked_statically() -> Result<()> {
    let Some(binaries) = binaries() else { return Ok(()) };
    let bytes = fs::read(binaries.join("barewire-cni"))?;
    ensure!(bytes.len() <= BYTES_MAX, "barewire-cni has {} bytes; at most {BYTES_MAX} are promised", bytes.len());
    let file = ElfFile64::<Endianness>::parse(&*bytes)?;
    let endian = file.endian();
    for header in file.elf_header().program_headers(endian, &*bytes)? {
        let kind = header.p_type(endian);
        ensure!(kind != elf::PT_INTERP && kind != elf::PT_DYNAMIC, "barewire-cni needs the dynamic loader: it has segment {kind:?}");
    }
    Ok(())
}

#[test]
fn the_plugin_depends_on_nothing_heavy() -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tree = Command::new(cargo);
    tree.args(["tree", "--offline", "--package", "cni-plugin", "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let text = run(tree.current_dir(env!("CARGO_MANIFEST_DIR")), LIMIT)?.success()?;
    let names: Vec<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    ensure!(names.contains(&"cni-plugin") && names.contains(&"node-api"), "not the plugin's tree: {text}");
    let unwanted: Vec<_> = names.iter().filter(|name| UNWANTED.iter().any(|prefix| name.starts_with(prefix))).collect();
    ensure!(unwanted.is_empty(), "{unwanted:?}");
    Ok(())
}
