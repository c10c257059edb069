//! The addresses of one range: which were never used, and which were freed when.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use node_api::BootMillis;

use super::RangeState;
use crate::range::AddressRange;

/// How many freed addresses of a range are remembered before they are preferred to never-used ones.
pub(super) const REMEMBERED: usize = 1 << 16;

/// When an address was freed that no pod has had: before every boot, so that it does not cool down.
const NO_PODS: BootMillis = BootMillis(0);

#[derive(Debug)]
pub(super) struct RangePool {
    pub(super) range: AddressRange,
    pub(super) state: RangeState,
    /// How many of its addresses pods have.
    pub(super) held: usize,
    /// The number of the never-used address to look at next.
    cursor: Option<u128>,
    /// What is free again, and since when.
    freed_at: HashMap<IpAddr, BootMillis>,
    /// The same, the longest freed first.
    by_time: BTreeSet<(BootMillis, IpAddr)>,
}

impl RangePool {
    pub(super) fn new(range: AddressRange, held: usize) -> Self {
        let cursor = Some(range.first());
        Self { range, state: RangeState::Open, held, cursor, freed_at: HashMap::new(), by_time: BTreeSet::new() }
    }

    /// Takes an address that is not `taken`.
    pub(super) fn take(&mut self, taken: impl Fn(&IpAddr) -> bool, now: BootMillis, cooldown: u64) -> Option<IpAddr> {
        let address = if self.freed_at.len() >= REMEMBERED {
            self.oldest_cooled(now, cooldown).or_else(|| self.never_used(taken))
        } else {
            self.never_used(taken).or_else(|| self.oldest_cooled(now, cooldown))
        }?;
        self.forget(address);
        self.held += 1;
        Some(address)
    }

    /// Takes this address, which nobody has; otherwise how many milliseconds it has still to cool.
    pub(super) fn take_this(&mut self, address: IpAddr, now: BootMillis, cooldown: u64) -> Result<(), u64> {
        if let Some(left) = self.freed_at.get(&address).and_then(|freed| remaining(*freed, now, cooldown)) {
            return Err(left);
        }
        self.forget(address);
        self.held += 1;
        Ok(())
    }

    /// The address is free, and cools down from `at`.
    pub(super) fn free(&mut self, address: IpAddr, at: BootMillis) {
        self.forget(address);
        self.freed_at.insert(address, at);
        self.by_time.insert((at, address));
    }

    /// The address is free, and no pod has had it.
    pub(super) fn free_at_once(&mut self, address: IpAddr) {
        self.free(address, NO_PODS);
    }

    /// The address is neither free nor held from now on.
    pub(super) fn forget(&mut self, address: IpAddr) {
        if let Some(at) = self.freed_at.remove(&address) {
            self.by_time.remove(&(at, address));
        }
    }

    /// How many have not cooled down.
    pub(super) fn cooling(&self, now: BootMillis, cooldown: u64) -> usize {
        self.by_time.iter().rev().take_while(|(at, _)| remaining(*at, now, cooldown).is_some()).count()
    }

    /// Those that have not cooled down, each with the milliseconds that it still has to.
    pub(super) fn each_cooling(&self, now: BootMillis, cooldown: u64) -> impl Iterator<Item = (IpAddr, u64)> {
        self.freed_at.iter().filter_map(move |(address, at)| Some((*address, remaining(*at, now, cooldown)?)))
    }

    /// Milliseconds until the first has cooled down.
    pub(super) fn next_cooled(&self, now: BootMillis, cooldown: u64) -> Option<u64> {
        self.by_time.iter().find_map(|(at, _)| remaining(*at, now, cooldown))
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.by_time.len()
    }

    fn never_used(&mut self, taken: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        while let Some(number) = self.cursor {
            self.cursor = (number < self.range.last()).then(|| number + 1);
            let address = self.range.family().address(number);
            if !taken(&address) && !self.freed_at.contains_key(&address) {
                return Some(address);
            }
        }
        None
    }

    fn oldest_cooled(&self, now: BootMillis, cooldown: u64) -> Option<IpAddr> {
        let (at, address) = self.by_time.first()?;
        remaining(*at, now, cooldown).is_none().then_some(*address)
    }
}

/// Milliseconds until an address freed at `freed` has cooled down; `None` where it has.
pub(super) fn remaining(freed: BootMillis, now: BootMillis, cooldown: u64) -> Option<u64> {
    cooldown.checked_sub(now.since(freed)).filter(|left| *left > 0 && freed != NO_PODS)
}
