//! Headers of an Ethernet frame, as far as decisions need them.
//!
//! Field offsets: RFC 791 (IPv4), RFC 8200 (IPv6), RFC 9293 (TCP), RFC 768 (UDP), RFC 792 and 4443 (ICMP).

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
}

/// A frame in memory.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a>(pub &'a [u8]);

impl Bytes for Frame<'_> {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    /// Its tag, if any, is where the sender put it.
    fn is_tagged(&self) -> bool {
        false
    }
}

const ETHERNET: usize = 14;
const IPV4_MIN: usize = 20;
const IPV6: usize = 40;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6_FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;

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
    /// ARP and everything else; whatever has a VLAN tag.
    Other,
}

/// Whether and how a packet is one piece of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// It is whole.
    No,
    /// It is the first piece: ports are in it.
    First,
    /// It is a later piece: ports are not in it.
    Later,
}

/// An IPv4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4 {
    /// Source address in network order.
    pub source: [u8; 4],
    /// Destination address in network order.
    pub destination: [u8; 4],
    /// The protocol inside.
    pub protocol: u8,
    /// A piece of several?
    pub fragment: Fragment,
    /// Options are present.
    pub options: bool,
    /// Where the transport header begins.
    pub transport: usize,
}

/// An IPv6 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6 {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// The next header: the transport's, or an extension's.
    pub next_header: u8,
}

impl Ipv6 {
    /// Where the transport header begins, unless there are extension headers.
    pub const TRANSPORT: usize = ETHERNET + IPV6;

    /// Whether something stands between this header and a transport that we know.
    #[must_use]
    #[inline(always)]
    pub const fn has_extensions(&self) -> bool {
        !matches!(self.next_header, TCP | UDP | ICMPV6)
    }

    /// Whether the extension that follows is the fragment header.
    #[must_use]
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.next_header == IPV6_FRAGMENT
    }
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
        _ if bytes.is_tagged() => Protocol::Other,
        [0x08, 0x00] => Protocol::V4,
        [0x86, 0xdd] => Protocol::V6,
        _ => Protocol::Other,
    })
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
    let fragment = match (more, offset) {
        (false, false) => Fragment::No,
        (true, false) => Fragment::First,
        (_, true) => Fragment::Later,
    };
    Some(Ipv4 {
        source: [header[12], header[13], header[14], header[15]],
        destination: [header[16], header[17], header[18], header[19]],
        protocol: header[9],
        fragment,
        options: length > IPV4_MIN,
        transport: ETHERNET + length,
    })
}

/// Reads an IPv6 header. `None` where the frame ends before, or the header is nonsense.
#[must_use]
#[inline(always)]
pub fn ipv6(bytes: &impl Bytes) -> Option<Ipv6> {
    let [version, ..]: [u8; 1] = bytes.read(ETHERNET)?;
    if version >> 4 != 6 {
        return None;
    }
    let [next_header] = bytes.read(ETHERNET + 6)?;
    Some(Ipv6 { source: bytes.read(ETHERNET + 8)?, destination: bytes.read(ETHERNET + 24)?, next_header })
}

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

/// Whether a packet of this protocol is one that the fast path may carry: TCP, UDP or an echo.
#[must_use]
#[inline(always)]
pub fn is_plain(bytes: &impl Bytes, protocol: u8, offset: usize) -> bool {
    match protocol {
        TCP | UDP => true,
        ICMP | ICMPV6 => matches!(bytes.read(offset), Some([kind, _code]) if is_echo(protocol, kind)),
        _ => false,
    }
}

#[inline(always)]
const fn is_echo(protocol: u8, kind: u8) -> bool {
    if protocol == ICMP { matches!(kind, 0 | 8) } else { matches!(kind, 128 | 129) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([
            0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, UDP, 0, 0, 10, 0, 1, 17, 10, 0, 1, 18, 0x12, 0x34, 0x00, 0x35, 0, 8, 0, 0,
        ]);
        edit(&mut frame);
        frame
    }

    fn read4(frame: &[u8]) -> Option<Ipv4> {
        assert_eq!(protocol(&Frame(frame))?, Protocol::V4);
        ipv4(&Frame(frame))
    }

    #[test]
    fn a_plain_udp_packet() {
        let frame = v4(|_| {});
        let header = read4(&frame).unwrap();
        assert_eq!((header.source, header.destination), ([10, 0, 1, 17], [10, 0, 1, 18]));
        assert_eq!((header.fragment, header.options), (Fragment::No, false));
        let ports = transport(&Frame(&frame), header.protocol, header.transport).unwrap();
        assert_eq!((ports.source, ports.destination), ([0x12, 0x34], [0, 0x35]));
        assert_eq!(ports.reversed().reversed(), ports);
    }

    #[test]
    fn fragments() {
        for (bytes, expected) in [
            ([0x00, 0x00], Fragment::No),
            ([0x40, 0x00], Fragment::No),
            ([0x20, 0x00], Fragment::First),
            ([0x20, 0x01], Fragment::Later),
            ([0x00, 0x01], Fragment::Later),
            ([0x1f, 0x00], Fragment::Later),
        ] {
            assert_eq!(read4(&v4(|frame| frame[20..22].copy_from_slice(&bytes))).unwrap().fragment, expected, "{bytes:?}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(read4(&v4(|frame| frame[14] = 0x44)), None);
        assert_eq!(read4(&v4(|frame| frame[14] = 0x65)), None);
        assert!(read4(&v4(|frame| frame[14] = 0x46)).unwrap().options);
        let whole = v4(|_| {});
        for length in 0..34 {
            assert_eq!(read4(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn only_echoes_are_flows_of_icmp() {
        for kind in 0..=255 {
            let frame = v4(|frame| {
                frame[23] = ICMP;
                frame[34] = kind;
            });
            let header = read4(&frame).unwrap();
            let echo = matches!(kind, 0 | 8);
            assert_eq!(transport(&Frame(&frame), ICMP, header.transport).is_some(), echo);
            assert_eq!(is_plain(&Frame(&frame), ICMP, header.transport), echo);
        }
    }
}
