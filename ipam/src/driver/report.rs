//! What an operator can ask of the supply, made anew each time.

use std::collections::BTreeMap;

use node_api::BootMillis;
use serde::Serialize;

use super::{State, use_of};
use crate::pool::Pool;
use crate::range::AddressRange;
use crate::supply::evidence::Reader;
use crate::supply::{Outcome, Refusal, Request, Stance};

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// The metadata service was read.
    ReadMetadata,
    /// The API, or on Azure the wireserver, was read.
    ReadApi,
    /// Blocks were asked for.
    Assign,
    /// An interface was asked for.
    AddInterface,
    /// A block was given back.
    Unassign,
}

impl Call {
    /// The kind of a request.
    #[must_use]
    pub const fn of(request: &Request) -> Self {
        match request {
            Request::Read(Reader::Metadata) => Self::ReadMetadata,
            Request::Read(Reader::Api) => Self::ReadApi,
            Request::Assign { .. } => Self::Assign,
            Request::AddInterface { .. } => Self::AddInterface,
            Request::Unassign { .. } => Self::Unassign,
        }
    }

    /// Its name in metrics and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadMetadata => "read_metadata",
            Self::ReadApi => "read_api",
            Self::Assign => "assign",
            Self::AddInterface => "add_interface",
            Self::Unassign => "unassign",
        }
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How often, since the daemon's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// All calls.
    pub made: u64,
    /// Those that the cloud refused, or that did not reach it.
    pub refused: u64,
    /// Those of them that were too many.
    pub throttled: u64,
    /// Those without an answer.
    pub unknown: u64,
}

/// Calls by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Calls(pub BTreeMap<Call, Count>);

impl Calls {
    pub(super) fn note(&mut self, call: Call, outcome: &Outcome) {
        let count = self.0.entry(call).or_default();
        count.made += 1;
        count.refused += u64::from(matches!(outcome, Outcome::Refused(_)));
        count.throttled += u64::from(matches!(outcome, Outcome::Refused(Refusal::Throttled(_))));
        count.unknown += u64::from(*outcome == Outcome::Unknown);
    }
}

/// What may be called of the API now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BudgetReport {
    /// So many calls at once.
    pub calls_left: u64,
    /// In so many seconds: failures are waited out, and so is the node's turn after its start.
    pub wait_seconds: u64,
    /// Failures in a row.
    pub failures: u32,
}

/// How a kind of call failed last, whether it is over or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailureReport {
    /// Which kind.
    pub call: Call,
    /// What went wrong.
    pub what: String,
    /// How long ago.
    pub seconds_ago: u64,
}

/// A block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockReport {
    /// Which one.
    pub block: String,
    /// The cloud's name of its interface.
    pub interface: String,
    /// `open`, `last_resort` or `closed`
    pub usage: &'static str,
    /// Why it is closed.
    pub why: Option<String>,
    /// Addresses that pods have.
    pub held: usize,
    /// Addresses that a pod could have now.
    pub free: u64,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InterfaceReport {
    /// The cloud's name of it.
    pub id: String,
    /// Its MAC address.
    pub mac: String,
    /// How many more IPv4 and IPv6 blocks it can have.
    pub room: [u64; 2],
}

/// The supply as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SupplyReport {
    /// `normal`, `no_releases` or `no_calls`
    pub stance: &'static str,
    /// What may be called.
    pub budget: BudgetReport,
    /// What is wrong.
    pub troubles: Vec<String>,
    /// What the source has noticed.
    pub warnings: Vec<String>,
    /// Pods that wait for an address.
    pub waiting: u64,
    /// The interfaces, the node's own first.
    pub interfaces: Vec<InterfaceReport>,
    /// All blocks.
    pub blocks: Vec<BlockReport>,
    /// What was given back a while ago, and is not believed to be there.
    pub given_back: Vec<String>,
    /// Calls by kind.
    pub calls: Calls,
    /// How each kind of call failed last.
    pub last_failures: Vec<FailureReport>,
}

pub(super) fn of(state: &State, pool: &Pool, waiting: u64, warnings: Vec<String>, now: BootMillis) -> SupplyReport {
    let State { supply, troubles, calls, .. } = state;
    let interfaces = supply.interfaces().iter().map(|known| {
        let mac = known.mac.map(|byte| format!("{byte:02x}")).join(":");
        InterfaceReport { id: known.id.clone(), mac, room: known.room }
    });
    let blocks = supply.blocks().map(|(block, interface)| {
        let counts = pool.counts_of(&AddressRange::from(*block), now).unwrap_or_default();
        let (usage, why) = use_of(pool, *block);
        BlockReport { block: block.to_string(), interface: interface.to_owned(), usage, why, held: counts.held, free: counts.free() }
    });
    let budget = supply.budget(now);
    let last_failures = troubles.last_failures().map(|(call, (what, at))| FailureReport {
        call: *call,
        what: what.clone(),
        seconds_ago: now.since(*at) / 1000,
    });
    SupplyReport {
        stance: match supply.stance() {
            Stance::Normal => "normal",
            Stance::NoReleases => "no_releases",
            Stance::NoCalls => "no_calls",
        },
        budget: BudgetReport { calls_left: budget.calls_left, wait_seconds: budget.wait.div_ceil(1000), failures: budget.failures },
        troubles: troubles.all(),
        warnings,
        waiting,
        interfaces: interfaces.collect(),
        blocks: blocks.collect(),
        given_back: supply.given_back().map(ToString::to_string).collect(),
        calls: calls.clone(),
        last_failures: last_failures.collect(),
    }
}
