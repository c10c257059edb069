//! What the network does once the cloud has decided: whoever carries the packets of the simulated VPC hears of it here.

use ipnetwork::IpNetwork;
use serde::Serialize;

use crate::cloud::{Interface, InterfaceId};
use crate::time::Millis;

/// A change that packets feel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Change {
    /// The guest has a new device now. What is assigned to the interface reaches it from here on.
    Attached {
        /// As it is at this moment; its attachment says the device's name and index in the guest.
        interface: Box<Interface>,
    },
    /// The guest's device is gone, and nothing reaches the interface any more.
    Detached {
        /// As it was.
        interface: Box<Interface>,
    },
    /// Packets to `network` go to the interface.
    Assigned {
        /// Which interface.
        interface: InterfaceId,
        /// A prefix; a single address is a /32 or a /128.
        network: IpNetwork,
    },
    /// Packets to `network` go nowhere.
    Unassigned {
        /// Which interface.
        interface: InterfaceId,
        /// A prefix; a single address is a /32 or a /128.
        network: IpNetwork,
    },
}

/// A change with its number and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Counts from 1 without gaps.
    pub number: u64,
    /// When it came into force.
    pub at: Millis,
    /// What changed.
    #[serde(flatten)]
    pub change: Change,
}

/// Carries the packets of the simulated VPC. Called after a change of state, before the caller of the API hears of it.
///
/// `assigned` and `unassigned` come for unattached interfaces too: what an interface holds when it is attached is in `attached`.
/// The cloud waits for these calls, so they must not ask it anything in turn.
pub trait Fabric: Send {
    /// See [`Change::Attached`].
    fn attached(&mut self, interface: &Interface);
    /// See [`Change::Detached`].
    fn detached(&mut self, interface: &Interface);
    /// See [`Change::Assigned`].
    fn assigned(&mut self, interface: InterfaceId, network: IpNetwork);
    /// See [`Change::Unassigned`].
    fn unassigned(&mut self, interface: InterfaceId, network: IpNetwork);

    /// Calls the method that belongs to `change`.
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Attached { interface } => self.attached(interface),
            Change::Detached { interface } => self.detached(interface),
            Change::Assigned { interface, network } => self.assigned(*interface, *network),
            Change::Unassigned { interface, network } => self.unassigned(*interface, *network),
        }
    }
}

/// A fabric that carries nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFabric;

impl Fabric for NoFabric {
    fn attached(&mut self, _interface: &Interface) {}
    fn detached(&mut self, _interface: &Interface) {}
    fn assigned(&mut self, _interface: InterfaceId, _network: IpNetwork) {}
    fn unassigned(&mut self, _interface: InterfaceId, _network: IpNetwork) {}
}
