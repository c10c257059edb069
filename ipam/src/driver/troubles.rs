//! What is wrong now. Each trouble is logged when it begins, when it changes and when it ends, however often it is met.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use node_api::BootMillis;

use super::report::Call;
use crate::range::Family;
use crate::supply::{Outcome, Refusal};

/// What a trouble is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    /// Calls of one kind fail.
    Call(Call),
    /// What became of a call is not known.
    Unanswered(Call),
    /// More addresses are wanted, and there is no room for any.
    NoRoom(Family),
    /// The cloud has taken a block.
    Lost(IpNetwork),
    /// A block is in the way of another.
    Overlap(IpNetwork),
}

#[derive(Debug, Default)]
pub(super) struct Troubles {
    now: BTreeMap<Topic, String>,
    /// How each kind of call failed last, and when.
    last: BTreeMap<Call, (String, BootMillis)>,
}

impl Troubles {
    pub(super) fn set(&mut self, topic: Topic, what: String) {
        if self.now.get(&topic) != Some(&what) {
            tracing::error!("{what}");
            self.now.insert(topic, what);
        }
    }

    pub(super) fn clear(&mut self, topic: &Topic) {
        if let Some(what) = self.now.remove(topic) {
            tracing::info!(what, "is over");
        }
    }

    /// Takes in what became of a call.
    pub(super) fn note(&mut self, call: Call, outcome: &Outcome, at: BootMillis) {
        let (topic, what) = match outcome {
            Outcome::Read(_) | Outcome::Assigned(_) | Outcome::Added | Outcome::Unassigned => return self.succeeded(call),
            // That there is no room is told as such, and is an answer.
            Outcome::Refused(Refusal::Full | Refusal::Exhausted) => return self.succeeded(call),
            Outcome::Refused(Refusal::Other(why)) => (Topic::Call(call), why.clone()),
            Outcome::Refused(Refusal::Throttled(_)) => {
                (Topic::Call(call), "the cloud asks for fewer calls; they are made less often".to_owned())
            }
            Outcome::Unknown => {
                (Topic::Unanswered(call), "no answer, so it may have been done: the cloud is asked what became of it".to_owned())
            }
        };
        self.last.insert(call, (what.clone(), at));
        self.set(topic, format!("{call}: {what}"));
    }

    fn succeeded(&mut self, call: Call) {
        self.clear(&Topic::Call(call));
        self.clear(&Topic::Unanswered(call));
    }

    /// The readers have told what became of all calls.
    pub(super) fn end_unanswered(&mut self) {
        self.end(|topic| matches!(topic, Topic::Unanswered(_)));
    }

    /// How each kind of call failed last, and when.
    pub(super) fn last_failures(&self) -> impl Iterator<Item = (&Call, &(String, BootMillis))> {
        self.last.iter()
    }

    pub(super) fn set_stuck(&mut self, family: Family, is_stuck: bool) {
        let topic = Topic::NoRoom(family);
        if !is_stuck {
            return self.clear(&topic);
        }
        let what = match family {
            Family::V4 => "the interfaces have as many as the instance type allows, or their subnets have none left",
            Family::V6 => "the interfaces have as many as the instance type allows, or their subnets have no IPv6 block",
        };
        let remedy = "name further subnets in source.subnets, or take a larger instance type";
        self.set(topic, format!("there is no room for more {family} addresses: {what}; {remedy}"));
    }

    /// Ends the troubles of blocks that are lost no more, and of those that are in the way no more.
    pub(super) fn end_blocks(&mut self, is_lost: impl Fn(&IpNetwork) -> bool, overlaps: impl Fn(&IpNetwork) -> bool) {
        self.end(|topic| match topic {
            Topic::Lost(block) => !is_lost(block),
            Topic::Overlap(block) => !overlaps(block),
            Topic::Call(_) | Topic::Unanswered(_) | Topic::NoRoom(_) => false,
        });
    }

    fn end(&mut self, is_over: impl Fn(&Topic) -> bool) {
        let over: Vec<_> = self.now.keys().filter(|topic| is_over(topic)).copied().collect();
        over.iter().for_each(|topic| self.clear(topic));
    }

    /// Why there may be no addresses, for those who ask in vain.
    pub(super) fn told(&self) -> Option<String> {
        let reasons = self.now.iter().filter(|(topic, _)| matches!(topic, Topic::Call(_) | Topic::Unanswered(_) | Topic::NoRoom(_)));
        let reasons: Vec<_> = reasons.map(|(_, what)| what.as_str()).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.now.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_ends_with_what_it_is_about() {
        let mut troubles = Troubles::default();
        troubles.note(Call::Assign, &Outcome::Refused(Refusal::Other("AuthFailure".into())), BootMillis(1));
        troubles.note(Call::ReadMetadata, &Outcome::Refused(Refusal::Other("away".into())), BootMillis(2));
        troubles.set_stuck(Family::V6, true);
        troubles.set(Topic::Lost("10.0.0.0/28".parse().unwrap()), "lost".into());
        let told = troubles.told().unwrap();
        assert!(told.contains("assign: AuthFailure") && told.contains("no room for more IPv6") && !told.contains("lost"), "{told}");
        troubles.note(Call::Assign, &Outcome::Assigned(Vec::new()), BootMillis(3));
        troubles.set_stuck(Family::V6, false);
        assert_eq!(troubles.told().unwrap(), "read_metadata: away");
        troubles.set(Topic::Overlap("10.0.0.0/28".parse().unwrap()), "overlaps".into());
        troubles.end_blocks(|_| false, |_| true);
        assert_eq!(troubles.all(), ["read_metadata: away", "overlaps"]);
        troubles.end_blocks(|_| false, |_| false);
        assert_eq!(troubles.all(), ["read_metadata: away"]);
        let failed: Vec<_> = troubles.last_failures().map(|(call, (what, at))| (*call, what.as_str(), at.0)).collect();
        assert_eq!(failed, [(Call::ReadMetadata, "away", 2), (Call::Assign, "AuthFailure", 1)], "it is remembered");
    }

    #[test]
    fn an_answer_ends_what_had_none_and_so_do_readers() {
        let mut troubles = Troubles::default();
        troubles.note(Call::Assign, &Outcome::Refused(Refusal::Throttled(None)), BootMillis(1));
        troubles.note(Call::Assign, &Outcome::Unknown, BootMillis(2));
        troubles.note(Call::Assign, &Outcome::Refused(Refusal::Exhausted), BootMillis(3));
        assert_eq!(troubles.told(), None);
        troubles.note(Call::AddInterface, &Outcome::Unknown, BootMillis(4));
        assert!(troubles.told().unwrap().starts_with("add_interface: no answer"));
        troubles.end_unanswered();
        assert_eq!(troubles.told(), None);
    }
}
