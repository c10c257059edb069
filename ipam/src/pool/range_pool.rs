//! The addresses of one range: which were never used, and which were freed when.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use node_api::BootMillis;

use super::Use;
use crate::range::AddressRange;

/// How many freed addresses of a range are remembered before they are preferred to never-used ones.
pub(super) const REMEMBERED: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct RangePool {
    pub(super) range: AddressRange,
    pub(super) may_be_used: Use,
    /// How many of its addresses pods have.
    pub(super) held: usize,
    /// The number of the never-used address to look at next.
    cursor: Option<u128>,
    freed_at: HashMap<IpAddr, BootMillis>,
    /// Freed addresses, oldest first. An entry whose time differs from `freed_at` is outdated and skipped.
    freed: VecDeque<(IpAddr, BootMillis)>,
}

impl RangePool {
    pub(super) fn new(range: AddressRange, held: usize) -> Self {
        let cursor = Some(range.first());
        Self { range, may_be_used: Use::Open, held, cursor, freed_at: HashMap::new(), freed: VecDeque::new() }
    }

    /// Takes an address that is not `taken`.
    pub(super) fn take(&mut self, taken: impl Fn(&IpAddr) -> bool, now: BootMillis, cooldown: u64) -> Option<IpAddr> {
        let address = if self.freed_at.len() >= REMEMBERED {
            self.oldest_cooled(now, cooldown).or_else(|| self.never_used(taken))
        } else {
            self.never_used(taken).or_else(|| self.oldest_cooled(now, cooldown))
        }?;
        self.freed_at.remove(&address);
        self.held += 1;
        Some(address)
    }

    /// Takes this address, which nobody has; otherwise how many milliseconds it has still to cool.
    pub(super) fn take_this(&mut self, address: IpAddr, now: BootMillis, cooldown: u64) -> Result<(), u64> {
        if let Some(left) = self.freed_at.get(&address).and_then(|freed| remaining(*freed, now, cooldown)) {
            return Err(left);
        }
        self.freed_at.remove(&address);
        self.held += 1;
        Ok(())
    }

    /// The address is free, and cools down from `at`.
    pub(super) fn free(&mut self, address: IpAddr, at: BootMillis) {
        self.freed_at.insert(address, at);
        self.freed.push_back((address, at));
    }

    /// Undoes a take.
    pub(super) fn untake(&mut self, address: IpAddr) {
        self.held -= 1;
        self.free_at_once(address);
    }

    /// The address is free, and no pod has had it.
    pub(super) fn free_at_once(&mut self, address: IpAddr) {
        self.freed_at.insert(address, BootMillis(0));
        self.freed.push_front((address, BootMillis(0)));
    }

    /// The address is neither free nor held from now on.
    pub(super) fn forget(&mut self, address: IpAddr) {
        self.freed_at.remove(&address);
    }

    /// How many have not cooled down.
    pub(super) fn cooling(&self, now: BootMillis, cooldown: u64) -> usize {
        let recent = self.freed.iter().rev().take_while(|(_, at)| remaining(*at, now, cooldown).is_some());
        recent.filter(|(address, at)| self.freed_at.get(address) == Some(at)).count()
    }

    /// Milliseconds until the first has cooled down.
    pub(super) fn next_cooled(&self, now: BootMillis, cooldown: u64) -> Option<u64> {
        self.freed.iter().filter_map(|(_, at)| remaining(*at, now, cooldown)).min()
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.freed.len()
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
}

/// Milliseconds until an address freed at `freed` has cooled down; `None` where it has.
pub(super) fn remaining(freed: BootMillis, now: BootMillis, cooldown: u64) -> Option<u64> {
    cooldown.checked_sub(now.since(freed)).filter(|left| *left > 0)
}
