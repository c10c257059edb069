//! Every decision. Tables are behind a trait: maps in the kernel, plain collections in tests.

mod carries;
mod emission;
mod family;
mod look;
mod neighbour;
mod passage;
mod rewrite;
mod service;
mod writer;

use crate::account::Reason;
use crate::flow::{Flow4, Flow6, Noted, Pieces, Seen};
use crate::layout::{Endpoint, Network, Uplink};
use crate::packet::{self, Ipv4, Ipv6, Protocol};
use crate::scope::Scope;
use carries::{Carriage, carries};
pub use emission::{Emission, to_pod, to_uplink};
use family::{Address, Family};
use look::Look;
pub use look::{Reading, Unusual};
use passage::pass;
pub use service::{Outcome, Translations, choose, to_backend, to_client};
pub use writer::{SumChange, Writer};

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
    /// The note of a flow, as it was before the packet that is asked for; it takes in what is seen of the packet, unless the
    /// flow is over.
    fn noted4(&self, flow: &Flow4, seen: impl FnOnce() -> Seen) -> Option<Noted>;
    /// See [`Tables::noted4`].
    fn noted6(&self, flow: &Flow6, seen: impl FnOnce() -> Seen) -> Option<Noted>;
    /// Notes a flow, if it is not noted yet, at the expense of the endpoint in this slot; begins anew where it was over. The note
    /// that it has now; `None` where it has none.
    fn note4(&self, slot: u32, flow: &Flow4, seen: Seen) -> Option<Noted>;
    /// See [`Tables::note4`].
    fn note6(&self, slot: u32, flow: &Flow6, seen: Seen) -> Option<Noted>;
    /// Removes a note.
    fn forget4(&self, flow: &Flow4);
    /// Removes a note.
    fn forget6(&self, flow: &Flow6);
    /// Whether the endpoint in this slot has notes at its expense.
    fn has_notes(&self, slot: u32) -> bool;
    /// How the first piece of a packet went: past conntrack, or through it. `None` where it was not seen.
    fn pieces(&self, pieces: &Pieces) -> Option<bool>;
    /// Remembers it for the later pieces.
    fn remember_pieces(&self, pieces: &Pieces, untracked: bool);
}

/// Where a packet goes.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nowhere.
    Drop(Reason),
    /// To the host's stack and its connection tracking, for this reason: the stack has the whole flow.
    Stack(Reason),
    /// To the host's stack past its connection tracking: the programs carry the flow, and only the stack can treat this packet.
    Untracked(Reason),
    /// To the host's stack, because it is the host's own.
    Host,
    /// Straight into a pod, with its MAC address as destination.
    ToPod {
        /// The pod's slot.
        slot: u32,
    },
    /// Likewise, once it comes from the service again that the pod has sent to.
    ToClient {
        /// The pod's slot.
        slot: u32,
    },
    /// Out of an uplink by its IPv4 gateway.
    ToUplink4 {
        /// The uplink's index.
        uplink: u32,
    },
    /// Out of an uplink by its IPv6 gateway.
    ToUplink6 {
        /// The uplink's index.
        uplink: u32,
    },
}

/// Whose counters a packet belongs to where it arrives, if anybody's. Written in all its parts in any case: of an `Option` within another, one
/// that is none is in part unwritten, and the verifier lets no program so much as copy that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    is_counted: bool,
    slot: u32,
    scope: Scope,
}

impl Received {
    const HOST: u32 = u32::MAX;
    const BY_NOBODY: Self = Self { is_counted: false, slot: Self::HOST, scope: Scope::Node };

    #[inline(always)]
    const fn by_host(scope: Scope) -> Self {
        Self { is_counted: true, slot: Self::HOST, scope }
    }

    #[inline(always)]
    const fn by_pod(slot: u32, scope: Scope) -> Self {
        Self { is_counted: true, slot, scope }
    }

    /// The slot, or `None` for the host, and the scope of who has sent it.
    #[must_use]
    #[inline(always)]
    pub const fn counted(self) -> Option<(Option<u32>, Scope)> {
        match (self.is_counted, self.slot) {
            (false, _) => None,
            (true, Self::HOST) => Some((None, self.scope)),
            (true, slot) => Some((Some(slot), self.scope)),
        }
    }
}

/// A verdict, and whose counters the packet belongs to.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Where it goes.
    pub verdict: Verdict,
    /// Count it as sent to this scope (by the pod, or at an uplink by the host).
    pub sent: Option<Scope>,
    /// Count it as received, once it is there.
    pub received: Received,
    /// Of a pod's packet: which limits it is held to ([`Endpoint::limits`]). What speaks of neighbours is held to none.
    pub limits: u8,
}

impl Decision {
    /// Of a packet to a service that the stack translates.
    pub const fn to_service(limits: u8) -> Self {
        Self { sent: Some(Scope::Service), limits, ..Self::uncounted(Verdict::Stack(Reason::NotNative)) }
    }

    const fn uncounted(verdict: Verdict) -> Self {
        Self { verdict, sent: None, received: Received::BY_NOBODY, limits: 0 }
    }
}

/// A packet that a pod sent, at its host end.
#[inline(always)]
pub fn from_pod(bytes: &impl Reading, tables: &impl Tables, slot: u32) -> Decision {
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
        Some(Protocol::V4) => Decision { limits: endpoint.limits, ..leave::<Ipv4>(bytes, tables, slot, endpoint) },
        Some(Protocol::V6) => Decision { limits: endpoint.limits, ..leave::<Ipv6>(bytes, tables, slot, endpoint) },
        Some(Protocol::Arp) => {
            bytes.pull();
            Decision::uncounted(neighbour::arp(bytes, tables, slot, endpoint))
        }
        // A tag hides what is behind it from whoever looks at the type, and from this program.
        Some(Protocol::Tagged) => Decision::uncounted(Verdict::Drop(Reason::VlanTag)),
        Some(Protocol::Other) => Decision::uncounted(Verdict::Drop(Reason::NotIp)),
    }
}

#[inline(always)]
fn leave<F: Family>(bytes: &impl Reading, tables: &impl Tables, slot: u32, endpoint: &Endpoint) -> Decision {
    if let Some(look) = &Look::plain(bytes) {
        return leave_as::<F>(bytes, tables, slot, endpoint, look);
    }
    match &Look::any(bytes) {
        Some(look) => leave_as::<F>(bytes, tables, slot, endpoint, look),
        None => Decision::uncounted(Verdict::Drop(Reason::Malformed)),
    }
}

#[inline(always)]
fn leave_as<F: Family>(bytes: &impl Reading, tables: &impl Tables, slot: u32, endpoint: &Endpoint, look: &Look<F>) -> Decision {
    let Look { packet, subject, .. } = look;
    let (source, destination) = (packet.source(), packet.destination());
    if look.is_discovery {
        let own = is_own::<F>(tables, slot, endpoint, source) || source.may_be_link_local();
        let verdict =
            if own { neighbour::discovery(bytes, packet.header(), tables, slot, endpoint) } else { Verdict::Drop(Reason::SpoofedAddress) };
        return Decision::uncounted(verdict);
    }
    if !is_own::<F>(tables, slot, endpoint, source) {
        // Listener reports and the like: they reach the host and no further (RFC 4291, 2.5.6).
        let stays = source.may_be_link_local() && destination.is_confined();
        let verdict = if stays { Verdict::Stack(Reason::LinkLocal) } else { Verdict::Drop(Reason::SpoofedAddress) };
        return Decision::uncounted(verdict);
    }
    let Some(network) = tables.network() else {
        return Decision::uncounted(Verdict::Stack(Reason::NotNative));
    };
    let carriage = carries::<F>(tables, network, (slot, endpoint), (destination, slot_of(tables, destination)));
    // What it says of a flow, it must say of its own.
    let look = &look.if_believed(!subject.is_error || (subject.from == source && subject.to == destination));
    let verdict = pass(bytes, tables, slot, look, &carriage);
    let received = match verdict {
        Verdict::ToPod { slot } | Verdict::ToClient { slot } => Received::by_pod(slot, Scope::SameNode),
        _ => Received::BY_NOBODY,
    };
    Decision { verdict, sent: Some(carriage.scope), received, limits: 0 }
}

/// Whether a pod may send from an address: its own, or one that leads to it.
#[inline(always)]
fn is_own<F: Family>(tables: &impl Tables, slot: u32, endpoint: &Endpoint, address: F::Address) -> bool {
    address.is_first_of(endpoint) || slot_of(tables, address) == Some(slot)
}

/// The slot that an address leads to. One that is confined leads nowhere.
#[inline(always)]
fn slot_of<A: Address>(tables: &impl Tables, address: A) -> Option<u32> {
    if address.is_confined() { None } else { address.slot(tables) }
}

/// A packet that came in by an uplink, for this host by its MAC address.
#[inline(always)]
pub fn from_uplink(bytes: &impl Reading, tables: &impl Tables) -> Decision {
    match packet::protocol(bytes) {
        Some(Protocol::V4) => arrive::<Ipv4>(bytes, tables),
        Some(Protocol::V6) => arrive::<Ipv6>(bytes, tables),
        // The host's stack knows best what it thinks of them.
        None | Some(Protocol::Arp | Protocol::Tagged | Protocol::Other) => Decision::uncounted(Verdict::Host),
    }
}

#[inline(always)]
fn arrive<F: Family>(bytes: &impl Reading, tables: &impl Tables) -> Decision {
    if let Some(look) = &Look::plain(bytes) {
        return arrive_as::<F>(bytes, tables, look);
    }
    match &Look::any(bytes) {
        Some(look) => arrive_as::<F>(bytes, tables, look),
        None => Decision::uncounted(Verdict::Host),
    }
}

#[inline(always)]
fn arrive_as<F: Family>(bytes: &impl Reading, tables: &impl Tables, look: &Look<F>) -> Decision {
    let Look { packet, subject, .. } = look;
    let Some(network) = tables.network() else { return Decision::uncounted(Verdict::Host) };
    let (source, destination) = (packet.source(), packet.destination());
    let source_slot = slot_of(tables, source);
    let of_this_node = source_slot.and_then(|slot| tables.endpoint(slot)).is_some_and(|pod| pod.ifindex != 0);
    let Some(slot) = slot_of(tables, destination) else {
        if of_this_node {
            return Decision::uncounted(Verdict::Drop(Reason::SpoofedAddress));
        }
        if !destination.is_confined() && destination.meaning(network).is_local() {
            return Decision::uncounted(Verdict::Stack(Reason::NoSuchPod));
        }
        let scope = if source.is_confined() { Scope::Vpc } else { source.meaning(network).scope() };
        return Decision { received: Received::by_host(scope), ..Decision::uncounted(Verdict::Host) };
    };
    let Some(endpoint) = tables.endpoint(slot).filter(|endpoint| endpoint.ifindex != 0) else {
        return Decision::uncounted(Verdict::Stack(Reason::NoSuchPod));
    };
    let look = &look.if_believed(!subject.is_error || subject.to == destination);
    // The flow's other end: any router on the way may send an error about it.
    let peer_slot = if subject.is_error { slot_of(tables, subject.from) } else { source_slot };
    let carriage = carries::<F>(tables, network, (slot, endpoint), (subject.from, peer_slot));
    let carriage = Carriage { way: Verdict::ToPod { slot }, mtu: endpoint.mtu, ..carriage };
    let verdict = pass(bytes, tables, slot, look, &carriage);
    if of_this_node && !matches!(verdict, Verdict::Stack(Reason::NotedFlow)) {
        return Decision::uncounted(Verdict::Drop(Reason::SpoofedAddress));
    }
    let received = match verdict {
        Verdict::ToPod { .. } | Verdict::ToClient { .. } => Received::by_pod(slot, carriage.scope),
        _ => Received::BY_NOBODY,
    };
    Decision { received, ..Decision::uncounted(verdict) }
}
