//! The bits of a packet's mark (`skb->mark`) that are ours.

/// Five neighbouring bits: the lower four name the uplink that a pod's packet must leave by, 0 for the node's own (docs/adr/0008); the
/// fifth has a packet pass conntrack by, and is taken off before anybody else looks (docs/adr/0006).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    shift: u32,
}

/// Bits that others have: kube-proxy for what is dropped (0x8000) and masqueraded (0x4000), the CNI plugin `portmap` (0x2000).
const OF_OTHERS: [(u32, &str); 3] = [(0x8000, "kube-proxy"), (0x4000, "kube-proxy"), (0x2000, "the CNI plugin portmap")];
const BITS: u32 = 0x1f;
const UPLINK: u32 = 0xf;
const UNTRACKED: u32 = 0x10;

impl Default for Marks {
    /// 0x1f
    fn default() -> Self {
        Self { shift: 0 }
    }
}

impl Marks {
    /// Those of a mask.
    ///
    /// # Errors
    /// Why it cannot be, in words that follow the mask.
    pub fn of_mask(mask: u32) -> Result<Self, String> {
        let shift = mask.trailing_zeros();
        if mask.count_ones() != BITS.count_ones() || mask >> shift != BITS {
            return Err("is not five neighbouring bits; one such is 0x1f0000".to_owned());
        }
        match OF_OTHERS.iter().find(|(bit, _)| mask & bit != 0) {
            Some((bit, who)) => Err(format!("has the bit {bit:#x}, which is {who}'s; take others, like 0x1f0000")),
            None => Ok(Self { shift }),
        }
    }

    /// The bits that name an uplink.
    #[must_use]
    pub const fn of_uplinks(self) -> u32 {
        UPLINK << self.shift
    }

    /// What those bits are for an uplink.
    #[must_use]
    pub(crate) fn of_uplink(self, index: u16) -> u32 {
        (u32::from(index) & UPLINK) << self.shift
    }

    /// The bit of what passes conntrack by.
    #[must_use]
    pub(crate) const fn untracked(self) -> u32 {
        UNTRACKED << self.shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_neighbouring_bits_that_nobody_has() {
        assert_eq!(Marks::of_mask(0x1f), Ok(Marks::default()));
        let high = Marks::of_mask(0xf800_0000).unwrap();
        assert_eq!((high.of_uplinks(), high.of_uplink(3), high.untracked()), (0x7800_0000, 0x1800_0000, 0x8000_0000));
        for wrong in [0, 0x0f, 0x3f, 0x2f, 0x101f] {
            assert!(Marks::of_mask(wrong).unwrap_err().contains("five neighbouring"), "{wrong:#x}");
        }
        for taken in [0x3e00, 0x7c00, 0xf800, 0x1_f000] {
            assert!(Marks::of_mask(taken).is_err(), "{taken:#x}");
        }
        assert!(Marks::of_mask(0x7c00).unwrap_err().contains("0x4000"));
    }
}
