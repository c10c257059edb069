//! What the programs tell of a packet that they drop, to whoever watches: a copy of its headers, where, and why.
//!
//! Nobody pays for it but a packet that is lost while somebody watches. So many a second are told of each reason: a flood of one does not
//! hide the others.

use crate::layout::Limit;

/// The most bytes of a frame that are copied: Ethernet, IPv6, an extension header, and TCP with its usual options.
pub const HEADERS: usize = 96;
/// Packets that are told of one reason: so many a second, and as many at once.
pub const RATE: Limit = Limit { rate: 20, burst: 1_000_000_000 };
/// Bytes of the ring that they are told by. A power of two, and a whole number of pages wherever those have 64 KiB at most; all reasons'
/// bursts have room in it.
pub const RING: u32 = 1 << 16;

/// Which program has dropped a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    /// What a pod sends.
    FromPod = 0,
    /// What the host's stack sends to a pod.
    ToPod = 1,
    /// What the network sends.
    FromUplink = 2,
    /// What leaves.
    ToUplink = 3,
}

impl Hook {
    /// Back from a number, as `hook as u32`.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::FromPod),
            1 => Some(Self::ToPod),
            2 => Some(Self::FromUplink),
            3 => Some(Self::ToUplink),
            _ => None,
        }
    }
}

/// A packet that was dropped.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropEvent {
    /// When, in nanoseconds of the kernel's monotonic clock.
    pub at: u64,
    /// The interface that it was seen at.
    pub ifindex: u32,
    /// A [`Hook`].
    pub hook: u32,
    /// A [`crate::account::Reason`].
    pub reason: u32,
    /// How long the frame was.
    pub length: u32,
    /// How many bytes of it are here. What is behind them is nothing.
    pub copied: u32,
    /// Nothing.
    pub padding: u32,
    /// How it begins.
    pub headers: [u8; HEADERS],
}

/// What was told of one reason.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// The time up to which what was told has paid ([`crate::shape`]).
    pub paid: u64,
    /// Packets that were not told of while somebody watched, for there were too many.
    pub untold: u64,
}

const _: () = assert!(size_of::<DropEvent>() == 128 && size_of::<Told>() == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Reason;
    use crate::shape::{Judgement, judge};

    #[test]
    fn so_many_are_told_at_once_and_then_so_many_a_second() {
        let (mut paid, mut told) = (0_u64, [0; 4]);
        for millis in 0..4_000 {
            let now = (1 + millis) * 1_000_000;
            let judged = judge(now, 1, RATE, paid);
            if judged.judgement != Judgement::Drop {
                paid = paid.max(now) + judged.cost;
                told[millis as usize / 1_000] += 1;
            }
        }
        assert!((39..=40).contains(&told[0]) && told[1..].iter().all(|told| (19..=21).contains(told)), "{told:?}");
    }

    #[test]
    fn the_ring_has_room_for_each_reasons_burst() {
        /// Of each event (`BPF_RINGBUF_HDR_SZ`, linux/bpf.h).
        const HEADER: usize = 8;
        let events = Reason::ALL.iter().filter(|(reason, _)| reason.drops()).count() * RATE.rate as usize;
        assert!(events * (HEADER + size_of::<DropEvent>()) <= RING as usize);
    }

    #[test]
    fn hooks_are_found_by_their_numbers() {
        for hook in [Hook::FromPod, Hook::ToPod, Hook::FromUplink, Hook::ToUplink] {
            assert_eq!(Hook::from_number(hook as u32), Some(hook));
        }
        assert_eq!(Hook::from_number(4), None);
    }
}
