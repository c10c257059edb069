//! Who called what: counts for reports, and the last calls for a person.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::action::Action;
use super::response::Outcome;
use crate::time::Millis;

/// How many single calls are remembered.
const REMEMBERED: usize = 1000;

/// Calls of one action, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// All of them.
    pub calls: u64,
    /// Answered with success.
    pub answered: u64,
    /// Refused because the account's token bucket was empty, or by a storm in the same words.
    pub throttled: u64,
    /// Refused for another reason.
    pub refused: u64,
    /// Carried out or not, but not replied to.
    pub unheard: u64,
    /// Carried out twice.
    pub duplicated: u64,
}

/// A call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Call {
    /// When.
    pub at: Millis,
    /// Which.
    pub action: Action,
    /// `ok`, an error code, or `no reply`.
    pub outcome: &'static str,
}

/// All calls since the start, or since the last [`clear`](Calls::clear).
#[derive(Debug, Clone, Default, Serialize)]
pub struct Calls {
    by_action: BTreeMap<Action, Tally>,
    last: VecDeque<Call>,
}

impl Calls {
    pub(crate) fn note(&mut self, now: Millis, action: Action, outcome: &Outcome) {
        let tally = self.by_action.entry(action).or_default();
        tally.calls += 1;
        let word = match outcome {
            Outcome::Answered(_) => {
                tally.answered += 1;
                "ok"
            }
            Outcome::Refused(error) => {
                *(if error.code == "RequestLimitExceeded" { &mut tally.throttled } else { &mut tally.refused }) += 1;
                error.code
            }
            Outcome::NoReply => {
                tally.unheard += 1;
                "no reply"
            }
        };
        if self.last.len() == REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back(Call { at: now, action, outcome: word });
    }

    pub(crate) fn note_duplicate(&mut self, action: Action) {
        self.by_action.entry(action).or_default().duplicated += 1;
    }

    /// Calls of one action.
    #[must_use]
    pub fn of(&self, action: Action) -> Tally {
        self.by_action.get(&action).copied().unwrap_or_default()
    }

    /// Calls of all actions.
    #[must_use]
    pub fn total(&self) -> Tally {
        self.by_action.values().fold(Tally::default(), |sum, tally| Tally {
            calls: sum.calls + tally.calls,
            answered: sum.answered + tally.answered,
            throttled: sum.throttled + tally.throttled,
            refused: sum.refused + tally.refused,
            unheard: sum.unheard + tally.unheard,
            duplicated: sum.duplicated + tally.duplicated,
        })
    }

    /// The last thousand calls, oldest first.
    pub fn last(&self) -> impl Iterator<Item = &Call> {
        self.last.iter()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
