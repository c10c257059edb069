//! One virtual clock, as each party reads it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cloudsim::time::Millis;
use node_api::BootMillis;
use tokio::time::Instant;

/// 2026-01-01, and nodes that booted an hour ago: nothing looks back to before its beginning.
const WALL_CLOCK: u64 = 1_767_225_600_000;
const UPTIME: u64 = 3_600_000;

/// The time since the simulation began.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    fn elapsed(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// As nodes read it. They have all booted together.
    #[must_use]
    pub fn node(self) -> BootMillis {
        BootMillis(UPTIME + self.elapsed())
    }

    /// As the cloud reads it.
    #[must_use]
    pub fn cloud(self) -> Millis {
        Millis(WALL_CLOCK + self.elapsed())
    }

    /// As requests carry it.
    #[must_use]
    pub fn wall(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.cloud().0)
    }
}
