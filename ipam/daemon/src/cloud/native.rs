//! The cloud network's own blocks, as its metadata tells them. One reading may omit some, and pods would be masqueraded on their way to
//! each other then; so one is dropped only when it was missed for long, and nothing of this node is in it. A block that was taken
//! from the network is somebody else's by then, and packets to it have to be masqueraded. Pure.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use node_api::BootMillis;

/// As a block of addresses that a single reader misses: so often, and for so many milliseconds.
const MISSES: u32 = 3;
const MISSING: u64 = 600_000;

#[derive(Debug, Default)]
struct Missed {
    times: u32,
    since: Option<BootMillis>,
}

/// The blocks.
#[derive(Debug, Default)]
pub(super) struct NativeCidrs(BTreeMap<IpNetwork, Missed>);

impl NativeCidrs {
    /// What was known before a restart.
    pub(super) fn of(known: &[IpNetwork]) -> Self {
        Self(known.iter().map(|cidr| (*cidr, Missed::default())).collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &IpNetwork> {
        self.0.keys()
    }

    /// Takes in what a reading lists. One that lists none tells nothing: a network has one at least.
    pub(super) fn note(&mut self, listed: &[IpNetwork], is_in_use: impl Fn(&IpNetwork) -> bool, now: BootMillis) {
        if listed.is_empty() {
            return;
        }
        for cidr in listed {
            self.0.insert(*cidr, Missed::default());
        }
        self.0.retain(|cidr, missed| {
            if listed.contains(cidr) {
                return true;
            }
            missed.times = missed.times.saturating_add(1);
            let since = *missed.since.get_or_insert(now);
            let is_gone = missed.times >= MISSES && now.since(since) >= MISSING && !is_in_use(cidr);
            if is_gone {
                tracing::warn!(%cidr, "native block gone: no longer listed by the cloud's metadata, packets to it are masqueraded");
            }
            !is_gone
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidrs(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn one_is_dropped_when_it_was_missed_for_long_and_nothing_is_in_it() {
        let both = cidrs(&["10.0.0.0/16", "10.1.0.0/16"]);
        for (is_in_use, left) in [(false, 1), (true, 2)] {
            let mut native = NativeCidrs::of(&both);
            let use_of = |cidr: &IpNetwork| is_in_use && *cidr == both[1];
            for at in (0..600_000).step_by(30_000) {
                native.note(&both[..1], use_of, BootMillis(at));
                native.note(&[], use_of, BootMillis(at));
                assert_eq!(native.iter().count(), 2, "at {at}");
            }
            native.note(&both[..1], use_of, BootMillis(600_000));
            assert_eq!(native.iter().count(), left);
        }
    }

    #[test]
    fn two_readings_are_not_enough_and_one_that_lists_it_begins_anew() {
        let both = cidrs(&["10.0.0.0/16", "10.1.0.0/16"]);
        let mut native = NativeCidrs::default();
        for (at, listed) in [(0, 2), (1, 1), (700_000, 1), (700_001, 2), (700_002, 1), (1_400_000, 1)] {
            native.note(&both[..listed], |_| false, BootMillis(at));
            assert_eq!(native.iter().count(), 2, "at {at}");
        }
        native.note(&both[..1], |_| false, BootMillis(1_400_001));
        assert_eq!(native.iter().count(), 1);
    }
}
