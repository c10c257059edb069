//! Network headers: IPv4 (RFC 791), and IPv6 with its extension headers (RFC 8200, 4).

use super::{Bytes, ETHERNET};
use crate::scope::halves;

pub(super) const IPV4_MIN: usize = 20;
pub(super) const IPV6: usize = 40;

/// Extension headers that are walked; what has more is not read.
const EXTENSIONS_MAX: usize = 4;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

/// Whether and how a packet is one piece of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Fragment {
    /// It is whole.
    No,
    /// It is the first piece: ports are in it.
    First,
    /// It is a later piece: ports are not in it.
    Later,
}

impl Fragment {
    /// Back from a number, as `fragment as u32`.
    #[must_use]
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::No,
            1 => Self::First,
            _ => Self::Later,
        }
    }
}

/// What both families' headers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The protocol inside, behind any extension headers.
    pub protocol: u8,
    /// Routers that it may still pass.
    pub hop_limit: u8,
    /// IPv4 options or IPv6 extension headers are present.
    pub options: bool,
    /// A piece of several?
    pub fragment: Fragment,
    /// What the pieces of one packet have in common.
    pub id: u32,
    /// Where the transport header begins.
    pub transport: usize,
}

/// All bits of where a header can begin: four extension headers of the greatest length end before.
pub const FURTHEST: u32 = (1 << 14) - 1;

impl Header {
    const OPTIONS: u32 = 1 << 16;

    /// As numbers, from which [`Header::from_words`] makes it again.
    #[must_use]
    #[inline(always)]
    pub const fn words(&self) -> [u32; 3] {
        let options = if self.options { Self::OPTIONS } else { 0 };
        let front = self.protocol as u32 | (self.hop_limit as u32) << 8 | options | (self.fragment as u32) << 17;
        [front, self.id, self.transport as u32]
    }

    /// Where the transport header begins is masked and not compared: the verifier of Linux 6.1 does not learn from a register's comparison what
    /// it says of the same number spilled to the stack.
    #[must_use]
    #[inline(always)]
    pub const fn from_words([front, id, transport]: [u32; 3]) -> Self {
        Self {
            protocol: front as u8,
            hop_limit: (front >> 8) as u8,
            options: front & Self::OPTIONS != 0,
            fragment: Fragment::from_number(front >> 17),
            id,
            transport: (transport & FURTHEST) as usize,
        }
    }
}

/// An IPv4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4 {
    /// Source address in network order.
    pub source: [u8; 4],
    /// Destination address in network order.
    pub destination: [u8; 4],
    /// The rest.
    pub header: Header,
}

/// An IPv6 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6 {
    /// Source address: its upper and its lower half as numbers, which fit into registers.
    pub source: [u64; 2],
    /// Destination address.
    pub destination: [u64; 2],
    /// The rest.
    pub header: Header,
}

/// Reads an IPv4 header. `None` where the frame ends before, or the header is nonsense.
#[must_use]
#[inline(always)]
pub fn ipv4(bytes: &impl Bytes) -> Option<Ipv4> {
    let header: [u8; IPV4_MIN] = bytes.read(ETHERNET)?;
    let length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || length < IPV4_MIN {
        return None;
    }
    let more = header[6] & 0x20 != 0;
    let offset = header[6] & 0x1f != 0 || header[7] != 0;
    Some(Ipv4 {
        source: [header[12], header[13], header[14], header[15]],
        destination: [header[16], header[17], header[18], header[19]],
        header: Header {
            protocol: header[9],
            hop_limit: header[8],
            options: length > IPV4_MIN,
            fragment: piece(more, offset),
            id: u32::from_be_bytes([0, 0, header[4], header[5]]),
            transport: ETHERNET + length,
        },
    })
}

/// Reads an IPv6 header and those behind it. `None` where the frame ends before, or they are nonsense or too many.
#[must_use]
#[inline(always)]
pub fn ipv6(bytes: &impl Bytes) -> Option<Ipv6> {
    let [version, _]: [u8; 2] = bytes.read(ETHERNET)?;
    if version >> 4 != 6 {
        return None;
    }
    let [next, hop_limit] = bytes.read(ETHERNET + 6)?;
    let (source, destination) = (halves(bytes.read(ETHERNET + 8)?), halves(bytes.read(ETHERNET + 24)?));
    let mut header = Header { protocol: next, hop_limit, options: false, fragment: Fragment::No, id: 0, transport: ETHERNET + IPV6 };
    if is_extension(next) {
        header = Header::from_words(bytes.settled(walk(bytes, header)?.words())?);
    }
    Some(Ipv6 { source, destination, header })
}

#[inline(always)]
pub(super) const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY)
}

/// From the first extension header to what is behind the last.
#[inline(always)]
pub(super) fn walk(bytes: &impl Bytes, mut header: Header) -> Option<Header> {
    for _ in 0..EXTENSIONS_MAX {
        if !is_extension(header.protocol) {
            return Some(header);
        }
        let [next, length] = bytes.read(header.transport)?;
        header.options = true;
        header.transport += match header.protocol {
            FRAGMENT => {
                let [_, _, high, low, a, b, c, d]: [u8; 8] = bytes.read(header.transport)?;
                header.id = u32::from_be_bytes([a, b, c, d]);
                header.fragment = piece(low & 1 != 0, high != 0 || low & 0xf8 != 0);
                8
            }
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        header.protocol = next;
        if matches!(header.fragment, Fragment::Later) {
            return Some(header);
        }
    }
    if is_extension(header.protocol) { None } else { Some(header) }
}

#[inline(always)]
const fn piece(more: bool, offset: bool) -> Fragment {
    match (more, offset) {
        (false, false) => Fragment::No,
        (true, false) => Fragment::First,
        (_, true) => Fragment::Later,
    }
}
