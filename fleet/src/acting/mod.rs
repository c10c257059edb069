//! What the leader does to nodes (ADR 32): plans of `fleet_plans` are carried out, by one replica, one patch after another.
//!
//! Only the replica that leads acts, and no longer than it leads: what is under way is given up at once. All that is written is decided from
//! nodes that have been listed to the end, by one patch that fails where the node has changed, at a bounded rate, one at a time for a node.
//! In a dry run nothing is written: logs and metrics say what would be.

mod again;
mod carry;
mod counters;
mod drain;
mod executor;
mod file;
mod hearing;
mod hook;
mod nodes;
mod object;
mod request;
mod reset;
mod schedule;
mod session;
mod settings;
#[cfg(test)]
mod tests;

pub use counters::{Counters, METRICS};
pub use executor::Executor;
pub use file::{TeamsFile, follow};
pub use hearing::Heard;
pub(crate) use hearing::hear;
pub use nodes::Nodes;
pub use object::{GROUP, RESOURCE, TeamsObject, VERSION};
pub(crate) use request::{Outcome, ask};
pub(crate) use reset::ANNOTATION as RESET;
pub use settings::Settings;

/// How far a part of the leader goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mode {
    /// Says what it would do.
    #[default]
    DryRun,
    /// Does it.
    Apply,
}

/// Which part of the leader it is that acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Teams' nodes.
    Teams,
    /// Nodes' health.
    Health,
    /// Nodes that are new.
    Preflight,
}

impl Part {
    /// As metrics and the audit name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Teams => "teams",
            Self::Health => "health",
            Self::Preflight => "preflight",
        }
    }
}
