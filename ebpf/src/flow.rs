//! Flows that go through the host's stack, and must go through it for as long as they live.
//!
//! The stack may translate a flow (a service's address, a host port). Its replies must pass the stack again, or the
//! translation is never undone. So whatever the stack emits towards a pod, or from a pod to the network, is noted; who would
//! carry a packet looks here first. A note has no direction: one answers for both, and keeps a flow on one path.
//!
//! The tables are plain hashes, not LRU: a note that is evicted before its flow ends breaks a connection, and nobody would
//! know. The daemon removes notes once conntrack has forgotten the flow (docs/adr/0007).

pub use crate::packet::Seen;
use crate::packet::Transport;

/// A flow over IPv4: its two ends in order of their numbers, so that both directions are the same flow.
///
/// Keys are made of whole numbers: on the stack of a program, the verifier takes no store that is not aligned.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flow4 {
    /// The lower address as a number.
    pub low: u32,
    /// The higher address.
    pub high: u32,
    /// The port at the lower address, or the echo's identifier.
    pub low_port: u16,
    /// The port at the higher address, or the echo's identifier.
    pub high_port: u16,
    /// The protocol.
    pub protocol: u32,
}

/// A flow over IPv6; see [`Flow4`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flow6 {
    /// The lower address: its upper and its lower half as numbers.
    pub low: [u64; 2],
    /// The higher address.
    pub high: [u64; 2],
    /// The port at the lower address, or the echo's identifier.
    pub low_port: u16,
    /// The port at the higher address, or the echo's identifier.
    pub high_port: u16,
    /// The protocol.
    pub protocol: u32,
}

/// What is known of a noted flow. Each direction writes to its own byte: no CPU loses what another has seen.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noted {
    /// When a packet of it, in either direction, was last seen: seconds since boot, suspended time not counted.
    pub seen_seconds: u32,
    /// The slot of the pod that is charged with it.
    pub slot: u16,
    /// What was seen from the lower end: [`Noted::SEEN`], [`Noted::FIN`], [`Noted::RST`], [`Noted::LATER`].
    pub from_low: u8,
    /// What was seen from the higher end.
    pub from_high: u8,
}

/// How far a noted flow has come: what decides how long the note stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Packets were seen in one direction only.
    OneWay,
    /// Packets were seen in both.
    BothWays,
    /// And again in a later second: it is more than a question and its answer.
    Stream,
    /// It was reset, or both ends have finished.
    Closing,
}

/// What a note says of a packet of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// The stack has the flow.
    Tracked,
    /// The programs carry it, to an endpoint of the service that the client has sent it to.
    ToBackend,
    /// The programs carry it, back from there: it has to come from the service.
    ToClient,
}

/// A packet in several pieces, of either family; an IPv4 address stands in the first number.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Pieces {
    /// Source address.
    pub source: [u64; 2],
    /// Destination address.
    pub destination: [u64; 2],
    /// The packet's identification.
    pub id: u32,
    /// The protocol over IPv4; over IPv6 zero.
    pub protocol: u32,
}

const _: () = assert!(size_of::<Flow4>() == 16 && size_of::<Flow6>() == 40 && size_of::<Noted>() == 8 && size_of::<Pieces>() == 40);

impl Flow4 {
    /// The flow of a packet, and whether the packet comes from its lower end.
    #[must_use]
    #[inline(always)]
    pub const fn of(source: [u8; 4], destination: [u8; 4], transport: Transport) -> (Self, bool) {
        let (from, to, protocol) = (u32::from_be_bytes(source), u32::from_be_bytes(destination), transport.protocol as u32);
        let (from_port, to_port) = (u16::from_be_bytes(transport.source), u16::from_be_bytes(transport.destination));
        if from <= to {
            (Self { low: from, high: to, low_port: from_port, high_port: to_port, protocol }, true)
        } else {
            (Self { low: to, high: from, low_port: to_port, high_port: from_port, protocol }, false)
        }
    }
}

impl Flow6 {
    /// The flow of a packet, and whether the packet comes from its lower end.
    #[must_use]
    #[inline(always)]
    pub const fn of(from: [u64; 2], to: [u64; 2], transport: Transport) -> (Self, bool) {
        let protocol = transport.protocol as u32;
        let (from_port, to_port) = (u16::from_be_bytes(transport.source), u16::from_be_bytes(transport.destination));
        if from[0] < to[0] || (from[0] == to[0] && from[1] <= to[1]) {
            (Self { low: from, high: to, low_port: from_port, high_port: to_port, protocol }, true)
        } else {
            (Self { low: to, high: from, low_port: to_port, high_port: from_port, protocol }, false)
        }
    }
}

impl Noted {
    /// A packet was seen.
    pub const SEEN: u8 = 1;
    /// One with FIN.
    pub const FIN: u8 = Seen::FIN;
    /// One with RST, and none after it: what goes on was not reset.
    pub const RST: u8 = Seen::RST;
    /// One in a later second than that in which packets had been seen in both directions.
    pub const LATER: u8 = 8;
    /// The programs translate the flow ([`crate::service`]), and this end is the client: the stack has not got it.
    pub const SERVED: u8 = Seen::SERVED;

    /// A flow's first packet.
    #[must_use]
    #[inline(always)]
    pub const fn first(slot: u16, seen: Seen, now: u32) -> Self {
        let bits = Self::SEEN | seen.signs;
        let (from_low, from_high) = if seen.from_low { (bits, 0) } else { (0, bits) };
        Self { seen_seconds: now, slot, from_low, from_high }
    }

    /// How far the flow has come.
    #[must_use]
    #[inline(always)]
    pub const fn stage(self) -> Stage {
        if (self.from_low | self.from_high) & Self::RST != 0 || self.from_low & self.from_high & Self::FIN != 0 {
            Stage::Closing
        } else if self.from_low & self.from_high & Self::SEEN == 0 {
            Stage::OneWay
        } else if (self.from_low | self.from_high) & Self::LATER != 0 {
            Stage::Stream
        } else {
            Stage::BothWays
        }
    }

    /// The byte of the packet's direction once this packet was seen.
    #[must_use]
    #[inline(always)]
    pub const fn taking_in(self, seen: Seen, now: u32) -> u8 {
        let before = if seen.from_low { self.from_low } else { self.from_high };
        let later = self.seen_seconds != now && self.from_low & self.from_high & Self::SEEN != 0;
        (before & !Self::RST) | Self::SEEN | seen.signs | if later { Self::LATER } else { 0 }
    }

    /// Whether the programs translate the flow.
    #[must_use]
    #[inline(always)]
    pub const fn is_served(self) -> bool {
        (self.from_low | self.from_high) & Self::SERVED != 0
    }

    /// Which way the flow goes, by its note, for a packet that comes from this end.
    #[must_use]
    #[inline(always)]
    pub const fn course(self, from_low: bool) -> Course {
        let (from, to) = if from_low { (self.from_low, self.from_high) } else { (self.from_high, self.from_low) };
        if to & Self::SERVED != 0 {
            Course::ToClient
        } else if from & Self::SERVED != 0 {
            Course::ToBackend
        } else {
            Course::Tracked
        }
    }

    /// Whether a connection that begins with this packet is another than the noted, which is closing: it is judged afresh.
    #[must_use]
    #[inline(always)]
    pub const fn is_over(self, seen: Seen) -> bool {
        seen.opens && matches!(self.stage(), Stage::Closing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: Seen = Seen { from_low: true, signs: 0, opens: false };
    const BACK: Seen = Seen { from_low: false, signs: 0, opens: false };

    #[test]
    fn both_directions_are_one_flow() {
        let there = Transport { protocol: 6, source: [1, 2], destination: [3, 4] };
        let back = there.reversed();
        let (a, b) = ([10, 0, 1, 17], [9, 0, 0, 200]);
        assert_eq!(
            Flow4::of(a, b, there),
            (Flow4 { low: 0x0900_00c8, high: 0x0a00_0111, low_port: 0x0304, high_port: 0x0102, protocol: 6 }, false)
        );
        assert_eq!(Flow4::of(b, a, back).0, Flow4::of(a, b, there).0);
        let (a, b) = ([1, 0], [0, 255]);
        assert_eq!(Flow6::of(a, b, there).0, Flow6::of(b, a, back).0);
        assert_eq!((Flow6::of(a, b, there).1, Flow6::of(b, a, back).1), (false, true));
    }

    #[test]
    fn a_flow_closes_by_two_fins_or_one_reset() {
        let with = |from_low, from_high| Noted { from_low, from_high, ..Noted::default() }.stage();
        assert_eq!(Noted::first(7, THERE, 9), Noted { seen_seconds: 9, slot: 7, from_low: Noted::SEEN, from_high: 0 });
        assert_eq!(Noted::first(7, BACK, 9).stage(), Stage::OneWay);
        assert_eq!(with(1, 1), Stage::BothWays);
        assert_eq!(with(3, 1), Stage::BothWays, "one end may send for long after the other has finished");
        assert_eq!(with(3, 3), Stage::Closing);
        assert_eq!(with(1, 5), Stage::Closing);
    }

    #[test]
    fn a_flow_that_goes_on_was_not_reset() {
        let reset = Noted { seen_seconds: 9, from_low: 1, from_high: 5, ..Noted::default() };
        assert_eq!(reset.taking_in(THERE, 9), 1);
        assert_eq!(reset.taking_in(BACK, 9), 1, "whoever resets a connection sends nothing more by it");
    }

    #[test]
    fn a_stream_is_more_than_an_exchange() {
        let answered = Noted { seen_seconds: 9, from_low: 1, from_high: 1, ..Noted::default() };
        assert_eq!((answered.taking_in(THERE, 9), answered.taking_in(THERE, 10)), (1, 1 | Noted::LATER));
        let asked = Noted { from_high: 0, ..answered };
        assert_eq!(asked.taking_in(BACK, 10), 1, "a late answer");
        assert_eq!(Noted { from_low: 9, ..answered }.stage(), Stage::Stream);
    }

    #[test]
    fn only_what_opens_a_connection_ends_a_note_and_only_a_closing_one() {
        let opens = Seen { opens: true, ..THERE };
        let closing = Noted { from_low: 3, from_high: 3, ..Noted::default() };
        assert!(closing.is_over(opens) && !closing.is_over(THERE));
        assert!(!Noted { from_low: 1, from_high: 1, ..Noted::default() }.is_over(opens));
    }
}
