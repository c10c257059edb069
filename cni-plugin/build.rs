//! What the standard library asks the linker for where there is no unwinder: nothing.
//!
//! On musl its crate `unwind` names a library `unwind`, which Debian's musl does not have. Nothing of it is called in a program that
//! aborts on a panic, and what is named all the same is in gcc's own library: an archive without members satisfies the linker.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|environment| environment == "musl") {
        let folder = env::var("OUT_DIR").map_err(io::Error::other)?;
        fs::write(Path::new(&folder).join("libunwind.a"), "!<arch>\n")?;
        println!("cargo::rustc-link-search=native={folder}");
    }
    Ok(())
}
