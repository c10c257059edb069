//! The maps as plain collections: what tests tell a decision, and what it wrote.

use std::cell::RefCell;

use ebpf::flow::{Flow4, Flow6};
use ebpf::layout::{Endpoint, Network, Uplink};
use ebpf::verdict::Tables;

/// A flow of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    V4(Flow4),
    V6(Flow6),
}

/// The state of every map that a decision reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) network: Network,
    pub(crate) endpoints: Vec<(u32, Endpoint)>,
    pub(crate) uplinks: Vec<(u32, Uplink)>,
    pub(crate) slots4: Vec<([u8; 4], u32)>,
    pub(crate) slots6: Vec<([u8; 16], u32)>,
    /// Flows that were noted before.
    pub(crate) flows: Vec<Flow>,
    /// Flows that a decision noted, with the slot that they were noted for.
    pub(crate) noted: RefCell<Vec<(u32, Flow)>>,
}

impl World {
    fn knows(&self, flow: Flow) -> bool {
        self.flows.contains(&flow) || self.noted.borrow().iter().any(|(_, noted)| *noted == flow)
    }
}

fn find<'a, K: PartialEq, V>(rows: &'a [(K, V)], key: &K) -> Option<&'a V> {
    rows.iter().find(|(found, _)| found == key).map(|(_, value)| value)
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
    fn is_noted4(&self, flow: &Flow4) -> bool {
        self.knows(Flow::V4(*flow))
    }
    fn is_noted6(&self, flow: &Flow6) -> bool {
        self.knows(Flow::V6(*flow))
    }
    fn note4(&self, slot: u32, flow: &Flow4) {
        self.noted.borrow_mut().push((slot, Flow::V4(*flow)));
    }
    fn note6(&self, slot: u32, flow: &Flow6) {
        self.noted.borrow_mut().push((slot, Flow::V6(*flow)));
    }
}
