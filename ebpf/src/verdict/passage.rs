//! What becomes of one packet of a flow, once it is known whether the flow may be carried.

use super::carries::Carriage;
use super::family::{Address, Family};
use super::{Tables, Verdict};
use crate::account::Reason;
use crate::flow::Course;
use crate::packet::{self, Bytes, Fragment, Header, Transport};

/// The flow that a packet belongs to, in the direction of the packet: its own, or for an ICMP error the one that it is about,
/// which goes the other way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<A> {
    pub(super) from: A,
    pub(super) to: A,
    /// `None` where the flow cannot be told: another protocol, a header cut short, a later piece.
    pub(super) transport: Option<Transport>,
    /// An error is no packet of the flow: it says nothing of how far the flow has come.
    pub(super) is_error: bool,
    /// Where the ports are, or in what is quoted the ports, that tell the flow.
    pub(super) ports_at: usize,
}

impl<A: Address> Subject<A> {
    #[inline(always)]
    pub(super) fn of<F: Family<Address = A>>(bytes: &impl Bytes, packet: &F) -> Self {
        let (from, to, header) = (packet.source(), packet.destination(), packet.header());
        if matches!(header.fragment, Fragment::Later) {
            return Self { from, to, transport: None, is_error: false, ports_at: header.transport };
        }
        if !packet::is_error(bytes, header) {
            let transport = packet::transport(bytes, header.protocol, header.transport);
            return Self { from, to, transport, is_error: false, ports_at: header.transport };
        }
        match packet.quoted(bytes) {
            Some(quoted) => Self {
                from: quoted.destination,
                to: quoted.source,
                transport: Some(quoted.transport.reversed()),
                is_error: true,
                ports_at: quoted.at,
            },
            None => Self { from, to, transport: None, is_error: true, ports_at: header.transport },
        }
    }
}

/// Carries the packet of a flow, or leaves it to the stack: with conntrack if the stack has the flow, past it if not.
#[inline(always)]
pub(super) fn pass<F: Family>(
    bytes: &impl Bytes,
    tables: &impl Tables,
    slot: u32,
    packet: &F,
    carriage: &Carriage,
    subject: Subject<F::Address>,
) -> Verdict {
    if let Some(reason) = carriage.against {
        return Verdict::Stack(reason);
    }
    let header = packet.header();
    let path = path::<F>(bytes, tables, header, subject);
    if !matches!(header.fragment, Fragment::No) {
        return piece(tables, slot, packet, carriage, path);
    }
    match path {
        Path::Unknown => Verdict::Stack(Reason::Unusual),
        Path::Tracked => Verdict::Stack(Reason::NotedFlow),
        Path::Carried | Path::ToClient if header.options => Verdict::Untracked(Reason::Options),
        Path::Carried | Path::ToClient if header.hop_limit <= 1 => Verdict::Untracked(Reason::HopLimit),
        Path::Carried | Path::ToClient if packet::is_larger(bytes, header, carriage.mtu) => Verdict::Untracked(Reason::TooLarge),
        Path::Carried => carriage.way,
        Path::ToClient => match carriage.way {
            Verdict::ToPod { slot } => Verdict::ToClient { slot },
            // No client is anywhere else.
            way => way,
        },
    }
}

/// Which path a flow takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// The packet does not tell its flow.
    Unknown,
    Tracked,
    Carried,
    /// Carried, and translated on the way. By the stack it is where the stack emits it.
    ToClient,
}

#[inline(always)]
fn path<F: Family>(bytes: &impl Bytes, tables: &impl Tables, header: &Header, subject: Subject<F::Address>) -> Path {
    let Some(transport) = subject.transport else { return Path::Unknown };
    let seen = |from_low| {
        let mut seen = packet::seen(bytes, header, from_low);
        if subject.is_error {
            (seen.signs, seen.opens) = (0, false);
        }
        seen
    };
    match F::noted(tables, subject.from, subject.to, transport, seen) {
        None | Some(Course::ToBackend) => Path::Carried,
        Some(Course::Tracked) => Path::Tracked,
        Some(Course::ToClient) => Path::ToClient,
    }
}

/// A piece of a packet goes where the first piece goes: only that one has ports.
#[inline(always)]
fn piece<F: Family>(tables: &impl Tables, slot: u32, packet: &F, carriage: &Carriage, path: Path) -> Verdict {
    let (header, pieces) = (packet.header(), packet.pieces());
    if matches!(header.fragment, Fragment::First) {
        tables.remember_pieces(&pieces, matches!(path, Path::Carried | Path::ToClient));
        return match path {
            Path::Unknown => Verdict::Stack(Reason::Unusual),
            Path::Tracked => Verdict::Stack(Reason::NotedFlow),
            Path::Carried | Path::ToClient => Verdict::Untracked(Reason::Fragment),
        };
    }
    if !packet::has_flows(header.protocol) {
        return Verdict::Stack(Reason::Unusual);
    }
    let untracked = tables.pieces(&pieces).unwrap_or_else(|| {
        // Without its first piece nobody knows. A pod without notes has no flow in the stack that it could belong to.
        !tables.has_notes(slot) && !carriage.peer.is_some_and(|peer| tables.has_notes(peer))
    });
    if untracked { Verdict::Untracked(Reason::Fragment) } else { Verdict::Stack(Reason::Fragment) }
}
