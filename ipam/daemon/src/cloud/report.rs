//! What an operator can ask of the supply, made anew each time.

use std::collections::BTreeMap;

use ipam_pool::Pool;
use ipam_pool::range::AddressRange;
use ipam_supply::evidence::Reader;
use ipam_supply::{ApiMode, Outcome, Refusal, Request};
use node_api::BootMillis;
use serde::Serialize;

use super::runner::{State, state_of};

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
    /// A block was released.
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
    /// Of its bucket: so many calls at once.
    pub tokens: u64,
    /// In so many seconds: failures are waited out, and so is the node's turn after its start.
    pub wait_seconds: u64,
    /// Failures in a row.
    pub failures: u32,
}

/// Something that is wrong between the node and its cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CloudCondition {
    /// What it is about, as a condition's type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What is wrong.
    pub message: String,
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
    /// `open`, `suspect` or `closed`
    pub state: &'static str,
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
    pub free_slots: [u64; 2],
}

/// The supply as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SupplyReport {
    /// `normal`, `releases_paused` or `circuit_open`
    pub api_mode: &'static str,
    /// What may be called.
    pub budget: BudgetReport,
    /// What is wrong.
    pub conditions: Vec<CloudCondition>,
    /// What the source has noticed.
    pub warnings: Vec<String>,
    /// Pods that want an address and have none: they wait, or were told to try again in the last 30 seconds.
    pub waiting: u64,
    /// The interfaces, the node's own first.
    pub interfaces: Vec<InterfaceReport>,
    /// All blocks.
    pub blocks: Vec<BlockReport>,
    /// What was released a while ago, and is not believed to be there.
    pub released: Vec<String>,
    /// Calls by kind.
    pub calls: Calls,
    /// How each kind of call failed last.
    pub last_failures: Vec<FailureReport>,
}

pub(super) fn of(state: &State, pool: &Pool, waiting: u64, warnings: Vec<String>, now: BootMillis) -> SupplyReport {
    let State { supply, conditions, calls, .. } = state;
    let interfaces = supply.interfaces().iter().map(|known| {
        let mac = known.mac.map(|byte| format!("{byte:02x}")).join(":");
        InterfaceReport { id: known.id.clone(), mac, free_slots: known.free_slots }
    });
    let blocks = supply.blocks().map(|(block, interface)| {
        let counts = pool.counts_of(&AddressRange::from(*block), now).unwrap_or_default();
        let (state, why) = state_of(pool, *block);
        BlockReport { block: block.to_string(), interface: interface.to_owned(), state, why, held: counts.held, free: counts.free() }
    });
    let budget = supply.budget(now);
    let last_failures = conditions.last_failures().map(|(call, (what, at))| FailureReport {
        call: *call,
        what: what.clone(),
        seconds_ago: now.since(*at) / 1000,
    });
    SupplyReport {
        api_mode: match supply.api_mode() {
            ApiMode::Normal => "normal",
            ApiMode::ReleasesPaused => "releases_paused",
            ApiMode::CircuitOpen => "circuit_open",
        },
        budget: BudgetReport { tokens: budget.tokens, wait_seconds: budget.wait.div_ceil(1000), failures: budget.failures },
        conditions: conditions.all(),
        warnings,
        waiting,
        interfaces: interfaces.collect(),
        blocks: blocks.collect(),
        released: supply.released().map(ToString::to_string).collect(),
        calls: calls.clone(),
        last_failures: last_failures.collect(),
    }
}
