//! Classes of packets that rules are judged for, and for how many packets of one a match holds. Pure.

use ipnetwork::IpNetwork;

use super::ruleset::{Base, ESTABLISHED, Hook, Match, NEW, Name, RELATED, Rule, Test};
use crate::prefixes;

/// Bits that we set ourselves (docs/adr/0008), and so cannot be told beforehand.
const OUR_MARKS: u32 = 0x1f;

/// How many packets of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Share {
    None,
    Some,
    All,
}

/// For which packets something holds: how many, and, where that is known, those with one of these at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holds {
    pub(super) share: Share,
    pub(super) remotes: Option<Vec<IpNetwork>>,
}

impl Holds {
    pub(super) const ALL: Self = Self { share: Share::All, remotes: None };
    const SOME: Self = Self { share: Share::Some, remotes: None };
    const NONE: Self = Self { share: Share::None, remotes: None };

    const fn either(holds: bool) -> Self {
        if holds { Self::ALL } else { Self::NONE }
    }

    pub(super) fn and(self, other: Self) -> Self {
        let remotes = match (self.remotes, other.remotes) {
            (Some(one), Some(other)) => Some(if one.len() <= other.len() { one } else { other }),
            (one, other) => one.or(other),
        };
        Self { share: self.share.min(other.share), remotes }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From pods to the network.
    Out,
    /// From the network to pods.
    In,
    /// From pod to pod.
    Within,
}

/// Packets that are judged together.
#[derive(Debug, Clone)]
pub(super) struct Class<'a> {
    pub(super) ipv4: bool,
    pub(super) way: Way,
    pub(super) pods: &'a [IpNetwork],
    /// Native networks at the other end.
    pub(super) remote: &'a [IpNetwork],
    /// All pods of the node.
    pub(super) all_pods: &'a [IpNetwork],
    pub(super) uplinks: &'a [String],
    pub(super) marks_are_set: bool,
}

impl Class<'_> {
    /// Whether its packets come to a base chain.
    pub(super) fn comes_to(&self, base: &Base) -> bool {
        let by = |is_pods: bool| {
            base.devices.iter().any(|device| {
                let name = Name { text: device.clone(), is_prefix: false };
                self.device(&name, is_pods) != Share::None
            })
        };
        match base.hook {
            Hook::Ingress => by(self.way != Way::In),
            Hook::Egress => by(self.way != Way::Out),
            Hook::Prerouting | Hook::Forward | Hook::Postrouting => true,
        }
    }

    pub(super) fn matched(&self, rule: &Rule) -> Holds {
        rule.matches.iter().fold(Holds::ALL, |holds, one| holds.and(self.holds(one)))
    }

    fn holds(&self, one: &Match) -> Holds {
        let holds = self.tested(&one.test);
        match (one.is_negated, holds.share) {
            (false, _) => holds,
            (true, Share::All) => Holds::NONE,
            (true, Share::Some) => Holds::SOME,
            (true, Share::None) => Holds::ALL,
        }
    }

    fn tested(&self, test: &Test) -> Holds {
        match test {
            Test::Source(cidr) => self.end(cidr, self.way != Way::In),
            Test::Destination(cidr) => self.end(cidr, self.way != Way::Out),
            Test::In(name) => Holds { share: self.device(name, self.way != Way::In), remotes: None },
            Test::Out(name) => Holds { share: self.device(name, self.way != Way::Out), remotes: None },
            Test::State(bits) => match bits & (NEW | ESTABLISHED | RELATED) {
                0 => Holds::NONE,
                all if all == NEW | ESTABLISHED | RELATED => Holds::ALL,
                _ => Holds::SOME,
            },
            Test::Mark(mask, value) if !self.marks_are_set => match (mask & OUR_MARKS, mask & value & !OUR_MARKS) {
                (_, theirs) if theirs != 0 => Holds::NONE,
                (0, _) => Holds::ALL,
                _ => Holds::SOME,
            },
            Test::Protocol(protocol) => match (self.ipv4, protocol) {
                (_, 6 | 17) | (true, 1) | (false, 58) => Holds::SOME,
                _ => Holds::NONE,
            },
            Test::Family(ipv4) => Holds::either(*ipv4 == self.ipv4),
            Test::Local => Holds::NONE,
            Test::ReversePathFails if self.uplinks.len() <= 1 => Holds::NONE,
            Test::Always => Holds::ALL,
            Test::Any(tests) => self.any(tests),
            Test::Mark(..) | Test::ReversePathFails | Test::Unknown => Holds::SOME,
        }
    }

    fn any(&self, tests: &[Test]) -> Holds {
        let some: Vec<_> = tests.iter().map(|test| self.tested(test)).filter(|holds| holds.share != Share::None).collect();
        match () {
            () if some.is_empty() => Holds::NONE,
            () if some.iter().any(|holds| holds.share == Share::All) => Holds::ALL,
            () => {
                let remotes: Option<Vec<Vec<_>>> = some.into_iter().map(|holds| holds.remotes).collect();
                Holds { share: Share::Some, remotes: remotes.map(|remotes| remotes.concat()) }
            }
        }
    }

    fn end(&self, cidr: &IpNetwork, is_pods: bool) -> Holds {
        let ends = if is_pods { self.pods } else { self.remote };
        match () {
            () if ends.iter().all(|end| prefixes::contains(cidr, end)) => Holds::ALL,
            () if !ends.iter().any(|end| prefixes::intersect(cidr, end)) => Holds::NONE,
            () if is_pods => Holds::SOME,
            // What pods of this node have is no other end's.
            () if self.all_pods.iter().any(|pods| prefixes::contains(pods, cidr)) => Holds::NONE,
            () => Holds { share: Share::Some, remotes: Some(vec![*cidr]) },
        }
    }

    fn device(&self, name: &Name, is_pods: bool) -> Share {
        if is_pods {
            return match () {
                () if name.is_prefix && "bw".starts_with(name.text.as_str()) => Share::All,
                () if name.text.starts_with("bw") => Share::Some,
                () => Share::None,
            };
        }
        let is_meant = |uplink: &&String| if name.is_prefix { uplink.starts_with(&name.text) } else { **uplink == name.text };
        match self.uplinks.iter().filter(is_meant).count() {
            0 => Share::None,
            all if all == self.uplinks.len() => Share::All,
            _ => Share::Some,
        }
    }
}
