//! What differs between IPv4 and IPv6.

use super::{Tables, Verdict, Writer};
use crate::flow::{Course, Flow4, Flow6, Noted, Pieces, Seen};
use crate::layout::{Endpoint, Network, Uplink};
use crate::packet::{self, Bytes, Header, Ipv4, Ipv6, Protocol, Quoted, Transport, checksum};
use crate::scope::{Meaning, halves, whole};

/// An address of one family.
pub(super) trait Address: Copy + PartialEq {
    /// Whether it is the endpoint's first of this family.
    fn is_first_of(self, endpoint: &Endpoint) -> bool;
    /// Whether a pod may send from it within its link although it is not the endpoint's.
    fn may_be_link_local(self) -> bool;
    /// Whether it means nothing beyond its link, or means many: unspecified, link-local, multicast, broadcast.
    fn is_confined(self) -> bool;
    fn meaning(self, network: &Network) -> Meaning;
    fn slot(self, tables: &impl Tables) -> Option<u32>;
    /// In the form that pieces are remembered in, and that translations have.
    fn widened(self) -> [u64; 2];
    /// Back from it.
    fn narrowed(wide: [u64; 2]) -> Self;
}

impl Address for [u8; 4] {
    #[inline(always)]
    fn is_first_of(self, endpoint: &Endpoint) -> bool {
        self == endpoint.ipv4 && self != [0; 4]
    }

    #[inline(always)]
    fn may_be_link_local(self) -> bool {
        false
    }

    #[inline(always)]
    fn is_confined(self) -> bool {
        // 224.0.0.0/4 and 240.0.0.0/4 with the broadcast address; 169.254.0.0/16; 127.0.0.0/8; 0.0.0.0/8
        self[0] >= 224 || self[0] == 0 || self[0] == 127 || (self[0] == 169 && self[1] == 254)
    }

    #[inline(always)]
    fn meaning(self, network: &Network) -> Meaning {
        network.meaning4(self)
    }

    #[inline(always)]
    fn slot(self, tables: &impl Tables) -> Option<u32> {
        tables.slot4(self)
    }

    #[inline(always)]
    fn widened(self) -> [u64; 2] {
        [u64::from(u32::from_be_bytes(self)), 0]
    }

    #[inline(always)]
    fn narrowed(wide: [u64; 2]) -> Self {
        (wide[0] as u32).to_be_bytes()
    }
}

impl Address for [u64; 2] {
    #[inline(always)]
    fn is_first_of(self, endpoint: &Endpoint) -> bool {
        self == halves(endpoint.ipv6) && self != [0; 2]
    }

    #[inline(always)]
    fn may_be_link_local(self) -> bool {
        // fe80::/10, and the unspecified address of duplicate address detection
        self[0] >> 54 == 0xfe80 >> 6 || self == [0; 2]
    }

    #[inline(always)]
    fn is_confined(self) -> bool {
        // ff00::/8, and ::1
        self[0] >> 56 == 0xff || self == [0, 1] || self.may_be_link_local()
    }

    #[inline(always)]
    fn meaning(self, network: &Network) -> Meaning {
        network.meaning6(self)
    }

    #[inline(always)]
    fn slot(self, tables: &impl Tables) -> Option<u32> {
        tables.slot6(whole(self))
    }

    #[inline(always)]
    fn widened(self) -> [u64; 2] {
        self
    }

    #[inline(always)]
    fn narrowed(wide: [u64; 2]) -> Self {
        wide
    }
}

/// IPv4's checksum and addresses. On the stack the verifier takes no store that is not aligned, and both addresses are stored at once.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(8))]
pub(super) struct Front4 {
    padding: [u8; 6],
    bytes: [u8; 10],
}

/// IPv6's addresses, likewise.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(8))]
pub(super) struct Front6([u8; 32]);

/// A network header of one family.
pub(super) trait Family: Copy {
    type Address: Address;
    /// In a packet's first bits.
    const VERSION: u16;
    const PROTOCOL: Protocol;
    /// The addresses, with the checksum in front of them where there is one, as they lie in its header.
    type Front: Copy + Default;
    /// Whether a checksum of ICMP is over the addresses, too.
    const ICMP_HAS_ADDRESSES: bool;
    /// `None` where it is cut short or nonsense.
    fn read(bytes: &impl Bytes) -> Option<Self>;
    /// Of a whole packet of TCP or UDP behind a header without options; `None` for any other.
    fn plain(bytes: &impl Bytes) -> Option<Self>;
    fn of(source: Self::Address, destination: Self::Address, header: Header) -> Self;
    fn source(&self) -> Self::Address;
    fn destination(&self) -> Self::Address;
    fn header(&self) -> &Header;
    fn quoted(&self, bytes: &impl Bytes) -> Option<Quoted<Self::Address>>;
    /// What the pieces of its packet have in common.
    fn pieces(&self) -> Pieces;
    /// Whether the family may be carried at all.
    fn is_carried(network: &Network) -> bool;
    /// What is noted of a flow, for a packet of it in this direction. To ask is to have seen the packet.
    fn noted(
        tables: &impl Tables,
        from: Self::Address,
        to: Self::Address,
        transport: Transport,
        seen: impl FnOnce(bool) -> Seen,
    ) -> Option<Course>;
    /// Notes a flow for a slot; what is noted of it now.
    fn note(
        tables: &impl Tables,
        slot: u32,
        from: Self::Address,
        to: Self::Address,
        transport: Transport,
        seen: impl FnOnce(bool) -> Seen,
    ) -> Option<Course>;
    /// These addresses in the place of those in the header that begins at `start`.
    fn front(bytes: &impl Bytes, start: usize, source: Self::Address, destination: Self::Address) -> Option<Self::Front>;
    /// Puts them into that header.
    fn store(writer: &impl Writer, start: usize, front: &Self::Front) -> Option<()>;
    /// The sum of both addresses' words ([`crate::packet::checksum`]).
    fn sum(source: Self::Address, destination: Self::Address) -> u64;
    /// Index of the uplink that owns the endpoint's address of this family.
    fn uplink_of(endpoint: &Endpoint) -> u32;
    /// Whether the way out of an uplink is known.
    fn is_open(uplink: &Uplink) -> bool;
    /// The way out of the uplink with this index.
    fn out_of(uplink: u32) -> Verdict;
}

/// Whether what was found in a table is this packet's flow, or one that ended before it: then it is forgotten.
#[inline(always)]
fn still(noted: Option<Noted>, seen: Seen, forget: impl FnOnce()) -> Option<Course> {
    let noted = noted?;
    if noted.is_over(seen) {
        forget();
        return None;
    }
    Some(noted.course(seen.from_low))
}

impl Family for Ipv4 {
    type Address = [u8; 4];
    const VERSION: u16 = 4;
    const PROTOCOL: Protocol = Protocol::V4;
    type Front = Front4;
    const ICMP_HAS_ADDRESSES: bool = false;

    #[inline(always)]
    fn read(bytes: &impl Bytes) -> Option<Self> {
        packet::ipv4(bytes)
    }

    #[inline(always)]
    fn plain(bytes: &impl Bytes) -> Option<Self> {
        packet::plain4(bytes)
    }

    #[inline(always)]
    fn of(source: [u8; 4], destination: [u8; 4], header: Header) -> Self {
        Self { source, destination, header }
    }

    #[inline(always)]
    fn source(&self) -> [u8; 4] {
        self.source
    }

    #[inline(always)]
    fn destination(&self) -> [u8; 4] {
        self.destination
    }

    #[inline(always)]
    fn header(&self) -> &Header {
        &self.header
    }

    #[inline(always)]
    fn quoted(&self, bytes: &impl Bytes) -> Option<Quoted<[u8; 4]>> {
        packet::quoted4(bytes, &self.header)
    }

    #[inline(always)]
    fn pieces(&self) -> Pieces {
        let Header { protocol, id, .. } = self.header;
        Pieces { source: self.source.widened(), destination: self.destination.widened(), id, protocol: protocol.into() }
    }

    #[inline(always)]
    fn is_carried(network: &Network) -> bool {
        network.carry_v4 != 0
    }

    #[inline(always)]
    fn noted(tables: &impl Tables, from: [u8; 4], to: [u8; 4], transport: Transport, seen: impl FnOnce(bool) -> Seen) -> Option<Course> {
        let (flow, from_low) = Flow4::of(from, to, transport);
        let mut last = Seen { from_low, signs: 0, opens: false };
        let noted = tables.noted4(&flow, || {
            last = seen(from_low);
            last
        });
        still(noted, last, || tables.forget4(&flow))
    }

    #[inline(always)]
    fn note(
        tables: &impl Tables,
        slot: u32,
        from: [u8; 4],
        to: [u8; 4],
        transport: Transport,
        seen: impl FnOnce(bool) -> Seen,
    ) -> Option<Course> {
        let (flow, from_low) = Flow4::of(from, to, transport);
        Some(tables.note4(slot, &flow, seen(from_low))?.course(from_low))
    }

    #[inline(always)]
    fn front(bytes: &impl Bytes, start: usize, source: [u8; 4], destination: [u8; 4]) -> Option<Front4> {
        let old: [u8; 10] = bytes.read(start + 10)?;
        let before = Self::sum([old[2], old[3], old[4], old[5]], [old[6], old[7], old[8], old[9]]);
        let change = checksum::difference(before, Self::sum(source, destination));
        let sum = checksum::updated(u16::from_ne_bytes([old[0], old[1]]), change);
        let ([s, t], [a, b, c, d], [e, f, g, h]) = (sum.to_ne_bytes(), source, destination);
        Some(Front4 { padding: [0; 6], bytes: [s, t, a, b, c, d, e, f, g, h] })
    }

    #[inline(always)]
    fn store(writer: &impl Writer, start: usize, front: &Front4) -> Option<()> {
        writer.store(start + 10, &front.bytes)
    }

    #[inline(always)]
    fn sum(source: [u8; 4], destination: [u8; 4]) -> u64 {
        u64::from(u32::from_ne_bytes(source)) + u64::from(u32::from_ne_bytes(destination))
    }

    #[inline(always)]
    fn uplink_of(endpoint: &Endpoint) -> u32 {
        endpoint.uplink_v4.into()
    }

    #[inline(always)]
    fn is_open(uplink: &Uplink) -> bool {
        uplink.ifindex != 0 && uplink.gateway_v4 != [0; 4]
    }

    #[inline(always)]
    fn out_of(uplink: u32) -> Verdict {
        Verdict::ToUplink4 { uplink }
    }
}

impl Family for Ipv6 {
    type Address = [u64; 2];
    const VERSION: u16 = 6;
    const PROTOCOL: Protocol = Protocol::V6;
    type Front = Front6;
    const ICMP_HAS_ADDRESSES: bool = true;

    #[inline(always)]
    fn read(bytes: &impl Bytes) -> Option<Self> {
        packet::ipv6(bytes)
    }

    #[inline(always)]
    fn plain(bytes: &impl Bytes) -> Option<Self> {
        packet::plain6(bytes)
    }

    #[inline(always)]
    fn of(source: [u64; 2], destination: [u64; 2], header: Header) -> Self {
        Self { source, destination, header }
    }

    #[inline(always)]
    fn source(&self) -> [u64; 2] {
        self.source
    }

    #[inline(always)]
    fn destination(&self) -> [u64; 2] {
        self.destination
    }

    #[inline(always)]
    fn header(&self) -> &Header {
        &self.header
    }

    #[inline(always)]
    fn quoted(&self, bytes: &impl Bytes) -> Option<Quoted<[u64; 2]>> {
        packet::quoted6(bytes, &self.header)
    }

    /// The next header may differ from piece to piece (RFC 8200, 4.5), and the identification is long enough without it.
    #[inline(always)]
    fn pieces(&self) -> Pieces {
        Pieces { source: self.source, destination: self.destination, id: self.header.id, protocol: 0 }
    }

    #[inline(always)]
    fn is_carried(network: &Network) -> bool {
        network.carry_v6 != 0
    }

    #[inline(always)]
    fn noted(tables: &impl Tables, from: [u64; 2], to: [u64; 2], transport: Transport, seen: impl FnOnce(bool) -> Seen) -> Option<Course> {
        let (flow, from_low) = Flow6::of(from, to, transport);
        let mut last = Seen { from_low, signs: 0, opens: false };
        let noted = tables.noted6(&flow, || {
            last = seen(from_low);
            last
        });
        still(noted, last, || tables.forget6(&flow))
    }

    #[inline(always)]
    fn note(
        tables: &impl Tables,
        slot: u32,
        from: [u64; 2],
        to: [u64; 2],
        transport: Transport,
        seen: impl FnOnce(bool) -> Seen,
    ) -> Option<Course> {
        let (flow, from_low) = Flow6::of(from, to, transport);
        Some(tables.note6(slot, &flow, seen(from_low))?.course(from_low))
    }

    #[inline(always)]
    fn front(_: &impl Bytes, _: usize, source: [u64; 2], destination: [u64; 2]) -> Option<Front6> {
        let mut front = Front6([0; 32]);
        for (place, half) in front.0.as_chunks_mut().0.iter_mut().zip([source[0], source[1], destination[0], destination[1]]) {
            *place = half.to_be_bytes();
        }
        Some(front)
    }

    #[inline(always)]
    fn store(writer: &impl Writer, start: usize, front: &Front6) -> Option<()> {
        writer.store(start + 8, &front.0)
    }

    #[inline(always)]
    fn sum(source: [u64; 2], destination: [u64; 2]) -> u64 {
        let words = |half: u64| (half.to_be() >> 32) + (half.to_be() & 0xffff_ffff);
        words(source[0]) + words(source[1]) + words(destination[0]) + words(destination[1])
    }

    #[inline(always)]
    fn uplink_of(endpoint: &Endpoint) -> u32 {
        endpoint.uplink_v6.into()
    }

    #[inline(always)]
    fn is_open(uplink: &Uplink) -> bool {
        uplink.ifindex != 0 && uplink.gateway_v6 != [0; 16]
    }

    #[inline(always)]
    fn out_of(uplink: u32) -> Verdict {
        Verdict::ToUplink6 { uplink }
    }
}
