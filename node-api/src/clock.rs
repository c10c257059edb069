//! Time that means the same to every process of one boot, and the name of that boot.

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Milliseconds since the machine booted, suspended time included (`CLOCK_BOOTTIME`): no wall-clock step moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootMillis(pub u64);

impl BootMillis {
    /// The present.
    ///
    /// # Panics
    /// Where the kernel has no `CLOCK_BOOTTIME`: since 2.6.39 each has it, and nothing of ours runs on an older one.
    #[must_use]
    pub fn now() -> Self {
        let read = clock_gettime(ClockId::CLOCK_BOOTTIME);
        let time = read.unwrap_or_else(|errno| unreachable!("CLOCK_BOOTTIME is of Linux 2.6.39: {errno}"));
        // Since the boot: never negative.
        Self(time.tv_sec().cast_unsigned() * 1000 + time.tv_nsec().cast_unsigned() / 1_000_000)
    }

    /// This moment and `millis` more.
    #[must_use]
    pub const fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this moment; zero where `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The kernel's random name of this boot (`random(4)`, `boot_id`). State that bears another is history.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
