//! The kernel programs as they are shipped, in the kernel that runs this: loaded, verified, run packet by packet
//! (`BPF_PROG_TEST_RUN`) over the table of [`fixtures`], and attached to real links between namespaces.
//!
//! Every test has a mount and a network namespace of its own, with its own BPF file system: nothing is pinned in the machine's.
//! Needs root and `BAREWIRE_BIN_DIR`, the directory of the object file. Where it cannot run it says `SKIP` and why; with
//! `BAREWIRE_REQUIRE_ALL=1` that is a failure. `cargo xtask test --tier kernels` runs the same program in other kernels.
#![expect(clippy::print_stdout, reason = "says why it is skipped, and on a serial console how far it came")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be written down is a fault of the table")]

mod allowed;
mod carried;
mod departures;
mod drops;
mod fixture;
mod fixtures;
mod hooks;
mod loaded;
#[path = "../../../ebpf/tests/tables/malformed.rs"]
mod malformed;
mod notes;
mod packet;
mod private;
mod services;
mod shape;
mod share;
#[path = "../../../ebpf/tests/tables/mod.rs"]
mod tables;
mod wire;

use std::env;
use std::path::PathBuf;

/// The object file; `None`, with the reason printed, where these tests cannot run.
fn object() -> Option<PathBuf> {
    let object = env::var_os("BAREWIRE_BIN_DIR").map(|directory| PathBuf::from(directory).join("barewire-ebpf.o"));
    let reason = match object {
        _ if !nix::unistd::geteuid().is_root() => "needs root for namespaces and for the kernel programs".to_owned(),
        None => "needs barewire-ebpf.o: set BAREWIRE_BIN_DIR to its directory".to_owned(),
        Some(object) if object.is_file() => return Some(object),
        Some(object) => format!("BAREWIRE_BIN_DIR: {} is missing", object.display()),
    };
    assert!(env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "required, but {reason}");
    println!("SKIP {reason}");
    None
}
