//! Two filters in front of tables: to ask an array first is cheaper than to search a hash.
//!
//! Either may say yes where the table has nothing, and never says no where it has something.
//!
//! *Addresses that lead to slots*: a number for each, by a hash of the address: no slot, or the one that an address of this hash was last
//! said to lead to. Where that slot's endpoint has the address for its own, the table need not be asked. The daemon alone writes the table,
//! writes the number before, and never takes it back: the addresses that a node's pods may have are few.
//!
//! *Notes of flows*: a byte for each, by a hash of the flow. Programs on all CPUs write notes, so the byte is not a bit but the number of a
//! generation, and to write it needs no atomic operation. Whoever notes a flow writes the current generation first. When the daemon
//! sweeps, it begins a generation, waits until no program is left that knows only the one before, writes the new one for all notes that
//! stay, and only then ends the one before: bytes of notes that are gone have expired by that.

use crate::flow::{Flow4, Flow6};
use crate::layout::{ENDPOINTS_MAX, NOTE_MARKS_MAX, SLOT_WORDS_MAX};

/// Odd, with bits spread evenly (the golden ratio, and the next constant of Knuth's and Steele's generators).
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
const SPREAD_MORE: u64 = 0xBF58_476D_1CE4_E5B9;

/// Where the hint of an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotHint {
    /// Which word.
    pub word: u32,
    /// How far up in it.
    shift: u32,
}

impl SlotHint {
    /// Of an IPv4 address in network order.
    #[must_use]
    #[inline(always)]
    pub const fn of4(address: [u8; 4]) -> Self {
        Self::of(u32::from_ne_bytes(address) as u64)
    }

    /// Of an IPv6 address by its halves.
    #[must_use]
    #[inline(always)]
    pub const fn of6([high, low]: [u64; 2]) -> Self {
        Self::of(high.wrapping_mul(SPREAD_MORE).rotate_left(32) ^ low)
    }

    #[inline(always)]
    const fn of(number: u64) -> Self {
        let hash = number.wrapping_mul(SPREAD);
        Self { word: (hash >> 32) as u32 & (SLOT_WORDS_MAX - 1), shift: (hash >> 62) as u32 * 16 }
    }

    /// What the word says: a slot to look at first; `None` where no address of this hash leads to any.
    #[must_use]
    #[inline(always)]
    pub const fn read(self, word: u64) -> Option<u32> {
        // Zero is what a table is at first.
        ((word >> self.shift) as u32 & 0xffff).checked_sub(1)
    }

    /// The word with this slot in it.
    #[must_use]
    pub const fn write(self, word: u64, slot: u32) -> u64 {
        word & !(0xffff << self.shift) | ((slot as u64 + 1) & 0xffff) << self.shift
    }
}

const _: () = assert!(ENDPOINTS_MAX < 0xffff);

/// Where the byte of a flow is.
#[must_use]
#[inline(always)]
pub const fn place4(flow: &Flow4) -> usize {
    place((flow.low as u64) << 32 | flow.high as u64, flow.low_port, flow.high_port, flow.protocol)
}

/// Where the byte of a flow is.
#[must_use]
#[inline(always)]
pub const fn place6(flow: &Flow6) -> usize {
    let [a, b] = flow.low;
    let [c, d] = flow.high;
    let low = a.wrapping_mul(SPREAD_MORE).rotate_left(32) ^ b;
    let high = c.wrapping_mul(SPREAD_MORE).rotate_left(32) ^ d;
    place(low.wrapping_mul(SPREAD).rotate_left(32) ^ high, flow.low_port, flow.high_port, flow.protocol)
}

#[inline(always)]
const fn place(addresses: u64, low_port: u16, high_port: u16, protocol: u32) -> usize {
    let rest = (low_port as u64) << 40 | (high_port as u64) << 24 | protocol as u64;
    let hash = (addresses.wrapping_mul(SPREAD) ^ rest.wrapping_mul(SPREAD_MORE).rotate_left(32)).wrapping_mul(SPREAD);
    (hash >> 32) as usize & (NOTE_MARKS_MAX - 1)
}

/// Which generations count, as it lies in a map: the current one in the lowest byte, the one before in the next, or the current one again
/// once that has ended. All zero before the first: then every byte that was never written counts, and the filter lets all through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generations(pub u32);

impl Generations {
    /// What notes are marked with.
    #[must_use]
    #[inline(always)]
    pub const fn current(self) -> u8 {
        self.0 as u8
    }

    #[inline(always)]
    const fn before(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Whether there may be a note where this byte is.
    #[must_use]
    #[inline(always)]
    pub const fn count(self, mark: u8) -> bool {
        mark == self.current() || mark == self.before()
    }

    /// The next begins, and the one before still counts. Where that has not ended yet, all stays as it is: two may count and no third.
    #[must_use]
    pub const fn begin(self) -> Self {
        if self.current() != self.before() {
            return self;
        }
        let next = if self.current() == u8::MAX { 1 } else { self.current() + 1 };
        Self((self.current() as u32) << 8 | next as u32)
    }

    /// The one before has ended.
    #[must_use]
    pub const fn end(self) -> Self {
        Self((self.current() as u32) << 8 | self.current() as u32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn flow(number: u32) -> Flow4 {
        Flow4 {
            low: 0x0a0a_1001,
            high: 0x0a0a_2000 + number / 1_000,
            low_port: 443,
            high_port: 32_768 + (number % 1_000) as u16,
            protocol: 6,
        }
    }

    #[test]
    fn flows_and_addresses_of_one_node_are_spread() {
        let places: BTreeSet<_> = (0..20_000).map(|number| place4(&flow(number))).collect();
        // 20,000 balls in 262,144 boxes meet some 740 times.
        assert!(places.len() > 19_000, "{}", places.len());
        let hints: BTreeSet<_> = (0..1_000_u32).map(|host| SlotHint::of4((0x0a00_0100 + host).to_be_bytes())).collect();
        assert!(hints.len() > 950, "{}", hints.len());
        let hints: BTreeSet<_> = (0..1_000).map(|host| SlotHint::of6([0xfd00 << 48, host])).collect();
        assert!(hints.len() > 950, "{}", hints.len());
        let six = |port| Flow6 { low: [0xfd00 << 48, 1], high: [0xfd00 << 48, 2], low_port: 443, high_port: port, protocol: 6 };
        let places: BTreeSet<_> = (0..20_000).map(|port| place6(&six(port))).collect();
        assert!(places.len() > 19_000, "{}", places.len());
    }

    #[test]
    fn a_hint_says_what_was_written_last_and_leaves_the_others_of_its_word() {
        let all: [SlotHint; 4] = core::array::from_fn(|at| SlotHint { word: 0, shift: 16 * at as u32 });
        let mut word = 0;
        assert!(all.iter().all(|hint| hint.read(word).is_none()));
        for (slot, hint) in [0, 1, ENDPOINTS_MAX - 1, 7].into_iter().zip(all) {
            word = hint.write(word, ENDPOINTS_MAX - 1);
            word = hint.write(word, slot);
        }
        assert_eq!(all.map(|hint| hint.read(word)), [Some(0), Some(1), Some(ENDPOINTS_MAX - 1), Some(7)]);
    }

    #[test]
    fn at_first_everything_may_be_there() {
        assert!(Generations(0).count(0));
        let first = Generations(0).begin();
        assert!(first.count(0) && first.count(1) && !first.count(2));
        assert!(!first.end().count(0) && first.end().count(1));
    }

    #[test]
    fn a_sweep_that_failed_is_repeated_in_its_generation() {
        let begun = Generations(0).begin().end().begin();
        assert_eq!(begun.begin(), begun);
        assert!(begun.count(1) && begun.count(2));
    }

    /// Notes come at any time, sweeps fail at any time: whatever is noted counts, for as long as it is.
    #[test]
    fn what_is_noted_counts_over_all_generations() {
        let mut generations = Generations(0);
        let mut marks: BTreeMap<usize, u8> = BTreeMap::new();
        let mut noted = BTreeSet::new();
        for step in 0..5_000_u32 {
            noted.insert(step);
            marks.insert(place4(&flow(step)), generations.current());
            generations = generations.begin();
            if step % 7 == 3 {
                continue;
            }
            noted.retain(|number| number % 5 == 0 || number + 20 > step);
            for number in &noted {
                marks.insert(place4(&flow(*number)), generations.current());
            }
            generations = generations.end();
            assert!(noted.iter().all(|number| generations.count(marks[&place4(&flow(*number))])), "step {step}");
        }
    }
}
