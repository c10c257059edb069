//! What the host's stack emits: let through, counted, and noted where the programs could carry another packet of its flow.

use super::carries::carries;
use super::family::{Address, Family};
use super::{Tables, slot_of};
use crate::flow::Course;
use crate::layout::{Endpoint, Network};
use crate::packet::{self, Bytes, Fragment, Ipv4, Ipv6, Protocol};
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
pub fn to_pod(bytes: &impl Bytes, tables: &impl Tables, slot: u32, untracked: bool) -> Emission {
    match packet::protocol(bytes) {
        Some(Protocol::V4) => deliver::<Ipv4>(bytes, tables, slot, untracked),
        Some(Protocol::V6) => deliver::<Ipv6>(bytes, tables, slot, untracked),
        None | Some(Protocol::Arp | Protocol::Tagged | Protocol::Other) => Emission::of(Scope::Node, false),
    }
}

#[inline(always)]
fn deliver<F: Family>(bytes: &impl Bytes, tables: &impl Tables, slot: u32, untracked: bool) -> Emission {
    let Some(packet) = &F::read(bytes) else { return Emission::of(Scope::Node, false) };
    let emission = deliver_packet(bytes, tables, slot, packet, untracked);
    // Asked last: the verifier would follow both answers through all the rest.
    let header = packet.header();
    let is_not_looked_up = packet::is_error(bytes, header) || !matches!(header.fragment, Fragment::No);
    Emission { may_be_answer: emission.may_be_answer || is_not_looked_up, ..emission }
}

#[inline(always)]
fn deliver_packet<F: Family>(bytes: &impl Bytes, tables: &impl Tables, slot: u32, packet: &F, untracked: bool) -> Emission {
    let source = packet.source();
    let Some(network) = tables.network().filter(|_| !source.is_confined()) else { return Emission::of(Scope::Node, false) };
    let Some(pod) = tables.endpoint(slot).filter(|pod| pod.ifindex != 0) else {
        return Emission::of(source.meaning(network).scope(), false);
    };
    note(bytes, tables, network, slot, pod, packet, source, untracked)
}

/// A packet that the host's stack emitted to the network. One that the programs gave the stack past conntrack is no business
/// of this.
#[inline(always)]
pub fn to_uplink(bytes: &impl Bytes, tables: &impl Tables) -> Emission {
    match packet::protocol(bytes) {
        Some(Protocol::V4) => depart::<Ipv4>(bytes, tables),
        Some(Protocol::V6) => depart::<Ipv6>(bytes, tables),
        None | Some(Protocol::Arp | Protocol::Tagged | Protocol::Other) => Emission::of(Scope::Vpc, false),
    }
}

#[inline(always)]
fn depart<F: Family>(bytes: &impl Bytes, tables: &impl Tables) -> Emission {
    let Some(packet) = &F::read(bytes) else { return Emission::of(Scope::Vpc, false) };
    let Some(network) = tables.network() else { return Emission::of(Scope::Vpc, false) };
    let (source, destination) = (packet.source(), packet.destination());
    let pod = slot_of(tables, source).and_then(|slot| Some((slot, tables.endpoint(slot).filter(|pod| pod.ifindex != 0)?)));
    if destination.is_confined() {
        // The cloud's own services (169.254.169.254) and neighbours: counted as what they answer is, see `arrive`.
        return Emission::of(Scope::Vpc, pod.is_none());
    }
    match pod {
        Some((slot, pod)) => note(bytes, tables, network, slot, pod, packet, destination, false),
        None => Emission::of(destination.meaning(network).scope(), true),
    }
}

/// Notes the flow of a packet between the pod in this slot and its peer, where it could be carried. A later piece has no ports;
/// the first has told. Of two pods of this node, the one that sends is charged: it is the one that begins.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "what both callers have in hand")]
fn note<F: Family>(
    bytes: &impl Bytes,
    tables: &impl Tables,
    network: &Network,
    slot: u32,
    pod: &Endpoint,
    packet: &F,
    peer: F::Address,
    untracked: bool,
) -> Emission {
    let carriage = carries::<F>(tables, network, (slot, pod), (peer, slot_of(tables, peer)));
    let done = Emission::of(carriage.scope, false);
    let header = packet.header();
    if !carriage.possible || matches!(header.fragment, Fragment::Later) {
        return done;
    }
    let Some(transport) = packet::transport(bytes, header.protocol, header.transport) else { return done };
    let (from, to) = (packet.source(), packet.destination());
    let charged = if from == peer { carriage.peer.unwrap_or(slot) } else { slot };
    let seen = |from_low| packet::seen(bytes, header, from_low);
    if untracked {
        let noted = F::noted(tables, from, to, transport, seen);
        return Emission { may_be_answer: noted == Some(Course::ToClient), ..done };
    }
    let noted = F::note(tables, charged, from, to, transport, seen);
    // Where the programs do not carry between the two now, the packet may go: its replies take the stack in any case.
    let without_note = noted.is_none() && carriage.against.is_none();
    Emission { without_note, may_be_answer: noted == Some(Course::ToClient), ..done }
}
