//! What differs between IPv4 and IPv6.

use super::{Tables, Verdict};
use crate::flow::{Flow4, Flow6};
use crate::layout::{Endpoint, Network, Uplink};
use crate::packet::{self, Bytes, Fragment, Ipv4, Ipv6, Transport};
use crate::scope::Place;

/// An address of one family.
pub(super) trait Address: Copy {
    /// Whether it is the endpoint's own.
    fn is_of(self, endpoint: &Endpoint) -> bool;
    /// Whether a pod may send from it within its link although it is not the endpoint's.
    fn may_be_link_local(self) -> bool;
    /// Whether it means nothing beyond its link, or means many: unspecified, link-local, multicast, broadcast.
    fn is_confined(self) -> bool;
    fn place(self, network: &Network) -> Place;
    fn slot(self, tables: &impl Tables) -> Option<u32>;
}

impl Address for [u8; 4] {
    #[inline(always)]
    fn is_of(self, endpoint: &Endpoint) -> bool {
        self == endpoint.ipv4 && self != [0; 4]
    }

    #[inline(always)]
    fn may_be_link_local(self) -> bool {
        false
    }

    #[inline(always)]
    fn is_confined(self) -> bool {
        // 224.0.0.0/4 and 240.0.0.0/4 with the broadcast address; 169.254.0.0/16; 0.0.0.0/8
        self[0] >= 224 || self[0] == 0 || (self[0] == 169 && self[1] == 254)
    }

    #[inline(always)]
    fn place(self, network: &Network) -> Place {
        network.place4(self)
    }

    #[inline(always)]
    fn slot(self, tables: &impl Tables) -> Option<u32> {
        tables.slot4(self)
    }
}

impl Address for [u8; 16] {
    #[inline(always)]
    fn is_of(self, endpoint: &Endpoint) -> bool {
        self == endpoint.ipv6 && self != [0; 16]
    }

    #[inline(always)]
    fn may_be_link_local(self) -> bool {
        // fe80::/10, and the unspecified address of duplicate address detection
        (self[0] == 0xfe && self[1] & 0xc0 == 0x80) || self == [0; 16]
    }

    #[inline(always)]
    fn is_confined(self) -> bool {
        self[0] == 0xff || self.may_be_link_local()
    }

    #[inline(always)]
    fn place(self, network: &Network) -> Place {
        network.place6(self)
    }

    #[inline(always)]
    fn slot(self, tables: &impl Tables) -> Option<u32> {
        tables.slot6(self)
    }
}

/// A network header of one family.
pub(super) trait Header: Sized {
    type Address: Address;
    /// `None` where it is cut short or nonsense.
    fn read(bytes: &impl Bytes) -> Option<Self>;
    fn source(&self) -> Self::Address;
    fn destination(&self) -> Self::Address;
    fn protocol(&self) -> u8;
    fn transport(&self) -> usize;
    fn fragment(&self) -> Fragment;
    fn has_options(&self) -> bool;
    fn is_noted(&self, tables: &impl Tables, transport: Transport) -> bool;
    /// Notes the flow of the replies to this packet.
    fn note_reply(&self, tables: &impl Tables, slot: u32, transport: Transport);
    /// Index of the uplink that owns the endpoint's address of this family.
    fn uplink_of(endpoint: &Endpoint) -> u32;
    /// The way out of an uplink; `None` where it or its gateway is not known.
    fn out_of(uplink: &Uplink) -> Option<Verdict>;
}

impl Header for Ipv4 {
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
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn transport(&self) -> usize {
        self.transport
    }

    #[inline(always)]
    fn fragment(&self) -> Fragment {
        self.fragment
    }

    #[inline(always)]
    fn has_options(&self) -> bool {
        self.options
    }

    #[inline(always)]
    fn is_noted(&self, tables: &impl Tables, transport: Transport) -> bool {
        tables.is_noted4(&Flow4::new(self.source, self.destination, transport))
    }

    #[inline(always)]
    fn note_reply(&self, tables: &impl Tables, slot: u32, transport: Transport) {
        tables.note4(slot, &Flow4::new(self.destination, self.source, transport.reversed()));
    }

    #[inline(always)]
    fn uplink_of(endpoint: &Endpoint) -> u32 {
        endpoint.uplink_v4.into()
    }

    #[inline(always)]
    fn out_of(uplink: &Uplink) -> Option<Verdict> {
        if uplink.ifindex == 0 || uplink.gateway_v4 == [0; 4] {
            return None;
        }
        Some(Verdict::ToUplink4 { ifindex: uplink.ifindex, gateway: uplink.gateway_v4 })
    }
}

impl Header for Ipv6 {
    type Address = [u8; 16];

    #[inline(always)]
    fn read(bytes: &impl Bytes) -> Option<Self> {
        packet::ipv6(bytes)
    }

    #[inline(always)]
    fn source(&self) -> [u8; 16] {
        self.source
    }

    #[inline(always)]
    fn destination(&self) -> [u8; 16] {
        self.destination
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.next_header
    }

    #[inline(always)]
    fn transport(&self) -> usize {
        Self::TRANSPORT
    }

    /// The fragment header is not followed to its ports: a later piece is not told from the first, and neither is noted.
    #[inline(always)]
    fn fragment(&self) -> Fragment {
        if self.is_fragment() { Fragment::Later } else { Fragment::No }
    }

    #[inline(always)]
    fn has_options(&self) -> bool {
        self.has_extensions()
    }

    #[inline(always)]
    fn is_noted(&self, tables: &impl Tables, transport: Transport) -> bool {
        tables.is_noted6(&Flow6::new(self.source, self.destination, transport))
    }

    #[inline(always)]
    fn note_reply(&self, tables: &impl Tables, slot: u32, transport: Transport) {
        tables.note6(slot, &Flow6::new(self.destination, self.source, transport.reversed()));
    }

    #[inline(always)]
    fn uplink_of(endpoint: &Endpoint) -> u32 {
        endpoint.uplink_v6.into()
    }

    #[inline(always)]
    fn out_of(uplink: &Uplink) -> Option<Verdict> {
        if uplink.ifindex == 0 || uplink.gateway_v6 == [0; 16] {
            return None;
        }
        Some(Verdict::ToUplink6 { ifindex: uplink.ifindex, gateway: uplink.gateway_v6 })
    }
}
