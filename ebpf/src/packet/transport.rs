//! Transport headers: TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792 and 4443), and the packet that an ICMP error quotes.

use super::Bytes;
use super::ip::{Fragment, Header, walk};
use crate::scope::halves;

/// Protocol numbers (IANA).
pub const ICMP: u8 = 1;
/// As [`ICMP`].
pub const TCP: u8 = 6;
/// As [`ICMP`].
pub const UDP: u8 = 17;
/// As [`ICMP`].
pub const ICMPV6: u8 = 58;

impl Header {
    /// Where the checksum is behind the transport header's beginning: of TCP, of UDP, else of ICMP.
    #[must_use]
    #[inline(always)]
    pub const fn checksum_at(&self) -> usize {
        match self.protocol {
            TCP => 16,
            UDP => 6,
            _ => 2,
        }
    }
}

/// Type, code, checksum, and four bytes that depend on the type.
pub const ICMP_HEADER: usize = 8;

/// What tells flows of one pair of addresses apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// The protocol.
    pub protocol: u8,
    /// Source port, or an echo's identifier; network order.
    pub source: [u8; 2],
    /// Destination port, or an echo's identifier.
    pub destination: [u8; 2],
}

impl Transport {
    /// The same flow in the other direction.
    #[must_use]
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self { protocol: self.protocol, source: self.destination, destination: self.source }
    }
}

/// The packet that an ICMP error is about, in the direction that it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Its flow.
    pub transport: Transport,
    /// Where its ports, or what stands for them, begin.
    pub at: usize,
}

/// Reads ports, or what stands for them. `None` for what is no flow of its own: an ICMP error, an unknown protocol, a header
/// cut short.
#[must_use]
#[inline(always)]
pub fn transport(bytes: &impl Bytes, protocol: u8, offset: usize) -> Option<Transport> {
    match protocol {
        TCP | UDP => {
            let [a, b, c, d] = bytes.read(offset)?;
            Some(Transport { protocol, source: [a, b], destination: [c, d] })
        }
        ICMP | ICMPV6 => {
            let [kind, _code] = bytes.read(offset)?;
            if !is_echo(protocol, kind) {
                return None;
            }
            let identifier = bytes.read(offset + 4)?;
            Some(Transport { protocol, source: identifier, destination: identifier })
        }
        _ => None,
    }
}

/// Whether a protocol has flows that the programs could carry. Behind IPv6's fragment header there may be another header yet.
#[must_use]
#[inline(always)]
pub const fn has_flows(protocol: u8) -> bool {
    matches!(protocol, ICMP | TCP | UDP | ICMPV6) || super::ip::is_extension(protocol)
}

/// One packet of a flow, as a note takes it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// It goes from the lower end to the higher.
    pub from_low: bool,
    /// [`Seen::FIN`] and [`Seen::RST`], where it is TCP with these flags; [`Seen::SERVED`], where the programs translate it.
    pub signs: u8,
    /// It is TCP, with SYN and without ACK: a connection begins.
    pub opens: bool,
}

impl Seen {
    /// It has FIN.
    pub const FIN: u8 = 2;
    /// It has RST.
    pub const RST: u8 = 4;
    /// It is a client's, to a service.
    pub const SERVED: u8 = 16;
}

impl Seen {
    /// Of a packet with these flags of TCP; 0 of any other protocol's. Without a branch: a verifier would follow each that there could be.
    #[must_use]
    #[inline(always)]
    pub const fn of(flags: u8, from_low: bool) -> Self {
        const SYN: u8 = 2;
        const ACK: u8 = 16;
        // TCP's FIN is the lowest bit, its RST the third, as here.
        Self { from_low, signs: (flags & 1) << 1 | flags & Self::RST, opens: flags & (SYN | ACK) == SYN }
    }
}

/// Whether it is an ICMP error that quotes a packet: unreachable, too big, time exceeded, parameter problem.
#[must_use]
#[inline(always)]
pub fn is_error(bytes: &impl Bytes, header: &Header) -> bool {
    match header.protocol {
        ICMP => matches!(bytes.read(header.transport), Some([3 | 11 | 12, _])),
        ICMPV6 => matches!(bytes.read(header.transport), Some([1..=4, _])),
        _ => false,
    }
}

/// Whether it is neighbour discovery (RFC 4861): solicitations, advertisements and redirects.
#[must_use]
#[inline(always)]
pub fn is_discovery(bytes: &impl Bytes, header: &Header) -> bool {
    header.protocol == ICMPV6 && matches!(bytes.read(header.transport), Some([133..=137, _]))
}

/// The packet that an ICMP error quotes; `None` where its flow cannot be told.
#[must_use]
#[inline(always)]
pub fn quoted4(bytes: &impl Bytes, error: &Header) -> Option<Quoted<[u8; 4]>> {
    let start = error.transport + ICMP_HEADER;
    let header: [u8; 20] = bytes.read(start)?;
    let length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || length < 20 || header[6] & 0x1f != 0 || header[7] != 0 {
        return None;
    }
    Some(Quoted {
        source: [header[12], header[13], header[14], header[15]],
        destination: [header[16], header[17], header[18], header[19]],
        transport: transport(bytes, header[9], start + length)?,
        at: start + length,
    })
}

/// The packet that an ICMPv6 error quotes; `None` where its flow cannot be told.
#[must_use]
#[inline(always)]
pub fn quoted6(bytes: &impl Bytes, error: &Header) -> Option<Quoted<[u64; 2]>> {
    let start = error.transport + ICMP_HEADER;
    let [version, _]: [u8; 2] = bytes.read(start)?;
    let [next, hop_limit] = bytes.read(start + 6)?;
    let (source, destination) = (halves(bytes.read(start + 8)?), halves(bytes.read(start + 24)?));
    let front = Header { protocol: next, hop_limit, options: false, fragment: Fragment::No, id: 0, transport: start + 40 };
    let inner = Header::from_words(bytes.settled(walk(bytes, front)?.words())?);
    if version >> 4 != 6 || matches!(inner.fragment, Fragment::Later) {
        return None;
    }
    Some(Quoted { source, destination, transport: transport(bytes, inner.protocol, inner.transport)?, at: inner.transport })
}

#[inline(always)]
const fn is_echo(protocol: u8, kind: u8) -> bool {
    if protocol == ICMP { matches!(kind, 0 | 8) } else { matches!(kind, 128 | 129) }
}
