//! That the kernel programs were taken off a while ago: connections that they carried may live on, and are in the middle for conntrack.

use std::fs;
use std::path::{Path, PathBuf};

use node_api::BootMillis;

/// How long such connections are minded. One that is idle is heard of within two hours, if it is asked for signs of life
/// (`net.ipv4.tcp_keepalive_time`).
const MINDED_MILLIS: u64 = 3 * 60 * 60 * 1000;

/// In the run directory, whose lifetime is the boot's: the moment, in milliseconds since boot.
fn file(run_dir: &Path) -> PathBuf {
    run_dir.join("programs-removed-at")
}

/// The programs are about to be taken off.
pub(crate) fn begin(run_dir: &Path) {
    let now = BootMillis::now();
    if let Err(error) = fs::write(file(run_dir), now.0.to_string()) {
        tracing::warn!(%error, "removal of the programs not recorded; connections on the fast path may break");
    }
}

/// They carry again.
pub(crate) fn end(run_dir: &Path) {
    let _ = fs::remove_file(file(run_dir));
}

/// Whether connections may live that they carried.
pub(crate) fn may_live(run_dir: &Path) -> bool {
    let begun = fs::read_to_string(file(run_dir)).ok().and_then(|text| text.parse().ok()).map(BootMillis);
    begun.is_some_and(|begun| BootMillis::now().since(begun) < MINDED_MILLIS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_may_live_for_hours_after_the_programs() {
        let home = tempfile::tempdir().unwrap();
        assert!(!may_live(home.path()));
        begin(home.path());
        assert!(may_live(home.path()));
        let now = BootMillis::now();
        // A machine that has not run for three hours cannot tell.
        if let Some(long_ago) = now.0.checked_sub(MINDED_MILLIS) {
            fs::write(file(home.path()), long_ago.to_string()).unwrap();
            assert!(!may_live(home.path()));
        }
        fs::write(file(home.path()), "nonsense").unwrap();
        assert!(!may_live(home.path()));
        begin(home.path());
        end(home.path());
        assert!(!may_live(home.path()));
    }
}
