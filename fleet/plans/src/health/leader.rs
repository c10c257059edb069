//! The leader: what it does at a moment, of what it has heard and of the nodes as they are.
//!
//! All that has to outlive it is on the nodes, so a new leader goes on where the last one ended, and two at once do nothing that one would
//! not: each act is one patch that fails where the node has changed.

use std::collections::{BTreeMap, BTreeSet};

use super::budget::{Spent, pool};
use super::record::{is_marked, is_quarantined, is_tainted, relapses, release};
use super::{Evidence, Millis, Note, Record, Report, Settings, Stage, stamp};
use crate::node::{Change, Node};

/// Why something is done: the reason of the Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is sick: no new pods.
    NodeTainted,
    /// It is still sick: its pods are to go.
    NodeDraining,
    /// It should be empty or well by now.
    NodeOverdue,
    /// It is to be ended.
    NodeForced,
    /// It is well.
    NodeReleased,
    /// It has been sick too often.
    NodeLemon,
    /// So many look sick that we may be wrong; nothing is done until a person says so.
    BreakerTripped,
    /// There are more sick nodes than may be tainted.
    BudgetSpent,
}

/// Something that is done: an Event, a line of the audit, and what is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// When.
    pub at: Millis,
    /// The node; none of the breaker.
    pub node: Option<String>,
    /// What.
    pub reason: Reason,
    /// What was seen.
    pub evidence: Vec<String>,
    /// What is written; nothing in a dry run.
    pub change: Option<Change>,
}

/// One leader's memory.
#[derive(Debug)]
pub struct Leader {
    settings: Settings,
    evidence: Evidence,
    /// Since when a node has been sick without a break.
    sick_since: BTreeMap<String, Millis>,
    /// Nodes with something of the fleet's on them.
    marked: BTreeSet<String>,
    /// What has been decided and not been seen on the node yet: since when.
    in_flight: BTreeMap<String, Millis>,
    /// In a dry run: since when nodes would be tainted.
    pretended: BTreeMap<String, Millis>,
    quiet_until: Millis,
    is_tripped: bool,
    is_budget_told: bool,
}

impl Leader {
    /// One that starts at `now`, with the nodes that there are: never with a cache that is not filled.
    #[must_use]
    pub fn new(settings: Settings, now: Millis, nodes: &BTreeMap<String, Node>) -> Self {
        let quiet_until = now.saturating_add(settings.quiet);
        let marked = nodes.values().filter(|node| is_marked(node)).map(|node| node.name.clone()).collect();
        Self {
            settings,
            evidence: Evidence::default(),
            sick_since: BTreeMap::new(),
            marked,
            in_flight: BTreeMap::new(),
            pretended: BTreeMap::new(),
            quiet_until,
            is_tripped: false,
            is_budget_told: false,
        }
    }

    /// A node has said something.
    pub fn hear(&mut self, now: Millis, report: Report) {
        self.evidence.hear(now, report, &self.settings);
    }

    /// A node is as given, or gone.
    pub fn node_changed(&mut self, name: &str, node: Option<&Node>) {
        self.in_flight.remove(name);
        match node {
            Some(node) if is_marked(node) => drop(self.marked.insert(name.to_owned())),
            Some(_) => drop(self.marked.remove(name)),
            None => {
                self.marked.remove(name);
                self.pretended.remove(name);
                self.evidence.gone(name);
            }
        }
    }

    /// So many of `nodes` streams broke within a moment. Many: then something is wrong with us.
    pub fn streams_broke(&mut self, now: Millis, broke: usize, nodes: usize) {
        if broke > self.settings.share(self.settings.mass_permille, nodes) {
            self.quiet_until = self.quiet_until.max(now.saturating_add(self.settings.quiet));
        }
    }

    /// A person says that what tripped the breaker is over.
    pub fn reset_breaker(&mut self, now: Millis) {
        self.is_tripped = false;
        self.quiet_until = self.quiet_until.max(now.saturating_add(self.settings.settle));
        self.sick_since.clear();
    }

    /// Is the breaker tripped?
    #[must_use]
    pub const fn is_tripped(&self) -> bool {
        self.is_tripped
    }

    /// What everybody may know of it.
    #[must_use]
    pub const fn note(&self) -> Note {
        Note { dry_run: self.settings.dry_run, quiet_until: self.quiet_until, tripped: self.is_tripped }
    }

    /// Is there anything that time alone may change? Then [`Self::acts`] is called some ten times a second; otherwise once soon after a report.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.sick_since.is_empty() || !self.marked.is_empty() || !self.pretended.is_empty()
    }

    /// Pods of these nodes are to be evicted now, as their budgets allow.
    #[must_use]
    pub fn evicts(&self, now: Millis, nodes: &BTreeMap<String, Node>) -> Vec<String> {
        self.reached(Stage::Draining, now, nodes)
    }

    /// These nodes are to be handed over to be ended.
    #[must_use]
    pub fn hands_over(&self, now: Millis, nodes: &BTreeMap<String, Node>) -> Vec<String> {
        self.reached(Stage::Forced, now, nodes)
    }

    /// Nodes that are tainted and have come as far as `stage`, where anything may be done about them.
    fn reached(&self, stage: Stage, now: Millis, nodes: &BTreeMap<String, Node>) -> Vec<String> {
        if self.is_tripped || now < self.quiet_until || self.settings.dry_run {
            return Vec::new();
        }
        let has_reached = |name: &&String| {
            let record = nodes.get(*name).filter(|node| is_tainted(node)).and_then(Record::of);
            record.is_some_and(|record| record.stage >= stage)
        };
        self.marked.iter().filter(has_reached).cloned().collect()
    }

    /// What is to be done at `now`; see [`Self::is_busy`].
    pub fn acts(&mut self, now: Millis, nodes: &BTreeMap<String, Node>) -> Vec<Act> {
        let mut acts: Vec<_> = self.breaker(now, nodes.len()).into_iter().collect();
        if self.is_tripped || now < self.quiet_until {
            // Who is sick is asked when something may be done about it: in a storm that is thousands.
            self.sick_since.clear();
            self.evidence.forget(now, &self.settings);
            return acts;
        }
        let sick = self.evidence.sick(now, &self.settings);
        self.sick_since.retain(|name, _| sick.contains_key(name));
        for name in sick.keys() {
            self.sick_since.entry(name.clone()).or_insert(now);
        }
        self.in_flight.retain(|_, since| now.saturating_sub(*since) < IN_FLIGHT);
        for name in self.marked.iter().chain(self.pretended.keys()).cloned().collect::<BTreeSet<_>>() {
            let node = nodes.get(&name).filter(|_| !self.in_flight.contains_key(&name));
            acts.extend(node.and_then(|node| self.follow(now, node, sick.get(&name))));
        }
        acts.extend(self.newly_sick(now, &sick, nodes));
        self.evidence.forget(now, &self.settings);
        acts
    }

    fn breaker(&mut self, now: Millis, nodes: usize) -> Option<Act> {
        let most = self.settings.share(self.settings.breaker_permille, nodes);
        if self.is_tripped || self.evidence.suspects(now, &self.settings, most, |name| !self.marked.contains(name)) <= most {
            return None;
        }
        self.is_tripped = true;
        let evidence = vec![format!("more than {most} of {nodes} nodes look sick at once")];
        Some(Act { at: now, node: None, reason: Reason::BreakerTripped, evidence, change: None })
    }

    /// Taints the nodes that are sick for long enough, as far as the budgets reach.
    fn newly_sick(&mut self, now: Millis, sick: &BTreeMap<String, Vec<String>>, nodes: &BTreeMap<String, Node>) -> Vec<Act> {
        let is_settled = |name: &String| self.sick_since.get(name).is_some_and(|since| now.saturating_sub(*since) >= self.settings.settle);
        let is_known = |name: &String| self.pretended.contains_key(name) || self.in_flight.contains_key(name);
        let settled = sick.iter().filter(|(name, _)| is_settled(name) && !is_known(name));
        let candidates: Vec<_> = settled.filter_map(|(name, evidence)| Some((nodes.get(name)?, evidence))).collect();
        let candidates: Vec<_> = candidates.into_iter().filter(|(node, _)| !is_marked(node) && !is_quarantined(node)).collect();
        if candidates.is_empty() {
            self.is_budget_told = false;
            return Vec::new();
        }
        let pending = |name: &str| self.pretended.get(name).or(self.in_flight.get(name)).copied();
        let Spent { mut pools, mut total } = Spent::of(now, nodes, &self.settings, pending);
        let most = self.settings.share(self.settings.total_permille, nodes.len());
        let mut acts = Vec::new();
        for (node, evidence) in candidates {
            let (of_pool, lately) = pools.entry(pool(node)).or_default();
            if *lately >= self.settings.share(self.settings.pool_permille, *of_pool) || total >= most {
                if !std::mem::replace(&mut self.is_budget_told, true) {
                    acts.push(told(now, node, Reason::BudgetSpent, evidence.clone()));
                }
                continue;
            }
            (*lately, total) = (*lately + 1, total + 1);
            let mut times = relapses(node, now, self.settings.relapses_within);
            times.push(now);
            let record = Record { stage: Stage::Tainted, since: now, evidence: evidence.clone() };
            acts.push(self.act(now, node, Reason::NodeTainted, evidence.clone(), stamp(&record, &times)));
            if times.len() >= self.settings.lemon {
                acts.push(told(
                    now,
                    node,
                    Reason::NodeLemon,
                    vec![format!("sick {} times within the time that relapses count", times.len())],
                ));
            }
            if self.settings.dry_run {
                self.pretended.insert(node.name.clone(), now);
            }
        }
        acts
    }

    /// What becomes of a node that is tainted, or has been.
    fn follow(&mut self, now: Millis, node: &Node, sick: Option<&Vec<String>>) -> Option<Act> {
        let record = Record::of(node);
        let is_well = sick.is_none() && self.evidence.is_well(&node.name, now, &self.settings);
        if self.settings.dry_run {
            let is_over = is_well && self.pretended.remove(&node.name).is_some();
            return is_over.then(|| self.act(now, node, Reason::NodeReleased, Vec::new(), Change::default()));
        }
        let Some(record) = record.filter(|_| is_tainted(node)) else {
            // A taint that somebody has put back without its record, or a record whose taint a person has taken away: a pardon.
            let evidence = vec!["a taint and a record belong together; one was there alone".to_owned()];
            return Some(self.act(now, node, Reason::NodeReleased, evidence, release()));
        };
        if is_well {
            return Some(self.act(now, node, Reason::NodeReleased, record.evidence, release()));
        }
        let age = now.saturating_sub(record.since);
        let (stage, reason) = match record.stage {
            Stage::Tainted if age >= self.settings.drain_after && sick.is_some() => (Stage::Draining, Reason::NodeDraining),
            Stage::Draining if age >= self.settings.overdue_after => (Stage::Overdue, Reason::NodeOverdue),
            Stage::Overdue if self.settings.force => (Stage::Forced, Reason::NodeForced),
            _ => return None,
        };
        let evidence = sick.cloned().unwrap_or(record.evidence);
        let next = Record { stage, since: now, evidence: evidence.clone() };
        let times = relapses(node, now, self.settings.relapses_within);
        Some(self.act(now, node, reason, evidence, stamp(&next, &times)))
    }

    fn act(&mut self, at: Millis, node: &Node, reason: Reason, evidence: Vec<String>, change: Change) -> Act {
        if !self.settings.dry_run {
            self.in_flight.insert(node.name.clone(), at);
        }
        Act { at, node: Some(node.name.clone()), reason, evidence, change: (!self.settings.dry_run).then_some(change) }
    }
}

fn told(at: Millis, node: &Node, reason: Reason, evidence: Vec<String>) -> Act {
    Act { at, node: Some(node.name.clone()), reason, evidence, change: None }
}

/// What a patch takes at most until it is seen: then it is decided anew.
const IN_FLIGHT: Millis = 10_000;
