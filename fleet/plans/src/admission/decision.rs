//! The decision about one pod.

use serde_json::{Value, json};

use super::SYSTEM_NAMESPACES;
use crate::teams::{RESERVED, TEAM, Teams};

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It is admitted with these changes (RFC 6902), which may be none.
    Admitted(Vec<Value>),
    /// It is not, and why.
    Refused(String),
}

/// Judges a pod that is created in `namespace`. A pod that has all that it needs is not changed.
#[must_use]
pub fn decide(teams: &Teams, namespace: &str, pod: &Value) -> Decision {
    if SYSTEM_NAMESPACES.contains(&namespace) || teams.exempt_namespaces.iter().any(|exempt| exempt == namespace) {
        return Decision::Admitted(Vec::new());
    }
    let team = teams.of_namespace(namespace).map(|team| team.name.as_str());
    let spec = &pod["spec"];
    let may_be_preempted = spec["priority"].as_i64().unwrap_or(0) <= i64::from(teams.preemptible_priority);
    let tolerations: &[Value] = spec["tolerations"].as_array().map_or(&[], Vec::as_slice);
    for toleration in tolerations {
        if let Some(why) = refused(toleration, team, may_be_preempted) {
            return Decision::Refused(why);
        }
    }
    let mut patch = Vec::new();
    let mut add = |path: &str, value: Value| patch.push(json!({ "op": "add", "path": path, "value": value }));
    let missing: Vec<_> =
        wanted(team, may_be_preempted).into_iter().filter(|wanted| !tolerations.iter().any(|has| is_same(has, wanted))).collect();
    if !missing.is_empty() && spec["tolerations"].is_null() {
        add("/spec/tolerations", json!([]));
    }
    missing.into_iter().for_each(|toleration| add("/spec/tolerations/-", toleration));
    if let Some(team) = team {
        let preferred = &spec["affinity"]["nodeAffinity"][PREFERRED];
        let of_team = |term: &Value| {
            let expressions = term["preference"]["matchExpressions"].as_array();
            expressions.is_some_and(|all| all.iter().any(|expression| expression["key"] == TEAM))
        };
        if !preferred.as_array().is_some_and(|terms| terms.iter().any(of_team)) {
            for (path, there) in [("", &spec["affinity"]), ("/nodeAffinity", &spec["affinity"]["nodeAffinity"])] {
                if there.is_null() {
                    add(&format!("/spec/affinity{path}"), json!({}));
                }
            }
            let path = format!("/spec/affinity/nodeAffinity/{PREFERRED}");
            if preferred.is_null() {
                add(&path, json!([]));
            }
            let expression = json!({ "key": TEAM, "operator": "In", "values": [team] });
            add(&format!("{path}/-"), json!({ "weight": 100, "preference": { "matchExpressions": [expression] } }));
        }
    }
    Decision::Admitted(patch)
}

const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Tolerations that a pod gets.
fn wanted(team: Option<&str>, may_be_preempted: bool) -> Vec<Value> {
    let of_team = |key: &str, team: &str| json!({ "key": key, "operator": "Equal", "value": team, "effect": "NoSchedule" });
    let own = team.into_iter().flat_map(|team| [TEAM, RESERVED].map(|key| of_team(key, team)));
    let any = may_be_preempted.then(|| json!({ "key": TEAM, "operator": "Exists", "effect": "NoSchedule" }));
    own.chain(any).collect()
}

/// Does `has` tolerate what `wanted` does, in the same words?
fn is_same(has: &Value, wanted: &Value) -> bool {
    let operator = |toleration: &Value| toleration["operator"].as_str().unwrap_or("Equal").to_owned();
    let is_effect = |effect: &Value| effect.as_str().is_none_or(|effect| effect.is_empty() || effect == "NoSchedule");
    has["key"] == wanted["key"] && operator(has) == operator(wanted) && has["value"] == wanted["value"] && is_effect(&has["effect"])
}

/// Why a pod with this toleration is refused.
fn refused(toleration: &Value, team: Option<&str>, may_be_preempted: bool) -> Option<String> {
    let word = |field: &str| toleration[field].as_str().unwrap_or("");
    let (key, exists) = (word("key"), word("operator") == "Exists");
    if !["", "NoSchedule"].contains(&word("effect")) {
        return None;
    }
    match key {
        "" => Some("a toleration without a key tolerates the nodes of every team: name the key".to_owned()),
        TEAM if exists && may_be_preempted => None,
        TEAM | RESERVED if !exists && team.is_some_and(|team| team == word("value")) => None,
        TEAM | RESERVED => Some("a toleration of another team's nodes: the namespace is not that team's".to_owned()),
        _ => None,
    }
}
