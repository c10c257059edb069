//! What is wrong now. Each condition is logged when it begins, when it changes and when it ends, however often it is met.

use std::collections::BTreeMap;

use ipam_pool::range::Family;
use ipam_supply::{Growth, Outcome, Refusal};
use ipnetwork::IpNetwork;
use node_api::BootMillis;

use super::report::{Call, CloudCondition};

/// What a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Calls of one kind fail.
    Call(Call),
    /// The outcome of a call is not known.
    Unanswered(Call),
    /// More addresses are wanted, and there is no room for any.
    NoRoom(Family),
    /// The cloud has taken a block.
    Lost(IpNetwork),
    /// A block is in the way of another.
    Overlap(IpNetwork),
}

#[derive(Debug, Default)]
pub(super) struct CloudConditions {
    now: BTreeMap<Kind, String>,
    /// How each kind of call failed last, and when.
    last: BTreeMap<Call, (String, BootMillis)>,
}

impl Kind {
    /// The `type`, as those of `/status` are named.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Call(_) => "CallFailed",
            Self::Unanswered(_) => "OutcomeUnknown",
            Self::NoRoom(_) => "NoFreeSlots",
            Self::Lost(_) => "BlockLost",
            Self::Overlap(_) => "BlockOverlaps",
        }
    }
}

impl CloudConditions {
    pub(super) fn set(&mut self, kind: Kind, what: String) {
        if self.now.get(&kind) != Some(&what) {
            tracing::error!(condition = kind.as_str(), "{what}");
            self.now.insert(kind, what);
        }
    }

    pub(super) fn clear(&mut self, kind: &Kind) {
        if let Some(what) = self.now.remove(kind) {
            tracing::info!(condition = kind.as_str(), what, "condition is over");
        }
    }

    /// Takes in what became of a call.
    pub(super) fn note(&mut self, call: Call, outcome: &Outcome, at: BootMillis) {
        let (kind, what) = match outcome {
            Outcome::Read(_) | Outcome::Assigned(_) | Outcome::Added | Outcome::Unassigned => return self.succeeded(call),
            // That there is no room is told as such, and is an answer.
            Outcome::Refused(Refusal::Full | Refusal::Exhausted) => return self.succeeded(call),
            Outcome::Refused(Refusal::Other(why)) => (Kind::Call(call), why.clone()),
            Outcome::Refused(Refusal::Throttled(_)) => {
                (Kind::Call(call), "the cloud asks for fewer calls; they are made less often".to_owned())
            }
            Outcome::Unknown => {
                (Kind::Unanswered(call), "no answer, so it may have been done: the cloud is asked what became of it".to_owned())
            }
        };
        self.last.insert(call, (what.clone(), at));
        self.set(kind, format!("{call}: {what}"));
    }

    fn succeeded(&mut self, call: Call) {
        self.clear(&Kind::Call(call));
        self.clear(&Kind::Unanswered(call));
    }

    /// The readers have told what became of all calls.
    pub(super) fn end_unanswered(&mut self) {
        self.end(|kind| matches!(kind, Kind::Unanswered(_)));
    }

    /// How each kind of call failed last, and when.
    pub(super) fn last_failures(&self) -> impl Iterator<Item = (&Call, &(String, BootMillis))> {
        self.last.iter()
    }

    /// More addresses of a family are wanted, and none can be had for this reason; or that is over.
    pub(super) fn set_stuck(&mut self, family: Family, growth: Option<Growth>) {
        let kind = Kind::NoRoom(family);
        let Some(growth) = growth else { return self.clear(&kind) };
        let why = match (growth, family) {
            (Growth::SubnetFull { .. }, _) => {
                "the subnets have none left, and are asked again now and then; name further subnets in source.subnets"
            }
            (_, Family::V4) => "the interfaces have as many as the instance type allows; take a larger instance type",
            (_, Family::V6) => {
                "the interfaces have as many as the instance type allows, or their subnets have no IPv6 block; name further subnets in \
                 source.subnets, or take a larger instance type"
            }
        };
        self.set(kind, format!("there is no room for more {family} addresses: {why}"));
    }

    /// Ends the conditions of blocks that are lost no more, and of those that are in the way no more.
    pub(super) fn end_blocks(&mut self, is_lost: impl Fn(&IpNetwork) -> bool, overlaps: impl Fn(&IpNetwork) -> bool) {
        self.end(|kind| match kind {
            Kind::Lost(block) => !is_lost(block),
            Kind::Overlap(block) => !overlaps(block),
            Kind::Call(_) | Kind::Unanswered(_) | Kind::NoRoom(_) => false,
        });
    }

    fn end(&mut self, is_over: impl Fn(&Kind) -> bool) {
        let over: Vec<_> = self.now.keys().filter(|kind| is_over(kind)).copied().collect();
        over.iter().for_each(|kind| self.clear(kind));
    }

    /// Why there may be no addresses, for those who ask in vain.
    pub(super) fn told(&self) -> Option<String> {
        let reasons = self.now.iter().filter(|(kind, _)| matches!(kind, Kind::Call(_) | Kind::Unanswered(_) | Kind::NoRoom(_)));
        let reasons: Vec<_> = reasons.map(|(_, what)| what.as_str()).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    pub(super) fn all(&self) -> Vec<CloudCondition> {
        self.now.iter().map(|(kind, what)| CloudCondition { kind: kind.as_str(), message: what.clone() }).collect()
    }
}

/// What is to be expected where nothing is wrong: told to pods that have waited in vain.
pub(super) fn outlook(growth: Growth) -> Option<String> {
    Some(match growth {
        Growth::NotAsked => {
            "this node has what is assigned to it: whoever owns the machine assigns more, and they are read every two seconds while pods wait"
                .to_owned()
        }
        Growth::Room { blocks, interface } => {
            let further = if interface { ", and another interface can be attached" } else { "" };
            format!("the cloud is asked for more, for there is room for {blocks} blocks on the node's interfaces{further}")
        }
        // These are told as conditions.
        Growth::SubnetFull { .. } | Growth::AtLimit => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_ends_with_what_it_is_about() {
        let mut conditions = CloudConditions::default();
        conditions.note(Call::Assign, &Outcome::Refused(Refusal::Other("AuthFailure".into())), BootMillis(1));
        conditions.note(Call::ReadMetadata, &Outcome::Refused(Refusal::Other("away".into())), BootMillis(2));
        conditions.set_stuck(Family::V6, Some(Growth::AtLimit));
        conditions.set(Kind::Lost("10.0.0.0/28".parse().unwrap()), "lost".into());
        let told = conditions.told().unwrap();
        assert!(told.contains("assign: AuthFailure") && told.contains("no room for more IPv6") && !told.contains("lost"), "{told}");
        conditions.note(Call::Assign, &Outcome::Assigned(Vec::new()), BootMillis(3));
        conditions.set_stuck(Family::V6, None);
        assert_eq!(conditions.told().unwrap(), "read_metadata: away");
        conditions.set(Kind::Overlap("10.0.0.0/28".parse().unwrap()), "overlaps".into());
        conditions.end_blocks(|_| false, |_| true);
        let all = |conditions: &CloudConditions| conditions.all().into_iter().map(|found| (found.kind, found.message)).collect::<Vec<_>>();
        let away = ("CallFailed", "read_metadata: away".to_owned());
        assert_eq!(all(&conditions), [away.clone(), ("BlockOverlaps", "overlaps".to_owned())]);
        conditions.end_blocks(|_| false, |_| false);
        assert_eq!(all(&conditions), [away]);
        let failed: Vec<_> = conditions.last_failures().map(|(call, (what, at))| (*call, what.as_str(), at.0)).collect();
        assert_eq!(failed, [(Call::ReadMetadata, "away", 2), (Call::Assign, "AuthFailure", 1)], "it is remembered");
    }

    #[test]
    fn an_answer_ends_what_had_none_and_so_do_readers() {
        let mut conditions = CloudConditions::default();
        conditions.note(Call::Assign, &Outcome::Refused(Refusal::Throttled(None)), BootMillis(1));
        conditions.note(Call::Assign, &Outcome::Unknown, BootMillis(2));
        conditions.note(Call::Assign, &Outcome::Refused(Refusal::Exhausted), BootMillis(3));
        assert_eq!(conditions.told(), None);
        conditions.note(Call::AddInterface, &Outcome::Unknown, BootMillis(4));
        assert!(conditions.told().unwrap().starts_with("add_interface: no answer"));
        conditions.end_unanswered();
        assert_eq!(conditions.told(), None);
    }
}
