//! Who looks at whom: each node is looked at by a few others, its witnesses, chosen by rendezvous hash (ADR 34).
//!
//! It is witnesses that are chosen, not whom a node looks at: each node has as many as it takes to be believed, and what varies is the work of a
//! node. One that comes or goes changes its own witnesses and the few nodes that it is a witness of. In which order they came does not matter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use twox_hash::XxHash3_64;

/// Of each node, where there are so many others. Two have to say so; one may be sick itself, and one new.
pub const WITNESSES: usize = 4;

type Name = Arc<str>;
/// How well a witness suits, and who it is: the greatest are chosen.
type Place = (u64, Name);

#[derive(Debug)]
struct Member {
    hash: u64,
    /// The best first.
    witnesses: Vec<Place>,
    /// Of whom it is a witness.
    targets: BTreeSet<Name>,
}

/// All nodes that can be looked at.
#[derive(Debug, Default)]
pub struct Circle {
    members: BTreeMap<Name, Member>,
}

impl Circle {
    /// A node is there from now on. The answer: who looks at others than before, or is looked at by others.
    pub fn add(&mut self, name: &str) -> BTreeSet<Name> {
        let mut changed = BTreeSet::new();
        if self.members.contains_key(name) {
            return changed;
        }
        let (name, hash) = (Name::from(name), hash(name));
        let place_at = |member: &Member| (score(member.hash, hash), Arc::clone(&name));
        let takes =
            |member: &Member| member.witnesses.len() < WITNESSES || member.witnesses.last().is_some_and(|last| place_at(member) > *last);
        let takers: Vec<_> = self.members.iter().filter(|(_, member)| takes(member)).map(|(taker, _)| Arc::clone(taker)).collect();
        let member = Member { hash, witnesses: self.best(&name, hash), targets: takers.iter().cloned().collect() };
        for (_, witness) in &member.witnesses {
            self.link(witness, &name);
            changed.insert(Arc::clone(witness));
        }
        for taker in takers {
            let Some(member) = self.members.get_mut(&taker) else { continue };
            let place = (score(member.hash, hash), Arc::clone(&name));
            let at = member.witnesses.partition_point(|other| *other > place);
            member.witnesses.insert(at, place);
            if member.witnesses.len() > WITNESSES
                && let Some((_, loser)) = member.witnesses.pop()
            {
                self.unlink(&loser, &taker);
                changed.insert(loser);
            }
            changed.insert(taker);
        }
        self.members.insert(Arc::clone(&name), member);
        changed.insert(name);
        changed
    }

    /// A node is no more. Likewise.
    pub fn remove(&mut self, name: &str) -> BTreeSet<Name> {
        let mut changed = BTreeSet::new();
        let Some((name, Member { witnesses, targets, .. })) = self.members.remove_entry(name) else { return changed };
        for (_, witness) in witnesses {
            self.unlink(&witness, &name);
            changed.insert(witness);
        }
        for target in targets {
            let Some(hash) = self.members.get(&target).map(|member| member.hash) else { continue };
            let witnesses = self.best(&target, hash);
            // All but one of them are the same.
            for (_, witness) in &witnesses {
                if self.link(witness, &target) {
                    changed.insert(Arc::clone(witness));
                }
            }
            if let Some(member) = self.members.get_mut(&target) {
                member.witnesses = witnesses;
            }
            changed.insert(target);
        }
        changed.insert(name);
        changed
    }

    /// Whom a node is to look at.
    pub fn targets_of(&self, name: &str) -> impl Iterator<Item = &str> {
        self.members.get(name).into_iter().flat_map(|member| member.targets.iter().map(AsRef::as_ref))
    }

    /// Who looks at it.
    pub fn witnesses_of(&self, name: &str) -> impl Iterator<Item = &str> {
        self.members.get(name).into_iter().flat_map(|member| member.witnesses.iter().map(|(_, witness)| witness.as_ref()))
    }

    /// False: it was so already.
    fn link(&mut self, witness: &Name, target: &Name) -> bool {
        self.members.get_mut(witness).is_some_and(|member| member.targets.insert(Arc::clone(target)))
    }

    fn unlink(&mut self, witness: &Name, target: &Name) {
        if let Some(member) = self.members.get_mut(witness) {
            member.targets.remove(target);
        }
    }

    /// The best witnesses of a node.
    fn best(&self, of: &Name, hash: u64) -> Vec<Place> {
        let mut best: Vec<Place> = Vec::with_capacity(WITNESSES + 1);
        for (name, member) in self.members.iter().filter(|(name, _)| *name != of) {
            let score = score(hash, member.hash);
            let is_better = |(other, of): &Place| (*other, of) > (score, name);
            if best.len() < WITNESSES || best.last().is_some_and(|last| !is_better(last)) {
                let at = best.partition_point(is_better);
                best.insert(at, (score, Arc::clone(name)));
                best.truncate(WITNESSES);
            }
        }
        best
    }
}

/// Replicas have to agree.
fn hash(name: &str) -> u64 {
    XxHash3_64::oneshot(name.as_bytes())
}

/// How well one node suits another, alike in all replicas.
pub(crate) fn fit(target: &str, other: &str) -> u64 {
    score(hash(target), hash(other))
}

/// How well a witness suits a node. Of hashes of names, as each node is compared with each.
fn score(target: u64, witness: u64) -> u64 {
    XxHash3_64::oneshot_with_seed(target, &witness.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of each node its witnesses and targets.
    fn whole(circle: &Circle) -> BTreeMap<String, (Vec<String>, Vec<String>)> {
        let names = |all: &mut dyn Iterator<Item = &str>| all.map(str::to_owned).collect::<Vec<_>>();
        let of = |name: &Name| (names(&mut circle.witnesses_of(name)), names(&mut circle.targets_of(name)));
        circle.members.keys().map(|name| (name.to_string(), of(name))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn it_is_the_same_whatever_came_before_and_who_has_changed_is_told(steps in proptest::collection::vec((0..40_u32, any::<bool>()), 1..120)) {
            let mut circle = Circle::default();
            let mut there = BTreeSet::new();
            for (node, is_added) in steps {
                let (name, before) = (format!("n{node}"), whole(&circle));
                let changed = if is_added { circle.add(&name) } else { circle.remove(&name) };
                if is_added { there.insert(node) } else { there.remove(&node) };
                let after = whole(&circle);
                let differs = before.keys().chain(after.keys()).filter(|name| before.get(*name) != after.get(*name));
                prop_assert_eq!(changed.iter().map(ToString::to_string).collect::<BTreeSet<_>>(), differs.cloned().collect());
            }
            let mut afresh = Circle::default();
            there.iter().rev().for_each(|node| drop(afresh.add(&format!("n{node}"))));
            prop_assert_eq!(whole(&circle), whole(&afresh));
            for (name, (witnesses, targets)) in whole(&circle) {
                prop_assert_eq!(witnesses.len(), WITNESSES.min(there.len() - 1));
                prop_assert!(!witnesses.contains(&name) && witnesses.iter().collect::<BTreeSet<_>>().len() == witnesses.len());
                for target in targets {
                    prop_assert!(circle.witnesses_of(&target).any(|witness| witness == name));
                }
            }
        }
    }

    #[test]
    fn the_work_is_shared_and_one_node_more_changes_a_few() {
        let mut circle = Circle::default();
        (0..2_000).for_each(|node| drop(circle.add(&format!("node-{node}.example"))));
        let work: Vec<_> = circle.members.values().map(|member| member.targets.len()).collect();
        assert_eq!(work.iter().sum::<usize>(), 2_000 * WITNESSES);
        assert!(work.iter().all(|targets| *targets <= 16), "{:?}", work.iter().max());
        let changed = circle.add("node-2000.example").len();
        assert!(changed <= 1 + WITNESSES + 2 * 16, "{changed}");
        assert!(circle.add("node-2000.example").is_empty());
        assert_eq!(circle.remove("node-2000.example").len(), changed);
    }
}
