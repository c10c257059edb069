//! What the programs would do with a packet: their own decision library, asked with their tables as they are now. Nothing is written and
//! nothing is counted.
//!
//! What a decision reads of the tables is read before it is asked, but for the notes of flows, which are looked up when they are asked
//! for: their keys are the library's to make.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};

use aya::Pod;
use aya::maps::MapError;
use ebpf::flow::{Flow4, Flow6, Noted, Pieces, Seen};
use ebpf::layout::{Endpoint, Network, UPLINKS_MAX, Uplink};
use ebpf::packet::{Frame, Protocol};
use ebpf::scope::{Scope, halves};
use ebpf::service::{End, ServicePort, Tuple};
use ebpf::verdict::{self, Decision, Outcome, SumChange, Verdict, Writer};

use super::notes::{Notes, Table};
use super::services::socket;
use super::tables::ServiceMaps;
use super::tables::{Plain, Tables, lock, map};
use super::{FastPath, FastPathError, slot, view};
use crate::{Ifindex, NodeNetwork};

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// Where it goes.
    pub way: TracedWay,
    /// The scope that it is counted under as sent.
    pub scope: Option<Scope>,
}

/// Where a packet goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TracedWay {
    /// Nowhere, for the reason of this name in metrics.
    Dropped(&'static str),
    /// To the kernel's network stack.
    Stack {
        /// The reason's name in metrics.
        reason: &'static str,
        /// The programs carry the flow, and connection tracking does not see this packet of it.
        untracked: bool,
    },
    /// To the kernel's network stack, because it is the host's own.
    Host,
    /// Straight into the pod behind this link.
    ToPod(Ifindex),
    /// Out of this uplink by this gateway.
    ToUplink(Ifindex, IpAddr),
}

impl FastPath {
    /// What becomes of a frame between these two addresses that the pod behind `link` sends.
    ///
    /// # Errors
    /// Where a table cannot be read.
    pub fn trace_from_pod(&self, link: Ifindex, frame: &[u8], ends: [IpAddr; 2]) -> Result<Traced, FastPathError> {
        // One that the tables have no room for is no endpoint.
        let slot = slot(link).unwrap_or(u32::MAX);
        let snapshot = Snapshot::of(&self.tables, &[slot], ends)?;
        snapshot.told(verdict::from_pod(&Frame::new(frame), &snapshot, slot))
    }

    /// Of a frame to a service, which the pod behind `link` sends: the endpoint that the programs send it to, or for a flow that begins with it,
    /// one of those that they may send it to. Nothing where they leave it to the stack.
    ///
    /// # Errors
    /// Where a table cannot be read.
    pub fn trace_endpoint(&self, link: Ifindex, frame: &[u8], ends: [IpAddr; 2]) -> Result<Option<SocketAddr>, FastPathError> {
        let slot = slot(link).unwrap_or(u32::MAX);
        let snapshot = Snapshot::of(&self.tables, &[slot], ends)?;
        let frame = Frame::new(frame);
        let decision = verdict::from_pod(&frame, &snapshot, slot);
        let (family, version) = if ends[0].is_ipv4() { (Protocol::V4, 4) } else { (Protocol::V6, 6) };
        let is_sent = decision.sent == Some(Scope::Service)
            && match verdict::to_backend(family, &frame, &Nowhere, &snapshot) {
                Outcome::Translated => true,
                Outcome::Begins => verdict::choose(family, &frame, &snapshot, slot),
                Outcome::AsItWas | Outcome::Broken => false,
            };
        let endpoint = snapshot.endpoint.get().filter(|_| is_sent).map(|end| socket(end.address, end.port, version));
        snapshot.failed.take().map_or(Ok(endpoint), Err)
    }

    /// What becomes of a frame between these two addresses that an uplink receives for this host.
    ///
    /// # Errors
    /// Where a table cannot be read.
    pub fn trace_from_uplink(&self, frame: &[u8], ends: [IpAddr; 2]) -> Result<Traced, FastPathError> {
        let snapshot = Snapshot::of(&self.tables, &[], ends)?;
        snapshot.told(verdict::from_uplink(&Frame::new(frame), &snapshot))
    }
}

impl NodeNetwork {
    /// The scope of an address that is no pod's of this node.
    #[must_use]
    pub fn scope_of(&self, address: IpAddr) -> Option<Scope> {
        let network = view(self).ok()?;
        let meaning = match address {
            IpAddr::V4(address) => network.meaning4(address.octets()),
            IpAddr::V6(address) => network.meaning6(halves(address.octets())),
        };
        Some(meaning.scope())
    }

    /// Whether what a pod sends there by the kernel's network stack leaves with the node's address, if no rule of somebody else's has
    /// translated it before.
    #[must_use]
    pub fn masquerades(&self, to: IpAddr) -> bool {
        let is_group = to.is_multicast() || to.is_unspecified() || to.is_loopback();
        let is_of_pods = self.pods.iter().any(|range| (range.first..=range.last).contains(&to));
        let is_native = self.native.iter().any(|cidr| cidr.contains(to));
        self.masquerade && !is_group && !is_native && !is_of_pods && !self.node_addresses.contains(&to)
    }

    /// The mark by which the kernel's network stack routes what a pod sends there; 0 for the main table's way.
    #[must_use]
    pub fn mark_of(&self, from: IpAddr, to: IpAddr) -> u32 {
        let is_of_pods = self.pods.iter().any(|range| (range.first..=range.last).contains(&to));
        match self.uplink_of(from) {
            uplink if uplink != 0 && !is_of_pods && !self.masquerades(to) => self.marks.of_uplink(uplink),
            _ => 0,
        }
    }
}

/// What one decision reads of the tables.
struct Snapshot<'a> {
    network: Box<Network>,
    endpoints: Vec<(u32, Endpoint)>,
    uplinks: Vec<Uplink>,
    slots: Vec<(IpAddr, u32)>,
    notes: &'a Notes,
    services: &'a ServiceMaps,
    /// Of a service, found or chosen last.
    endpoint: Cell<Option<End>>,
    /// Of a table that could not be read while a decision was being made.
    failed: RefCell<Option<FastPathError>>,
}

impl<'a> Snapshot<'a> {
    fn of(tables: &'a Tables, slots: &[u32], ends: [IpAddr; 2]) -> Result<Self, FastPathError> {
        let mut led = Vec::new();
        for end in ends {
            if let Some(slot) = tables.slot_of(end)? {
                led.push((end, slot));
            }
        }
        let wanted = slots.iter().chain(led.iter().map(|(_, slot)| slot)).filter(|slot| **slot != u32::MAX);
        let endpoints = wanted.map(|slot| Ok((*slot, tables.endpoint(*slot)?))).collect::<Result<_, FastPathError>>()?;
        let uplinks = (0..UPLINKS_MAX).map(|index| tables.uplink(index)).collect::<Result<_, _>>()?;
        let network = tables.network()?;
        Ok(Self {
            network,
            endpoints,
            uplinks,
            slots: led,
            notes: &tables.notes,
            services: &tables.services,
            endpoint: Cell::default(),
            failed: RefCell::default(),
        })
    }

    fn told(&self, decision: Decision) -> Result<Traced, FastPathError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let uplink = |index: u32| self.uplinks.get(index as usize).copied().unwrap_or_default();
        let way = match decision.verdict {
            Verdict::Drop(reason) => TracedWay::Dropped(reason.name()),
            Verdict::Stack(reason) => TracedWay::Stack { reason: reason.name(), untracked: false },
            Verdict::Untracked(reason) => TracedWay::Stack { reason: reason.name(), untracked: true },
            Verdict::Host => TracedWay::Host,
            Verdict::ToPod { slot } | Verdict::ToClient { slot } => {
                let endpoint = self.endpoints.iter().find(|(found, _)| *found == slot);
                TracedWay::ToPod(Ifindex(endpoint.map(|(_, endpoint)| endpoint.ifindex).unwrap_or_default()))
            }
            Verdict::ToUplink4 { uplink: index } => TracedWay::ToUplink(Ifindex(uplink(index).ifindex), uplink(index).gateway_v4.into()),
            Verdict::ToUplink6 { uplink: index } => TracedWay::ToUplink(Ifindex(uplink(index).ifindex), uplink(index).gateway_v6.into()),
        };
        Ok(Traced { way, scope: decision.sent })
    }

    fn slot(&self, address: IpAddr) -> Option<u32> {
        self.slots.iter().find(|(found, _)| *found == address).map(|(_, slot)| *slot)
    }

    fn noted<K>(&self, table: &Table<K>, flow: K, what: &'static str) -> Option<Noted>
    where
        Plain<K>: Pod,
    {
        self.found(lock(&table.notes).get(&Plain(flow), 0), what).map(|noted| noted.0)
    }

    fn found<V>(&self, looked_up: Result<V, MapError>, what: &'static str) -> Option<V> {
        match looked_up {
            Ok(value) => Some(value),
            Err(MapError::KeyNotFound) => None,
            Err(error) => {
                *self.failed.borrow_mut() = Some(map(what)(error));
                None
            }
        }
    }
}

/// As the maps, but that nothing is written.
impl verdict::Tables for Snapshot<'_> {
    fn network(&self) -> Option<&Network> {
        Some(&self.network)
    }

    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        self.endpoints.iter().find(|(found, _)| *found == slot).map(|(_, endpoint)| endpoint)
    }

    fn uplink(&self, index: u32) -> Option<&Uplink> {
        self.uplinks.get(index as usize)
    }

    fn slot4(&self, address: [u8; 4]) -> Option<u32> {
        self.slot(address.into())
    }

    fn slot6(&self, address: [u8; 16]) -> Option<u32> {
        self.slot(address.into())
    }

    fn noted4(&self, flow: &Flow4, seen: impl FnOnce() -> Seen) -> Option<Noted> {
        // Whether a note is over is for the library to say, of what is seen.
        let noted = self.noted(&self.notes.four, *flow, "FLOWS4")?;
        seen();
        Some(noted)
    }

    fn noted6(&self, flow: &Flow6, seen: impl FnOnce() -> Seen) -> Option<Noted> {
        let noted = self.noted(&self.notes.six, *flow, "FLOWS6")?;
        seen();
        Some(noted)
    }

    fn note4(&self, slot: u32, _: &Flow4, seen: Seen) -> Option<Noted> {
        Some(Noted::first(slot as u16, seen, 0))
    }

    fn note6(&self, slot: u32, _: &Flow6, seen: Seen) -> Option<Noted> {
        Some(Noted::first(slot as u16, seen, 0))
    }

    fn forget4(&self, _: &Flow4) {}

    fn forget6(&self, _: &Flow6) {}

    fn has_notes(&self, slot: u32) -> bool {
        lock(&self.notes.by_slot).get(&slot, 0).is_ok_and(|notes| notes != 0)
    }

    fn pieces(&self, _: &Pieces) -> Option<bool> {
        None
    }

    fn remember_pieces(&self, _: &Pieces, _: bool) {}
}

/// Likewise.
impl verdict::Translations for Snapshot<'_> {
    fn endpoints(&self, service: &ServicePort) -> Option<u32> {
        self.found(lock(&self.services.services).get(&Plain(*service), 0), "SERVICES")
    }

    fn backend(&self, of: &ServicePort) -> Option<End> {
        self.found(lock(&self.services.backends).get(&Plain(*of), 0), "BACKENDS").map(|end| end.0)
    }

    fn translation(&self, of: &Tuple) -> Option<End> {
        let end = self.found(lock(&self.services.translations).get(&Plain(*of), 0), "TRANSLATIONS")?.0;
        self.endpoint.set(Some(end));
        Some(end)
    }

    fn translate(&self, _: &Tuple, end: &End) -> bool {
        if end.is_answer == 0 {
            self.endpoint.set(Some(*end));
        }
        true
    }

    fn translated_piece(&self, _: &Pieces) -> Option<[u64; 2]> {
        None
    }

    fn remember_translated(&self, _: &Pieces, _: &[u64; 2]) {}

    fn random(&self) -> u32 {
        0
    }
}

/// Of what is written, nothing is asked.
struct Nowhere;

impl Writer for Nowhere {
    fn store<const N: usize>(&self, _: usize, _: &[u8; N]) -> Option<()> {
        Some(())
    }

    fn checksum(&self, _: usize, _: SumChange) -> Option<()> {
        Some(())
    }
}
