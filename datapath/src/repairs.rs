//! What of ours was found otherwise than as it had been set, and was set again: counted for operators, each with a line in the log.
//!
//! Only of what had been set before: what a new description asks for is no repair, and is done [without counting](Uncounted).

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A setting below `/proc/sys`.
    Sysctl,
    /// A route, a routing rule or a neighbour entry of the node.
    Route,
    /// A table of nftables.
    Nftables,
    /// The programs on an uplink.
    UplinkHook,
    /// The pin of a map.
    Pin,
    /// Something of a pod's link on the host.
    PodLink,
    /// The programs on a pod's link.
    PodHook,
    /// What the programs know of a pod.
    Endpoint,
    /// The socket that plugins find, or its mode.
    Socket,
    /// The mode of the run directory.
    RunDirectory,
    /// The network configuration list.
    NetworkList,
}

impl Kind {
    /// Every kind, with its name in metrics and in the log.
    pub const ALL: [(Self, &'static str); 11] = [
        (Self::Sysctl, "sysctl"),
        (Self::Route, "route"),
        (Self::Nftables, "nftables"),
        (Self::UplinkHook, "uplink_hook"),
        (Self::Pin, "pin"),
        (Self::PodLink, "pod_link"),
        (Self::PodHook, "pod_hook"),
        (Self::Endpoint, "endpoint"),
        (Self::Socket, "socket"),
        (Self::RunDirectory, "run_directory"),
        (Self::NetworkList, "network_list"),
    ];

    fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

static COUNTS: [AtomicU64; Kind::ALL.len()] = [const { AtomicU64::new(0) }; Kind::ALL.len()];

thread_local! {
    static IS_NEWS: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, what its thread sets is what a new description asks for.
#[derive(Debug)]
#[must_use = "it holds until it is dropped"]
pub struct Uncounted(());

impl Uncounted {
    /// From now on.
    pub fn begin() -> Self {
        IS_NEWS.set(true);
        Self(())
    }
}

impl Drop for Uncounted {
    fn drop(&mut self) {
        IS_NEWS.set(false);
    }
}

/// Something was set: `what` says what, in a few words.
pub fn note(kind: Kind, what: &str) {
    if IS_NEWS.get() {
        tracing::info!(kind = kind.name(), what, "set");
        return;
    }
    COUNTS[kind as usize].fetch_add(1, Ordering::Relaxed);
    tracing::warn!(kind = kind.name(), what, "repaired");
}

/// How many repairs there were of a kind since the start of the process.
#[must_use]
pub fn count(kind: Kind) -> u64 {
    COUNTS[kind as usize].load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_no_repair() {
        let before = count(Kind::RunDirectory);
        let news = Uncounted::begin();
        note(Kind::RunDirectory, "a test");
        drop(news);
        assert_eq!(count(Kind::RunDirectory), before);
        note(Kind::RunDirectory, "a test");
        assert_eq!(count(Kind::RunDirectory), before + 1);
    }

    #[test]
    fn each_kind_has_its_own_name() {
        for (at, (kind, name)) in Kind::ALL.into_iter().enumerate() {
            assert_eq!((kind as usize, kind.name()), (at, name));
        }
    }
}
