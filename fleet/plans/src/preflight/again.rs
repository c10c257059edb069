//! Checks again, by schedule, of nodes that have nothing to do: a taint first, so that no pod comes; then it is looked whether none is there.

use std::collections::BTreeMap;

use super::due::{AGAIN, Due, LATER, PACE};
use super::partners::Choice;
use super::{CORDONED, Gate, Run, State, has_any_key};
use crate::health::{Millis, is_marked, is_quarantined};
use crate::node::{Change, Node, Taint};

impl Gate {
    /// The node whose turn it is, if any: the caller looks whether it has pods, and says how that went by [`Self::looked`].
    pub fn due(&mut self, now: Millis, nodes: &BTreeMap<String, Node>) -> Option<Due> {
        let every = self.settings.every.filter(|_| !self.settings.dry_run)?;
        if self.again.under_way.is_some() || now < self.again.next {
            return None;
        }
        self.again.next = now + PACE;
        self.again.later.retain(|name, until| *until > now && nodes.contains_key(name));
        let is_due = |node: &&Node| {
            let said = self.said.get(&node.name).filter(|said| said.boot == node.boot && said.hears && said.state == State::Passed);
            let last = Run::of(node).map_or(0, |run| run.ended.map_or(run.at, |ended| ended.at));
            let is_ours = !has_any_key(node, &[&self.settings.key, AGAIN]) && !is_marked(node) && !is_quarantined(node);
            said.is_some() && is_ours && node.is_ready && now.saturating_sub(last) >= every && !self.again.later.contains_key(&node.name)
        };
        let node = nodes.values().filter(is_due).min_by_key(|node| (node.fullness(), &node.name))?;
        let Choice::With(with) = self.pools(nodes).choose(node, &self.busy(now)) else { return None };
        let run = Run { at: now, boot: node.boot.clone(), by: "schedule".to_owned(), with, ended: None };
        let taint = Taint::no_schedule(AGAIN, "");
        self.again.under_way = Some(node.name.clone());
        Some(Due {
            taint: (!has_any_key(node, &[CORDONED])).then(|| Change { taints_new: vec![taint.clone()], ..Change::default() }),
            back: Change { taints_gone: vec![taint], ..Change::default() },
            run: run.stamp(),
            node: node.clone(),
        })
    }

    /// How that went. A node that had something to do, or could not be looked at, has its turn later.
    pub fn looked(&mut self, now: Millis, node: &str, is_told: bool) {
        self.again.under_way = None;
        if !is_told {
            self.again.later.insert(node.to_owned(), now + LATER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Reason, Said, Settings};
    use super::*;

    const DAY: Millis = 86_400_000;

    #[test]
    fn the_emptiest_node_has_its_turn_once_in_a_while_and_what_is_left_behind_goes() {
        let node = |name: &str, pods| Node { name: name.to_owned(), boot: "b".to_owned(), is_ready: true, pods, ..Node::default() };
        let mut nodes: BTreeMap<_, _> = [node("a", Some(3)), node("b", Some(1))].map(|node| (node.name.clone(), node)).into();
        let settings = Settings { dry_run: false, every: Some(7 * DAY), ..Settings::default() };
        let mut gate = Gate::new(settings, &nodes);
        let said = |run| Said { state: State::Passed, boot: "b".to_owned(), evidence: Vec::new(), run, hears: true };
        gate.hear("a", Said { hears: false, ..said(0) });
        assert_eq!(gate.due(30 * DAY, &nodes), None, "it would not hear of it");
        for name in ["a", "b"] {
            gate.hear(name, said(0));
        }
        let due = gate.due(31 * DAY, &nodes).unwrap();
        assert_eq!((due.node.name.as_str(), gate.due(32 * DAY, &nodes)), ("b", None), "one at a time");
        gate.looked(31 * DAY, "b", false);
        assert_eq!(gate.due(31 * DAY + PACE, &nodes).unwrap().node.name, "a", "the other has something to do");
        gate.looked(31 * DAY + PACE, "a", true);
        // The leader ends behind the taint: the next one takes it away.
        let tainted = due.taint.unwrap().applied_to(&nodes["b"]);
        nodes.insert("b".to_owned(), tainted.clone());
        gate.node_changed("b", Some(&tainted));
        let acts = gate.acts(32 * DAY, &nodes);
        assert_eq!((acts.len(), acts[0].reason, acts[0].change.as_ref()), (1, Reason::PreflightGivenUp, Some(&due.back)));
        // With its run it stays until that has ended.
        let running = due.run.applied_to(&tainted);
        nodes.insert("b".to_owned(), running.clone());
        gate.node_changed("b", Some(&running));
        assert_eq!(gate.acts(31 * DAY + 1, &nodes), []);
        gate.hear("b", said(31 * DAY));
        let passed = gate.acts(31 * DAY + 2, &nodes)[0].change.clone().unwrap().applied_to(&running);
        assert!(passed.taints.is_empty() && Run::of(&passed).unwrap().has_passed());
        // A cordoned node needs no taint.
        let cordoned = Node { taints: vec![Taint::no_schedule(CORDONED, "")], ..node("c", None) };
        let nodes = [("c".to_owned(), cordoned)].into();
        gate.hear("c", said(0));
        assert_eq!(gate.due(60 * DAY, &nodes).unwrap().taint, None);
    }
}
