//! Services, packet by packet (docs/adr/0040): on the client's own link a packet to a service becomes one to an endpoint, and what comes
//! back comes from the service again. Both are then judged as any other packet is.
//!
//! The endpoint's side has no part in it. Nothing is translated whose note is not there: the stack may have taken the flow up meanwhile.

use super::Tables;
use super::family::{Address, Family};
use super::look::{Look, Reading, Subject};
use super::rewrite::{Ends, Place, rewrite};
use super::writer::Writer;
use crate::flow::{Course, Pieces, Seen};
use crate::packet::{Fragment, Ipv4, Ipv6, Protocol, TCP, Transport, UDP};
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
pub fn to_backend(version: Protocol, bytes: &impl Reading, writer: &impl Writer, tables: &impl Translations) -> Outcome {
    match version {
        Protocol::V4 => forth::<Ipv4>(bytes, writer, tables),
        Protocol::V6 => forth::<Ipv6>(bytes, writer, tables),
        _ => Outcome::AsItWas,
    }
}

/// Chooses an endpoint for the flow that begins with a packet; whether there is one now.
#[inline(always)]
pub fn choose(version: Protocol, bytes: &impl Reading, tables: &impl Translations, slot: u32) -> bool {
    match version {
        Protocol::V4 => begin::<Ipv4>(bytes, tables, slot),
        Protocol::V6 => begin::<Ipv6>(bytes, tables, slot),
        _ => false,
    }
}

/// A packet that goes into a pod, and may come from an endpoint of a service that the pod has sent to.
#[inline(always)]
pub fn to_client(version: Protocol, bytes: &impl Reading, writer: &impl Writer, tables: &impl Translations) -> Outcome {
    match version {
        Protocol::V4 => back::<Ipv4>(bytes, writer, tables),
        Protocol::V6 => back::<Ipv6>(bytes, writer, tables),
        _ => Outcome::AsItWas,
    }
}

#[inline(always)]
fn forth<F: Family>(bytes: &impl Reading, writer: &impl Writer, tables: &impl Translations) -> Outcome {
    let Some(look) = &Look::<F>::any(bytes) else { return Outcome::AsItWas };
    let Look { packet, subject, .. } = look;
    let header = packet.header();
    if matches!(header.fragment, Fragment::Later) {
        return later(bytes, writer, tables, packet, false);
    }
    let transport = subject.transport;
    if !is_served(subject) {
        return Outcome::AsItWas;
    }
    let before = Ends::of(subject.from, subject.to, transport);
    // What it says of a flow, it must say of its own.
    if before.from != packet.source() || before.to != packet.destination() {
        return Outcome::AsItWas;
    }
    let Some(backend) = known(tables, look, transport) else {
        return if subject.is_error || !opens(look, transport) { Outcome::AsItWas } else { Outcome::Begins };
    };
    let other = towards(transport, backend.port);
    let after = Ends::of(before.from, F::Address::narrowed(backend.address), other);
    if matches!(header.fragment, Fragment::First) {
        tables.remember_translated(&packet.pieces(), &backend.address);
    }
    write(bytes, writer, look, before, after)
}

#[inline(always)]
fn back<F: Family>(bytes: &impl Reading, writer: &impl Writer, tables: &impl Translations) -> Outcome {
    let Some(look) = &Look::<F>::of(bytes) else { return Outcome::AsItWas };
    let Look { packet, subject, .. } = look;
    let header = packet.header();
    if matches!(header.fragment, Fragment::Later) {
        return later(bytes, writer, tables, packet, true);
    }
    let transport = subject.transport;
    if !is_served(subject) {
        return Outcome::AsItWas;
    }
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
    write(bytes, writer, look, before, after)
}

/// A piece without ports: the first has told.
#[inline(always)]
fn later<F: Family>(bytes: &impl Reading, writer: &impl Writer, tables: &impl Translations, packet: &F, is_answer: bool) -> Outcome {
    let Some(other) = tables.translated_piece(&packet.pieces()) else { return Outcome::AsItWas };
    let (from, to, other) = (packet.source(), packet.destination(), F::Address::narrowed(other));
    let no_ports = [[0; 2]; 2];
    let (source, destination) = if is_answer { (other, to) } else { (from, other) };
    let (before, after) = (Ends { from, to, ports: no_ports }, Ends { from: source, to: destination, ports: no_ports });
    let place = Place { is_error: false, ports: None };
    outcome(rewrite::<F>(bytes, writer, packet.header(), place, (before, after), (from, to)))
}

#[inline(always)]
fn write<F: Family>(
    bytes: &impl Reading,
    writer: &impl Writer,
    Look { packet, subject, .. }: &Look<F>,
    before: Ends<F::Address>,
    after: Ends<F::Address>,
) -> Outcome {
    let header = packet.header();
    let place = Place { is_error: subject.is_error, ports: Some(subject.ports_at) };
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

const fn is_served<A>(subject: &Subject<A>) -> bool {
    subject.is_known && matches!(subject.transport.protocol, TCP | UDP)
}

/// Whether a flow may begin with the packet. A connection that is under way without a translation is the stack's.
#[inline(always)]
fn opens<F: Family>(look: &Look<F>, transport: Transport) -> bool {
    transport.protocol == UDP || look.seen(false).opens
}

/// The endpoint that the flow has, where it still has its note.
#[inline(always)]
fn known<F: Family>(tables: &impl Translations, look: &Look<F>, transport: Transport) -> Option<End> {
    let subject = &look.subject;
    let tuple = Tuple::of(subject.from.widened(), subject.to.widened(), transport, F::VERSION);
    let backend = tables.translation(&tuple)?;
    let to = F::Address::narrowed(backend.address);
    let seen = |from_low| look.seen(from_low);
    let course = F::noted(tables, subject.from, to, towards(transport, backend.port), seen);
    (course == Some(Course::ToBackend)).then_some(backend)
}

#[inline(always)]
fn begin<F: Family>(bytes: &impl Reading, tables: &impl Translations, slot: u32) -> bool {
    let Some(look) = &Look::<F>::any(bytes) else { return false };
    is_served(&look.subject) && !look.subject.is_error && chosen(tables, slot, look).is_some()
}

/// An endpoint for a flow that begins. Where none can be found although the service has some, the stack has the flow from now on, and that
/// is noted under the tuple that the client knows.
#[inline(always)]
fn chosen<F: Family>(tables: &impl Translations, slot: u32, look: &Look<F>) -> Option<()> {
    let transport = look.subject.transport;
    let (from, to) = (look.packet.source(), look.packet.destination());
    let port = u16::from_be_bytes(transport.destination);
    let service = ServicePort { address: to.widened(), port, protocol: transport.protocol.into(), number: 0 };
    let count = tables.endpoints(&service)?;
    // Of a pod whose flows are not all known, any may be the stack's; and others' filters on its link are to see what it has sent.
    if tables.endpoint(slot)?.stack_only != 0 {
        return None;
    }
    let seen = |from_low| look.seen(from_low);
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
