//! What becomes of one packet of a flow, once it is known whether the flow may be carried.

use super::carries::Carriage;
use super::family::Family;
use super::look::{Look, Subject};
use super::{Tables, Verdict};
use crate::account::Reason;
use crate::flow::Course;
use crate::packet::{self, Bytes, Fragment};

/// Carries the packet of a flow, or leaves it to the stack: with conntrack if the stack has the flow, past it if not.
#[inline(always)]
pub(super) fn pass<F: Family>(bytes: &impl Bytes, tables: &impl Tables, slot: u32, look: &Look<F>, carriage: &Carriage) -> Verdict {
    if let Some(reason) = carriage.against {
        return Verdict::Stack(reason);
    }
    let header = look.packet.header();
    let path = path(tables, look);
    if !matches!(header.fragment, Fragment::No) {
        return piece(tables, slot, &look.packet, carriage, path);
    }
    match path {
        Path::Unknown => Verdict::Stack(Reason::Unusual),
        Path::Tracked => Verdict::Stack(Reason::NotedFlow),
        Path::Carried | Path::ToClient if header.options => Verdict::Untracked(Reason::Options),
        Path::Carried | Path::ToClient if header.hop_limit <= 1 => Verdict::Untracked(Reason::HopLimit),
        Path::Carried | Path::ToClient if look.is_larger(bytes, carriage.mtu) => Verdict::Untracked(Reason::TooLarge),
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
fn path<F: Family>(tables: &impl Tables, look: &Look<F>) -> Path {
    let Subject { from, to, is_known, transport, .. } = look.subject;
    if !is_known {
        return Path::Unknown;
    }
    match F::noted(tables, from, to, transport, |from_low| look.seen(from_low)) {
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
        !tables.has_notes(slot) && (carriage.peer == Carriage::NO_POD || !tables.has_notes(carriage.peer))
    });
    if untracked { Verdict::Untracked(Reason::Fragment) } else { Verdict::Stack(Reason::Fragment) }
}
