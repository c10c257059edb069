//! Where `cargo xtask bootstrap` puts moto, and with it AWS's Python client.

use std::path::PathBuf;

/// A program of moto's Python environment; `None` where it is not installed, and need not be.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let found = environment().map(|environment| environment.join("bin").join(name)).filter(|program| program.exists());
    if found.is_none() {
        let reason = format!("needs {name} of moto's environment: `cargo xtask bootstrap` installs it");
        assert!(std::env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "required, but {reason}");
        println!("SKIP {reason}");
    }
    found
}

fn environment() -> Option<PathBuf> {
    let cache = std::env::var_os("BAREWIRE_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/barewire")))?;
    let tools = std::fs::read_dir(cache.join("tools")).ok()?.filter_map(Result::ok);
    let versions = tools.filter(|entry| entry.file_name().to_string_lossy().starts_with("moto-"));
    versions.map(|entry| entry.path()).max()
}
