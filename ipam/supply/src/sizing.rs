//! How many addresses a node should have: one formula, computed anew from what is, so that asking twice asks for nothing twice.
//!
//! The cloud gives addresses in blocks of a fixed size (an AWS /28 prefix has 16). A node wants
//! `⌈min_free + used / block⌉` blocks: at least `min_free` of a block is free when the last address is asked for, so growth begins
//! before a pod has to wait for it. It gives blocks back down to `⌈max_free + used / block⌉`, and only after having had more than that
//! for a while: between the two nothing is called.

/// Thousandths of a block.
pub type Thousandths = u64;

/// The settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizing {
    /// Addresses in a block.
    pub block: u64,
    /// The part of a block that is to be free.
    pub min_free: Thousandths,
    /// The part of a block, at least one more than `min_free`, beyond which blocks are given back.
    pub max_free: Thousandths,
    /// How long a node must have had more before it gives any back, in milliseconds.
    pub release_after: u64,
}

impl Sizing {
    /// Half a block free at least, two blocks and a half at most, for ten minutes.
    #[must_use]
    pub const fn of_blocks(block: u64) -> Self {
        Self { block, min_free: 500, max_free: 2500, release_after: 600_000 }
    }

    /// Blocks that a node with this many used addresses should have at least. Used is what pods have and what cools down.
    #[must_use]
    pub const fn at_least(&self, used: u64) -> u64 {
        self.blocks(used, self.min_free)
    }

    /// Blocks beyond which a node gives some back.
    #[must_use]
    pub const fn at_most(&self, used: u64) -> u64 {
        self.blocks(used, self.max_free)
    }

    const fn blocks(&self, used: u64, free: Thousandths) -> u64 {
        (free * self.block + used * 1000).div_ceil(1000 * self.block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_begins_before_the_last_address_is_asked_for() {
        let sizing = Sizing::of_blocks(16);
        let wanted: Vec<_> = [0, 1, 8, 9, 16, 24, 25].map(|used| sizing.at_least(used)).into();
        assert_eq!(wanted, [1, 1, 1, 2, 2, 2, 3]);
    }

    #[test]
    fn single_addresses_are_blocks_of_one() {
        let sizing = Sizing { min_free: 4000, max_free: 16_000, ..Sizing::of_blocks(1) };
        assert_eq!((sizing.at_least(10), sizing.at_most(10)), (14, 26));
    }

    #[test]
    fn between_the_two_nothing_is_called() {
        for block in [1, 16, 256] {
            let sizing = Sizing::of_blocks(block);
            for used in 0..1000 {
                assert!(sizing.at_least(used) < sizing.at_most(used));
                assert!(sizing.at_least(used) * block >= used);
            }
        }
    }
}
