//! Which address is free, held by which attachment, cooling or quarantined. Pure: no I/O, and time is an argument.
//!
//! An address that is held has an owner, and only in its owner's name is it given back (invariant I1): two records of one address,
//! whatever made them, free nothing of the living.
//!
//! Ranges come and go with what the cloud assigns. The first range that has an address gives one: pods gather in the lower
//! ranges, and the upper ones can be given back. Within a range, reuse is least recently freed first, and not before a cooldown
//! has passed: late packets and stale caches of an old pod must not meet a new one. Addresses that were never used count as
//! freed longest ago. A range can be larger than any memory (an IPv6 /64), so never-used addresses are a cursor, not a list;
//! once very many freed addresses are on record, cooled ones are taken before the cursor moves on, and memory stays bounded.
#![forbid(unsafe_code)]

mod attachment_key;
pub mod range;
mod range_pool;
mod reason;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use node_api::BootMillis;

pub use crate::attachment_key::AttachmentKey;
use crate::range::{AddressRange, Family, bits};
use range_pool::RangePool;
pub use reason::Closed;

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
    #[error("address {address} is in use by {owner}")]
    InUse {
        /// Which one.
        address: IpAddr,
        /// Who has it.
        owner: AttachmentKey,
    },
    /// An address was asked for that the host itself has.
    #[error("address {0} is on an interface of the node itself; remove it there, or exclude it from the pods' ranges")]
    OfHost(IpAddr),
    /// An address was to be used beside a pod's own that pods are given as their own.
    #[error("address {0} is of this node's pod range {1}, whose addresses pods are given as their own")]
    OfPods(IpAddr, AddressRange),
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
pub enum RangeState {
    /// Yes.
    Open,
    /// Only where no open range has any: there is doubt whether the cloud still delivers to it.
    Suspect,
    /// No, for this reason. Those that have one keep it.
    Closed(Closed),
}

/// The addresses of one family.
#[derive(Debug)]
struct FamilyPool {
    family: Family,
    /// A pod gets an address of it, whether there is one yet or not.
    wanted: bool,
    /// By the number of their first address; they do not overlap.
    ranges: BTreeMap<u128, RangePool>,
    /// Whose it is, in a range or not: what a pod has, it has.
    held: HashMap<IpAddr, AttachmentKey>,
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
            held: HashMap::new(),
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
    pub fn ranges(&self) -> impl Iterator<Item = (&AddressRange, &RangeState)> {
        self.families.iter().flat_map(|pool| pool.ranges.values()).map(|part| (&part.range, &part.state))
    }

    /// Whether pods may be given addresses of a range; nothing where there is no such range.
    #[must_use]
    pub fn state_of(&self, range: &AddressRange) -> Option<&RangeState> {
        let pool = self.families.iter().find(|pool| pool.family == range.family())?;
        pool.ranges.get(&range.first()).filter(|part| part.range == *range).map(|part| &part.state)
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
        let held = pool.held.keys().filter(|address| range.contains(**address)).count();
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
    pub fn set_state(&mut self, range: &AddressRange, state: RangeState) -> Result<(), RangeError> {
        let part = self.of(range.family()).ranges.get_mut(&range.first()).filter(|part| part.range == *range);
        part.ok_or(RangeError::NoSuchRange(*range))?.state = state;
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

    /// Takes any free address for an attachment.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`]
    pub fn take(&mut self, family: Family, owner: &AttachmentKey, now: BootMillis) -> Result<IpAddr, PoolError> {
        let cooldown = self.cooldown_millis;
        let pool = self.of(family);
        let FamilyPool { ranges, held, quarantined, of_host, .. } = pool;
        for wanted in [RangeState::Open, RangeState::Suspect] {
            for part in ranges.values_mut().filter(|part| part.state == wanted) {
                let taken = |address: &IpAddr| held.contains_key(address) || quarantined.contains_key(address) || of_host.contains(address);
                if let Some(address) = part.take(taken, now, cooldown) {
                    held.insert(address, owner.clone());
                    return Ok(address);
                }
            }
        }
        Err(pool.exhausted(now, cooldown))
    }

    /// Takes one certain address for an attachment.
    ///
    /// # Errors
    /// [`PoolError::Foreign`], [`PoolError::Quarantined`], [`PoolError::InUse`], [`PoolError::OfHost`] and [`PoolError::Cooling`]
    pub fn take_this(&mut self, address: IpAddr, owner: &AttachmentKey, now: BootMillis) -> Result<(), PoolError> {
        let cooldown = self.cooldown_millis;
        let pool = self.of(Family::of(address));
        if let Some(why) = pool.quarantined.get(&address) {
            return Err(PoolError::Quarantined(address, why.clone()));
        }
        if let Some(owner) = pool.held.get(&address) {
            return Err(PoolError::InUse { address, owner: owner.clone() });
        }
        if pool.of_host.contains(&address) {
            return Err(PoolError::OfHost(address));
        }
        let part = pool.part_mut(address).ok_or(PoolError::Foreign(address))?;
        if let RangeState::Closed(why) = &part.state {
            return Err(PoolError::Quarantined(address, why.to_string()));
        }
        part.take_this(address, now, cooldown).map_err(|left| PoolError::Cooling { address, left })?;
        pool.held.insert(address, owner.clone());
        Ok(())
    }

    /// Takes an address that an attachment uses beside its own. It is in no range; a range that comes later does not give it to another.
    ///
    /// # Errors
    /// [`PoolError::Quarantined`], [`PoolError::InUse`], [`PoolError::OfHost`] and [`PoolError::OfPods`]
    pub fn take_beside(&mut self, address: IpAddr, owner: &AttachmentKey) -> Result<(), PoolError> {
        let pool = self.of(Family::of(address));
        if let Some(why) = pool.quarantined.get(&address) {
            return Err(PoolError::Quarantined(address, why.clone()));
        }
        if let Some(part) = pool.part_mut(address) {
            return Err(PoolError::OfPods(address, part.range));
        }
        if pool.of_host.contains(&address) {
            return Err(PoolError::OfHost(address));
        }
        if let Some(owner) = pool.held.get(&address) {
            return Err(PoolError::InUse { address, owner: owner.clone() });
        }
        pool.held.insert(address, owner.clone());
        Ok(())
    }

    /// Gives an address back in its owner's name; it cools down from `now`. One that is another's, or nobody's, stays as it is. Tells
    /// whether it was given back.
    pub fn release(&mut self, address: IpAddr, owner: &AttachmentKey, now: BootMillis) -> bool {
        let pool = self.of(Family::of(address));
        if !pool.let_go(address, owner) {
            return false;
        }
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
        true
    }

    /// Undoes a take that nobody has seen: no cooldown. One that is another's, or nobody's, stays as it is.
    pub fn untake(&mut self, address: IpAddr, owner: &AttachmentKey) {
        let pool = self.of(Family::of(address));
        if !pool.let_go(address, owner) {
            return;
        }
        let of_host = pool.of_host.contains(&address);
        if let Some(part) = pool.part_mut(address) {
            part.held -= 1;
            if !of_host {
                part.free_at_once(address);
            }
        }
    }

    /// At start: an address that an attachment has, in the ranges or (since they changed, or are not known yet) not. The first that claims
    /// it has it, unless it is quarantined; tells whether this one does.
    pub fn restore_held(&mut self, address: IpAddr, owner: &AttachmentKey) -> bool {
        let pool = self.of(Family::of(address));
        if let Some(first) = pool.held.get(&address) {
            return first == owner;
        }
        if pool.quarantined.contains_key(&address) {
            return false;
        }
        pool.held.insert(address, owner.clone());
        if let Some(part) = pool.part_mut(address) {
            part.held += 1;
            part.forget(address);
        }
        true
    }

    /// Who has an address.
    #[must_use]
    pub fn owner_of(&self, address: IpAddr) -> Option<&AttachmentKey> {
        self.families.iter().find_map(|pool| pool.held.get(&address))
    }

    /// At start: addresses freed earlier, in any order.
    pub fn restore_freed(&mut self, mut freed: Vec<(IpAddr, BootMillis)>) {
        freed.sort_unstable_by_key(|(_, at)| *at);
        for (address, at) in freed {
            let pool = self.of(Family::of(address));
            if pool.held.contains_key(&address) || pool.quarantined.contains_key(&address) {
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
        let was_held = pool.held.remove(&address).is_some();
        if let Some(part) = pool.part_mut(address) {
            part.held -= usize::from(was_held);
            part.forget(address);
        }
        pool.quarantined.insert(address, why);
    }

    /// Lets a quarantined address be used again, after a cooldown. Tells why it was quarantined; nothing where it is not.
    pub fn release_quarantined(&mut self, address: IpAddr, now: BootMillis) -> Option<String> {
        let pool = self.of(Family::of(address));
        let why = pool.quarantined.remove(&address)?;
        let of_host = pool.of_host.contains(&address);
        match pool.part_mut(address) {
            Some(part) if !of_host => part.free(address, now),
            Some(_) => {}
            None => pool.stray(address, now),
        }
        Some(why)
    }

    /// Says which addresses the host itself has at `now`. None of them is given to a pod; one that a pod has, it has. What the host has no
    /// more cools down, as what a pod had: others still send to whoever had it. Tells those that are in a range, and whether a pod has it.
    pub fn set_host_addresses(&mut self, addresses: &[IpAddr], now: BootMillis) -> Vec<(IpAddr, bool)> {
        for pool in &mut self.families {
            let of_host: BTreeSet<_> = addresses.iter().copied().filter(|address| Family::of(*address) == pool.family).collect();
            for address in std::mem::take(&mut pool.of_host).difference(&of_host) {
                let is_free = !pool.held.contains_key(address) && !pool.quarantined.contains_key(address);
                if let Some(part) = pool.part_mut(*address).filter(|_| is_free) {
                    part.free(*address, now);
                }
            }
            for address in &of_host {
                if let Some(part) = pool.part_mut(*address) {
                    part.forget(*address);
                }
            }
            pool.of_host = of_host;
        }
        let in_range = |pool: &FamilyPool, address: IpAddr| pool.ranges.values().any(|part| part.range.contains(address));
        let conflicts = self.families.iter().flat_map(|pool| {
            let of_host = pool.of_host.iter().copied().filter(move |address| in_range(pool, *address));
            of_host.map(|address| (address, pool.held.contains_key(&address)))
        });
        conflicts.collect()
    }

    /// The quarantined addresses with their reasons.
    pub fn quarantined(&self) -> impl Iterator<Item = (&IpAddr, &str)> {
        self.families.iter().flat_map(|pool| &pool.quarantined).map(|(address, why)| (address, why.as_str()))
    }

    /// Addresses of the ranges that cool down, each with the milliseconds that it still has to.
    pub fn cooling(&self, now: BootMillis) -> impl Iterator<Item = (IpAddr, u64)> {
        let parts = self.families.iter().flat_map(|pool| pool.ranges.values());
        parts.flat_map(move |part| part.each_cooling(now, self.cooldown_millis))
    }

    /// Addresses of the ranges that the host itself has.
    pub fn of_host(&self) -> impl Iterator<Item = &IpAddr> {
        let in_range = |pool: &FamilyPool, address: &IpAddr| pool.ranges.values().any(|part| part.range.contains(*address));
        self.families.iter().flat_map(move |pool| pool.of_host.iter().filter(move |address| in_range(pool, address)))
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

    /// How many pods could get their addresses now, one of each family that pods get.
    #[must_use]
    pub fn pods_served(&self, now: BootMillis) -> u64 {
        let wanted = self.families.iter().filter(|pool| pool.wanted);
        wanted.map(|pool| pool.counts(now, self.cooldown_millis).free()).min().unwrap_or(u64::MAX)
    }

    /// In how many milliseconds an address has cooled down, if any cools.
    #[must_use]
    pub fn next_cooled(&self, now: BootMillis) -> Option<u64> {
        self.families.iter().filter_map(|pool| pool.next_cooled(now, self.cooldown_millis)).min()
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

    /// Whether the address was this owner's, who has it no more.
    fn let_go(&mut self, address: IpAddr, owner: &AttachmentKey) -> bool {
        let is_owner = self.held.get(&address) == Some(owner);
        if is_owner {
            self.held.remove(&address);
        }
        is_owner
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
        let quarantined = match part.state {
            // All that nobody has.
            RangeState::Closed(_) => size.saturating_sub((held + cooling) as u64),
            RangeState::Open | RangeState::Suspect => {
                let of_host =
                    self.of_host.iter().filter(|address| !self.held.contains_key(*address) && !self.quarantined.contains_key(*address));
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
        let next = self.next_cooled(now, cooldown);
        PoolError::Exhausted { family: self.family, held, cooling, quarantined, size, next }
    }

    fn next_cooled(&self, now: BootMillis, cooldown: u64) -> Option<u64> {
        let usable = self.ranges.values().filter(|part| !matches!(part.state, RangeState::Closed(_)));
        usable.filter_map(|part| part.next_cooled(now, cooldown)).min()
    }
}

#[cfg(test)]
mod tests;
