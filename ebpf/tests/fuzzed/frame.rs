//! Packets of one flow, in every shape that a packet of it can have.

use ebpf::packet::Transport;

use super::source::Source;

/// An address of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address {
    V4([u8; 4]),
    V6([u8; 16]),
}

/// A flow, in one direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) source: Address,
    pub(super) destination: Address,
    pub(super) transport: Transport,
}

impl Way {
    pub(super) fn back(self) -> Self {
        Self { source: self.destination, destination: self.source, transport: self.transport.reversed() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    Whole,
    First,
    Later,
}

/// What packets of one flow differ in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) mac: [u8; 6],
    pub(super) piece: Piece,
    pub(super) options: bool,
    pub(super) hop_limit: u8,
    /// Of TCP. Without SYN: what opens a connection begins another flow.
    pub(super) flags: u8,
    /// The frame's, whatever its bytes.
    pub(super) length: u32,
    pub(super) segment: u32,
    pub(super) tagged: bool,
}

impl Shape {
    pub(super) fn plain(mac: [u8; 6]) -> Self {
        Self { mac, piece: Piece::Whole, options: false, hop_limit: 64, flags: 16, length: 74, segment: 0, tagged: false }
    }

    pub(super) fn arbitrary(source: &mut Source<'_>, mac: [u8; 6]) -> Self {
        Self {
            mac,
            piece: if source.rarely(4) { Piece::First } else { Piece::Whole },
            options: source.rarely(4),
            hop_limit: if source.rarely(4) { source.below(3) } else { 64 },
            flags: [16, 17, 20, 0][usize::from(source.below(4))],
            length: [74, 1514, 1515, 9015, 65_000][usize::from(source.below(5))],
            segment: [0, 0, 700, 8000][usize::from(source.below(4))],
            tagged: false,
        }
    }
}

/// The bytes of a packet of this flow. ICMP is that of the address family, and an echo.
pub(super) fn packet(way: Way, shape: Shape) -> Vec<u8> {
    let inner = transport(way, shape.flags);
    framed(way, shape, &inner)
}

/// An error that is sent from `router` to the source of `about`, about a packet of it.
pub(super) fn error(about: Way, router: Address, shape: Shape) -> Vec<u8> {
    let quoted = packet(about, Shape { piece: Piece::Whole, flags: 16, ..shape });
    let (kind, protocol) = if matches!(about.source, Address::V4(_)) { (3, 1) } else { (1, 58) };
    let inner = [&[kind, 0, 0, 0, 0, 0, 0, 0], &quoted[14..]].concat();
    let none = Transport { protocol, source: [0; 2], destination: [0; 2] };
    framed(Way { source: router, destination: about.source, transport: none }, shape, &inner)
}

fn protocol(way: Way) -> u8 {
    match (way.transport.protocol, way.source) {
        (1 | 58, Address::V4(_)) => 1,
        (1 | 58, Address::V6(_)) => 58,
        (other, _) => other,
    }
}

fn transport(way: Way, flags: u8) -> Vec<u8> {
    let Transport { source, destination, .. } = way.transport;
    match protocol(way) {
        6 => [&source[..], &destination, &[0; 8], &[0x50, flags, 0, 0, 0, 0, 0, 0]].concat(),
        1 => [&[8, 0, 0, 0][..], &source, &[0, 1]].concat(),
        58 => [&[128, 0, 0, 0][..], &source, &[0, 1]].concat(),
        _ => [&source[..], &destination, &[0, 8, 0, 0]].concat(),
    }
}

fn framed(way: Way, shape: Shape, inner: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 9];
    frame.extend(shape.mac);
    match (way.source, way.destination) {
        (Address::V4(source), Address::V4(destination)) => {
            let piece = match shape.piece {
                Piece::Whole => [0x40, 0],
                Piece::First => [0x20, 0],
                Piece::Later => [0x20, 9],
            };
            frame.extend([0x08, 0, if shape.options { 0x46 } else { 0x45 }, 0, 0, 40, 0, 7]);
            frame.extend(piece);
            frame.extend([shape.hop_limit, protocol(way), 0, 0]);
            frame.extend(source);
            frame.extend(destination);
            frame.extend(if shape.options { &[1, 1, 1, 1][..] } else { &[] });
        }
        (Address::V6(source), Address::V6(destination)) => {
            let mut next = protocol(way);
            let mut extensions = Vec::new();
            let piece = match shape.piece {
                Piece::Whole => None,
                Piece::First => Some([0, 1]),
                Piece::Later => Some([0, 0x49]),
            };
            if let Some([high, low]) = piece {
                extensions.splice(0..0, [next, 0, high, low, 0, 0, 0, 7]);
                next = 44;
            }
            if shape.options {
                extensions.splice(0..0, [next, 0, 1, 4, 0, 0, 0, 0]);
                next = 0;
            }
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, next, shape.hop_limit]);
            frame.extend(source);
            frame.extend(destination);
            frame.extend(extensions);
        }
        mixed => panic!("two families in one packet: {mixed:?}"),
    }
    frame.extend(if shape.piece == Piece::Later { &[0xaa; 16] } else { inner });
    frame
}
