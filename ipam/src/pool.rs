//! Which address is free, held, cooling or quarantined. Pure: no I/O, and time is an argument.
//!
//! Ranges come and go with what the cloud assigns. The first range that has an address gives one: pods gather in the lower
//! ranges, and the upper ones can be given back. Within a range, reuse is least recently freed first, and not before a cooldown
//! has passed: late packets and stale caches of an old pod must not meet a new one. Addresses that were never used count as
//! freed longest ago. A range can be larger than any memory (an IPv6 /64), so never-used addresses are a cursor, not a list;
//! once very many freed addresses are on record, cooled ones are taken before the cursor moves on, and memory stays bounded.

mod range_pool;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use node_api::BootMillis;

use crate::range::{AddressRange, Family, bits};
use range_pool::RangePool;

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
        quarantined: u64,
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
    /// An address was asked for that the host itself has.
    #[error("address {0} is on an interface of the node itself; remove it there, or exclude it from the pods' ranges")]
    OfHost(IpAddr),
    /// An address was asked for that cools down.
    #[error("address {address} was freed a moment ago and is free again in {:.1} s", *left as f64 / 1000.0)]
    Cooling {
        /// Which one.
        address: IpAddr,
        /// Milliseconds until it has cooled down.
        left: u64,
    },
    /// An address was asked for that is quarantined, itself or with its range.
    #[error("address {0} is quarantined: {1}")]
    Quarantined(IpAddr, String),
}

/// Why a range cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// A range was to be removed whose addresses are not all free.
    #[error("range {range}: {held} addresses in use, {cooling} cooling down, {quarantined} quarantined")]
    Occupied {
        /// Which one.
        range: AddressRange,
        /// Owned by a pod.
        held: usize,
        /// Freed less than a cooldown ago.
        cooling: usize,
        /// Not to be used until somebody has looked.
        quarantined: u64,
    },
    /// A range was added that has addresses in common with another.
    #[error("range {0} overlaps {1}")]
    Overlap(AddressRange, AddressRange),
    /// A range was spoken of that is not there.
    #[error("range {0} is not in the pool")]
    NoSuchRange(AddressRange),
}

/// Whether pods may be given addresses of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// Yes.
    Open,
    /// Only where no open range has any: there is doubt whether the cloud still delivers to it.
    LastResort,
    /// No, for this reason. Those that have one keep it.
    Closed(String),
}

/// The addresses of one family.
#[derive(Debug)]
struct FamilyPool {
    family: Family,
    /// A pod gets an address of it, whether there is one yet or not.
    wanted: bool,
    /// By the number of their first address; they do not overlap.
    ranges: BTreeMap<u128, RangePool>,
    /// In a range or not: what a pod has, it has.
    held: HashSet<IpAddr>,
    /// Freed addresses that are in no range, or not yet.
    strays: HashMap<IpAddr, BootMillis>,
    quarantined: BTreeMap<IpAddr, String>,
    /// Those that the host itself has, in a range or not: nobody's (invariant I1).
    of_host: BTreeSet<IpAddr>,
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
    pub quarantined: u64,
}

impl Counts {
    /// Addresses that a pod could have now.
    #[must_use]
    pub const fn free(&self) -> u64 {
        self.size.saturating_sub((self.held + self.cooling) as u64).saturating_sub(self.quarantined)
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
        let families = Family::ALL.map(|family| FamilyPool {
            family,
            wanted: ranges.iter().any(|range| range.family() == family),
            ranges: BTreeMap::new(),
            held: HashSet::new(),
            strays: HashMap::new(),
            quarantined: BTreeMap::new(),
            of_host: BTreeSet::new(),
        });
        let mut pool = Self { families, cooldown_millis };
        for range in ranges {
            pool.of(range.family()).ranges.insert(range.first(), RangePool::new(*range, 0));
        }
        pool
    }

    /// From now on a pod gets an address of this family, though there may be no range of it yet.
    pub fn want(&mut self, family: Family) {
        self.of(family).wanted = true;
    }

    /// The families of which a pod gets an address each.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.families.iter().filter(|pool| pool.wanted).map(|pool| pool.family)
    }

    /// Every range.
    pub fn ranges(&self) -> impl Iterator<Item = (&AddressRange, &Use)> {
        self.families.iter().flat_map(|pool| pool.ranges.values()).map(|part| (&part.range, &part.may_be_used))
    }

    /// Whether pods may be given addresses of a range; nothing where there is no such range.
    #[must_use]
    pub fn use_of(&self, range: &AddressRange) -> Option<&Use> {
        let pool = self.families.iter().find(|pool| pool.family == range.family())?;
        pool.ranges.get(&range.first()).filter(|part| part.range == *range).map(|part| &part.may_be_used)
    }

    /// Takes a range up; one that is there already stays as it is. What pods have of it, and what was freed of it a moment ago,
    /// is known.
    ///
    /// # Errors
    /// [`RangeError::Overlap`]
    pub fn add_range(&mut self, range: AddressRange) -> Result<(), RangeError> {
        let pool = self.of(range.family());
        if let Some(other) = pool.ranges.values().map(|part| part.range).find(|other| other.overlaps(&range)) {
            return if other == range { Ok(()) } else { Err(RangeError::Overlap(range, other)) };
        }
        let held = pool.held.iter().filter(|address| range.contains(**address)).count();
        let mut part = RangePool::new(range, held);
        let mut freed: Vec<_> = pool.strays.extract_if(|address, _| range.contains(*address)).collect();
        freed.sort_unstable_by_key(|(_, at)| *at);
        freed.into_iter().filter(|(address, _)| !pool.of_host.contains(address)).for_each(|(address, at)| part.free(address, at));
        pool.ranges.insert(range.first(), part);
        Ok(())
    }

    /// Lets a range go of which every address is free (invariant I2).
    ///
    /// # Errors
    /// [`RangeError::Occupied`] and [`RangeError::NoSuchRange`]
    pub fn remove_range(&mut self, range: &AddressRange, now: BootMillis) -> Result<(), RangeError> {
        let Counts { held, cooling, .. } = self.counts_of(range, now)?;
        let pool = self.of(range.family());
        let quarantined = pool.quarantined.keys().chain(&pool.of_host).filter(|address| range.contains(**address)).count() as u64;
        if held > 0 || cooling > 0 || quarantined > 0 {
            return Err(RangeError::Occupied { range: *range, held, cooling, quarantined });
        }
        pool.ranges.remove(&range.first());
        Ok(())
    }

    /// Says whether pods may be given addresses of a range from now on.
    ///
    /// # Errors
    /// [`RangeError::NoSuchRange`]
    pub fn set_use(&mut self, range: &AddressRange, may_be_used: Use) -> Result<(), RangeError> {
        let part = self.of(range.family()).ranges.get_mut(&range.first()).filter(|part| part.range == *range);
        part.ok_or(RangeError::NoSuchRange(*range))?.may_be_used = may_be_used;
        Ok(())
    }

    /// Counts of one range.
    ///
    /// # Errors
    /// [`RangeError::NoSuchRange`]
    pub fn counts_of(&self, range: &AddressRange, now: BootMillis) -> Result<Counts, RangeError> {
        let pool = self.families.iter().find(|pool| pool.family == range.family());
        let part = pool.and_then(|pool| Some((pool, pool.ranges.get(&range.first()).filter(|part| part.range == *range)?)));
        part.map(|(pool, part)| pool.counts_of(part, now, self.cooldown_millis)).ok_or(RangeError::NoSuchRange(*range))
    }

    /// Takes any free address.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`]
    pub fn take(&mut self, family: Family, now: BootMillis) -> Result<IpAddr, PoolError> {
        let cooldown = self.cooldown_millis;
        let pool = self.of(family);
        let FamilyPool { ranges, held, quarantined, of_host, .. } = pool;
        for wanted in [Use::Open, Use::LastResort] {
            for part in ranges.values_mut().filter(|part| part.may_be_used == wanted) {
                let taken = |address: &IpAddr| held.contains(address) || quarantined.contains_key(address) || of_host.contains(address);
                if let Some(address) = part.take(taken, now, cooldown) {
                    held.insert(address);
                    return Ok(address);
                }
            }
        }
        Err(pool.exhausted(now, cooldown))
    }

    /// Takes one certain address.
    ///
    /// # Errors
    /// [`PoolError::Foreign`], [`PoolError::Quarantined`], [`PoolError::InUse`], [`PoolError::OfHost`] and [`PoolError::Cooling`]
    pub fn take_this(&mut self, address: IpAddr, now: BootMillis) -> Result<(), PoolError> {
        let cooldown = self.cooldown_millis;
        let pool = self.of(Family::of(address));
        if let Some(why) = pool.quarantined.get(&address) {
            return Err(PoolError::Quarantined(address, why.clone()));
        }
        if pool.held.contains(&address) {
            return Err(PoolError::InUse(address));
        }
        if pool.of_host.contains(&address) {
            return Err(PoolError::OfHost(address));
        }
        let part = pool.part_mut(address).ok_or(PoolError::Foreign(address))?;
        if let Use::Closed(why) = &part.may_be_used {
            return Err(PoolError::Quarantined(address, why.clone()));
        }
        part.take_this(address, now, cooldown).map_err(|left| PoolError::Cooling { address, left })?;
        pool.held.insert(address);
        Ok(())
    }

    /// Gives an address back; it cools down from `now`. One that was not held stays as it is.
    pub fn release(&mut self, address: IpAddr, now: BootMillis) {
        let pool = self.of(Family::of(address));
        if pool.held.remove(&address) {
            let of_host = pool.of_host.contains(&address);
            match pool.part_mut(address) {
                Some(part) => {
                    part.held -= 1;
                    if !of_host {
                        part.free(address, now);
                    }
                }
                None => pool.stray(address, now),
            }
        }
    }

    /// Undoes a take that nobody has seen: no cooldown.
    pub fn untake(&mut self, address: IpAddr) {
        let pool = self.of(Family::of(address));
        if pool.held.remove(&address)
            && let Some(part) = pool.part_mut(address)
        {
            part.untake(address);
        }
    }

    /// At start: an address that a pod has, in the ranges or (since they changed, or are not known yet) not.
    pub fn restore_held(&mut self, address: IpAddr) {
        let pool = self.of(Family::of(address));
        if pool.held.insert(address)
            && let Some(part) = pool.part_mut(address)
        {
            part.held += 1;
        }
    }

    /// At start: addresses freed earlier, in any order.
    pub fn restore_freed(&mut self, mut freed: Vec<(IpAddr, BootMillis)>) {
        freed.sort_unstable_by_key(|(_, at)| *at);
        for (address, at) in freed {
            let pool = self.of(Family::of(address));
            if pool.held.contains(&address) || pool.quarantined.contains_key(&address) {
                continue;
            }
            match pool.part_mut(address) {
                Some(part) => part.free(address, at),
                None => pool.stray(address, at),
            }
        }
    }

    /// Keeps an address from being used until somebody has looked.
    pub fn quarantine(&mut self, address: IpAddr, why: String) {
        let pool = self.of(Family::of(address));
        let was_held = pool.held.remove(&address);
        if let Some(part) = pool.part_mut(address) {
            part.held -= usize::from(was_held);
            part.forget(address);
        }
        pool.quarantined.insert(address, why);
    }

    /// Says which addresses the host itself has now. None of them is given to a pod; one that a pod has, it has. Tells those that are in a
    /// range, and whether a pod has it.
    pub fn set_host_addresses(&mut self, addresses: &[IpAddr]) -> Vec<(IpAddr, bool)> {
        for pool in &mut self.families {
            let now: BTreeSet<_> = addresses.iter().copied().filter(|address| Family::of(*address) == pool.family).collect();
            for address in std::mem::take(&mut pool.of_host).difference(&now) {
                let is_free = !pool.held.contains(address) && !pool.quarantined.contains_key(address);
                if let Some(part) = pool.part_mut(*address).filter(|_| is_free) {
                    part.free_at_once(*address);
                }
            }
            for address in &now {
                if let Some(part) = pool.part_mut(*address) {
                    part.forget(*address);
                }
            }
            pool.of_host = now;
        }
        let in_range = |pool: &FamilyPool, address: IpAddr| pool.ranges.values().any(|part| part.range.contains(address));
        let conflicts = self.families.iter().flat_map(|pool| {
            let of_host = pool.of_host.iter().copied().filter(move |address| in_range(pool, *address));
            of_host.map(|address| (address, pool.held.contains(&address)))
        });
        conflicts.collect()
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
        let pools = self.families.iter().filter(|pool| pool.wanted);
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
    fn part_mut(&mut self, address: IpAddr) -> Option<&mut RangePool> {
        let (_, part) = self.ranges.range_mut(..=bits(address)).next_back()?;
        part.range.contains(address).then_some(part)
    }

    /// Remembers a freed address that is in no range, as many as a range remembers of its own.
    fn stray(&mut self, address: IpAddr, at: BootMillis) {
        if self.strays.len() < range_pool::REMEMBERED {
            self.strays.insert(address, at);
        }
    }

    fn counts_of(&self, part: &RangePool, now: BootMillis, cooldown: u64) -> Counts {
        let size = part.range.size();
        let (held, cooling) = (part.held, part.cooling(now, cooldown));
        let quarantined = match part.may_be_used {
            // All that nobody has.
            Use::Closed(_) => size.saturating_sub((held + cooling) as u64),
            Use::Open | Use::LastResort => {
                let of_host =
                    self.of_host.iter().filter(|address| !self.held.contains(*address) && !self.quarantined.contains_key(*address));
                self.quarantined.keys().chain(of_host).filter(|address| part.range.contains(**address)).count() as u64
            }
        };
        Counts { size, held, cooling, quarantined }
    }

    fn counts(&self, now: BootMillis, cooldown: u64) -> Counts {
        let parts = self.ranges.values().map(|part| self.counts_of(part, now, cooldown));
        parts.fold(Counts::default(), |sum, part| Counts {
            size: sum.size.saturating_add(part.size),
            held: sum.held + part.held,
            cooling: sum.cooling + part.cooling,
            quarantined: sum.quarantined.saturating_add(part.quarantined),
        })
    }

    fn exhausted(&self, now: BootMillis, cooldown: u64) -> PoolError {
        let Counts { size, held, cooling, quarantined } = self.counts(now, cooldown);
        let usable = self.ranges.values().filter(|part| !matches!(part.may_be_used, Use::Closed(_)));
        let next = usable.filter_map(|part| part.next_cooled(now, cooldown)).min();
        PoolError::Exhausted { family: self.family, held, cooling, quarantined, size, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLDOWN: u64 = 30_000;

    #[test]
    fn an_address_that_the_host_has_is_nobodys() {
        let mut pool = pool(&["10.0.0.0/30"]);
        assert_eq!(pool.set_host_addresses(&[ip("10.0.0.1"), ip("192.0.2.1")]), [(ip("10.0.0.1"), false)]);
        assert_eq!(pool.take_this(ip("10.0.0.1"), at(0)), Err(PoolError::OfHost(ip("10.0.0.1"))));
        let taken: Vec<_> = std::iter::from_fn(|| pool.take(Family::V4, at(0)).ok()).collect();
        assert_eq!(taken, ["10.0.0.0", "10.0.0.2", "10.0.0.3"].map(ip));
        assert_eq!((pool.counts(Family::V4, at(0)).quarantined, pool.counts(Family::V4, at(0)).free()), (1, 0));
        // The host takes one that a pod has: it stays the pod's, and is nobody's after it.
        assert_eq!(pool.set_host_addresses(&[ip("10.0.0.2")]), [(ip("10.0.0.2"), true)]);
        assert_eq!(pool.take(Family::V4, at(60)), Ok(ip("10.0.0.1")), "the host has it no more");
        pool.release(ip("10.0.0.2"), at(60));
        assert!(pool.take(Family::V4, at(120)).is_err());
        assert!(matches!(pool.remove_range(&"10.0.0.0/30".parse().unwrap(), at(120)), Err(RangeError::Occupied { .. })));
        assert_eq!(pool.set_host_addresses(&[]), []);
        assert_eq!(pool.take(Family::V4, at(120)), Ok(ip("10.0.0.2")));
    }

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
        assert!(pool.of(Family::V6).ranges.values().all(|part| part.remembered() <= range_pool::REMEMBERED + 1));
    }

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn a_wanted_family_without_a_range_is_exhausted() {
        let mut pool = pool(&["10.0.0.0/31"]);
        pool.want(Family::V6);
        assert!(matches!(pool.lacking(at(0)), Some(PoolError::Exhausted { family: Family::V6, size: 0, .. })));
        assert_eq!(pool.families().count(), 2);
    }

    #[test]
    fn pods_gather_in_the_lower_ranges() {
        let mut pool = pool(&["10.0.0.16/30", "10.0.0.0/30"]);
        let taken: Vec<_> = (0..5).map(|_| pool.take(Family::V4, at(0)).unwrap()).collect();
        assert_eq!(taken[4], ip("10.0.0.16"));
        pool.release(taken[1], at(1));
        assert_eq!(pool.take(Family::V4, at(100)).unwrap(), taken[1]);
    }

    #[test]
    fn i2_a_range_goes_only_when_all_of_it_is_free() {
        let mut pool = pool(&["10.0.0.0/30"]);
        let upper = range("10.0.0.16/30");
        pool.add_range(upper).unwrap();
        pool.add_range(upper).unwrap();
        assert!(matches!(pool.add_range(range("10.0.0.18/31")), Err(RangeError::Overlap(..))));
        pool.take_this(ip("10.0.0.17"), at(0)).unwrap();
        assert!(matches!(pool.remove_range(&upper, at(0)), Err(RangeError::Occupied { held: 1, .. })));
        pool.release(ip("10.0.0.17"), at(10));
        assert!(matches!(pool.remove_range(&upper, at(39)), Err(RangeError::Occupied { cooling: 1, .. })));
        pool.remove_range(&upper, at(40)).unwrap();
        assert!(matches!(pool.remove_range(&upper, at(40)), Err(RangeError::NoSuchRange(_))));
        assert_eq!(pool.take_this(ip("10.0.0.17"), at(40)), Err(PoolError::Foreign(ip("10.0.0.17"))));
    }

    #[test]
    fn a_closed_range_keeps_its_pods_and_gets_no_new_ones() {
        let mut pool = pool(&["10.0.0.0/31", "10.0.0.16/31"]);
        let first = pool.take(Family::V4, at(0)).unwrap();
        pool.set_use(&range("10.0.0.0/31"), Use::Closed("the cloud has it no more".into())).unwrap();
        assert_eq!(pool.take(Family::V4, at(0)).unwrap(), ip("10.0.0.16"));
        assert!(matches!(pool.take_this(ip("10.0.0.1"), at(0)), Err(PoolError::Quarantined(..))));
        let counts = pool.counts(Family::V4, at(0));
        assert_eq!((counts.size, counts.held, counts.quarantined, counts.free()), (4, 2, 1, 1));
        pool.release(first, at(1));
        pool.take(Family::V4, at(100)).unwrap();
        assert!(pool.take(Family::V4, at(100)).is_err(), "what was freed in a closed range is not used again");
        pool.remove_range(&range("10.0.0.0/31"), at(100)).unwrap();
    }

    #[test]
    fn a_doubtful_range_is_the_last_resort() {
        let mut pool = pool(&["10.0.0.0/31", "10.0.0.16/31"]);
        pool.set_use(&range("10.0.0.0/31"), Use::LastResort).unwrap();
        let taken: Vec<_> = (0..3).map(|_| pool.take(Family::V4, at(0)).unwrap()).collect();
        assert_eq!(taken, ["10.0.0.16", "10.0.0.17", "10.0.0.0"].map(ip));
    }

    #[test]
    fn what_was_held_or_freed_before_its_range_was_known_is_so_after() {
        let mut pool = pool(&[]);
        pool.restore_held(ip("10.0.0.0"));
        pool.restore_freed(vec![(ip("10.0.0.1"), at(5))]);
        pool.restore_held(ip("10.0.0.2"));
        pool.release(ip("10.0.0.2"), at(6));
        pool.add_range(range("10.0.0.0/30")).unwrap();
        assert_eq!(pool.take(Family::V4, at(7)).unwrap(), ip("10.0.0.3"));
        assert_eq!(pool.counts(Family::V4, at(7)), Counts { size: 4, held: 2, cooling: 2, quarantined: 0 });
        assert_eq!(pool.take(Family::V4, at(35)).unwrap(), ip("10.0.0.1"));
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
                        let free = (0..16_u8).map(|last| IpAddr::from([10, 0, 0, last])).filter(|a| pool.ranges().any(|(range, _)| range.contains(*a)))
                            .filter(|a| !held.contains(a) && freed.get(a).is_none_or(|at| now.since(*at) >= COOLDOWN)).count();
                        free == 0
                    });
                }
            }
        }
    }
}
