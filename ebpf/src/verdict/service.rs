//! Services, packet by packet (docs/adr/0040): on the client's own link a packet to a service becomes one to an endpoint, and what comes
//! back comes from the service again. Both are then judged as any other packet is.
//!
//! The endpoint's side has no part in it. Nothing is translated whose note is not there: the stack may have taken the flow up meanwhile.

use super::Tables;
use super::family::{Address, Family};
use super::passage::Subject;
use super::rewrite::{Ends, Place, rewrite};
use super::writer::Writer;
use crate::flow::{Course, Pieces, Seen};
use crate::packet::{self, Bytes, ETHERNET, Fragment, Ipv4, Ipv6, Protocol, TCP, Transport, UDP};
use crate::service::{End, ServicePort, Tuple, apart, pick};

/// What translations are read from and written to, beside what decisions are.
pub trait Translations: Tables {
    /// How many endpoints a port of a service has; `None` for one that the programs do not translate to.
    fn endpoints(&self, service: &ServicePort) -> Option<u32>;
    /// One of them.
    fn backend(&self, of: &ServicePort) -> Option<End>;
    /// What takes an end's place in such a packet.
    fn translation(&self, of: &Tuple) -> Option<End>;
    /// Has it take that place; whether there was room.
    fn translate(&self, of: &Tuple, end: &End) -> bool;
    /// The address that the first piece of a packet got.
    fn translated_piece(&self, pieces: &Pieces) -> Option<[u64; 2]>;
    /// Remembers it for the later pieces.
    fn remember_translated(&self, pieces: &Pieces, address: &[u64; 2]);
    /// Any number, each as likely as the others.
    fn random(&self) -> u32;
}

/// What became of a packet.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has other ends now.
    Translated,
    /// Nothing: the programs do not translate it.
    AsItWas,
    /// Nothing: a flow may begin with it, for which there is an endpoint to be chosen.
    Begins,
    /// It could not be written to.
    Broken,
}

/// Endpoints that are tried for a flow whose ends another flow has, before the stack gets it: conntrack finds it another port. One in thousands of flows
/// needs a second, and the verifier looks at each.
const TRIES: u32 = 2;

/// A packet that the pod in this slot sends to a service, and may send.
#[inline(always)]
pub fn to_backend(bytes: &impl Bytes, writer: &impl Writer, tables: &impl Translations) -> Outcome {
    match packet::protocol(bytes) {
        Some(Protocol::V4) => forth::<Ipv4>(bytes, writer, tables),
        Some(Protocol::V6) => forth::<Ipv6>(bytes, writer, tables),
        _ => Outcome::AsItWas,
    }
}

/// Chooses an endpoint for the flow that begins with a packet; whether there is one now.
#[inline(always)]
pub fn choose(bytes: &impl Bytes, tables: &impl Translations, slot: u32) -> bool {
    match packet::protocol(bytes) {
        Some(Protocol::V4) => begin::<Ipv4>(bytes, tables, slot),
        Some(Protocol::V6) => begin::<Ipv6>(bytes, tables, slot),
        _ => false,
    }
}

/// A packet that goes into a pod, and may come from an endpoint of a service that the pod has sent to.
#[inline(always)]
pub fn to_client(bytes: &impl Bytes, writer: &impl Writer, tables: &impl Translations) -> Outcome {
    match packet::protocol(bytes) {
        Some(Protocol::V4) => back::<Ipv4>(bytes, writer, tables),
        Some(Protocol::V6) => back::<Ipv6>(bytes, writer, tables),
        _ => Outcome::AsItWas,
    }
}

#[inline(always)]
fn forth<F: Family>(bytes: &impl Bytes, writer: &impl Writer, tables: &impl Translations) -> Outcome {
    let Some(packet) = &F::read(bytes) else { return Outcome::AsItWas };
    let header = packet.header();
    if matches!(header.fragment, Fragment::Later) {
        return later(bytes, writer, tables, packet, false);
    }
    let subject = Subject::of(bytes, packet);
    let Some(transport) = subject.transport.filter(is_served) else { return Outcome::AsItWas };
    let before = Ends::of(subject.from, subject.to, transport);
    // What it says of a flow, it must say of its own.
    if before.from != packet.source() || before.to != packet.destination() {
        return Outcome::AsItWas;
    }
    let Some(backend) = known::<F>(bytes, tables, packet, &subject, transport) else {
        return if subject.is_error || !opens(bytes, packet, transport) { Outcome::AsItWas } else { Outcome::Begins };
    };
    let other = towards(transport, backend.port);
    let after = Ends::of(before.from, F::Address::narrowed(backend.address), other);
    if matches!(header.fragment, Fragment::First) {
        tables.remember_translated(&packet.pieces(), &backend.address);
    }
    write(bytes, writer, packet, &subject, before, after)
}

#[inline(always)]
fn back<F: Family>(bytes: &impl Bytes, writer: &impl Writer, tables: &impl Translations) -> Outcome {
    let Some(packet) = &F::read(bytes) else { return Outcome::AsItWas };
    let header = packet.header();
    if matches!(header.fragment, Fragment::Later) {
        return later(bytes, writer, tables, packet, true);
    }
    let subject = Subject::of(bytes, packet);
    let Some(transport) = subject.transport.filter(is_served) else { return Outcome::AsItWas };
    let before = Ends::of(subject.from, subject.to, transport);
    if before.to != packet.destination() {
        return Outcome::AsItWas;
    }
    let tuple = Tuple::of(before.from.widened(), before.to.widened(), transport, F::VERSION);
    let Some(service) = tables.translation(&tuple).filter(|end| end.is_answer != 0) else { return Outcome::AsItWas };
    let client_port = apart(u16::from_be_bytes(transport.destination)).to_be_bytes();
    let other = Transport { source: service.port.to_be_bytes(), destination: client_port, ..transport };
    let after = Ends::of(F::Address::narrowed(service.address), before.to, other);
    if matches!(header.fragment, Fragment::First) {
        tables.remember_translated(&packet.pieces(), &service.address);
    }
    write(bytes, writer, packet, &subject, before, after)
}

/// A piece without ports: the first has told.
#[inline(always)]
fn later<F: Family>(bytes: &impl Bytes, writer: &impl Writer, tables: &impl Translations, packet: &F, is_answer: bool) -> Outcome {
    let Some(other) = tables.translated_piece(&packet.pieces()) else { return Outcome::AsItWas };
    let (from, to, other) = (packet.source(), packet.destination(), F::Address::narrowed(other));
    let no_ports = [[0; 2]; 2];
    let (source, destination) = if is_answer { (other, to) } else { (from, other) };
    let (before, after) = (Ends { from, to, ports: no_ports }, Ends { from: source, to: destination, ports: no_ports });
    let place = Place { network: ETHERNET, quoted: None, ports: None };
    outcome(rewrite::<F>(bytes, writer, packet.header(), place, (before, after), (from, to)))
}

#[inline(always)]
fn write<F: Family>(
    bytes: &impl Bytes,
    writer: &impl Writer,
    packet: &F,
    subject: &Subject<F::Address>,
    before: Ends<F::Address>,
    after: Ends<F::Address>,
) -> Outcome {
    let header = packet.header();
    let quoted = subject.is_error.then_some(header.transport + packet::ICMP_HEADER);
    let place = Place { network: ETHERNET, quoted, ports: Some(subject.ports_at) };
    outcome(rewrite::<F>(bytes, writer, header, place, (before, after), (packet.source(), packet.destination())))
}

const fn outcome(written: Option<()>) -> Outcome {
    match written {
        Some(()) => Outcome::Translated,
        None => Outcome::Broken,
    }
}

/// A client's ports, once what it sends is for an endpoint.
#[inline(always)]
const fn towards(transport: Transport, port: u16) -> Transport {
    let source = apart(u16::from_be_bytes(transport.source)).to_be_bytes();
    Transport { protocol: transport.protocol, source, destination: port.to_be_bytes() }
}

const fn is_served(transport: &Transport) -> bool {
    matches!(transport.protocol, TCP | UDP)
}

/// Whether a flow may begin with the packet. A connection that is under way without a translation is the stack's.
#[inline(always)]
fn opens<F: Family>(bytes: &impl Bytes, packet: &F, transport: Transport) -> bool {
    transport.protocol == UDP || packet::seen(bytes, packet.header(), false).opens
}

/// The endpoint that the flow has, where it still has its note.
#[inline(always)]
fn known<F: Family>(
    bytes: &impl Bytes,
    tables: &impl Translations,
    packet: &F,
    subject: &Subject<F::Address>,
    transport: Transport,
) -> Option<End> {
    let tuple = Tuple::of(subject.from.widened(), subject.to.widened(), transport, F::VERSION);
    let backend = tables.translation(&tuple)?;
    let to = F::Address::narrowed(backend.address);
    let seen = |from_low| {
        let seen = packet::seen(bytes, packet.header(), from_low);
        if subject.is_error { Seen { signs: 0, opens: false, ..seen } } else { seen }
    };
    let course = F::noted(tables, subject.from, to, towards(transport, backend.port), seen);
    (course == Some(Course::ToBackend)).then_some(backend)
}

#[inline(always)]
fn begin<F: Family>(bytes: &impl Bytes, tables: &impl Translations, slot: u32) -> bool {
    let Some(packet) = &F::read(bytes) else { return false };
    let header = packet.header();
    let Some(transport) = packet::transport(bytes, header.protocol, header.transport).filter(is_served) else { return false };
    chosen::<F>(bytes, tables, slot, packet, transport).is_some()
}

/// An endpoint for a flow that begins. Where none can be found although the service has some, the stack has the flow from now on, and that
/// is noted under the tuple that the client knows.
#[inline(always)]
fn chosen<F: Family>(bytes: &impl Bytes, tables: &impl Translations, slot: u32, packet: &F, transport: Transport) -> Option<()> {
    let (from, to) = (packet.source(), packet.destination());
    let port = u16::from_be_bytes(transport.destination);
    let service = ServicePort { address: to.widened(), port, protocol: transport.protocol.into(), number: 0 };
    let count = tables.endpoints(&service)?;
    // Of a pod whose flows are not all known, any may be the stack's; and others' filters on its link are to see what it has sent.
    if tables.endpoint(slot)?.stack_only != 0 {
        return None;
    }
    let seen = |from_low| packet::seen(bytes, packet.header(), from_low);
    if F::noted(tables, from, to, transport, seen).is_some() {
        return None;
    }
    for _ in 0..TRIES {
        let number = pick(tables.random(), count);
        let Some(backend) = tables.backend(&ServicePort { number, ..service }) else { break };
        let endpoint = F::Address::narrowed(backend.address);
        // Only the stack can have it see an address other than its own.
        if endpoint == from {
            break;
        }
        let towards = towards(transport, backend.port);
        let back = Tuple::of(endpoint.widened(), from.widened(), towards.reversed(), F::VERSION);
        let is_taken = match F::noted(tables, from, endpoint, towards, seen) {
            None => false,
            Some(Course::ToBackend) => {
                !tables.translation(&back).is_some_and(|other| other.address == service.address && other.port == service.port)
            }
            Some(_) => true,
        };
        if is_taken {
            continue;
        }
        let served = |from_low| {
            let seen = seen(from_low);
            Seen { signs: seen.signs | Seen::SERVED, ..seen }
        };
        let end = End { address: service.address, port, is_answer: 1, padding: 0 };
        let forth = Tuple::of(from.widened(), to.widened(), transport, F::VERSION);
        let is_known = F::note(tables, slot, from, endpoint, towards, served).is_some()
            && tables.translate(&back, &end)
            && tables.translate(&forth, &backend);
        if is_known {
            return Some(());
        }
        break;
    }
    let _ = F::note(tables, slot, from, to, transport, seen);
    None
}
