//! Other ends for a packet, and checksums that know of them.

use super::family::Family;
use super::writer::{SumChange, Writer};
use crate::packet::{Bytes, ETHERNET, Header, ICMP, ICMP_HEADER, Transport, UDP, checksum};

/// The two ends of a packet, or of what an error quotes the other way round: as they are, and as they are to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends<A> {
    pub(super) from: A,
    pub(super) to: A,
    pub(super) ports: [[u8; 2]; 2],
}

impl<A> Ends<A> {
    pub(super) const fn of(from: A, to: A, transport: Transport) -> Self {
        Self { from, to, ports: [transport.source, transport.destination] }
    }

    #[inline(always)]
    fn sum_of_ports(&self) -> u64 {
        let [[a, b], [c, d]] = self.ports;
        u32::from_ne_bytes([a, b, c, d]).into()
    }
}

/// Where what is to be written lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// It is an error: what it quotes has ends as well.
    pub(super) is_error: bool,
    /// Where the ports are; `None` for a piece that has none.
    pub(super) ports: Option<usize>,
}

/// Writes the new ends of a packet, and of what it quotes. All is read before anything is written: the kernel may move the bytes.
#[inline(always)]
pub(super) fn rewrite<F: Family>(
    bytes: &impl Bytes,
    writer: &impl Writer,
    header: &Header,
    place: Place,
    (before, after): (Ends<F::Address>, Ends<F::Address>),
    (source, destination): (F::Address, F::Address),
) -> Option<()> {
    let outer = F::front(bytes, ETHERNET, after.from, after.to)?;
    let quoted_at = header.transport + ICMP_HEADER;
    // Not an `Option`, of which a part would be unwritten.
    let quoted = if place.is_error { F::front(bytes, quoted_at, after.to, after.from)? } else { F::Front::default() };
    let pseudo = checksum::difference(F::sum(source, destination), F::sum(after.from, after.to));
    F::store(writer, ETHERNET, &outer)?;
    let Some(ports_at) = place.ports else { return Some(()) };
    let (mut sum_before, mut sum_after) = (before.sum_of_ports(), after.sum_of_ports());
    let [from, to] = after.ports;
    if place.is_error {
        F::store(writer, quoted_at, &quoted)?;
        writer.store(ports_at, &[to[0], to[1], from[0], from[1]])?;
        if F::ICMP_HAS_ADDRESSES {
            // What is quoted has no checksum that would make up for it.
            sum_before += F::sum(before.from, before.to);
            sum_after += F::sum(after.from, after.to);
        }
    } else {
        writer.store(ports_at, &[from[0], from[1], to[0], to[1]])?;
    }
    let at = header.transport + header.checksum_at();
    let change = SumChange { difference: 0, is_pseudo: false, is_v6: F::VERSION == 6, is_optional: header.protocol == UDP };
    if header.protocol != ICMP {
        writer.checksum(at, SumChange { difference: pseudo, is_pseudo: true, ..change })?;
    }
    writer.checksum(at, SumChange { difference: checksum::difference(sum_before, sum_after), ..change })
}
