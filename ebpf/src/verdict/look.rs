//! What is read of a packet of IP, once, before anything is decided.
//!
//! Nearly every packet is plain: TCP or UDP behind a network header without options, and whole. Of such a one all is known where it lies, and
//! the compiler makes a path of its own for it, on which nothing is asked that cannot be. Every other is read by [`Unusual::read`], which knows
//! all that a packet can be; what it has found is put aside and taken up again. So a verifier does not follow each way in which a packet can
//! be read through all that comes after, and the programs' most frequent path is short.

use super::family::{Address, Family};
use crate::flow::Seen;
use crate::packet::{self, Bytes, ETHERNET, Fragment, Frame, Header, Ipv4, Ipv6, Protocol, Transport};

/// How a packet is read that is not plain.
pub trait Reading: Bytes {
    /// What [`Unusual::read`] finds. `None` where the network header is cut short or nonsense.
    fn unusual(&self, version: Protocol) -> Option<impl AsRef<Unusual>>;

    /// Has there be to read what is there: in the kernel, part of a packet may lie elsewhere.
    fn pull(&self) {}
}

impl Reading for Frame<'_> {
    fn unusual(&self, version: Protocol) -> Option<impl AsRef<Unusual>> {
        let mut found = Unusual::default();
        found.read(self, version).then_some(found)
    }
}

/// What was found in a packet that is not plain, as it lies in a map.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Unusual {
    source: [u64; 2],
    destination: [u64; 2],
    from: [u64; 2],
    to: [u64; 2],
    header: [u32; 3],
    /// The flow's protocol, TCP's flags in the third byte, and the bits below.
    flow: u32,
    ports: u32,
    /// Of the transport header: how long it is, and above that where the ports are.
    transport: u32,
}

impl AsRef<Self> for Unusual {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Unusual {
    const KNOWN: u32 = 1 << 8;
    const DISCOVERY: u32 = 1 << 9;
    const ERROR: u32 = 1 << 10;

    /// Reads a packet of IP. `false` where its header is cut short or nonsense.
    #[inline(always)]
    pub fn read(&mut self, bytes: &impl Bytes, version: Protocol) -> bool {
        match version {
            Protocol::V4 => self.read_as::<Ipv4>(bytes),
            _ => self.read_as::<Ipv6>(bytes),
        }
    }

    #[inline(always)]
    fn read_as<F: Family>(&mut self, bytes: &impl Bytes) -> bool {
        let Some(packet) = F::read(bytes) else { return false };
        let header = packet.header();
        // At once: there is room for few numbers beside what is still to be read.
        (self.source, self.destination) = (packet.source().widened(), packet.destination().widened());
        self.header = header.words();
        let Subject { from, to, is_known, transport, is_error, ports_at } = Subject::of(bytes, &packet);
        (self.from, self.to) = (from.widened(), to.widened());
        let bit = |is_so: bool, bit: u32| if is_so { bit } else { 0 };
        self.flow = bit(is_error, Self::ERROR) | bit(packet::is_discovery(bytes, header), Self::DISCOVERY);
        let Transport { protocol, source: [a, b], destination: [c, d] } = transport;
        self.flow |= u32::from(protocol) | bit(is_known, Self::KNOWN);
        self.ports = u32::from_ne_bytes([a, b, c, d]);
        let mut length = 8;
        if header.protocol == packet::TCP {
            // Where it cannot be told, no segment is small enough.
            length = u32::from(u16::MAX);
            if let Some(tcp) = bytes.read::<2>(header.transport + 12) {
                self.flow |= u32::from(tcp[1]) << 16;
                length = u32::from(tcp[0] >> 4) * 4;
            }
        }
        self.transport = length | (ports_at as u32) << 16;
        true
    }
}

/// A packet of IP, as decisions see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look<F: Family> {
    pub(super) packet: F,
    pub(super) subject: Subject<F::Address>,
    /// TCP's flags; none of another protocol, and of an error about a flow.
    flags: u8,
    /// How long the transport header is; what a segment has of it each time.
    transport_length: u32,
    /// It is neighbour discovery.
    pub(super) is_discovery: bool,
}

/// The flow that a packet belongs to, in the direction of the packet: its own, or for an ICMP error the one that it is about,
/// which goes the other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subject<A> {
    pub(super) from: A,
    pub(super) to: A,
    /// Whether the flow can be told; it cannot of another protocol, of a header cut short, and of a later piece.
    pub(super) is_known: bool,
    /// All zero where it cannot. Beside `is_known` and not within an `Option`: of one that is none a part is unwritten, and the verifier of
    /// kernels before 6.3 lets no program copy that.
    pub(super) transport: Transport,
    /// An error is no packet of the flow: it says nothing of how far the flow has come.
    pub(super) is_error: bool,
    /// Where the ports are, or in what is quoted the ports, that tell the flow.
    pub(super) ports_at: usize,
}

impl<F: Family> Look<F> {
    /// Any packet of the family, where a path of its own for plain ones would be too much.
    #[inline(always)]
    pub(super) fn of(bytes: &impl Reading) -> Option<Self> {
        Self::plain(bytes).or_else(|| Self::any(bytes))
    }

    /// A plain packet; `None` for any other.
    #[inline(always)]
    pub(super) fn plain(bytes: &impl Bytes) -> Option<Self> {
        let packet = F::plain(bytes)?;
        let Header { protocol, transport: at, .. } = *packet.header();
        let (source, destination, flags, transport_length) = if protocol == packet::TCP {
            let tcp: [u8; 20] = bytes.read(at)?;
            ([tcp[0], tcp[1]], [tcp[2], tcp[3]], tcp[13], u32::from(tcp[12] >> 4) * 4)
        } else {
            let udp: [u8; 8] = bytes.read(at)?;
            ([udp[0], udp[1]], [udp[2], udp[3]], 0, 8)
        };
        let transport = Transport { protocol, source, destination };
        let (from, to) = (packet.source(), packet.destination());
        let subject = Subject { from, to, is_known: true, transport, is_error: false, ports_at: at };
        Some(Self { packet, subject, flags, transport_length, is_discovery: false })
    }

    /// Any packet of the family. `None` where its header is cut short or nonsense.
    #[inline(always)]
    pub(super) fn any(bytes: &impl Reading) -> Option<Self> {
        let found = bytes.unusual(F::PROTOCOL)?;
        let Unusual { source, destination, from, to, header, flow, ports, transport } = *found.as_ref();
        let [a, b, c, d] = ports.to_ne_bytes();
        let narrowed = F::Address::narrowed;
        Some(Self {
            packet: F::of(narrowed(source), narrowed(destination), Header::from_words(header)),
            subject: Subject {
                from: narrowed(from),
                to: narrowed(to),
                is_known: flow & Unusual::KNOWN != 0,
                transport: Transport { protocol: flow as u8, source: [a, b], destination: [c, d] },
                is_error: flow & Unusual::ERROR != 0,
                ports_at: (transport >> 16 & packet::FURTHEST) as usize,
            },
            flags: (flow >> 16) as u8,
            transport_length: transport & 0xffff,
            is_discovery: flow & Unusual::DISCOVERY != 0,
        })
    }

    /// The same, whose flow cannot be told where it is not to be believed.
    #[inline(always)]
    pub(super) fn if_believed(&self, is_believed: bool) -> Self {
        let subject = Subject { is_known: self.subject.is_known && is_believed, ..self.subject };
        Self { subject, ..*self }
    }

    /// What a note takes in of it. A TCP header that is cut short has no flags.
    #[inline(always)]
    pub(super) const fn seen(&self, from_low: bool) -> Seen {
        Seen::of(self.flags, from_low)
    }

    /// Whether the packet, or one of those that it will be cut into, is larger than `mtu`.
    #[inline(always)]
    pub(super) fn is_larger(&self, bytes: &impl Bytes, mtu: u32) -> bool {
        let whole = bytes.length().saturating_sub(ETHERNET as u32);
        if whole <= mtu {
            return false;
        }
        let segment = bytes.segment();
        segment == 0 || (self.packet.header().transport - ETHERNET) as u32 + self.transport_length + segment > mtu
    }
}

impl<A: Address> Subject<A> {
    #[inline(always)]
    fn of<F: Family<Address = A>>(bytes: &impl Bytes, packet: &F) -> Self {
        let (from, to, header) = (packet.source(), packet.destination(), packet.header());
        let of = |transport: Option<Transport>, is_error| Self {
            from,
            to,
            is_known: transport.is_some(),
            transport: transport.unwrap_or(Transport { protocol: 0, source: [0; 2], destination: [0; 2] }),
            is_error,
            ports_at: header.transport,
        };
        if matches!(header.fragment, Fragment::Later) {
            return of(None, false);
        }
        if !packet::is_error(bytes, header) {
            return of(packet::transport(bytes, header.protocol, header.transport), false);
        }
        match packet.quoted(bytes) {
            Some(quoted) => {
                Self { from: quoted.destination, to: quoted.source, ports_at: quoted.at, ..of(Some(quoted.transport.reversed()), true) }
            }
            None => of(None, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From 10.0.1.17 to 10.0.1.18, ports 0x1234 and 53, with TCP's header of 32 bytes and these flags, or UDP's.
    fn v4(protocol: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET - 2];
        frame.extend([8, 0, 0x45, 0, 0, 0, 0x77, 0x78, 0x40, 0, 64, protocol, 0, 0, 10, 0, 1, 17, 10, 0, 1, 18]);
        frame.extend(transport(protocol, flags));
        frame
    }

    fn v6(protocol: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET - 2];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, protocol, 64]);
        frame.extend([0xfd; 16].into_iter().chain([0xfe; 16]));
        frame.extend(transport(protocol, flags));
        frame
    }

    fn transport(protocol: u8, flags: u8) -> Vec<u8> {
        let ports = [0x12, 0x34, 0, 53];
        let tcp = [[0; 4], [0; 4], [0x80, flags, 0, 0], [0; 4]].concat();
        if protocol == packet::TCP { [&ports[..], &tcp].concat() } else { [ports, [0; 4]].concat() }
    }

    /// Both ways of reading say the same, but for what no whole packet is asked for.
    fn assert_alike<F: Family>(frame: &[u8])
    where
        Look<F>: PartialEq + std::fmt::Debug,
    {
        let (plain, any) = (Look::<F>::plain(&Frame::new(frame)).unwrap(), Look::<F>::any(&Frame::new(frame)).unwrap());
        let without_id = F::of(any.packet.source(), any.packet.destination(), Header { id: 0, ..*any.packet.header() });
        assert_eq!(plain, Look { packet: without_id, ..any });
    }

    #[test]
    fn a_plain_packet_is_read_as_any_is() {
        for (protocol, flags) in
            [packet::TCP, packet::UDP].into_iter().flat_map(|protocol| (0..=u8::MAX).map(move |flags| (protocol, flags)))
        {
            assert_alike::<Ipv4>(&v4(protocol, flags));
            assert_alike::<Ipv6>(&v6(protocol, flags));
        }
    }

    #[test]
    fn what_is_not_plain_is_not_taken_for_it() {
        let is_plain4 = |change: fn(&mut Vec<u8>)| {
            let mut frame = v4(packet::TCP, 0);
            change(&mut frame);
            Look::<Ipv4>::plain(&Frame::new(&frame)).is_some()
        };
        assert!(is_plain4(|_| {}) && is_plain4(|frame| frame[20] = 0));
        assert!(!is_plain4(|frame| frame[14] = 0x46), "options");
        assert!(!is_plain4(|frame| frame[20] = 0x20), "a first piece");
        assert!(!is_plain4(|frame| frame[21] = 1), "a later piece");
        assert!(!is_plain4(|frame| frame[23] = packet::ICMP));
        assert!(!is_plain4(|frame| frame.truncate(ETHERNET + 20 + 19)), "TCP cut short");
        let mut walked = v6(packet::TCP, 0);
        walked[20] = 0;
        assert!(Look::<Ipv6>::plain(&Frame::new(&walked)).is_none(), "an extension header");
    }

    #[test]
    fn size_is_that_of_the_packets_that_a_frame_becomes() {
        let is_larger = |protocol, length, segment, mtu| {
            let frame = v4(protocol, 0);
            let bytes = Frame::new(&frame).of_length(length, segment);
            Look::<Ipv4>::of(&bytes).unwrap().is_larger(&bytes, mtu)
        };
        assert!(!is_larger(packet::UDP, 1514, 0, 1500) && is_larger(packet::UDP, 1515, 0, 1500));
        assert!(!is_larger(packet::UDP, 60_014, 1472, 1500) && is_larger(packet::UDP, 60_014, 1473, 1500));
        assert!(!is_larger(packet::TCP, 60_014, 1448, 1500) && is_larger(packet::TCP, 60_014, 1449, 1500));
    }

    #[test]
    fn a_tcp_header_that_is_cut_short_has_no_flags_and_is_larger_than_any_way_out() {
        let frame = v4(packet::TCP, 2);
        let bytes = Frame::new(&frame[..ETHERNET + 20 + 8]).of_length(60_014, 100);
        let look = Look::<Ipv4>::of(&bytes).unwrap();
        assert!(!look.seen(true).opens && look.is_larger(&bytes, 9000));
    }
}
