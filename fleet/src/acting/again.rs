//! Checks again of a node that has nothing to do (ADR 43): a taint, a look whether pods are there, and the word to begin. Where a leader ends on the
//! way, the taint is alone, and the next one takes it away.

use std::sync::Arc;

use fleet_plans::node::{Change, Node};
use fleet_plans::preflight::Due;
use http::Method;
use serde_json::Value;

use super::carry::Shared;
use super::drain::left;
use super::request::{Outcome, ask};

/// How it went.
#[derive(Debug)]
pub(super) struct Looked {
    /// Of which node.
    pub(super) node: String,
    /// It is told to begin.
    pub(super) is_told: bool,
    /// The last answer.
    pub(super) outcome: Outcome,
}

pub(super) async fn look(shared: Arc<Shared>, due: Due) -> Looked {
    let name = due.node.name.clone();
    let (is_told, outcome) = match tell(&shared, due).await {
        Ok((is_told, object)) => (is_told, Outcome::Done(object)),
        Err(outcome) => (false, outcome),
    };
    match &outcome {
        Outcome::Done(_) => {
            tracing::info!(target: "audit", part = "preflight", node = name, is_told, "node looked at, to be checked again")
        }
        other => tracing::warn!(part = "preflight", node = name, outcome = ?other, "node not checked again"),
    }
    Looked { node: name, is_told, outcome }
}

/// Whether it is, and the node as it is then.
async fn tell(shared: &Shared, due: Due) -> Result<(bool, Value), Outcome> {
    let Due { mut node, taint, back, run } = due;
    let is_idle = left(shared, &node.name, true).await?.is_empty();
    if !is_idle {
        return Ok((false, Value::Null));
    }
    if let Some(taint) = &taint {
        node = write(shared, &node, taint).await?.1;
    }
    // A pod may have come before the taint did.
    let is_idle = left(shared, &node.name, true).await?.is_empty();
    let change = if is_idle { &run } else { &back };
    if !is_idle && taint.is_none() {
        return Ok((false, Value::Null));
    }
    let (object, _) = write(shared, &node, change).await?;
    Ok((is_idle, object))
}

async fn write(shared: &Shared, node: &Node, change: &Change) -> Result<(Value, Node), Outcome> {
    let (path, patch) = (format!("/api/v1/nodes/{}", node.name), Value::from(change.patch(node)));
    match ask(&shared.client, Method::PATCH, &path, Some(&patch)).await {
        Outcome::Done(object) => {
            let node = Node::of_object(&object).map_err(|error| Outcome::Lost(error.to_string()))?;
            shared.nodes.put(node.clone());
            Ok((object, node))
        }
        other => Err(other),
    }
}
