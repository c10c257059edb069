//! What differs between IPv4 and IPv6.

use super::{Tables, Verdict};
use crate::flow::{Flow4, Flow6, Noted, Pieces, Seen};
use crate::layout::{Endpoint, Network, Uplink};
use crate::packet::{self, Bytes, Header, Ipv4, Ipv6, Quoted, Transport};
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
    /// In the form that pieces are remembered in.
    fn widened(self) -> [u64; 2];
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
}

/// A network header of one family.
pub(super) trait Family: Sized {
    type Address: Address;
    /// `None` where it is cut short or nonsense.
    fn read(bytes: &impl Bytes) -> Option<Self>;
    fn source(&self) -> Self::Address;
    fn destination(&self) -> Self::Address;
    fn header(&self) -> &Header;
    fn quoted(&self, bytes: &impl Bytes) -> Option<Quoted<Self::Address>>;
    /// What the pieces of its packet have in common.
    fn pieces(&self) -> Pieces;
    /// Whether the family may be carried at all.
    fn is_carried(network: &Network) -> bool;
    /// What is noted of a flow. To ask is to have seen a packet of it.
    fn noted(tables: &impl Tables, from: Self::Address, to: Self::Address, transport: Transport, seen: impl FnOnce(bool) -> Seen) -> bool;
    /// Notes a flow for a slot; whether it is noted now.
    fn note(
        tables: &impl Tables,
        slot: u32,
        from: Self::Address,
        to: Self::Address,
        transport: Transport,
        seen: impl FnOnce(bool) -> Seen,
    ) -> bool;
    /// Index of the uplink that owns the endpoint's address of this family.
    fn uplink_of(endpoint: &Endpoint) -> u32;
    /// Whether the way out of an uplink is known.
    fn is_open(uplink: &Uplink) -> bool;
    /// The way out of the uplink with this index.
    fn out_of(uplink: u32) -> Verdict;
}

/// Whether what was found in a table is this packet's flow, or one that ended before it: then it is forgotten.
#[inline(always)]
fn still(noted: Option<Noted>, seen: Seen, forget: impl FnOnce()) -> bool {
    match noted {
        None => false,
        Some(noted) if noted.is_over(seen) => {
            forget();
            false
        }
        Some(_) => true,
    }
}

impl Family for Ipv4 {
    type Address = [u8; 4];

    #[inline(always)]
    fn read(bytes: &impl Bytes) -> Option<Self> {
        packet::ipv4(bytes)
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
    fn noted(tables: &impl Tables, from: [u8; 4], to: [u8; 4], transport: Transport, seen: impl FnOnce(bool) -> Seen) -> bool {
        let (flow, from_low) = Flow4::of(from, to, transport);
        let mut last = Seen { from_low, signs: 0, opens: false };
        let noted = tables.noted4(&flow, || {
            last = seen(from_low);
            last
        });
        still(noted, last, || tables.forget4(&flow))
    }

    #[inline(always)]
    fn note(tables: &impl Tables, slot: u32, from: [u8; 4], to: [u8; 4], transport: Transport, seen: impl FnOnce(bool) -> Seen) -> bool {
        let (flow, from_low) = Flow4::of(from, to, transport);
        tables.note4(slot, &flow, seen(from_low))
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

    #[inline(always)]
    fn read(bytes: &impl Bytes) -> Option<Self> {
        packet::ipv6(bytes)
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
    fn noted(tables: &impl Tables, from: [u64; 2], to: [u64; 2], transport: Transport, seen: impl FnOnce(bool) -> Seen) -> bool {
        let (flow, from_low) = Flow6::of(from, to, transport);
        let mut last = Seen { from_low, signs: 0, opens: false };
        let noted = tables.noted6(&flow, || {
            last = seen(from_low);
            last
        });
        still(noted, last, || tables.forget6(&flow))
    }

    #[inline(always)]
    fn note(tables: &impl Tables, slot: u32, from: [u64; 2], to: [u64; 2], transport: Transport, seen: impl FnOnce(bool) -> Seen) -> bool {
        let (flow, from_low) = Flow6::of(from, to, transport);
        tables.note6(slot, &flow, seen(from_low))
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
