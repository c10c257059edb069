//! Tells nodes whom they look at (ADR 34): of the nodes that the API server has, those that are Ready.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fleet_api::message::{Peer, Peers};
use fleet_plans::peers::Circle;

use crate::acting::Nodes;
use crate::hub::Hub;

/// Between two looks: nodes that come together are told once, and nobody is in a hurry.
const LOOK: Duration = Duration::from_secs(2);

/// Tells of changes as they are seen. Returns where a choice has panicked.
pub async fn follow(nodes: Arc<Nodes>, hub: Arc<Hub>) {
    nodes.synced().await;
    let (mut known, mut seen) = (Known::default(), None);
    loop {
        if let Some((moved, reachable)) = nodes.reachable(seen) {
            seen = Some(moved);
            // Beside the connections: the first choice compares each node with each.
            let looked = tokio::task::spawn_blocking(move || {
                let told = known.look(reachable);
                (known, told)
            });
            let Ok((back, told)) = looked.await else { return };
            known = back;
            let is_news = !told.is_empty();
            hub.change(|replica| {
                told.into_iter().for_each(|(node, peers)| replica.acquaint(&node, peers));
                is_news
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Nodes that can be looked at, and what they were told.
#[derive(Debug, Default)]
struct Known {
    addresses: BTreeMap<String, Vec<IpAddr>>,
    circle: Circle,
}

impl Known {
    /// Who is to be told what, where these are there now. Who is not looks at nobody.
    fn look(&mut self, now: BTreeMap<String, Vec<IpAddr>>) -> BTreeMap<String, Option<Peers>> {
        let before = std::mem::replace(&mut self.addresses, now);
        let mut changed = BTreeSet::new();
        for name in before.keys().filter(|name| !self.addresses.contains_key(*name)) {
            changed.extend(self.circle.remove(name));
        }
        for (name, addresses) in &self.addresses {
            match before.get(name) {
                None => changed.extend(self.circle.add(name)),
                Some(before) if before != addresses => {
                    let others = self.circle.targets_of(name).chain(self.circle.witnesses_of(name));
                    changed.extend(others.chain([&**name]).map(Arc::from));
                }
                Some(_) => {}
            }
        }
        changed.into_iter().map(|name| (name.to_string(), self.addresses.contains_key(&*name).then(|| self.peers_of(&name)))).collect()
    }

    fn peers_of(&self, name: &str) -> Peers {
        let bytes = |name: &str| self.addresses.get(name).into_iter().flatten().copied().map(Peers::bytes).collect::<Vec<_>>();
        let target = |name: &str| Peer { name: name.to_owned(), addresses: bytes(name) };
        Peers {
            targets: self.circle.targets_of(name).take(Peers::MAX).map(target).collect(),
            witnesses: self.circle.witnesses_of(name).flat_map(bytes).collect(),
            own: bytes(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(numbers: impl Iterator<Item = u8>) -> BTreeMap<String, Vec<IpAddr>> {
        numbers.map(|number| (format!("n{number}"), vec![IpAddr::from([10, 0, 0, number])])).collect()
    }

    #[test]
    fn who_changes_is_told_and_witnesses_know_each_other() {
        let mut known = Known::default();
        let all = known.look(nodes(0..20));
        assert_eq!(all.len(), 20);
        for (name, peers) in &all {
            let peers = peers.as_ref().unwrap();
            assert_eq!(peers.own, [[10, 0, 0, name[1..].parse().unwrap()]]);
            for target in &peers.targets {
                let of_target = all[&target.name].as_ref().unwrap();
                assert!(of_target.witnesses.contains(&peers.own[0]), "{name} may ask {}", target.name);
            }
        }
        assert!(known.look(nodes(0..20)).is_empty());
        // Another address is told to itself, to whom it looks at and to who looks at it.
        let mut moved = nodes(0..20);
        moved.insert("n7".to_owned(), vec![[10, 9, 9, 9].into()]);
        let told = known.look(moved);
        let knows = |peers: &Peers| peers.targets.iter().any(|target| target.name == "n7") || peers.witnesses.contains(&vec![10, 9, 9, 9]);
        assert!(told.len() > 4 && told.len() < 20);
        assert!(told.iter().all(|(name, peers)| name == "n7" || knows(peers.as_ref().unwrap())));
        // Out of order: nobody looks at it any more.
        let told = known.look(nodes((0..20).filter(|number| *number != 7)));
        assert_eq!(told["n7"], None);
        assert!(told.values().flatten().all(|peers| !knows(peers)));
    }
}
