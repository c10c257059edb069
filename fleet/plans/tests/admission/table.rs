//! Pods, and whether each is admitted: for the function, the policies and the webhook.

use fleet_plans::admission::{Decision, decide};
use fleet_plans::teams::{RESERVED, TEAM, Teams};
use serde_json::{Value, json};

/// The file of teams.
pub(crate) fn file() -> Value {
    json!({
        "pools": [{ "name": "p", "matchLabels": { "pool": "p" } }],
        "teams": [
            { "name": "research", "namespaces": ["research"], "lend": true, "nodes": [{ "pool": "p", "count": 1 }] },
            { "name": "serving", "namespaces": ["serving"], "nodes": [{ "pool": "p", "count": 1 }] },
        ],
        "exemptNamespaces": ["monitoring"],
    })
}

pub(crate) fn teams() -> Teams {
    serde_json::from_value(file()).unwrap()
}

/// Is the pod admitted? Of each: the namespace, what else its spec has, and the answer.
pub(crate) fn table() -> Vec<(&'static str, Value, bool)> {
    let one = |toleration: Value| json!({ "tolerations": [toleration] });
    let equal = |key: &str, team: &str| json!({ "key": key, "value": team, "effect": "NoSchedule" });
    let preferred = |key: &str| {
        json!({ "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
            { "weight": 1, "preference": { "matchExpressions": [{ "key": key, "operator": "Exists" }] } }] } } })
    };
    let mut borrower = one(json!({ "key": TEAM, "operator": "Exists" }));
    borrower["priorityClassName"] = json!("scavenger");
    let mut beyond = one(json!({ "key": RESERVED, "operator": "Exists" }));
    beyond["priorityClassName"] = json!("scavenger");
    vec![
        ("research", json!({}), true),
        ("serving", json!({}), true),
        ("default", json!({}), true),
        ("default", json!({ "priorityClassName": "scavenger" }), true),
        ("research", json!({ "priorityClassName": "scavenger" }), true),
        ("research", one(json!({ "key": "gpu", "operator": "Exists" })), true),
        ("research", one(json!({ "key": TEAM, "operator": "Equal", "value": "research", "effect": "NoSchedule" })), true),
        ("research", one(equal(TEAM, "serving")), false),
        ("default", one(equal(RESERVED, "serving")), false),
        ("default", one(json!({ "key": TEAM })), false),
        ("research", one(json!({ "operator": "Exists" })), false),
        ("research", one(json!({ "operator": "Exists", "effect": "NoSchedule" })), false),
        ("default", one(json!({ "operator": "Exists", "effect": "NoExecute" })), true),
        ("default", one(json!({ "key": TEAM, "operator": "Exists" })), false),
        ("default", borrower, true),
        ("default", beyond, false),
        ("monitoring", one(json!({ "operator": "Exists" })), true),
        ("kube-system", one(json!({ "operator": "Exists" })), true),
        ("research", preferred("disk"), true),
        ("research", preferred(TEAM), true),
        ("serving", json!({ "affinity": { "podAffinity": {} } }), true),
    ]
}

/// The pod as the decision leaves it: of RFC 6902 only what decisions are made of.
pub(crate) fn applied(mut pod: Value, patch: &[Value]) -> Value {
    for operation in patch {
        assert_eq!(operation["op"], "add");
        let (parent, last) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
        match pod.pointer_mut(parent).unwrap() {
            Value::Array(list) if last == "-" => list.push(operation["value"].clone()),
            Value::Object(fields) => drop(fields.insert(last.to_owned(), operation["value"].clone())),
            other => panic!("{other} has no {last}"),
        }
    }
    pod
}

pub(crate) fn pod(more: &Value) -> Value {
    let mut spec = json!({ "containers": [{ "name": "c", "image": "i" }] });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

/// The decision about a row; the priority is what the API server makes of the class.
pub(crate) fn decision(namespace: &str, more: &Value) -> Result<Value, String> {
    let mut pod = json!({ "spec": pod(more) });
    pod["spec"]["priority"] = json!(if more["priorityClassName"] == "scavenger" { -10 } else { 0 });
    match decide(&teams(), namespace, &pod) {
        Decision::Admitted(patch) => {
            let pod = applied(pod, &patch);
            assert_eq!(decide(&teams(), namespace, &pod), Decision::Admitted(Vec::new()), "asked again nothing is added");
            Ok(pod)
        }
        Decision::Refused(why) => Err(why),
    }
}

/// That an API server makes of each pod what is decided about it.
pub(crate) fn is_decided_alike(made: impl Fn(&str, &Value) -> Result<Value, String>) {
    for (namespace, more, _) in table() {
        let made = made(namespace, &more);
        match decision(namespace, &more) {
            Ok(decided) => {
                let made = made.unwrap_or_else(|error| panic!("{namespace} {more}: {error}"));
                for field in ["tolerations", "affinity"] {
                    assert_eq!(made["spec"][field], decided["spec"][field], "{namespace} {more}");
                }
            }
            Err(why) => {
                let error = made.expect_err(&format!("{namespace} {more} is to be refused"));
                assert!(error.contains(&why), "{namespace} {more}: {error}");
            }
        }
    }
}
