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
    /// Not at its end.
    Running,
    /// All is as it should be.
    Passed,
    /// Something is not.
    Failed,
}

impl State {
    pub(crate) const ALL: [(Self, &'static str); 3] = [(Self::Running, "running"), (Self::Passed, "passed"), (Self::Failed, "failed")];
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
}

impl Standing {
    pub(super) fn new(boot: &str, state: State, evidence: Vec<String>) -> Self {
        Self { boot: boot.to_owned(), state, since: SystemTime::now(), evidence }
    }

    /// As the fleet hears it.
    pub(super) fn told(&self) -> message::Preflight {
        let state = match self.state {
            State::Running => PreflightState::Running,
            State::Passed => PreflightState::Passed,
            State::Failed => PreflightState::Failed,
        };
        let since_seconds = self.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        message::Preflight { state: state.into(), boot: self.boot.clone(), since_seconds, evidence: self.evidence.clone() }
    }

    /// As it is on the page, beside the checks.
    pub(super) fn line(&self) -> PreflightLine {
        PreflightLine { check: NAME, result: self.state, message: self.evidence.join("; "), since: timestamp(self.since) }
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
}
