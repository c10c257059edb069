//! What is written on a node: a taint and a record, by one patch.

use serde::{Deserialize, Serialize};

use super::Millis;
use crate::node::{Change, NO_SCHEDULE, Node, Taint};

/// The taint of a sick node.
pub const SICK: &str = "health.barewire.cloud/sick";
/// Its value where the fleet made it; another one is a person's, and stays.
pub const VALUE: &str = "fleet";
/// The annotation with the [`Record`].
pub const RECORD: &str = "health.barewire.cloud/record";
/// The annotation with the times of past sicknesses; it outlives the taint.
pub const RELAPSES: &str = "health.barewire.cloud/relapses";

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// No new pods.
    Tainted,
    /// Pods are evicted.
    Draining,
    /// Somebody has to look.
    Overdue,
    /// Handed over to be ended.
    Forced,
}

/// Why a node is tainted, for the next leader and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// How far.
    pub stage: Stage,
    /// Since when it is in that stage.
    pub since: Millis,
    /// What was seen.
    pub evidence: Vec<String>,
}

impl Record {
    /// The record on a node; one that cannot be read counts as none.
    #[must_use]
    pub fn of(node: &Node) -> Option<Self> {
        node.annotations.get(RECORD).and_then(|text| serde_json::from_str(text).ok())
    }
}

/// Has the node the fleet's own taint?
pub(super) fn is_tainted(node: &Node) -> bool {
    node.taints.contains(&taint())
}

/// Has anything of the fleet's: a taint or a record.
pub(crate) fn is_marked(node: &Node) -> bool {
    is_tainted(node) || node.annotations.contains_key(RECORD)
}

fn taint() -> Taint {
    Taint::no_schedule(SICK, VALUE)
}

/// A taint of our key that a person has made.
pub(crate) fn is_quarantined(node: &Node) -> bool {
    node.taints.iter().any(|taint| taint.key == SICK && !(taint.value == VALUE && taint.effect == NO_SCHEDULE))
}

/// Past sicknesses that still count.
pub(super) fn relapses(node: &Node, now: Millis, within: Millis) -> Vec<Millis> {
    let text = node.annotations.get(RELAPSES).map_or("", String::as_str);
    text.split(',').filter_map(|at| at.parse().ok()).filter(|at| now.saturating_sub(*at) <= within).collect()
}

/// The taint and the record, whatever there is already.
#[must_use]
pub fn stamp(record: &Record, relapses: &[Millis]) -> Change {
    let times = relapses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let text = serde_json::to_string(record).unwrap_or_default();
    Change {
        taints_new: vec![taint()],
        annotations: [(RECORD.to_owned(), Some(text)), (RELAPSES.to_owned(), Some(times))].into(),
        ..Change::default()
    }
}

/// Neither taint nor record; relapses stay.
pub(super) fn release() -> Change {
    Change { taints_gone: vec![taint()], annotations: [(RECORD.to_owned(), None)].into(), ..Change::default() }
}
