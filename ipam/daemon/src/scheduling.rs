//! How the daemon's threads are scheduled: every pod of the node waits for them, so they go before what the pods do
//! (docs/adr/0017).
//!
//! Threads that serve plugins or hold the kernel's lock for links (RTNL) are put before all ordinary threads; the others are nicer than
//! most. A process that may not do so goes on as it is, and says so once.

use std::io;
use std::thread;

use datapath::scheduling::{nice, put_before_ordinary_threads, set_nice};

/// Of ordinary threads the first, but for those that somebody has made still nicer; 28 times the share of one that nobody has.
const NICE: i32 = -15;

/// `node.scheduling`: what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheduling {
    /// `"realtime"`: threads that pods wait for are real-time threads of the lowest priority, the others as with `Nice`.
    #[default]
    RealTime,
    /// `"nice"`: all threads have a larger share of their processor.
    Nice,
    /// `"inherit"`: as whoever started the daemon has it.
    Inherit,
}

impl Scheduling {
    /// Schedules the calling thread and those that it will start; says in the log what cannot be had. What is returned is what can, for
    /// [`Self::apply`].
    #[must_use]
    pub(crate) fn settle(self) -> Self {
        if self == Self::Inherit {
            return self;
        }
        let is_nice = nice().is_ok_and(|now| now <= NICE) || told(set_nice(NICE), "nice", "Nice=-15 in its unit, or CAP_SYS_NICE");
        // On a thread of its own: the calling one is not to be before others.
        let tried = || thread::spawn(put_before_ordinary_threads).join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        let remedy =
            "LimitRTPRIO=1 in its unit, or CAP_SYS_NICE; a kernel that groups real-time threads (CONFIG_RT_GROUP_SCHED) has none in a unit";
        if self == Self::RealTime && told(tried(), "realtime", remedy) {
            tracing::info!("threads that pods wait for go before ordinary ones");
            return Self::RealTime;
        }
        if is_nice { Self::Nice } else { Self::Inherit }
    }

    /// Schedules the calling thread as one that pods wait for. A refusal was told by [`Self::settle`].
    pub(crate) fn apply(self) {
        if self == Self::RealTime
            && let Err(error) = put_before_ordinary_threads()
        {
            tracing::debug!(%error, "a thread is scheduled as any other");
        }
    }
}

/// Whether it was granted; in the log where it was not.
fn told(outcome: io::Result<()>, what: &str, remedy: &str) -> bool {
    if let Err(error) = &outcome {
        tracing::warn!(%error, what, remedy, "the daemon may not schedule itself before pods: where the node is busy, they wait for it");
    }
    outcome.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inherited_is_left_alone() {
        assert_eq!(Scheduling::Inherit.settle(), Scheduling::Inherit);
    }

    #[test]
    fn what_can_be_had_is_never_more_than_what_was_asked_for() {
        // On a thread of its own: it stays as it becomes.
        let settled = thread::spawn(|| Scheduling::Nice.settle()).join().unwrap();
        assert!([Scheduling::Nice, Scheduling::Inherit].contains(&settled), "{settled:?}");
    }
}
