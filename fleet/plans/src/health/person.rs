//! What a person does about a node: a quarantine of their own, which the fleet never touches, and a pardon of either kind.

use serde::{Deserialize, Serialize};

use super::record::{is_marked, release};
use super::{Millis, SICK, VALUE};
use crate::node::{Change, Node, Taint};

/// The annotation that says who has quarantined a node and why.
pub const QUARANTINE: &str = "health.barewire.cloud/quarantine";

/// Of a quarantine by a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Who.
    pub by: String,
    /// Why, in their words.
    #[serde(default)]
    pub reason: String,
    /// Since when.
    #[serde(default)]
    pub since: Millis,
}

/// A name that cannot be the value of a person's taint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be a taint's value of a person: 1 to 63 letters, digits, `-`, `_` and `.`, the first and last of them a letter or digit, and not {VALUE:?}"
)]
pub struct NoPerson(pub String);

impl Quarantine {
    /// By a person.
    ///
    /// # Errors
    /// A name that cannot be a taint's value, or is the fleet's.
    pub fn new(by: &str, reason: &str, since: Millis) -> Result<Self, NoPerson> {
        let is_letter = |letter: char| letter.is_ascii_alphanumeric();
        let is_name = (1..=63).contains(&by.len())
            && by.chars().all(|letter| is_letter(letter) || "-_.".contains(letter))
            && by.starts_with(is_letter)
            && by.ends_with(is_letter);
        if !is_name || by == VALUE {
            return Err(NoPerson(by.to_owned()));
        }
        Ok(Self { by: by.to_owned(), reason: reason.to_owned(), since })
    }

    /// What is on a node: by its taint, and by the annotation as far as that can be read.
    #[must_use]
    pub fn of(node: &Node) -> Option<Self> {
        let taint = node.taints.iter().find(|taint| is_persons(taint))?;
        let told = node.annotations.get(QUARANTINE).and_then(|text| serde_json::from_str(text).ok());
        Some(told.unwrap_or_else(|| Self { by: taint.value.clone(), reason: String::new(), since: 0 }))
    }

    /// Puts it on a node, in the place of what the fleet has there: of one key and effect there is one taint.
    #[must_use]
    pub fn put(&self, node: &Node) -> Change {
        let mut change = pardon(node).unwrap_or_default();
        change.taints_new.push(Taint::no_schedule(SICK, &self.by));
        let text = serde_json::to_string(self).unwrap_or_default();
        change.annotations.insert(QUARANTINE.to_owned(), Some(text));
        change
    }
}

fn is_persons(taint: &Taint) -> bool {
    taint.key == SICK && *taint != Taint::no_schedule(SICK, VALUE)
}

/// Takes away what the fleet or a person has put there; nothing where there is nothing. Past sicknesses stay.
#[must_use]
pub fn pardon(node: &Node) -> Option<Change> {
    let taints_gone: Vec<_> = node.taints.iter().filter(|taint| taint.key == SICK).cloned().collect();
    if taints_gone.is_empty() && !is_marked(node) && !node.annotations.contains_key(QUARANTINE) {
        return None;
    }
    let mut change = Change { taints_gone, ..release() };
    change.annotations.insert(QUARANTINE.to_owned(), None);
    Some(change)
}

#[cfg(test)]
mod tests {
    use super::super::record::{is_quarantined, is_tainted};
    use super::super::{Record, Stage, stamp};
    use super::*;

    #[test]
    fn a_person_takes_the_place_of_the_fleet_and_a_pardon_ends_both() {
        let other = Taint::no_schedule("theirs", "");
        let healthy = Node { name: "a".to_owned(), taints: vec![other.clone()], ..Node::default() };
        assert_eq!(pardon(&healthy), None);
        let record = Record { stage: Stage::Tainted, since: 1, evidence: vec!["seen".to_owned()] };
        let sick = stamp(&record, &[1]).applied_to(&healthy);
        let quarantine = Quarantine::new("ann", "a fan is loud", 5).unwrap();
        for node in [&healthy, &sick, &quarantine.put(&sick).applied_to(&sick)] {
            let mine = quarantine.put(node).applied_to(node);
            assert_eq!(mine.taints, [other.clone(), Taint::no_schedule(SICK, "ann")], "one taint of a key and effect");
            assert!(is_quarantined(&mine) && !is_marked(&mine));
            assert_eq!(Quarantine::of(&mine), Some(quarantine.clone()));
            let free = pardon(&mine).unwrap().applied_to(&mine);
            assert!(free.taints == healthy.taints && !free.annotations.contains_key(QUARANTINE));
        }
        let free = pardon(&sick).unwrap().applied_to(&sick);
        assert!(!is_tainted(&free) && !is_marked(&free) && free.annotations.len() == 1, "relapses are remembered");
        let by_hand = Node { taints: vec![Taint::no_schedule(SICK, "bob")], ..Node::default() };
        assert_eq!(Quarantine::of(&by_hand).unwrap().by, "bob");
        for wrong in ["", "fleet", "a b", "-a", &"a".repeat(64)] {
            assert!(Quarantine::new(wrong, "", 0).is_err(), "{wrong}");
        }
    }
}
