//! A run of a node's checks, as it is on the node: since when it is to be made, whom it measures the network with, and how it has ended.

use serde::{Deserialize, Serialize};

use crate::health::Millis;
use crate::node::{Change, Node};

/// The annotation with the newest run of a node.
pub const RUN: &str = "preflight.barewire.cloud/run";
/// What has not ended by then holds nobody up: the longest that a plug-in may take, twice.
const LONGEST: Millis = 4 * 3_600_000;

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// When it was told. No two runs of a node have the same: it is the run's number as well.
    pub at: Millis,
    /// Of which boot of the node.
    pub boot: String,
    /// Who has told it: `fleet`, `schedule`, or a person.
    pub by: String,
    /// Nodes of its pool that are measured with, and are meanwhile with no other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
    /// How it has ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When the leader heard of it.
    pub at: Millis,
    /// Whether all was well.
    pub passed: bool,
}

impl Run {
    /// Of a node: the newest of its present boot. What cannot be read is none.
    #[must_use]
    pub fn of(node: &Node) -> Option<Self> {
        let run: Self = serde_json::from_str(node.annotations.get(RUN)?).ok()?;
        (!run.boot.is_empty() && run.boot == node.boot).then_some(run)
    }

    /// Has it still to come to its end?
    #[must_use]
    pub const fn is_open(&self, now: Millis) -> bool {
        self.ended.is_none() && now.saturating_sub(self.at) < LONGEST
    }

    /// Did it end well?
    #[must_use]
    pub fn has_passed(&self) -> bool {
        self.ended.is_some_and(|ended| ended.passed)
    }

    /// Did it end badly?
    pub(super) fn has_failed(&self) -> bool {
        self.ended.is_some_and(|ended| !ended.passed)
    }

    /// It has ended. Those that it was measured with are free.
    #[must_use]
    pub(super) fn ended(self, at: Millis, passed: bool) -> Self {
        Self { with: Vec::new(), ended: Some(Ended { at, passed }), ..self }
    }

    /// Writes it.
    #[must_use]
    pub(super) fn stamp(&self) -> Change {
        // Numbers and strings always become JSON.
        let text = serde_json::to_string(self).ok();
        Change { annotations: [(RUN.to_owned(), text)].into(), ..Change::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_of_one_boot_and_what_cannot_be_read_is_none() {
        let run = Run { at: 7, boot: "b".to_owned(), by: "fleet".to_owned(), with: vec!["c".to_owned()], ended: None };
        let node = |boot: &str| Node { boot: boot.to_owned(), ..Node::default() };
        let with = |boot: &str| run.stamp().applied_to(&node(boot));
        assert_eq!(Run::of(&with("b")), Some(run.clone()));
        assert_eq!((Run::of(&with("c")), Run::of(&node("b"))), (None, None));
        for text in ["", "{}", "{\"at\": -1, \"boot\": \"b\", \"by\": \"x\"}", "[1]"] {
            let mut node = node("b");
            node.annotations.insert(RUN.to_owned(), text.to_owned());
            assert_eq!(Run::of(&node), None, "{text}");
        }
        let later = run.clone().ended(9, false);
        assert_eq!(Run::of(&later.stamp().applied_to(&node("b"))), Some(later.clone()));
        assert!(
            run.is_open(7 + LONGEST - 1) && !run.is_open(7 + LONGEST) && !later.is_open(8) && !later.has_passed() && later.with.is_empty()
        );
    }
}
