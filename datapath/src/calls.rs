//! Calls that the kernel has not come back from, and for how long.
//!
//! Links, addresses and routes change under one lock of the kernel's, RTNL. A request is executed inside sendmsg(2), and whoever waits for
//! the lock there can be neither interrupted nor killed (`rtnl_lock`, net/core/rtnetlink.c): no time-out of a socket bounds that. A driver
//! that resets its card, or the end of some thousand namespaces, holds the lock for seconds. So the calls of this process are known by
//! their threads; others do not follow where one has been for long, and who waits for a thread in there can be told something else.
//!
//! One list for the process, as the lock is one for the kernel.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// A call that has lasted this long tells that somebody holds the lock. A request takes a fraction of a millisecond, the removal of a
/// few hundred links some tens.
const SUSPECT: Duration = Duration::from_secs(1);
/// As long as a call is waited for, and as long as an operation waits before it makes one: what has to be told to somebody is told within
/// ten seconds.
pub const LIMIT: Duration = Duration::from_secs(8);

static CALLS: Mutex<Vec<(ThreadId, Instant)>> = Mutex::new(Vec::new());
/// A call has ended.
static ENDED: Condvar = Condvar::new();
/// Threads that wait for others' calls, outside of the kernel.
static WAITING: AtomicU64 = AtomicU64::new(0);

fn calls() -> MutexGuard<'static, Vec<(ThreadId, Instant)>> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call under way, until it is dropped.
#[derive(Debug)]
#[must_use = "a call lasts until it is dropped"]
pub(crate) struct Call {
    thread: ThreadId,
}

impl Call {
    /// The thread goes into the kernel.
    pub(crate) fn begin() -> Self {
        let thread = std::thread::current().id();
        calls().push((thread, Instant::now()));
        Self { thread }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = calls();
        // The last of the thread: one call may be part of another.
        if let Some(at) = calls.iter().rposition(|(thread, _)| *thread == self.thread) {
            calls.remove(at);
        }
        drop(calls);
        ENDED.notify_all();
    }
}

/// Somebody holds the kernel's lock; for how long a call has waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldUp(pub Duration);

/// The calls that are held up, the oldest first; nothing where all is well.
#[must_use]
pub fn held_up() -> Vec<(ThreadId, Duration)> {
    let now = Instant::now();
    let mut held: Vec<_> = calls()
        .iter()
        .map(|(thread, begun)| (*thread, now.saturating_duration_since(*begun)))
        .filter(|(_, lasts)| *lasts >= SUSPECT)
        .collect();
    held.sort_by_key(|(_, lasts)| std::cmp::Reverse(*lasts));
    held
}

/// How many threads wait for others' calls.
#[must_use]
pub fn waiting() -> u64 {
    WAITING.load(Ordering::Relaxed)
}

/// Waits while another thread's call is held up; not at all where none is.
///
/// # Errors
/// Where one has been for [`LIMIT`]: whoever has lasted that long is not followed.
pub fn wait_for_others() -> Result<(), HeldUp> {
    let mut calls = calls();
    loop {
        // Without a call under way, which is the rule, the clock is not looked at.
        let Some(oldest) = calls.iter().map(|(_, begun)| *begun).min() else { return Ok(()) };
        let lasts = oldest.elapsed();
        if lasts < SUSPECT {
            return Ok(());
        }
        let Some(left) = LIMIT.checked_sub(lasts).filter(|left| !left.is_zero()) else { return Err(HeldUp(lasts)) };
        WAITING.fetch_add(1, Ordering::Relaxed);
        calls = ENDED.wait_timeout(calls, left).unwrap_or_else(PoisonError::into_inner).0;
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All in one: the list is the process's.
    #[test]
    fn who_comes_later_waits_and_does_not_follow_for_ever() {
        let of_mine = || held_up().into_iter().filter(|(thread, _)| *thread == std::thread::current().id()).count();
        let call = Call::begin();
        assert_eq!((of_mine(), wait_for_others()), (0, Ok(())), "a call is no sign of anything");
        drop(call);
        let long_ago = |before: Duration| calls().push((std::thread::current().id(), Instant::now().checked_sub(before).unwrap()));
        long_ago(LIMIT);
        assert_eq!(of_mine(), 1);
        assert!(wait_for_others().is_err_and(|HeldUp(lasts)| lasts >= LIMIT));
        drop(Call { thread: std::thread::current().id() });
        long_ago(SUSPECT);
        let waiting = std::thread::spawn(wait_for_others);
        // It ends while the other waits, or before it has begun to.
        drop(Call { thread: std::thread::current().id() });
        assert_eq!(waiting.join().unwrap(), Ok(()));
        long_ago(LIMIT - Duration::from_millis(200));
        assert!(wait_for_others().is_err(), "it has been waited for");
        drop(Call { thread: std::thread::current().id() });
        assert_eq!(of_mine(), 0);
    }
}
