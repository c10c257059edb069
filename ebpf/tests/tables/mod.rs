//! The maps as plain collections: what tests tell a decision, and what it wrote.

use std::cell::{Cell, RefCell};

use ebpf::flow::{Flow4, Flow6, Noted, Pieces, Seen};
use ebpf::layout::{Endpoint, Network, Uplink};
use ebpf::service::{End, ServicePort, Tuple};
use ebpf::verdict::{Tables, Translations};

/// A flow of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    V4(Flow4),
    V6(Flow6),
}

/// The state of every map that a decision reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) network: Box<Network>,
    pub(crate) endpoints: Vec<(u32, Endpoint)>,
    pub(crate) uplinks: Vec<(u32, Uplink)>,
    pub(crate) slots4: Vec<([u8; 4], u32)>,
    pub(crate) slots6: Vec<([u8; 16], u32)>,
    /// What is noted.
    pub(crate) flows: RefCell<Vec<(Flow, Noted)>>,
    /// How the first pieces of packets went.
    pub(crate) pieces: RefCell<Vec<(Pieces, bool)>>,
    /// How many flows find room; `None` for any number.
    pub(crate) room: Option<usize>,
    /// Ports of services, and who serves them.
    pub(crate) services: Vec<(ServicePort, Vec<End>)>,
    pub(crate) translations: RefCell<Vec<(Tuple, End)>>,
    pub(crate) translated_pieces: RefCell<Vec<(Pieces, [u64; 2])>>,
    /// The number that is any.
    pub(crate) random: Cell<u32>,
}

fn find<'a, K: PartialEq, V>(rows: &'a [(K, V)], key: &K) -> Option<&'a V> {
    rows.iter().find(|(found, _)| found == key).map(|(_, value)| value)
}

impl World {
    /// What the kernel's maps do, with a clock that stands still.
    fn noted(&self, flow: Flow, seen: impl FnOnce() -> Seen) -> Option<Noted> {
        let mut flows = self.flows.borrow_mut();
        let (_, noted) = flows.iter_mut().find(|(found, _)| *found == flow)?;
        let (seen, before) = (seen(), *noted);
        if !before.is_over(seen) {
            let taken_in = before.taking_in(seen, before.seen_seconds);
            *(if seen.from_low { &mut noted.from_low } else { &mut noted.from_high }) = taken_in;
        }
        Some(before)
    }

    fn note(&self, slot: u32, flow: Flow, seen: Seen) -> Option<Noted> {
        if let Some(before) = self.noted(flow, || seen).filter(|before| !before.is_over(seen)) {
            return Some(before);
        }
        let mut flows = self.flows.borrow_mut();
        flows.retain(|(found, _)| *found != flow);
        if self.room.is_some_and(|room| flows.len() >= room) {
            return None;
        }
        let first = Noted::first(u16::try_from(slot).unwrap(), seen, 0);
        flows.push((flow, first));
        Some(first)
    }

    fn forget(&self, flow: Flow) {
        self.flows.borrow_mut().retain(|(found, _)| *found != flow);
    }
}

impl Tables for World {
    fn network(&self) -> Option<&Network> {
        Some(&self.network)
    }
    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        find(&self.endpoints, &slot)
    }
    fn uplink(&self, index: u32) -> Option<&Uplink> {
        find(&self.uplinks, &index)
    }
    fn slot4(&self, address: [u8; 4]) -> Option<u32> {
        find(&self.slots4, &address).copied()
    }
    fn slot6(&self, address: [u8; 16]) -> Option<u32> {
        find(&self.slots6, &address).copied()
    }
    fn noted4(&self, flow: &Flow4, seen: impl FnOnce() -> Seen) -> Option<Noted> {
        self.noted(Flow::V4(*flow), seen)
    }
    fn noted6(&self, flow: &Flow6, seen: impl FnOnce() -> Seen) -> Option<Noted> {
        self.noted(Flow::V6(*flow), seen)
    }
    fn note4(&self, slot: u32, flow: &Flow4, seen: Seen) -> Option<Noted> {
        self.note(slot, Flow::V4(*flow), seen)
    }
    fn note6(&self, slot: u32, flow: &Flow6, seen: Seen) -> Option<Noted> {
        self.note(slot, Flow::V6(*flow), seen)
    }
    fn forget4(&self, flow: &Flow4) {
        self.forget(Flow::V4(*flow));
    }
    fn forget6(&self, flow: &Flow6) {
        self.forget(Flow::V6(*flow));
    }
    fn has_notes(&self, slot: u32) -> bool {
        self.flows.borrow().iter().any(|(_, noted)| u32::from(noted.slot) == slot)
    }
    fn pieces(&self, pieces: &Pieces) -> Option<bool> {
        find(&self.pieces.borrow(), pieces).copied()
    }
    fn remember_pieces(&self, pieces: &Pieces, untracked: bool) {
        let mut known = self.pieces.borrow_mut();
        known.retain(|(found, _)| found != pieces);
        known.push((*pieces, untracked));
    }
}

impl Translations for World {
    fn endpoints(&self, service: &ServicePort) -> Option<u32> {
        find(&self.services, service).map(|ends| u32::try_from(ends.len()).unwrap())
    }
    fn backend(&self, of: &ServicePort) -> Option<End> {
        find(&self.services, &ServicePort { number: 0, ..*of })?.get(of.number as usize).copied()
    }
    fn translation(&self, of: &Tuple) -> Option<End> {
        find(&self.translations.borrow(), of).copied()
    }
    fn translate(&self, of: &Tuple, end: &End) -> bool {
        let mut translations = self.translations.borrow_mut();
        translations.retain(|(found, _)| found != of);
        translations.push((*of, *end));
        true
    }
    fn translated_piece(&self, pieces: &Pieces) -> Option<[u64; 2]> {
        find(&self.translated_pieces.borrow(), pieces).copied()
    }
    fn remember_translated(&self, pieces: &Pieces, address: &[u64; 2]) {
        self.translated_pieces.borrow_mut().push((*pieces, *address));
    }
    fn random(&self) -> u32 {
        self.random.set(self.random.get().wrapping_add(0x9e37_79b9));
        self.random.get()
    }
}
