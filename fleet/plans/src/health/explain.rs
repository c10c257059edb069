//! What is on a node, and what the leader would do about it next: what a person is told who asks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::{is_marked, is_tainted, relapses};
use super::{Budgets, Millis, Quarantine, Record, Settings, Stage};
use crate::node::Node;

/// The annotation of the Lease with the leader's [`Note`].
pub const NOTE: &str = "health.barewire.cloud/leader";

/// What a leader says of itself, where everybody can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// It only says what it would do.
    pub dry_run: bool,
    /// It does nothing before.
    pub quiet_until: Millis,
    /// It does nothing until a person says so.
    pub tripped: bool,
}

/// What is on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// Which node.
    pub node: String,
    /// `well`, a [`Stage`], `quarantined` by a person, or `half`: a taint or a record of the fleet, and not both.
    pub stage: &'static str,
    /// Since when it is in that stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Millis>,
    /// What was seen.
    pub evidence: Vec<String>,
    /// Sicknesses that still count.
    pub relapses: Vec<Millis>,
    /// By a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
}

impl Standing {
    /// Of a node at `now`.
    #[must_use]
    pub fn of(node: &Node, now: Millis, settings: &Settings) -> Self {
        let (record, quarantine) = (Record::of(node), Quarantine::of(node));
        let stage = match (&quarantine, &record) {
            (Some(_), _) => "quarantined",
            (None, Some(record)) if is_tainted(node) => record.stage.name(),
            (None, _) if is_marked(node) => "half",
            (None, _) => "well",
        };
        let since = quarantine.as_ref().map(|it| it.since).or(record.as_ref().map(|it| it.since)).filter(|since| *since > 0);
        let evidence = record.map(|record| record.evidence).unwrap_or_default();
        Self { node: node.name.clone(), stage, since, evidence, relapses: relapses(node, now, settings.relapses_within), quarantine }
    }

    /// The checks that the evidence is of.
    #[must_use]
    pub fn checks(&self) -> Vec<&str> {
        self.evidence.iter().map(|seen| seen.split_once(": ").map_or(seen.as_str(), |(check, _)| check)).collect()
    }
}

impl Stage {
    /// As records have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tainted => "tainted",
            Self::Draining => "draining",
            Self::Overdue => "overdue",
            Self::Forced => "forced",
        }
    }
}

/// All of it, of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What is on it.
    #[serde(flatten)]
    pub standing: Standing,
    /// What may still be done.
    pub budgets: Budgets,
    /// What the leader says; nothing where none has said anything.
    pub leader: Option<Note>,
    /// What happens next, and why; sentences.
    pub next: Vec<String>,
}

/// Explains one of `nodes` at `now`; `at` writes a time.
#[must_use]
pub fn explain(
    node: &Node,
    nodes: &BTreeMap<String, Node>,
    leader: Option<Note>,
    now: Millis,
    settings: &Settings,
    at: impl Fn(Millis) -> String,
) -> Explanation {
    let standing = Standing::of(node, now, settings);
    let budgets = Budgets::of(node, nodes, now, settings);
    let mut next = vec![of_stage(&standing, &budgets, settings, &at)];
    if standing.stage != "quarantined" {
        next.extend(of_leader(leader, now, &at));
    }
    if standing.relapses.len() >= settings.lemon {
        next.push(format!(
            "It has been sick {} times lately: have somebody look at the machine before it is used again.",
            standing.relapses.len()
        ));
    }
    Explanation { standing, budgets, leader, next }
}

fn of_stage(standing: &Standing, budgets: &Budgets, settings: &Settings, at: &impl Fn(Millis) -> String) -> String {
    let since = standing.since.unwrap_or_default();
    let minutes = |time: Millis| time / 60_000;
    match standing.stage {
        "quarantined" => "A person has quarantined it: the fleet does nothing about it. `barewire-fleet pardon` ends that.".to_owned(),
        "tainted" => format!(
            "New pods stay away. Where it is still sick at {}, its pods are evicted as their disruption budgets allow. It is released {} min after the last complaint, when it says that it is well.",
            at(since.saturating_add(settings.drain_after)),
            minutes(settings.recover).max(1),
        ),
        "draining" => format!(
            "Its pods are evicted as their disruption budgets allow. Somebody is told where it is neither empty nor well at {}. It is released when it says that it is well.",
            at(since.saturating_add(settings.overdue_after)),
        ),
        "overdue" => "Somebody has to look: it was neither empty nor well in time. Nothing more is done; it is released when it says that it is well.".to_owned(),
        "forced" => "It was handed over to be ended.".to_owned(),
        "half" => "A taint or a record of the fleet is there without the other: what is left is taken away.".to_owned(),
        _ => {
            let (is_left, Budgets { pool, pool_tainted, pool_most, tainted, most, .. }) = (budgets.is_left(), budgets);
            let would = if is_left { "would be tainted" } else { "would not be tainted, as the budget is spent" };
            format!(
                "Where it becomes sick it {would}: of pool {pool:?} {pool_tainted} of {pool_most} within {} min, in all {tainted} of {most}.",
                minutes(settings.window)
            )
        }
    }
}

/// What keeps the leader from acting.
fn of_leader(leader: Option<Note>, now: Millis, at: &impl Fn(Millis) -> String) -> Vec<String> {
    let Some(Note { dry_run, quiet_until, tripped }) = leader else {
        return vec!["No leader says that it acts on nodes' health: see `--health-mode` of barewire-fleet.".to_owned()];
    };
    let mut said = Vec::new();
    if dry_run {
        said.push("The leader only says what it would do (a dry run): nothing is written.".to_owned());
    }
    if tripped {
        said.push(
            "The breaker has tripped, as many nodes looked sick at once: nothing is done until `barewire-fleet reset-breaker`.".to_owned(),
        );
    }
    if now < quiet_until {
        said.push(format!("Nothing is done before {}: a leader has just started, or many streams broke at once.", at(quiet_until)));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::super::stamp;
    use super::*;

    #[test]
    fn each_stage_says_what_comes_next_and_what_keeps_the_leader_from_it() {
        let settings = Settings::default();
        let node = |number: usize| Node { name: format!("n{number}"), ..Node::default() };
        let mut nodes: BTreeMap<_, _> = (0..40).map(node).map(|node| (node.name.clone(), node)).collect();
        let now = 1_000_000;
        for (name, stage) in [("n1", Stage::Tainted), ("n2", Stage::Draining), ("n3", Stage::Overdue)] {
            let record = Record { stage, since: now - 1_000, evidence: vec!["uplink: no carrier".to_owned()] };
            let sick = stamp(&record, &[now - 3_000, now - 2_000, now - 1_000]).applied_to(&nodes[name]);
            nodes.insert(name.to_owned(), sick);
        }
        let mine = Quarantine::new("ann", "", now).unwrap().put(&nodes["n4"]).applied_to(&nodes["n4"]);
        nodes.insert("n4".to_owned(), mine);
        let quiet = Note { dry_run: true, quiet_until: now + 1, tripped: true };
        let told = |name: &str, leader| explain(&nodes[name], &nodes, leader, now, &settings, |at| format!("<{at}>"));
        for (name, leader, stage, parts) in [
            ("n0", None, "well", &["would not be tainted, as the budget is spent", "in all 3 of 2", "No leader says"][..]),
            ("n1", Some(quiet), "tainted", &["still sick at <1299000>", "a dry run", "reset-breaker", "before <1000001>", "sick 3 times"]),
            ("n2", None, "draining", &["Its pods are evicted as"]),
            ("n3", None, "overdue", &["Somebody has to look"]),
            ("n4", Some(quiet), "quarantined", &["A person has quarantined it"]),
        ] {
            let told = told(name, leader);
            let text = told.next.join("\n");
            assert_eq!(told.standing.stage, stage);
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
        assert_eq!(told("n4", Some(quiet)).next.len(), 1, "what the leader does is of no interest there");
        assert_eq!(told("n1", None).standing.checks(), ["uplink"]);
        let acts = Note { dry_run: false, quiet_until: now, tripped: false };
        assert_eq!(told("n2", Some(acts)).next.len(), 2);
    }
}
