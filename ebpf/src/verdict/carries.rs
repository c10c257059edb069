//! The one question that decides a flow's path: may the programs carry what passes between these two addresses?
//!
//! It is asked of a pod and its peer, wherever a packet of theirs is met and whichever way it goes: by `from_pod` with the
//! destination as peer, by `from_uplink` with the source, by `to_pod` and `to_uplink` to know whether what the stack emits
//! must be noted. The answer is the same for both directions, since nothing that is asked knows a direction.

use super::family::{Address, Family};
use super::{Tables, Verdict};
use crate::account::Reason;
use crate::layout::{Endpoint, Network};
use crate::scope::Scope;

/// What was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Carriage {
    /// The peer's scope, for accounting.
    pub(super) scope: Scope,
    /// The peer's slot where it is a pod of this node, else [`Carriage::NO_POD`]: of an `Option` that is none a part is unwritten, and the
    /// verifier lets no program copy that.
    pub(super) peer: u32,
    /// Why the stack has all that passes between the two; `None` where the programs carry what is not noted.
    pub(super) against: Option<Reason>,
    /// The two could be carried, now or once what is against it has passed: what the stack has of theirs is noted, so that it
    /// stays with the stack.
    pub(super) possible: bool,
    /// The way to the peer, and the largest packet that it takes. Of use where nothing is against it.
    pub(super) way: Verdict,
    pub(super) mtu: u32,
}

impl Carriage {
    pub(super) const NO_POD: u32 = u32::MAX;

    const fn never(scope: Scope, reason: Reason) -> Self {
        Self { scope, peer: Self::NO_POD, against: Some(reason), possible: false, way: Verdict::Host, mtu: 0 }
    }
}

/// Asks of the pod in this slot and an address, with the slot that the address leads to.
#[inline(always)]
pub(super) fn carries<F: Family>(
    tables: &impl Tables,
    network: &Network,
    (slot, pod): (u32, &Endpoint),
    (peer, peer_slot): (F::Address, Option<u32>),
) -> Carriage {
    if peer.is_confined() {
        return Carriage::never(Scope::Node, Reason::LinkLocal);
    }
    match peer_slot {
        Some(peer_slot) => between_pods::<F>(tables, network, slot, pod, peer_slot),
        None => beyond::<F>(tables, network, pod, peer),
    }
}

#[inline(always)]
fn between_pods<F: Family>(tables: &impl Tables, network: &Network, slot: u32, pod: &Endpoint, peer_slot: u32) -> Carriage {
    let Some(peer) = tables.endpoint(peer_slot).filter(|peer| peer.ifindex != 0 && peer_slot != slot) else {
        return Carriage::never(Scope::SameNode, Reason::NoSuchPod);
    };
    let against = if !F::is_carried(network) {
        Some(Reason::FamilyNotCarried)
    } else if pod.stack_only != 0 || peer.stack_only != 0 {
        Some(Reason::StackOnly)
    } else {
        None
    };
    Carriage { scope: Scope::SameNode, peer: peer_slot, against, possible: true, way: Verdict::ToPod { slot: peer_slot }, mtu: peer.mtu }
}

#[inline(always)]
fn beyond<F: Family>(tables: &impl Tables, network: &Network, pod: &Endpoint, peer: F::Address) -> Carriage {
    let meaning = peer.meaning(network);
    if meaning.is_local() {
        return Carriage::never(meaning.scope(), Reason::NoSuchPod);
    }
    if !meaning.is_native() {
        return Carriage::never(meaning.scope(), Reason::NotNative);
    }
    let index = F::uplink_of(pod);
    let Some(uplink) = tables.uplink(index).filter(|uplink| F::is_open(uplink)) else {
        return Carriage { possible: true, ..Carriage::never(meaning.scope(), Reason::NoUplink) };
    };
    let against = if !F::is_carried(network) {
        Some(Reason::FamilyNotCarried)
    } else if pod.stack_only != 0 || !meaning.is_carried() {
        Some(Reason::StackOnly)
    } else {
        None
    };
    Carriage { scope: meaning.scope(), peer: Carriage::NO_POD, against, possible: true, way: F::out_of(index), mtu: uplink.mtu }
}
