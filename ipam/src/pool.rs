//! Which address is free, held, cooling or quarantined. Pure: no I/O, and time is an argument.
//!
//! Reuse is least recently freed first, and not before a cooldown has passed: late packets and stale caches of an old pod
//! must not meet a new one. Addresses that were never used count as freed longest ago. A range can be larger than any
//! memory (an IPv6 /64), so never-used addresses are a cursor, not a list; once [`REMEMBERED`] freed addresses are on
//! record, cooled ones are taken before the cursor moves on, and memory stays bounded.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use node_api::BootMillis;

use crate::range::{AddressRange, Family};

/// How many freed addresses of a family are remembered before they are preferred to never-used ones.
const REMEMBERED: usize = 1 << 16;

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Nothing is free.
    #[error("no free {family} address: {held} in use, {cooling} cooling down, {quarantined} quarantined of {size}{}", next.map_or_else(String::new, |millis| format!("; the next is free in {:.1} s", millis as f64 / 1000.0)))]
    Exhausted {
        /// Which family was asked for.
        family: Family,
        /// Owned by a pod.
        held: usize,
        /// Freed less than a cooldown ago.
        cooling: usize,
        /// Not to be used until somebody has looked.
        quarantined: usize,
        /// All addresses of the family.
        size: u64,
        /// Milliseconds until the first has cooled down.
        next: Option<u64>,
    },
    /// An address was asked for that is not of this node.
    #[error("address {0} is in none of this node's ranges")]
    Foreign(IpAddr),
    /// An address was asked for that somebody has.
    #[error("address {0} is in use")]
    InUse(IpAddr),
    /// An address was asked for that cools down.
    #[error("address {address} was freed a moment ago and is free again in {:.1} s", *left as f64 / 1000.0)]
    Cooling {
        /// Which one.
        address: IpAddr,
        /// Milliseconds until it has cooled down.
        left: u64,
    },
    /// An address was asked for that is quarantined.
    #[error("address {0} is quarantined: {1}")]
    Quarantined(IpAddr, String),
}

/// The addresses of one family.
#[derive(Debug)]
struct FamilyPool {
    family: Family,
    ranges: Vec<AddressRange>,
    /// The never-used address to look at next: its range and its number.
    cursor: Option<(usize, u128)>,
    held: HashSet<IpAddr>,
    freed_at: HashMap<IpAddr, BootMillis>,
    /// Freed addresses, oldest first. An entry whose time differs from `freed_at` is outdated and skipped.
    freed: VecDeque<(IpAddr, BootMillis)>,
    quarantined: BTreeMap<IpAddr, String>,
}

/// How many addresses are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// All addresses.
    pub size: u64,
    /// Owned by a pod.
    pub held: usize,
    /// Freed less than a cooldown ago.
    pub cooling: usize,
    /// Not to be used.
    pub quarantined: usize,
}

impl Counts {
    /// Addresses that a pod could have now.
    #[must_use]
    pub const fn free(&self) -> u64 {
        self.size.saturating_sub((self.held + self.cooling + self.quarantined) as u64)
    }
}

/// Every address of this node.
#[derive(Debug)]
pub struct Pool {
    families: [FamilyPool; 2],
    cooldown_millis: u64,
}

impl Pool {
    /// A pool over ranges that do not overlap.
    #[must_use]
    pub fn new(ranges: &[AddressRange], cooldown_millis: u64) -> Self {
        let families = Family::ALL.map(|family| {
            let mut ranges: Vec<_> = ranges.iter().filter(|range| range.family() == family).copied().collect();
            ranges.sort_unstable();
            let cursor = ranges.first().map(|range| (0, range.first()));
            FamilyPool {
                family,
                ranges,
                cursor,
                held: HashSet::new(),
                freed_at: HashMap::new(),
                freed: VecDeque::new(),
                quarantined: BTreeMap::new(),
            }
        });
        Self { families, cooldown_millis }
    }

    /// The families that have addresses: a pod gets one of each.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.families.iter().filter(|pool| !pool.ranges.is_empty()).map(|pool| pool.family)
    }

    /// Takes any free address.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`]
    pub fn take(&mut self, family: Family, now: BootMillis) -> Result<IpAddr, PoolError> {
        let cooldown = self.cooldown_millis;
        let pool = self.of(family);
        let reuse_first = pool.freed_at.len() >= REMEMBERED;
        let address = if reuse_first {
            pool.oldest_cooled(now, cooldown).or_else(|| pool.never_used())
        } else {
            pool.never_used().or_else(|| pool.oldest_cooled(now, cooldown))
        };
        match address {
            Some(address) => {
                pool.freed_at.remove(&address);
                pool.held.insert(address);
                Ok(address)
            }
            None => Err(pool.exhausted(now, cooldown)),
        }
    }

    /// Takes one certain address.
    ///
    /// # Errors
    /// Every [`PoolError`] but `Exhausted`.
    pub fn take_this(&mut self, address: IpAddr, now: BootMillis) -> Result<(), PoolError> {
        let cooldown = self.cooldown_millis;
        let pool = self.of(Family::of(address));
        if !pool.ranges.iter().any(|range| range.contains(address)) {
            return Err(PoolError::Foreign(address));
        }
        if let Some(why) = pool.quarantined.get(&address) {
            return Err(PoolError::Quarantined(address, why.clone()));
        }
        if pool.held.contains(&address) {
            return Err(PoolError::InUse(address));
        }
        if let Some(left) = pool.freed_at.get(&address).and_then(|freed| remaining(*freed, now, cooldown)) {
            return Err(PoolError::Cooling { address, left });
        }
        pool.freed_at.remove(&address);
        pool.held.insert(address);
        Ok(())
    }

    /// Gives an address back; it cools down from `now`. One that was not held stays as it is.
    pub fn release(&mut self, address: IpAddr, now: BootMillis) {
        let pool = self.of(Family::of(address));
        if pool.held.remove(&address) && pool.ranges.iter().any(|range| range.contains(address)) {
            pool.free(address, now);
        }
    }

    /// Undoes a take that nobody has seen: no cooldown.
    pub fn untake(&mut self, address: IpAddr) {
        let pool = self.of(Family::of(address));
        if pool.held.remove(&address) {
            pool.freed_at.insert(address, BootMillis(0));
            pool.freed.push_front((address, BootMillis(0)));
        }
    }

    /// At start: an address that a pod has, in the ranges or (since they changed) not.
    pub fn restore_held(&mut self, address: IpAddr) {
        self.of(Family::of(address)).held.insert(address);
    }

    /// At start: addresses freed earlier, in any order.
    pub fn restore_freed(&mut self, mut freed: Vec<(IpAddr, BootMillis)>) {
        freed.sort_unstable_by_key(|(_, at)| *at);
        for (address, at) in freed {
            let pool = self.of(Family::of(address));
            let known = pool.ranges.iter().any(|range| range.contains(address));
            if known && !pool.held.contains(&address) && !pool.quarantined.contains_key(&address) {
                pool.free(address, at);
            }
        }
    }

    /// Keeps an address from being used until somebody has looked.
    pub fn quarantine(&mut self, address: IpAddr, why: String) {
        let pool = self.of(Family::of(address));
        pool.held.remove(&address);
        pool.freed_at.remove(&address);
        pool.quarantined.insert(address, why);
    }

    /// The quarantined addresses with their reasons.
    pub fn quarantined(&self) -> impl Iterator<Item = (&IpAddr, &str)> {
        self.families.iter().flat_map(|pool| &pool.quarantined).map(|(address, why)| (address, why.as_str()))
    }

    /// Counts of one family.
    #[must_use]
    pub fn counts(&self, family: Family, now: BootMillis) -> Counts {
        self.families.iter().find(|pool| pool.family == family).map_or_else(Counts::default, |pool| pool.counts(now, self.cooldown_millis))
    }

    /// Why a pod would not get its addresses now, if it would not.
    #[must_use]
    pub fn lacking(&self, now: BootMillis) -> Option<PoolError> {
        let pools = self.families.iter().filter(|pool| !pool.ranges.is_empty());
        pools
            .into_iter()
            .find(|pool| pool.counts(now, self.cooldown_millis).free() == 0)
            .map(|pool| pool.exhausted(now, self.cooldown_millis))
    }

    fn of(&mut self, family: Family) -> &mut FamilyPool {
        let [v4, v6] = &mut self.families;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }
}

impl FamilyPool {
    fn never_used(&mut self) -> Option<IpAddr> {
        while let Some((index, number)) = self.cursor {
            let range = self.ranges.get(index)?;
            self.cursor = if number < range.last() {
                Some((index, number + 1))
            } else {
                self.ranges.get(index + 1).map(|next| (index + 1, next.first()))
            };
            let address = self.family.address(number);
            let known = self.held.contains(&address) || self.freed_at.contains_key(&address) || self.quarantined.contains_key(&address);
            if !known {
                return Some(address);
            }
        }
        None
    }

    fn oldest_cooled(&mut self, now: BootMillis, cooldown: u64) -> Option<IpAddr> {
        while let Some(&(address, at)) = self.freed.front() {
            let outdated = self.freed_at.get(&address) != Some(&at);
            if !outdated && remaining(at, now, cooldown).is_some() {
                return None;
            }
            self.freed.pop_front();
            if !outdated {
                return Some(address);
            }
        }
        None
    }

    fn free(&mut self, address: IpAddr, at: BootMillis) {
        self.freed_at.insert(address, at);
        self.freed.push_back((address, at));
    }

    fn counts(&self, now: BootMillis, cooldown: u64) -> Counts {
        let cooling = self.freed.iter().rev().take_while(|(_, at)| remaining(*at, now, cooldown).is_some());
        let cooling = cooling.filter(|(address, at)| self.freed_at.get(address) == Some(at)).count();
        let size = self.ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.size()));
        let inside = |address: &&IpAddr| self.ranges.iter().any(|range| range.contains(**address));
        let held = self.held.iter().filter(inside).count();
        Counts { size, held, cooling, quarantined: self.quarantined.keys().filter(inside).count() }
    }

    fn exhausted(&self, now: BootMillis, cooldown: u64) -> PoolError {
        let Counts { size, held, cooling, quarantined } = self.counts(now, cooldown);
        let next = self.freed.iter().filter_map(|(_, at)| remaining(*at, now, cooldown)).min();
        PoolError::Exhausted { family: self.family, held, cooling, quarantined, size, next }
    }
}

/// Milliseconds until an address freed at `freed` has cooled down; `None` where it has.
fn remaining(freed: BootMillis, now: BootMillis, cooldown: u64) -> Option<u64> {
    cooldown.checked_sub(now.since(freed)).filter(|left| *left > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLDOWN: u64 = 30_000;

    fn pool(ranges: &[&str]) -> Pool {
        let ranges: Vec<_> = ranges.iter().map(|text| text.parse().unwrap()).collect();
        Pool::new(&ranges, COOLDOWN)
    }

    fn at(seconds: u64) -> BootMillis {
        BootMillis(seconds * 1000)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn never_used_first_then_least_recently_freed() {
        let mut pool = pool(&["10.0.0.1-10.0.0.3"]);
        let [a, b] = [0, 0].map(|_| pool.take(Family::V4, at(0)).unwrap());
        pool.release(b, at(1));
        pool.release(a, at(2));
        assert_eq!(pool.take(Family::V4, at(100)).unwrap(), ip("10.0.0.3"));
        assert_eq!(pool.take(Family::V4, at(100)).unwrap(), b);
        assert_eq!(pool.take(Family::V4, at(100)).unwrap(), a);
    }

    #[test]
    fn a_freed_address_cools_down() {
        let mut pool = pool(&["10.0.0.1"]);
        let only = pool.take(Family::V4, at(0)).unwrap();
        pool.release(only, at(10));
        let error = pool.take(Family::V4, at(39)).unwrap_err();
        assert_eq!(error, PoolError::Exhausted { family: Family::V4, held: 0, cooling: 1, quarantined: 0, size: 1, next: Some(1000) });
        assert!(error.to_string().contains("1.0 s"), "{error}");
        assert!(pool.lacking(at(39)).is_some());
        assert_eq!(pool.take_this(only, at(39)), Err(PoolError::Cooling { address: only, left: 1000 }));
        assert!(pool.lacking(at(40)).is_none());
        assert_eq!(pool.take(Family::V4, at(40)).unwrap(), only);
    }

    #[test]
    fn certain_addresses() {
        let mut pool = pool(&["10.0.0.1-10.0.0.3"]);
        pool.take_this(ip("10.0.0.1"), at(0)).unwrap();
        assert_eq!(pool.take_this(ip("10.0.0.1"), at(0)), Err(PoolError::InUse(ip("10.0.0.1"))));
        assert_eq!(pool.take_this(ip("10.9.9.9"), at(0)), Err(PoolError::Foreign(ip("10.9.9.9"))));
        assert_eq!(pool.take(Family::V4, at(0)).unwrap(), ip("10.0.0.2"));
    }

    #[test]
    fn quarantine_keeps_an_address_out() {
        let mut pool = pool(&["10.0.0.1-10.0.0.2"]);
        pool.quarantine(ip("10.0.0.1"), "seen on a foreign link".into());
        assert_eq!(pool.take(Family::V4, at(0)).unwrap(), ip("10.0.0.2"));
        assert!(matches!(pool.take_this(ip("10.0.0.1"), at(0)), Err(PoolError::Quarantined(..))));
        assert!(pool.take(Family::V4, at(9999)).is_err());
    }

    #[test]
    fn what_was_held_and_freed_before_a_restart_is_so_after_it() {
        let mut pool = pool(&["10.0.0.1-10.0.0.4"]);
        pool.restore_held(ip("10.0.0.1"));
        pool.restore_freed(vec![(ip("10.0.0.3"), at(5)), (ip("10.0.0.2"), at(4)), (ip("10.0.0.1"), at(3))]);
        let order: Vec<_> = (0..3).map(|_| pool.take(Family::V4, at(100)).unwrap()).collect();
        assert_eq!(order, ["10.0.0.4", "10.0.0.2", "10.0.0.3"].map(ip));
        assert!(pool.take(Family::V4, at(100)).is_err());
    }

    #[test]
    fn a_vast_range_needs_little_memory() {
        let mut pool = Pool::new(&["fd00::/64".parse().unwrap()], 0);
        for step in 0..200_000 {
            let address = pool.take(Family::V6, BootMillis(step)).unwrap();
            pool.release(address, BootMillis(step));
        }
        assert!(pool.of(Family::V6).freed.len() <= REMEMBERED + 1);
    }

    mod properties {
        use super::*;
        use proptest::prelude::*;

        #[derive(Debug, Clone)]
        enum Step {
            Take,
            TakeThis(u8),
            Release(u8),
            Wait(u16),
        }

        fn steps() -> impl Strategy<Value = Vec<Step>> {
            let step = prop_oneof![
                3 => Just(Step::Take),
                1 => (0_u8..16).prop_map(Step::TakeThis),
                3 => (0_u8..16).prop_map(Step::Release),
                1 => (0_u16..40_000).prop_map(Step::Wait),
            ];
            proptest::collection::vec(step, 1..200)
        }

        proptest! {
            /// I1: an address has at most one owner; and none within a cooldown of its release.
            #[test]
            fn one_owner_and_a_cooldown(steps in steps()) {
                let mut pool = pool(&["10.0.0.0/29", "10.0.0.12-10.0.0.15"]);
                let mut held = HashSet::new();
                let mut freed: HashMap<IpAddr, BootMillis> = HashMap::new();
                let mut now = BootMillis(0);
                for step in steps {
                    let taken = match step {
                        Step::Take => pool.take(Family::V4, now).ok(),
                        Step::TakeThis(last) => {
                            let address = IpAddr::from([10, 0, 0, last]);
                            pool.take_this(address, now).ok().map(|()| address)
                        }
                        Step::Release(last) => {
                            let address = IpAddr::from([10, 0, 0, last]);
                            pool.release(address, now);
                            if held.remove(&address) {
                                freed.insert(address, now);
                            }
                            None
                        }
                        Step::Wait(millis) => {
                            now = now.plus(millis.into());
                            None
                        }
                    };
                    if let Some(address) = taken {
                        prop_assert!(held.insert(address), "{} has two owners", address);
                        if let Some(at) = freed.get(&address) {
                            prop_assert!(now.since(*at) >= COOLDOWN, "{} reused too early", address);
                        }
                    }
                    let counts = pool.counts(Family::V4, now);
                    prop_assert_eq!(counts.held, held.len());
                    prop_assert_eq!(counts.free() == 0, pool.lacking(now).is_some());
                    prop_assert_eq!(counts.free() == 0, {
                        // Probing must not change anything: take and put back only where it fails.
                        let free = (0..16_u8).map(|last| IpAddr::from([10, 0, 0, last])).filter(|a| pool.of(Family::V4).ranges.iter().any(|r| r.contains(*a)))
                            .filter(|a| !held.contains(a) && freed.get(a).is_none_or(|at| now.since(*at) >= COOLDOWN)).count();
                        free == 0
                    });
                }
            }
        }
    }
}
