//! The same for people. Pure.

use std::fmt::Write as _;

use super::{FleetStanding, NodeStanding, ReplicaStanding};
use crate::nodes::{age_of, columns};

const NOTHING: &str = "-";

/// A line for each replica, why some have not answered, and a line for each node that is told of.
#[must_use]
pub fn table(told: &FleetStanding) -> String {
    let FleetStanding { cluster: _, replicas, connected, in_step, nodes } = told;
    let mut text = columns(["REPLICA", "LEADER", "READY", "NODES", "SERVICES", "ENDPOINTS", "PROGRAM"], replicas.iter().map(replica));
    for (of, error) in replicas.iter().filter_map(|of| Some((&of.replica, of.error.as_ref()?))) {
        let _ = writeln!(text, "{of}: {error}");
    }
    text.push('\n');
    if !nodes.is_empty() {
        text.push_str(&columns(["NODE", "REPLICA", "AGE", "LAG", "CONFIRMED", "ADDRESS"], nodes.iter().map(node)));
    }
    let _ = writeln!(text, "{in_step} of {connected} nodes that are connected are in step");
    text
}

fn replica(of: &ReplicaStanding) -> [String; 7] {
    let answered = |said: String| if of.error.is_some() { NOTHING.to_owned() } else { said };
    let version = |kind| of.resource_versions.get(kind).map_or_else(|| NOTHING.to_owned(), u64::to_string);
    let program = if of.program.is_empty() { NOTHING } else { &of.program };
    [
        of.replica.clone(),
        if of.leads { "yes" } else { NOTHING }.to_owned(),
        answered(if of.ready { "yes" } else { "no" }.to_owned()),
        answered(of.nodes.to_string()),
        version("services"),
        version("endpoints"),
        program.to_owned(),
    ]
}

fn node(of: &NodeStanding) -> [String; 6] {
    [
        of.node.clone(),
        of.replica.clone(),
        age_of(of.age_millis),
        of.lag.map_or_else(|| "whole".to_owned(), |lag| lag.to_string()),
        of.confirmed_millis.map_or_else(|| NOTHING.to_owned(), age_of),
        of.address.clone(),
    ]
}
