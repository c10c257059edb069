//! The definition of the resource of teams: the same schema as the file, for an API server to hold objects to.

use serde_json::{Value, json};

use crate::acting::{GROUP, RESOURCE, VERSION};

/// As long as a value of a label.
const NAME_MAX: u64 = 63;

/// A CustomResourceDefinition. What a schema cannot say, as that pools share no nodes, the leader finds.
pub(super) fn definition() -> Value {
    let name = || json!({ "type": "string", "minLength": 1, "maxLength": NAME_MAX });
    let strings = || json!({ "type": "array", "items": { "type": "string" } });
    let number =
        |description: &str| json!({ "type": "integer", "format": "int64", "minimum": 0, "maximum": u32::MAX, "description": description });
    let pool = json!({
        "type": "object", "required": ["name", "matchLabels"], "description": "Nodes that have all of these labels",
        "properties": {
            "name": name(),
            "matchLabels": { "type": "object", "additionalProperties": { "type": "string" }, "minProperties": 1 },
        },
    });
    let claim = json!({
        "type": "object", "required": ["pool"], "description": "What the team gets of a pool: a count or a share",
        "properties": {
            "pool": name(),
            "count": number("So many nodes"),
            "percent": { "type": "integer", "format": "int32", "minimum": 0, "maximum": 100, "description": "This share of what counts leave over" },
            "min": number("Never fewer; of a count the count, where nothing is said"),
        },
    });
    let team = json!({
        "type": "object", "required": ["name", "namespaces", "nodes"],
        "properties": {
            "name": name(),
            "namespaces": strings(),
            "lend": { "type": "boolean", "description": "Pods that can be pre-empted may run on the team's nodes" },
            "nodes": { "type": "array", "items": claim },
        },
    });
    let spec = json!({
        "type": "object", "required": ["pools", "teams"],
        "properties": {
            "pools": { "type": "array", "items": pool },
            "teams": { "type": "array", "items": team },
            "preemptiblePriority": {
                "type": "integer", "format": "int32", "description": "Pods of this priority or a lower one may be pre-empted; -1 where nothing is said",
            },
            "exemptNamespaces": strings(),
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": format!("{RESOURCE}.{GROUP}") },
        "spec": {
            "group": GROUP, "scope": "Cluster",
            "names": { "kind": "Teams", "listKind": "TeamsList", "plural": RESOURCE, "singular": RESOURCE },
            "versions": [{
                "name": VERSION, "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "required": ["spec"], "properties": { "spec": spec } } },
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use fleet_plans::teams::{Claim, Pool, Team, Teams};

    use super::*;

    /// Whether the same keys are in a value as in a schema, all the way down.
    fn compare(value: &Value, schema: &Value, path: &str) {
        match value {
            Value::Object(fields) if schema.get("additionalProperties").is_none() => {
                let known: Vec<_> = schema["properties"].as_object().unwrap_or_else(|| panic!("{path} is no object")).keys().collect();
                assert_eq!(fields.keys().collect::<Vec<_>>(), known, "{path}");
                fields.iter().for_each(|(key, value)| compare(value, &schema["properties"][key], &format!("{path}.{key}")));
            }
            Value::Array(items) => items.iter().for_each(|item| compare(item, &schema["items"], path)),
            Value::Bool(_) => assert_eq!(schema["type"], "boolean", "{path}"),
            Value::Number(_) => assert_eq!(schema["type"], "integer", "{path}"),
            Value::String(_) => assert_eq!(schema["type"], "string", "{path}"),
            _ => {}
        }
    }

    #[test]
    fn it_is_the_schema_of_the_file() {
        // No `..Default::default()`: a field that is new is to be thought of here.
        let claim = Claim { pool: "p".to_owned(), count: Some(1), percent: Some(1), min: Some(1) };
        let team = Team { name: "t".to_owned(), namespaces: vec!["n".to_owned()], lend: true, nodes: vec![claim] };
        let pool = Pool { name: "p".to_owned(), match_labels: [("a".to_owned(), "b".to_owned())].into() };
        let teams = Teams { pools: vec![pool], teams: vec![team], preemptible_priority: 0, exempt_namespaces: vec!["n".to_owned()] };
        let definition = definition();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        compare(&serde_json::to_value(teams).unwrap(), schema, "spec");
    }
}
