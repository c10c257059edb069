//! Every decision. Tables are behind a trait: maps in the kernel, plain collections in tests.

mod family;

use crate::account::Reason;
use crate::flow::{Flow4, Flow6};
use crate::layout::{Endpoint, Network, Uplink};
use crate::packet::{self, Bytes, Fragment, Ipv4, Ipv6, Protocol};
use crate::scope::{Place, Scope};
use family::{Address, Header};

/// What a decision looks at.
pub trait Tables {
    /// What is known of the network; `None` before the daemon has written it.
    fn network(&self) -> Option<&Network>;
    /// An endpoint by its slot; one with `ifindex` 0 does not exist.
    fn endpoint(&self, slot: u32) -> Option<&Endpoint>;
    /// An uplink by its index.
    fn uplink(&self, index: u32) -> Option<&Uplink>;
    /// The slot of the endpoint with this IPv4 address.
    fn slot4(&self, address: [u8; 4]) -> Option<u32>;
    /// The slot of the endpoint with this IPv6 address.
    fn slot6(&self, address: [u8; 16]) -> Option<u32>;
    /// Whether the stack carries this flow's other direction. To ask is to have seen a packet of it.
    fn is_noted4(&self, flow: &Flow4) -> bool;
    /// Whether the stack carries this flow's other direction. To ask is to have seen a packet of it.
    fn is_noted6(&self, flow: &Flow6) -> bool;
    /// Remembers that it does, for the endpoint in this slot.
    fn note4(&self, slot: u32, flow: &Flow4);
    /// Remembers that it does, for the endpoint in this slot.
    fn note6(&self, slot: u32, flow: &Flow6);
}

/// Where a packet goes.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nowhere.
    Drop(Reason),
    /// To the host's stack, for this reason.
    Stack(Reason),
    /// To the host's stack, because it is the host's own.
    Host,
    /// Straight into the pod behind this host end.
    ToPod {
        /// The host end's number.
        ifindex: u32,
    },
    /// Out of this uplink by its IPv4 gateway.
    ToUplink4 {
        /// The uplink's number.
        ifindex: u32,
        /// The gateway, network order.
        gateway: [u8; 4],
    },
    /// Out of this uplink by its IPv6 gateway.
    ToUplink6 {
        /// The uplink's number.
        ifindex: u32,
        /// The gateway.
        gateway: [u8; 16],
    },
}

/// A verdict, and whose counters the packet belongs to.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Where it goes.
    pub verdict: Verdict,
    /// Count it as sent to this scope (by the pod, or at an uplink by the host).
    pub sent: Option<Scope>,
    /// Count it as received by this slot from this scope. `None` as slot is the host.
    pub received: Option<(Option<u32>, Scope)>,
}

impl Decision {
    const fn uncounted(verdict: Verdict) -> Self {
        Self { verdict, sent: None, received: None }
    }
}

/// What the host's stack emitted.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emission {
    /// The scope of the other end: the source towards a pod, the destination towards the network.
    pub scope: Scope,
    /// Towards the network: it is the host's own packet, or one that was translated to look so.
    pub hosts_own: bool,
}

/// A packet that a pod sent, at its host end.
#[inline(always)]
pub fn from_pod(bytes: &impl Bytes, tables: &impl Tables, slot: u32) -> Decision {
    let Some(endpoint) = tables.endpoint(slot).filter(|endpoint| endpoint.ifindex != 0) else {
        return Decision::uncounted(Verdict::Drop(Reason::NoEndpoint));
    };
    match packet::source_mac(bytes) {
        None => return Decision::uncounted(Verdict::Drop(Reason::Malformed)),
        Some(mac) if mac != endpoint.mac => return Decision::uncounted(Verdict::Drop(Reason::SpoofedMac)),
        Some(_) => {}
    }
    match packet::protocol(bytes) {
        None => Decision::uncounted(Verdict::Drop(Reason::Malformed)),
        Some(Protocol::Other) => Decision::uncounted(Verdict::Stack(Reason::NotIp)),
        Some(Protocol::V4) => leave::<Ipv4>(bytes, tables, slot, endpoint),
        Some(Protocol::V6) => leave::<Ipv6>(bytes, tables, slot, endpoint),
    }
}

#[inline(always)]
fn leave<H: Header>(bytes: &impl Bytes, tables: &impl Tables, slot: u32, endpoint: &Endpoint) -> Decision {
    let Some(header) = &H::read(bytes) else { return Decision::uncounted(Verdict::Drop(Reason::Malformed)) };
    let (source, destination) = (header.source(), header.destination());
    if !source.is_of(endpoint) {
        // Neighbour discovery and the like: they reach the host and no further (RFC 4291, 2.5.6).
        let stays = source.may_be_link_local() && destination.is_confined();
        let verdict = if stays { Verdict::Stack(Reason::LinkLocal) } else { Verdict::Drop(Reason::SpoofedAddress) };
        return Decision::uncounted(verdict);
    }
    let Some(network) = tables.network() else {
        return Decision::uncounted(Verdict::Stack(Reason::NotNative));
    };
    if destination.is_confined() {
        return Decision { verdict: Verdict::Stack(Reason::LinkLocal), sent: Some(Scope::Node), received: None };
    }
    let place = destination.place(network);
    let peer = if place.local { destination.slot(tables) } else { None };
    let scope = if peer.is_some() { Scope::SameNode } else { place.scope };
    let to_stack = |reason| Decision { verdict: Verdict::Stack(reason), sent: Some(scope), received: None };
    if !place.native {
        return to_stack(Reason::NotNative);
    }
    if let Some(reason) = doubt(bytes, tables, endpoint, header) {
        return to_stack(reason);
    }
    match peer {
        Some(peer_slot) => match tables.endpoint(peer_slot).filter(|peer| peer.ifindex != 0 && peer_slot != slot) {
            None => to_stack(Reason::NoSuchPod),
            Some(peer) if peer.stack_only != 0 => to_stack(Reason::StackOnly),
            Some(peer) => Decision {
                verdict: Verdict::ToPod { ifindex: peer.ifindex },
                sent: Some(scope),
                received: Some((Some(peer_slot), Scope::SameNode)),
            },
        },
        None if place.local => to_stack(Reason::NoSuchPod),
        None => match tables.uplink(H::uplink_of(endpoint)).and_then(H::out_of) {
            Some(verdict) => Decision { verdict, sent: Some(scope), received: None },
            None => to_stack(Reason::NoUplink),
        },
    }
}

/// Why a packet of this endpoint, sent or received, must take the stack, if it must.
#[inline(always)]
fn doubt<H: Header>(bytes: &impl Bytes, tables: &impl Tables, endpoint: &Endpoint, header: &H) -> Option<Reason> {
    if header.fragment() != Fragment::No {
        return Some(Reason::Fragment);
    }
    if header.has_options() {
        return Some(Reason::Options);
    }
    if !packet::is_plain(bytes, header.protocol(), header.transport()) {
        return Some(Reason::Unusual);
    }
    if endpoint.stack_only != 0 {
        return Some(Reason::StackOnly);
    }
    if endpoint.has_flows != 0 {
        let Some(transport) = packet::transport(bytes, header.protocol(), header.transport()) else {
            return Some(Reason::Unusual);
        };
        if header.is_noted(tables, transport) {
            return Some(Reason::NotedFlow);
        }
    }
    None
}

/// A packet that came in by an uplink.
#[inline(always)]
pub fn from_uplink(bytes: &impl Bytes, tables: &impl Tables) -> Decision {
    match packet::protocol(bytes) {
        Some(Protocol::V4) => arrive::<Ipv4>(bytes, tables),
        Some(Protocol::V6) => arrive::<Ipv6>(bytes, tables),
        // The host's stack knows best what it thinks of them.
        None | Some(Protocol::Other) => Decision::uncounted(Verdict::Host),
    }
}

#[inline(always)]
fn arrive<H: Header>(bytes: &impl Bytes, tables: &impl Tables) -> Decision {
    let Some(header) = &H::read(bytes) else { return Decision::uncounted(Verdict::Host) };
    let Some(network) = tables.network() else { return Decision::uncounted(Verdict::Host) };
    let (source, destination) = (header.source(), header.destination());
    if !destination.place(network).local {
        let scope = if source.is_confined() { Scope::Vpc } else { source.place(network).scope };
        return Decision { verdict: Verdict::Host, sent: None, received: Some((None, scope)) };
    }
    let Some(slot) = destination.slot(tables) else { return Decision::uncounted(Verdict::Stack(Reason::NoSuchPod)) };
    let Some(endpoint) = tables.endpoint(slot).filter(|endpoint| endpoint.ifindex != 0) else {
        return Decision::uncounted(Verdict::Stack(Reason::NoSuchPod));
    };
    if let Some(reason) = doubt(bytes, tables, endpoint, header) {
        return Decision::uncounted(Verdict::Stack(reason));
    }
    let Place { local, scope, .. } = source.place(network);
    if local {
        // From outside with a source of this node: the stack's reverse-path filter judges it.
        return Decision::uncounted(Verdict::Stack(Reason::SpoofedAddress));
    }
    Decision { verdict: Verdict::ToPod { ifindex: endpoint.ifindex }, sent: None, received: Some((Some(slot), scope)) }
}

/// A packet that the host's stack emitted to a pod, at its host end. Its flow is noted where a reply could miss the stack.
#[inline(always)]
pub fn to_pod(bytes: &impl Bytes, tables: &impl Tables, slot: u32) -> Emission {
    let scope = match packet::protocol(bytes) {
        Some(Protocol::V4) => deliver::<Ipv4>(bytes, tables, slot),
        Some(Protocol::V6) => deliver::<Ipv6>(bytes, tables, slot),
        None | Some(Protocol::Other) => Scope::Node,
    };
    Emission { scope, hosts_own: false }
}

#[inline(always)]
fn deliver<H: Header>(bytes: &impl Bytes, tables: &impl Tables, slot: u32) -> Scope {
    let Some(header) = &H::read(bytes) else { return Scope::Node };
    let source = header.source();
    let Some(network) = tables.network().filter(|_| !source.is_confined()) else { return Scope::Node };
    let place = source.place(network);
    if place.native {
        note(bytes, tables, slot, header);
    }
    if place.local && source.slot(tables).is_some() { Scope::SameNode } else { place.scope }
}

/// A packet that the host's stack emitted to the network. A pod's flow is noted: its replies must not miss the stack.
#[inline(always)]
pub fn to_uplink(bytes: &impl Bytes, tables: &impl Tables) -> Emission {
    match packet::protocol(bytes) {
        Some(Protocol::V4) => depart::<Ipv4>(bytes, tables),
        Some(Protocol::V6) => depart::<Ipv6>(bytes, tables),
        None | Some(Protocol::Other) => Emission { scope: Scope::Vpc, hosts_own: false },
    }
}

#[inline(always)]
fn depart<H: Header>(bytes: &impl Bytes, tables: &impl Tables) -> Emission {
    let Some(header) = &H::read(bytes) else { return Emission { scope: Scope::Vpc, hosts_own: false } };
    let (source, destination) = (header.source(), header.destination());
    let Some(network) = tables.network() else { return Emission { scope: Scope::Vpc, hosts_own: false } };
    if destination.is_confined() {
        // The cloud's own services (169.254.169.254) and neighbours: counted as what they answer is, see `arrive`.
        return Emission { scope: Scope::Vpc, hosts_own: !source.place(network).local };
    }
    let scope = destination.place(network).scope;
    let slot = if source.place(network).local { source.slot(tables) } else { None };
    let Some(slot) = slot else { return Emission { scope, hosts_own: true } };
    note(bytes, tables, slot, header);
    Emission { scope, hosts_own: false }
}

/// Notes the flow of a packet's replies. A later fragment has no ports; its first has told already.
#[inline(always)]
fn note<H: Header>(bytes: &impl Bytes, tables: &impl Tables, slot: u32, header: &H) {
    if header.fragment() == Fragment::Later {
        return;
    }
    if let Some(transport) = packet::transport(bytes, header.protocol(), header.transport()) {
        header.note_reply(tables, slot, transport);
    }
}

#[cfg(test)]
mod tests;
