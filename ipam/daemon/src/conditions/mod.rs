//! What is wrong with this node, in Kubernetes' vocabulary of conditions: a type, a reason, a message, since when; and the remedy.
//!
//! Whoever observes something reports it at each look, wrong or right; a condition is logged when it appears, when it changes and when
//! it goes, however often it is seen. A message therefore says nothing that changes by itself, like counts or times.
//!
//! Types are of negative polarity, as a node's `MemoryPressure` is: one that is listed holds. [`Kind`] also says what a condition means
//! for pods, so that nobody has to know all of them.

mod kinds;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use kinds::Kind;

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What an observer found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In one word in camel case, for machines.
    pub reason: &'static str,
    /// What is wrong, with the value at fault.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    /// A finding.
    #[must_use]
    pub fn new(reason: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason, message: message.into(), remedy: remedy.into() }
    }
}

/// A condition as the status page tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// `type`
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Always `True`: what does not hold is not listed.
    pub status: &'static str,
    /// In one word.
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// Since when, RFC 3339.
    #[serde(serialize_with = "rfc3339")]
    pub since: SystemTime,
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp(*time))
}

/// A point in time as Kubernetes writes it: whole seconds, UTC.
#[must_use]
pub fn timestamp(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
}

/// What a report has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was not there before.
    Appeared,
    /// It says something else than before.
    Changed,
    /// It is over.
    Gone,
}

/// All conditions that hold. Pure.
#[derive(Debug, Default)]
pub struct Conditions(BTreeMap<Kind, Condition>);

impl Conditions {
    /// Takes in what an observer found; nothing means that all is well. `now` becomes its time if it was not there before, or for
    /// another reason.
    pub fn report(&mut self, kind: Kind, finding: Option<Finding>, now: SystemTime) -> Option<Change> {
        let Some(Finding { reason, message, remedy }) = finding else {
            return self.0.remove(&kind).map(|_| Change::Gone);
        };
        let known = self.0.get(&kind);
        let change = match known {
            None => Change::Appeared,
            Some(known) if known.reason == reason && known.message == message && known.remedy == remedy => return None,
            Some(_) => Change::Changed,
        };
        let since = known.filter(|known| known.reason == reason).map_or(now, |known| known.since);
        self.0.insert(kind, Condition { kind, status: "True", reason, message, remedy, since });
        Some(change)
    }

    /// Those that hold, by their type.
    pub fn iter(&self) -> impl Iterator<Item = &Condition> {
        self.0.values()
    }
}

/// The one place that holds the node's conditions, for all observers.
#[derive(Debug, Default)]
pub struct NodeConditions(Mutex<Conditions>);

impl NodeConditions {
    /// Takes in what an observer found, and logs it if it is news.
    pub fn report(&self, kind: Kind, finding: Option<Finding>) {
        let said = finding.clone();
        let change = self.lock().report(kind, finding, SystemTime::now());
        let condition = kind.as_str();
        match (change, said) {
            (None, _) => {}
            (Some(Change::Gone), _) | (Some(_), None) => tracing::info!(condition, "condition is over"),
            (Some(_), Some(Finding { reason, message, remedy })) => tracing::warn!(condition, reason, remedy, "{message}"),
        }
    }

    /// Those that hold.
    #[must_use]
    pub fn all(&self) -> Vec<Condition> {
        self.lock().iter().cloned().collect()
    }

    /// The first, by type, for which an ADD fails, those kinds left out.
    #[must_use]
    pub fn failing_adds_beside(&self, left_out: &[Kind]) -> Option<Condition> {
        self.lock().iter().find(|condition| condition.kind.fails_adds() && !left_out.contains(&condition.kind)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Conditions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn taken(port: &str) -> Option<Finding> {
        Some(Finding::new("AddressInUse", format!("port {port} is taken"), "choose another"))
    }

    #[test]
    fn a_condition_is_news_when_it_appears_changes_and_goes() {
        let mut conditions = Conditions::default();
        let mut report = |finding, now| conditions.report(Kind::TelemetryNotServed, finding, at(now));
        assert_eq!(report(None, 1), None, "what was never wrong is not over");
        assert_eq!(report(taken("1"), 2), Some(Change::Appeared));
        assert_eq!(report(taken("1"), 3), None);
        assert_eq!(report(taken("2"), 4), Some(Change::Changed));
        assert_eq!(conditions.iter().next().unwrap().since, at(2), "the reason is still the same");
        let other = Some(Finding::new("NotAllowed", "no", "ask"));
        assert_eq!(conditions.report(Kind::TelemetryNotServed, other, at(5)), Some(Change::Changed));
        assert_eq!(conditions.iter().next().unwrap().since, at(5));
        assert_eq!(conditions.report(Kind::TelemetryNotServed, None, at(6)), Some(Change::Gone));
        assert_eq!(conditions.iter().count(), 0);
    }

    #[test]
    fn a_condition_reads_as_kubernetes_writes_them() {
        let mut conditions = Conditions::default();
        conditions.report(Kind::TelemetryNotServed, taken("9807"), at(1_700_000_000));
        let json = serde_json::to_value(conditions.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(
            json,
            serde_json::json!([{
                "type": "TelemetryNotServed", "status": "True", "reason": "AddressInUse", "message": "port 9807 is taken",
                "remedy": "choose another", "since": "2023-11-14T22:13:20Z",
            }])
        );
    }

    #[test]
    fn one_place_tells_whether_an_add_would_fail() {
        let conditions = NodeConditions::default();
        conditions.report(Kind::TelemetryNotServed, taken("1"));
        assert_eq!(conditions.failing_adds_beside(&[]), None);
        conditions.report(Kind::PluginUnusable, Some(Finding::new("NotFound", "portmap", "install it")));
        assert_eq!(conditions.failing_adds_beside(&[]).unwrap().kind, Kind::PluginUnusable);
        assert_eq!(conditions.failing_adds_beside(&[Kind::PluginUnusable]), None);
    }
}
