//! Where an address lies, as seen from this node.

use crate::layout::{INTERVALS_MAX, Network};

/// The other end of a packet, for accounting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Scope {
    /// Another pod of this node.
    SameNode = 0,
    /// The cloud network and what is reached as it is.
    Vpc = 1,
    /// A service's address, to be translated by the stack.
    Service = 2,
    /// This node itself.
    Node = 3,
    /// Everything else.
    Internet = 4,
}

impl Scope {
    /// Every scope, in order of its number.
    pub const ALL: [Self; 5] = [Self::SameNode, Self::Vpc, Self::Service, Self::Node, Self::Internet];

    /// Reads a scope back from a map; an unknown number is [`Scope::Internet`], the strictest.
    #[must_use]
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::SameNode,
            1 => Self::Vpc,
            2 => Self::Service,
            3 => Self::Node,
            _ => Self::Internet,
        }
    }
}

/// What is known of an address without asking for its endpoint: a scope, and three facts. As it lies in a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning(pub u32);

impl Meaning {
    /// Of no interval.
    pub const NOWHERE: Self = Self::of(Scope::Internet);
    const SCOPE: u32 = 7;
    const LOCAL: u32 = 8;
    const NATIVE: u32 = 16;
    const CARRIED: u32 = 32;

    /// Not native.
    #[must_use]
    #[inline(always)]
    pub const fn of(scope: Scope) -> Self {
        Self(scope as u32)
    }

    /// An address of this node's pods, present or to come.
    #[must_use]
    pub const fn local() -> Self {
        Self(Scope::Vpc as u32 | Self::LOCAL)
    }

    /// Packets to it leave by the uplink as they are.
    #[must_use]
    pub const fn native(scope: Scope) -> Self {
        Self(scope as u32 | Self::NATIVE | Self::CARRIED)
    }

    /// As native, but about to become so: flows of the stack to it are noted, and none is carried yet.
    #[must_use]
    pub const fn held_back(self) -> Self {
        Self(self.0 & !Self::CARRIED)
    }

    /// Its scope where it is not a pod of this node.
    #[must_use]
    #[inline(always)]
    pub const fn scope(self) -> Scope {
        Scope::from_number(self.0 & Self::SCOPE)
    }

    /// It is in the ranges of this node's pods.
    #[must_use]
    #[inline(always)]
    pub const fn is_local(self) -> bool {
        self.0 & Self::LOCAL != 0
    }

    /// It is native, held back or not.
    #[must_use]
    #[inline(always)]
    pub const fn is_native(self) -> bool {
        self.0 & Self::NATIVE != 0
    }

    /// It is native, and the programs may carry to it.
    #[must_use]
    #[inline(always)]
    pub const fn is_carried(self) -> bool {
        self.0 & Self::CARRIED != 0
    }
}

/// Each step halves what is left.
const STEPS: u32 = INTERVALS_MAX.trailing_zeros();
/// An index under this mask is within the table, for the verifier as well.
const WITHIN: usize = INTERVALS_MAX - 1;

impl Network {
    /// Looks an IPv4 address up, in network order.
    #[must_use]
    #[inline(always)]
    pub fn meaning4(&self, address: [u8; 4]) -> Meaning {
        let address = u32::from_be_bytes(address);
        let mut left = in_use(self.intervals4_len);
        if left == 0 {
            return Meaning::NOWHERE;
        }
        let mut at = 0;
        for _ in 0..STEPS {
            let half = left >> 1;
            if half == 0 {
                break;
            }
            let middle = (at + half) & WITHIN;
            if self.intervals4[middle].first <= address {
                at = middle;
            }
            left -= half;
        }
        Meaning(self.intervals4[at & WITHIN].meaning)
    }

    /// Looks an IPv6 address up, by its halves.
    #[must_use]
    #[inline(always)]
    pub fn meaning6(&self, [high, low]: [u64; 2]) -> Meaning {
        let mut left = in_use(self.intervals6_len);
        if left == 0 {
            return Meaning::NOWHERE;
        }
        let mut at = 0;
        for _ in 0..STEPS {
            let half = left >> 1;
            if half == 0 {
                break;
            }
            let middle = (at + half) & WITHIN;
            let first = &self.intervals6[middle].first;
            if first[0] < high || (first[0] == high && first[1] <= low) {
                at = middle;
            }
            left -= half;
        }
        Meaning(self.intervals6[at & WITHIN].meaning)
    }
}

/// How many rows of a table are in use, whatever it claims.
#[inline(always)]
const fn in_use(claimed: u32) -> usize {
    if claimed as usize > INTERVALS_MAX { INTERVALS_MAX } else { claimed as usize }
}

/// The upper and the lower half of an IPv6 address as numbers.
#[must_use]
#[inline(always)]
pub const fn halves(address: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
}

/// An address of which these are the halves.
#[must_use]
#[inline(always)]
pub const fn whole([high, low]: [u64; 2]) -> [u8; 16] {
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (high.to_be_bytes(), low.to_be_bytes());
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Interval4, Interval6};

    /// Every length of the table, an address at, before and behind each border.
    #[test]
    fn the_last_interval_that_begins_before_an_address_has_it() {
        let mut network = Network::default();
        for row in 0..INTERVALS_MAX {
            let number = u32::try_from(row).unwrap();
            network.intervals4[row] = Interval4 { first: number * 10, meaning: number };
            network.intervals6[row] = Interval6 { first: [u64::from(number / 4), u64::from(number % 4) * 10], meaning: number, padding: 0 };
        }
        for len in (1..=20).chain([100, 511, 512, 513, 1000, 1023, 1024]) {
            (network.intervals4_len, network.intervals6_len) = (len, len);
            for row in (0..len).step_by(1 + len as usize / 50).chain([len - 1]) {
                let at = |address: u32| network.meaning4(address.to_be_bytes()).0;
                assert_eq!([at(row * 10), at(row * 10 + 9)], [row, row], "row {row} of {len}");
                let at = |low: u64| network.meaning6([u64::from(row / 4), low]).0;
                let low = u64::from(row % 4) * 10;
                assert_eq!([at(low), at(low + 9)], [row, row], "row {row} of {len}");
            }
            assert_eq!(network.meaning4([255; 4]).0, len - 1);
            assert_eq!(network.meaning6([u64::MAX; 2]).0, len - 1);
        }
    }

    #[test]
    fn a_table_that_is_empty_or_claims_too_much_is_no_danger() {
        let mut network = Network::default();
        assert_eq!((network.meaning4([1; 4]), network.meaning6([1; 2])), (Meaning::NOWHERE, Meaning::NOWHERE));
        (network.intervals4_len, network.intervals6_len) = (u32::MAX, u32::MAX);
        assert_eq!((network.meaning4([1; 4]).0, network.meaning6([1; 2]).0), (0, 0));
    }

    #[test]
    fn a_meaning_keeps_what_it_was_made_of() {
        for scope in Scope::ALL {
            let native = Meaning::native(scope);
            assert_eq!((native.scope(), native.is_native(), native.is_carried(), native.is_local()), (scope, true, true, false));
            let held = native.held_back();
            assert_eq!((held.scope(), held.is_native(), held.is_carried()), (scope, true, false));
            assert!(!Meaning::of(scope).is_native() && Meaning::local().is_local() && !Meaning::local().is_native());
        }
    }
}
