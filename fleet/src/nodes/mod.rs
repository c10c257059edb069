//! What a person asks about nodes' health, and does about it: over the API server, with the person's own rights.
//!
//! All that is written is one patch that fails where the node has changed since it was read; then it is read and decided again.

mod ask;
mod text;

use std::collections::BTreeMap;

use fleet_plans::health::{Explanation, Millis, NOTE, Note, Quarantine, Settings, Standing, explain, pardon};
use fleet_plans::node::{Change, Node};
use fleet_plans::preflight;
use http::Method;
use serde_json::{Value, json};

pub use ask::{NodesError, Reach};
pub(crate) use text::{age_of, columns};
pub use text::{explanation, table, time};

use crate::acting::RESET;
use crate::forwarding::address_of;

/// How often a node that changes meanwhile is read again.
const TRIES: usize = 5;

/// All nodes.
///
/// # Errors
/// See [`NodesError`].
pub async fn all(reach: &Reach) -> Result<BTreeMap<String, Node>, NodesError> {
    let (mut nodes, mut next) = (BTreeMap::new(), String::new());
    loop {
        let list = reach.ask(Method::GET, &format!("/api/v1/nodes?limit=250&continue={next}"), None, "list nodes").await?;
        let page = Node::of_list(&list).map_err(|error| NodesError::Answer(error.to_string()))?;
        nodes.extend(page.into_iter().map(|node| (node.name.clone(), node)));
        match list["metadata"]["continue"].as_str() {
            Some(more) if !more.is_empty() => more.clone_into(&mut next),
            _ => return Ok(nodes),
        }
    }
}

/// Where the replica that leads is reached.
///
/// # Errors
/// See [`NodesError`].
pub async fn leader(reach: &Reach) -> Result<String, NodesError> {
    let lease = reach.lease().await?;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    address_of(holder).map(str::to_owned).ok_or_else(|| NodesError::NoLeader(holder.to_owned()))
}

/// How nodes stand at `now`; only those that there is something to say of, unless `with_well`.
#[must_use]
pub fn standings(nodes: &BTreeMap<String, Node>, now: Millis, with_well: bool) -> Vec<Standing> {
    let settings = Settings::default();
    let all = nodes.values().map(|node| Standing::of(node, now, &settings));
    all.filter(|it| with_well || it.stage != "well" || !it.relapses.is_empty()).collect()
}

/// Explains one node at `now`.
///
/// # Errors
/// See [`NodesError`].
pub async fn explained(reach: &Reach, name: &str, now: Millis) -> Result<Explanation, NodesError> {
    let nodes = all(reach).await?;
    let node = nodes.get(name).ok_or_else(|| NodesError::NoNode(name.to_owned()))?;
    let leader = reach.lease().await.map(|lease| note(&lease));
    let mut told = explain(node, &nodes, leader.as_ref().ok().copied().flatten(), now, &Settings::default(), time);
    if let Err(error) = leader {
        told.next.push(format!("What the leader says of itself is not known: {error}."));
    }
    Ok(told)
}

fn note(lease: &Value) -> Option<Note> {
    lease["metadata"]["annotations"][NOTE].as_str().and_then(|text| serde_json::from_str(text).ok())
}

/// Takes away what the fleet or a person has put on a node.
///
/// # Errors
/// See [`NodesError`].
pub async fn pardoned(reach: &Reach, name: &str) -> Result<String, NodesError> {
    let before = change(reach, name, |node| pardon(node).ok_or_else(|| NodesError::Nothing(name.to_owned()))).await?;
    let what = if Quarantine::of(&before).is_some() { "a person's quarantine" } else { "what the fleet had put there" };
    Ok(format!("{name} is pardoned: {what} is gone. Where it is still sick, the leader taints it again.\n"))
}

/// Keeps new pods away from a node until somebody pardons it.
///
/// # Errors
/// See [`NodesError`].
pub async fn quarantined(reach: &Reach, name: &str, quarantine: &Quarantine) -> Result<String, NodesError> {
    change(reach, name, |node| Ok(quarantine.put(node))).await?;
    Ok(format!(
        "{name} is quarantined by {:?}: new pods stay away, those that run stay, until `barewire-fleet pardon {name}`.\n",
        quarantine.by
    ))
}

/// Has a node make its preflight again.
///
/// # Errors
/// See [`NodesError`]; a node that takes pods does not.
pub async fn told_to_check(reach: &Reach, name: &str, taint: &str, by: &str, now: Millis) -> Result<String, NodesError> {
    let nodes = all(reach).await?;
    change(reach, name, |node| Ok(preflight::asked(node, &nodes, taint, by, now)?)).await?;
    Ok(format!("{name} is told to make its preflight: `kubectl describe node {name}` has its end (PreflightPassed, PreflightFailed).\n"))
}

/// The node as it was before.
async fn change(reach: &Reach, name: &str, decide: impl Fn(&Node) -> Result<Change, NodesError>) -> Result<Node, NodesError> {
    let path = reach.path_of(name)?;
    for _ in 0..TRIES {
        let object = reach.ask(Method::GET, &path, None, "get nodes").await.map_err(|error| error.of_node(name))?;
        let node = Node::of_object(&object).map_err(|error| NodesError::Answer(error.to_string()))?;
        let patch = Value::from(decide(&node)?.patch(&node));
        match reach.ask(Method::PATCH, &path, Some(&patch), "patch nodes").await {
            Err(NodesError::Changed) => {}
            other => return other.map(|_| node).map_err(|error| error.of_node(name)),
        }
    }
    Err(NodesError::Changed)
}

/// Says that what tripped the breaker is over.
///
/// # Errors
/// See [`NodesError`].
pub async fn breaker_reset(reach: &Reach, now: Millis) -> Result<String, NodesError> {
    let lease = reach.lease().await?;
    if note(&lease).is_some_and(|note| !note.tripped) {
        return Ok("The breaker has not tripped: there is nothing to reset.\n".to_owned());
    }
    let mut patch = Vec::new();
    if !lease["metadata"]["annotations"].is_object() {
        patch.push(json!({ "op": "add", "path": "/metadata/annotations", "value": {} }));
    }
    let path = format!("/metadata/annotations/{}", RESET.replace('/', "~1"));
    patch.push(json!({ "op": "add", "path": path, "value": format!("{} ({now})", time(now)) }));
    reach.ask(Method::PATCH, &reach.lease_path(), Some(&patch.into()), "patch leases").await?;
    Ok("The breaker is reset: the leader looks within five seconds, and acts on what it hears from then on.\n".to_owned())
}
