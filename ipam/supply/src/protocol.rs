//! The words in which the supply speaks with whoever drives it: what to call, what became of it, what an operator should know.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipam_pool::Closed;
use ipam_pool::range::{AddressRange, Family};
use ipnetwork::IpNetwork;
use node_api::BootMillis;
use serde::{Deserialize, Serialize};

use super::evidence::Reader;
use super::sizing::Sizing;

/// What a node may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The node's name: chance and start-up delay follow from it.
    pub node: String,
    /// Whether there is a second reader beside metadata: the API, on Azure the wireserver.
    pub api: bool,
    /// By family; of a family without, the node has what was assigned to it at launch.
    pub sizing: [Option<Sizing>; 2],
    /// Addresses that no pod gets. A block that is all of these is closed; none that has any is unassigned.
    pub exclude: Vec<AddressRange>,
    /// Nodes of the cluster, for the delay of the first call.
    pub cluster_nodes: u64,
    /// Calls a second that the account has for the call that everybody makes first.
    pub account_calls_per_second: u64,
}

/// An interface to the cloud network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The cloud's name of it.
    pub id: String,
    /// Its MAC address, by which the kernel's interface is found.
    pub mac: [u8; 6],
    /// Its own address, which no pod gets.
    pub address: Option<IpAddr>,
    /// Its subnet's gateways, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// What is assigned to it for pods.
    #[serde(skip)]
    pub blocks: BTreeSet<IpNetwork>,
    /// How many more blocks it can have, by family.
    #[serde(skip)]
    pub free_slots: [u64; 2],
    /// It was created for this node by barewired, and so was all that is assigned to it.
    #[serde(skip)]
    pub created_here: bool,
}

impl Interface {
    /// What of it does not change while it is attached.
    #[must_use]
    pub fn lasting(&self) -> Self {
        Self { blocks: BTreeSet::new(), free_slots: [0; 2], created_here: false, ..self.clone() }
    }
}

/// What a reader says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Who.
    pub reader: Reader,
    /// The interfaces that are managed, in the order of their attachment: the first is the node's own.
    pub interfaces: Vec<Interface>,
    /// Whether the instance can have another interface.
    pub interface_room: bool,
    /// There are further interfaces of which this reader cannot tell whether they are managed. Only the API can.
    pub has_unidentified: bool,
}

/// A call to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Read what is assigned.
    Read(Reader),
    /// Assign that many blocks to an interface.
    Assign {
        /// Which one.
        interface: String,
        /// Of which family.
        family: Family,
        /// How many.
        blocks: u64,
    },
    /// Make and attach an interface that has that many blocks.
    AddInterface {
        /// Of which family.
        family: Family,
        /// How many.
        blocks: u64,
    },
    /// Take blocks of one family from an interface, all or none. Every address of them is free, and nobody will get one.
    Unassign {
        /// Which one.
        interface: String,
        /// What, one at least.
        blocks: Vec<IpNetwork>,
    },
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Read.
    Read(Reading),
    /// Assigned, all or some of what was asked for.
    Assigned(Vec<IpNetwork>),
    /// The interface is attached, or will be; readers will list it.
    Added,
    /// Taken.
    Unassigned,
    /// Refused: nothing was done.
    Refused(Refusal),
    /// No answer: it may have been done.
    Unknown,
}

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Too many calls; the cloud may say for how many milliseconds there should be none.
    Throttled(Option<u64>),
    /// The interface or instance can have no more.
    Full,
    /// The subnet has no (unfragmented) room.
    Exhausted,
    /// Everything else: credentials, faults of the service.
    Other(String),
}

/// What the operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Readers agree that the node lost a block.
    Lost {
        /// Which.
        block: IpNetwork,
        /// Addresses of it that pods have.
        held: usize,
        /// What became of it.
        why: Closed,
    },
    /// Blocks overlap: the later one is left alone.
    Overlap(IpNetwork),
}

/// Whether the node can have more addresses of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// This node asks for none: it has what is assigned to it.
    NotAsked,
    /// There is room for so many blocks more on its interfaces, and perhaps for another interface.
    Room {
        /// How many.
        blocks: u64,
        /// Whether another interface can be attached.
        interface: bool,
    },
    /// The subnets have no more; they are asked again, and at this time first.
    SubnetFull {
        /// When.
        retry_at: BootMillis,
    },
    /// Its interfaces have as many blocks as they can, and it can have no more interfaces.
    AtLimit,
}

/// How freely the cloud is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiMode {
    /// As needed.
    Normal,
    /// Nothing is given back: calls fail.
    ReleasesPaused,
    /// Calls have failed for long: each is the one that finds out whether they succeed again.
    CircuitOpen,
}

/// What the node may call of the API now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// So many calls at once.
    pub tokens: u64,
    /// Failures in a row.
    pub failures: u32,
    /// In so many milliseconds: failures are waited out, and so is the node's turn after its start.
    pub wait: u64,
}
