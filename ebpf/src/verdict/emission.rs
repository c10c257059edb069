//! What the host's stack emits: let through, counted, and noted where the programs could carry another packet of its flow.

use super::carries::{Carriage, carries};
use super::family::{Address, Family};
use super::look::{Look, Reading, Subject};
use super::{Tables, slot_of};
use crate::flow::Course;
use crate::layout::{Endpoint, Network};
use crate::packet::{self, Fragment, Ipv4, Ipv6, Protocol};
use crate::scope::Scope;

/// What the host's stack emitted.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emission {
    /// The scope of the other end: the source towards a pod, the destination towards the network.
    pub scope: Scope,
    /// Towards the network: it is the host's own packet, or one that was translated to look so.
    pub hosts_own: bool,
    /// Its flow had to be noted and could not be: it must not go on, or its replies would miss the stack.
    pub without_note: bool,
    /// Towards a pod: it comes from an endpoint of a service, and has to come from the service, or may have to. Of a piece, and of an error
    /// about a flow, that is not looked up here.
    pub may_be_answer: bool,
}

impl Emission {
    const fn of(scope: Scope, hosts_own: bool) -> Self {
        Self { scope, hosts_own, without_note: false, may_be_answer: false }
    }
}

/// A packet that the host's stack emitted to a pod, at its host end.
///
/// `untracked` is one that the programs gave the stack past conntrack: its flow is carried.
#[inline(always)]
pub fn to_pod(bytes: &impl Reading, tables: &impl Tables, slot: u32, untracked: bool) -> Emission {
    match packet::protocol(bytes) {
        Some(Protocol::V4) => deliver::<Ipv4>(bytes, tables, slot, untracked),
        Some(Protocol::V6) => deliver::<Ipv6>(bytes, tables, slot, untracked),
        None | Some(Protocol::Arp | Protocol::Tagged | Protocol::Other) => Emission::of(Scope::Node, false),
    }
}

#[inline(always)]
fn deliver<F: Family>(bytes: &impl Reading, tables: &impl Tables, slot: u32, untracked: bool) -> Emission {
    let Some(look) = &Look::<F>::of(bytes) else { return Emission::of(Scope::Node, false) };
    let emission = deliver_packet(tables, slot, look, untracked);
    let is_not_looked_up = look.subject.is_error || !matches!(look.packet.header().fragment, Fragment::No);
    Emission { may_be_answer: emission.may_be_answer || is_not_looked_up, ..emission }
}

#[inline(always)]
fn deliver_packet<F: Family>(tables: &impl Tables, slot: u32, look: &Look<F>, untracked: bool) -> Emission {
    let source = look.packet.source();
    let Some(network) = tables.network().filter(|_| !source.is_confined()) else { return Emission::of(Scope::Node, false) };
    let Some(pod) = tables.endpoint(slot).filter(|pod| pod.ifindex != 0) else {
        return Emission::of(source.meaning(network).scope(), false);
    };
    note(tables, network, (slot, pod), look, source, untracked)
}

/// A packet that the host's stack emitted to the network. One that the programs gave the stack past conntrack is no business
/// of this.
#[inline(always)]
pub fn to_uplink(bytes: &impl Reading, tables: &impl Tables) -> Emission {
    match packet::protocol(bytes) {
        Some(Protocol::V4) => depart::<Ipv4>(bytes, tables),
        Some(Protocol::V6) => depart::<Ipv6>(bytes, tables),
        None | Some(Protocol::Arp | Protocol::Tagged | Protocol::Other) => Emission::of(Scope::Vpc, false),
    }
}

#[inline(always)]
fn depart<F: Family>(bytes: &impl Reading, tables: &impl Tables) -> Emission {
    let Some(look) = &Look::<F>::of(bytes) else { return Emission::of(Scope::Vpc, false) };
    let packet = &look.packet;
    let Some(network) = tables.network() else { return Emission::of(Scope::Vpc, false) };
    let (source, destination) = (packet.source(), packet.destination());
    let pod = slot_of(tables, source).and_then(|slot| Some((slot, tables.endpoint(slot).filter(|pod| pod.ifindex != 0)?)));
    if destination.is_confined() {
        // The cloud's own services (169.254.169.254) and neighbours: counted as what they answer is, see `arrive`.
        return Emission::of(Scope::Vpc, pod.is_none());
    }
    match pod {
        Some((slot, pod)) => note(tables, network, (slot, pod), look, destination, false),
        None => Emission::of(destination.meaning(network).scope(), true),
    }
}

/// Notes the flow of a packet between the pod in this slot and its peer, where it could be carried. A later piece has no ports;
/// the first has told. Of two pods of this node, the one that sends is charged: it is the one that begins.
#[inline(always)]
fn note<F: Family>(
    tables: &impl Tables,
    network: &Network,
    (slot, pod): (u32, &Endpoint),
    look: &Look<F>,
    peer: F::Address,
    untracked: bool,
) -> Emission {
    let carriage = carries::<F>(tables, network, (slot, pod), (peer, slot_of(tables, peer)));
    let done = Emission::of(carriage.scope, false);
    let Subject { is_known, transport, is_error, .. } = look.subject;
    if !is_known || is_error || !carriage.possible {
        return done;
    }
    let (from, to) = (look.packet.source(), look.packet.destination());
    let charged = if from == peer && carriage.peer != Carriage::NO_POD { carriage.peer } else { slot };
    let seen = |from_low| look.seen(from_low);
    if untracked {
        let noted = F::noted(tables, from, to, transport, seen);
        return Emission { may_be_answer: noted == Some(Course::ToClient), ..done };
    }
    let noted = F::note(tables, charged, from, to, transport, seen);
    // Where the programs do not carry between the two now, the packet may go: its replies take the stack in any case.
    let without_note = noted.is_none() && carriage.against.is_none();
    Emission { without_note, may_be_answer: noted == Some(Course::ToClient), ..done }
}
