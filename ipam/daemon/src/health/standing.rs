//! How this boot's preflight stands, as it is kept, shown and told.

use std::time::SystemTime;

use fleet_api::message::{self, PreflightState};
use serde::{Deserialize, Serialize};

use crate::conditions::timestamp;

/// The name of its line on the page.
const NAME: &str = "preflight";

/// How a preflight stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// For the fleet's word.
    Waiting,
    /// Not at its end.
    Running,
    /// All is as it should be.
    Passed,
    /// Something is not.
    Failed,
}

impl State {
    pub(crate) const ALL: [(Self, &'static str); 4] =
        [(Self::Waiting, "waiting"), (Self::Running, "running"), (Self::Passed, "passed"), (Self::Failed, "failed")];
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// The kernel's name of the boot.
    pub(crate) boot: String,
    pub(crate) state: State,
    pub(crate) since: SystemTime,
    /// `check: what was seen`, of each that is not as it should be.
    pub(crate) evidence: Vec<String>,
    /// Which run it is, as the fleet has told it; 0 where the node has begun by itself.
    #[serde(default)]
    pub(crate) run: u64,
    /// With other nodes, in that run.
    #[serde(default)]
    pub(crate) measured: Vec<Measured>,
}

/// What was measured with another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Measured {
    peer: String,
    round_trip_micros: u64,
    received_mbit: u64,
    sent_mbit: u64,
}

impl From<message::Measured> for Measured {
    fn from(message::Measured { peer, round_trip_micros, received_mbit, sent_mbit }: message::Measured) -> Self {
        Self { peer, round_trip_micros, received_mbit, sent_mbit }
    }
}

impl From<Measured> for message::Measured {
    fn from(Measured { peer, round_trip_micros, received_mbit, sent_mbit }: Measured) -> Self {
        Self { peer, round_trip_micros, received_mbit, sent_mbit }
    }
}

impl Standing {
    pub(super) fn new(boot: &str, state: State) -> Self {
        let since = SystemTime::now();
        Self { boot: boot.to_owned(), state, since, evidence: Vec::new(), run: 0, measured: Vec::new() }
    }

    /// As the fleet hears it.
    pub(super) fn told(&self) -> message::Preflight {
        let state = match self.state {
            State::Waiting => PreflightState::Waiting,
            State::Running => PreflightState::Running,
            State::Passed => PreflightState::Passed,
            State::Failed => PreflightState::Failed,
        };
        let since_seconds = self.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let Self { boot, state: _, since: _, evidence, run, measured } = self.clone();
        let measured = measured.into_iter().map(Into::into).collect();
        message::Preflight { state: state.into(), boot, since_seconds, evidence, run, hears: true, measured }
    }

    /// As it is on the page, beside the checks.
    pub(super) fn line(&self) -> PreflightLine {
        let (message, measured) = (self.evidence.join("; "), self.measured.clone());
        PreflightLine { check: NAME, result: self.state, message, since: timestamp(self.since), measured }
    }
}

/// The preflight on the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PreflightLine {
    check: &'static str,
    result: State,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    since: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    measured: Vec<Measured>,
}
