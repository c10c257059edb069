//! Headers of an Ethernet frame, as far as decisions need them.

pub mod checksum;
mod ip;
mod neighbour;
mod plain;
mod transport;

pub use ip::{FURTHEST, Fragment, Header, Ipv4, Ipv6, ipv4, ipv6};
pub use neighbour::{Arp, Discovery, arp, discovery, is_router_solicitation};
pub use plain::{plain4, plain6};
pub use transport::{
    ICMP, ICMP_HEADER, ICMPV6, Quoted, Seen, TCP, Transport, UDP, has_flows, is_discovery, is_error, quoted4, quoted6, transport,
};

/// Where bytes come from: a socket buffer in the kernel, a slice in a test.
pub trait Bytes {
    /// `N` bytes at `offset`; `None` where the packet ends before.
    ///
    /// At an offset that the packet itself decides, `N` must be 2 or more: of a comparison that leaves just one byte to read,
    /// the verifier draws no conclusion (`find_good_pkt_pointers`, kernel/bpf/verifier.c).
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Whether the frame has a VLAN tag that is not among its bytes: the kernel takes it out before a program sees them, and
    /// puts it back where the frame leaves.
    fn is_tagged(&self) -> bool;

    /// How long the frame is, beyond what can be read of it.
    fn length(&self) -> u32;

    /// How many bytes of payload each packet has that this one will be cut into; 0 where it stays one.
    fn segment(&self) -> u32;

    /// The same numbers, of which a verifier knows no more than that they are numbers: it would follow each way in which they came about
    /// through all that comes after. `None` never, but the verifier must be told.
    fn settled(&self, numbers: [u32; 3]) -> Option<[u32; 3]> {
        Some(numbers)
    }
}

/// A frame in memory.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    length: u32,
    segment: u32,
    tagged: bool,
}

impl<'a> Frame<'a> {
    /// All of it.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, length: bytes.len() as u32, segment: 0, tagged: false }
    }

    /// The front of a longer one, which is to be cut into packets with so many bytes of payload, or is not.
    #[must_use]
    pub const fn of_length(self, length: u32, segment: u32) -> Self {
        Self { length, segment, ..self }
    }

    /// With a VLAN tag that is not among its bytes.
    #[must_use]
    pub const fn tagged(self, tagged: bool) -> Self {
        Self { tagged, ..self }
    }
}

impl Bytes for Frame<'_> {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    fn is_tagged(&self) -> bool {
        self.tagged
    }

    fn length(&self) -> u32 {
        self.length
    }

    fn segment(&self) -> u32 {
        self.segment
    }
}

/// The Ethernet header.
pub const ETHERNET: usize = 14;

/// What a frame says that it carries.
///
/// Without the header itself: an enum that holds either lies on the stack in part unwritten, and the verifier of kernels
/// before 6.3 lets no program read there, not even a compiler that throws the value away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// ARP.
    Arp,
    /// It has a VLAN tag, in its bytes or beside them.
    Tagged,
    /// Everything else.
    Other,
}

/// The source MAC address.
#[must_use]
#[inline(always)]
pub fn source_mac(bytes: &impl Bytes) -> Option<[u8; 6]> {
    bytes.read(6)
}

/// Reads the Ethernet header's type. `None` where the frame ends before.
#[must_use]
#[inline(always)]
pub fn protocol(bytes: &impl Bytes) -> Option<Protocol> {
    Some(match bytes.read(12)? {
        _ if bytes.is_tagged() => Protocol::Tagged,
        [0x08, 0x00] => Protocol::V4,
        [0x86, 0xdd] => Protocol::V6,
        [0x08, 0x06] => Protocol::Arp,
        // IEEE 802.1Q, 802.1ad, and what came before 802.1ad
        [0x81, 0x00] | [0x88, 0xa8] | [0x91..=0x93, 0x00] => Protocol::Tagged,
        _ => Protocol::Other,
    })
}

#[cfg(test)]
mod tests;
