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
    /// # Errors
    /// Where the kernel has no `CLOCK_BOOTTIME` (before 2.6.39).
    pub fn now() -> std::io::Result<Self> {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
        Ok(Self(u64::try_from(time.tv_sec()).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec()).unwrap_or(0) / 1_000_000))
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
