//! One act on a node: its patch, its line of the audit, its Event.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fleet_plans::health::{self, Reason};
use fleet_plans::node::{Change, Node};
use fleet_plans::preflight;
use fleet_plans::teams::Move;
use http::Method;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::nodes::Nodes;
use super::request::{Outcome, ask};
use super::{Counters, Part};

/// What all acts of a replica share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) nodes: Arc<Nodes>,
    pub(super) counters: Arc<Counters>,
    /// Which replica it is.
    pub(super) identity: String,
    /// What it says of itself while it leads.
    pub(super) note: watch::Sender<Option<String>>,
}

/// What is done to a node, decided from one version of it.
#[derive(Debug, Clone)]
pub(super) struct Deed {
    pub(super) part: Part,
    pub(super) node: Node,
    /// Nothing where it is only told.
    pub(super) change: Option<Change>,
    /// The reason of the Event.
    pub(super) reason: &'static str,
    pub(super) is_warning: bool,
    /// What was seen.
    pub(super) evidence: Vec<String>,
    /// When it was decided.
    pub(super) at: health::Millis,
}

impl Deed {
    /// Of a plan of teams.
    pub(super) fn of_move(step: Move, node: Node, at: health::Millis) -> Self {
        let team = |team: &Option<String>| team.as_deref().map_or("everybody".to_owned(), |team| format!("team {team:?}"));
        let reason = match (&step.from, &step.to) {
            (from, to) if from == to => "TeamRestored",
            (_, Some(_)) => "TeamAssigned",
            (_, None) => "TeamReleased",
        };
        let said = format!("{} -> {}: {}", team(&step.from), team(&step.to), step.why);
        Self { part: Part::Teams, node, change: Some(step.change), reason, is_warning: false, evidence: vec![said], at }
    }

    /// Of the state machine of health.
    pub(super) fn of_act(act: health::Act, node: Node) -> Self {
        let is_warning = act.reason != Reason::NodeReleased;
        Self { part: Part::Health, node, change: act.change, reason: reason(act.reason), is_warning, evidence: act.evidence, at: act.at }
    }

    /// Of new nodes.
    pub(super) fn of_preflight(act: preflight::Act, node: Node) -> Self {
        let (reason, is_warning) = match act.reason {
            preflight::Reason::PreflightTold => ("PreflightTold", false),
            preflight::Reason::PreflightGivenUp => ("PreflightGivenUp", true),
            preflight::Reason::PreflightPassed => ("PreflightPassed", false),
            preflight::Reason::PreflightFailed => ("PreflightFailed", true),
        };
        let evidence = if act.evidence.is_empty() { vec![format!("preflight of boot {}", node.boot)] } else { act.evidence };
        Self { part: Part::Preflight, node, change: act.change, reason, is_warning, evidence, at: act.at }
    }

    /// Says what would be done.
    pub(super) fn pretend(&self, counters: &Counters) {
        counters.pretended(self.part);
        tracing::info!(part = self.part.name(), node = self.node.name, act = self.reason, evidence = ?self.evidence, "dry run: nothing written");
    }
}

/// As Events name it.
pub(super) const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::NodeTainted => "NodeTainted",
        Reason::NodeDraining => "NodeDraining",
        Reason::NodeOverdue => "NodeOverdue",
        Reason::NodeForced => "NodeForced",
        Reason::NodeReleased => "NodeReleased",
        Reason::NodeLemon => "NodeLemon",
        Reason::BreakerTripped => "BreakerTripped",
        Reason::BudgetSpent => "BudgetSpent",
    }
}

/// Writes, and says so. A node that has changed is read again, so that the next plan is of what it is.
pub(super) async fn carry_out(shared: Arc<Shared>, deed: Deed) -> (Part, String, Outcome) {
    let name = deed.node.name.clone();
    let path = format!("/api/v1/nodes/{name}");
    let (mut outcome, mut patch) = (Outcome::Done(Value::Null), Value::Null);
    if let Some(change) = &deed.change {
        patch = Value::from(change.patch(&deed.node));
        outcome = ask(&shared.client, Method::PATCH, &path, Some(&patch)).await;
    }
    shared.counters.acted(deed.part, &outcome);
    match &outcome {
        Outcome::Done(object) => {
            if let Ok(node) = Node::of_object(object) {
                shared.nodes.put(node);
            }
            tracing::info!(target: "audit", part = deed.part.name(), node = name, act = deed.reason, evidence = ?deed.evidence, %patch, "node changed");
            tell(&shared, &deed).await;
        }
        Outcome::Conflict(why) => {
            tracing::info!(node = name, act = deed.reason, why, "the node has changed: it is read again");
            if let Outcome::Done(object) = ask(&shared.client, Method::GET, &path, None).await
                && let Ok(node) = Node::of_object(&object)
            {
                shared.nodes.put(node);
            }
        }
        other => tracing::warn!(part = deed.part.name(), node = name, act = deed.reason, outcome = ?other, "node not changed"),
    }
    (deed.part, name, outcome)
}

/// An Event on the node. It is no part of the act: without it the audit has it.
async fn tell(shared: &Shared, deed: &Deed) {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let said: String = deed.evidence.join("; ").chars().take(1_000).collect();
    // As kubelet's: the node's name in the place of its UID is what `kubectl describe node` asks for, too.
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": { "generateName": format!("{}.", deed.node.name), "namespace": "default" },
        "involvedObject": { "apiVersion": "v1", "kind": "Node", "name": deed.node.name, "uid": deed.node.name },
        "type": if deed.is_warning { "Warning" } else { "Normal" },
        "reason": deed.reason, "message": said, "count": 1, "firstTimestamp": now, "lastTimestamp": now,
        "source": { "component": "barewire-fleet" },
        "reportingComponent": "barewire-fleet", "reportingInstance": shared.identity.chars().take(128).collect::<String>(),
    });
    let outcome = ask(&shared.client, Method::POST, "/api/v1/namespaces/default/events", Some(&event)).await;
    if !matches!(outcome, Outcome::Done(_)) {
        shared.counters.events_lost.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(node = deed.node.name, act = deed.reason, ?outcome, "event not written");
    }
}
