//! The words in which the supply speaks with whoever drives it: what to call, what became of it, what an operator should know.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::evidence::Reader;
use super::sizing::Sizing;
use crate::range::Family;

/// What a node may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The node's name: chance and start-up delay follow from it.
    pub node: String,
    /// Whether there is a second reader beside metadata: the API, on Azure the wireserver.
    pub api: bool,
    /// By family; of a family without, the node has what was assigned to it at launch.
    pub sizing: [Option<Sizing>; 2],
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
    pub room: [u64; 2],
}

impl Interface {
    /// What of it does not change while it is attached.
    #[must_use]
    pub fn lasting(&self) -> Self {
        Self { blocks: BTreeSet::new(), room: [0; 2], ..self.clone() }
    }
}

/// What a reader says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Who.
    pub reader: Reader,
    /// All interfaces, in the order of their attachment: the first is the node's own.
    pub interfaces: Vec<Interface>,
    /// Whether the instance can have another interface.
    pub interface_room: bool,
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
    /// Take a block from an interface. Every address of it is free, and nobody will get one.
    Unassign {
        /// Which one.
        interface: String,
        /// What.
        block: IpNetwork,
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
        why: &'static str,
    },
    /// Blocks overlap: the later one is left alone.
    Overlap(IpNetwork),
}

/// How freely the cloud is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stance {
    /// As needed.
    Normal,
    /// Nothing is given back: calls fail.
    NoReleases,
    /// Calls have failed for long: each is the one that finds out whether they succeed again.
    NoCalls,
}

/// What the node may call of the API now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// So many calls at once.
    pub calls_left: u64,
    /// Failures in a row.
    pub failures: u32,
    /// In so many milliseconds: failures are waited out, and so is the node's turn after its start.
    pub wait: u64,
}
