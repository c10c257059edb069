//! The same as policies of the API server, in the Common Expression Language: no pod, no certificate, nothing that can be away.

use serde_json::{Value, json};

use super::SYSTEM_NAMESPACES;
use crate::teams::{RESERVED, TEAM, Teams};

/// The name of all four objects.
const NAME: &str = "barewire-teams";

/// A MutatingAdmissionPolicy that adds and a ValidatingAdmissionPolicy that refuses, each with its binding.
#[must_use]
pub fn policies(teams: &Teams) -> [Value; 4] {
    let exempt: Vec<&str> = SYSTEM_NAMESPACES.into_iter().chain(teams.exempt_namespaces.iter().map(String::as_str)).collect();
    let constraints = |operations: &[&str]| {
        json!({
            "namespaceSelector": { "matchExpressions": [{ "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": exempt }] },
            "resourceRules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": operations, "resources": ["pods"] }],
        })
    };
    let owners: Vec<_> = teams
        .teams
        .iter()
        .flat_map(|team| team.namespaces.iter().map(move |of| format!("{}: {}", quoted(of), quoted(&team.name))))
        .collect();
    let team = match owners.is_empty() {
        true => "''".to_owned(),
        false => format!("{{{}}}[?request.namespace].orValue('')", owners.join(", ")),
    };
    let variable = |name: &str, expression: &str| json!({ "name": name, "expression": expression });
    let common = [
        variable("team", &team),
        variable("preemptible", &format!("object.spec.?priority.orValue(0) <= {}", teams.preemptible_priority)),
        variable("tolerations", "object.spec.?tolerations.orValue([])"),
    ];
    let with = |more: Vec<Value>| common.iter().cloned().chain(more).collect::<Vec<_>>();
    let binding = |kind: &str, more: Value| {
        let mut spec = json!({ "policyName": NAME });
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        object(kind, spec)
    };
    let mutating = json!({
        "matchConstraints": constraints(&["CREATE"]),
        "failurePolicy": "Ignore",
        "reinvocationPolicy": "IfNeeded",
        "variables": with(vec![
            variable("preferred", "object.spec.?affinity.?nodeAffinity.?preferredDuringSchedulingIgnoredDuringExecution.orValue([])"),
            variable("isPreferred", &format!(
                "variables.preferred.exists(t, t.?preference.?matchExpressions.orValue([]).exists(e, e.key == '{TEAM}'))"
            )),
        ]),
        "mutations": [
            mutation(&tolerations()),
            mutation(&affinity()),
        ],
    });
    let validating = json!({
        "matchConstraints": constraints(&["CREATE", "UPDATE"]),
        "failurePolicy": "Fail",
        "variables": with(vec![variable("checked", "oldObject == null || object.spec.?tolerations.orValue([]) != oldObject.spec.?tolerations.orValue([])")]),
        "validations": [{
            "expression": format!(
                "!variables.checked || variables.tolerations.all(t, !(t.?effect.orValue('') in ['', 'NoSchedule']) || t.?key.orValue('') != '')"
            ),
            "message": "a toleration without a key tolerates the nodes of every team: name the key",
            "reason": "Forbidden",
        }, {
            "expression": format!(
                "!variables.checked || variables.tolerations.all(t, !(t.?effect.orValue('') in ['', 'NoSchedule']) \
                 || !(t.?key.orValue('') in ['{TEAM}', '{RESERVED}']) \
                 || (t.?operator.orValue('Equal') == 'Exists' ? t.key == '{TEAM}' && variables.preemptible \
                 : variables.team != '' && t.?value.orValue('') == variables.team))"
            ),
            "message": "a toleration of another team's nodes: the namespace is not that team's",
            "reason": "Forbidden",
        }],
    });
    [
        object("MutatingAdmissionPolicy", mutating),
        binding("MutatingAdmissionPolicyBinding", json!({})),
        object("ValidatingAdmissionPolicy", validating),
        binding("ValidatingAdmissionPolicyBinding", json!({ "validationActions": ["Deny"] })),
    ]
}

fn object(kind: &str, spec: Value) -> Value {
    json!({ "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": { "name": NAME }, "spec": spec })
}

fn mutation(expression: &str) -> Value {
    json!({ "patchType": "JSONPatch", "jsonPatch": { "expression": expression } })
}

/// A string of the expression language: names of namespaces and teams are letters, digits, and a few signs that need no escape.
fn quoted(name: &str) -> String {
    format!("'{}'", name.replace(['\\', '\''], ""))
}

fn tolerations() -> String {
    let one = |when: &str, key: &str, operator: &str, value: &str, field: &str| {
        format!(
            "({when} && !variables.tolerations.exists(t, t.?key.orValue('') == '{key}' && t.?operator.orValue('Equal') == '{operator}' \
             && t.?value.orValue('') == {value} && t.?effect.orValue('') in ['', 'NoSchedule']) \
             ? [JSONPatch{{op: 'add', path: '/spec/tolerations/-', value: \
             Object.spec.tolerations{{key: '{key}', operator: '{operator}', effect: 'NoSchedule'{field}}}}}] : [])"
        )
    };
    let own = |key: &str| one("variables.team != ''", key, "Equal", "variables.team", ", value: variables.team");
    format!(
        "(has(object.spec.tolerations) || (variables.team == '' && !variables.preemptible) ? [] \
         : [JSONPatch{{op: 'add', path: '/spec/tolerations', value: []}}]) + {} + {} + {}",
        own(TEAM),
        own(RESERVED),
        one("variables.preemptible", TEAM, "Exists", "''", "")
    )
}

fn affinity() -> String {
    let list = "/spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution";
    let term = "Object.spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution";
    format!(
        "variables.team == '' || variables.isPreferred ? [] : \
         (has(object.spec.affinity) ? [] : [JSONPatch{{op: 'add', path: '/spec/affinity', value: Object.spec.affinity{{}}}}]) \
         + (has(object.spec.affinity) && has(object.spec.affinity.nodeAffinity) ? [] \
         : [JSONPatch{{op: 'add', path: '/spec/affinity/nodeAffinity', value: Object.spec.affinity.nodeAffinity{{}}}}]) \
         + (variables.preferred.size() > 0 ? [] : [JSONPatch{{op: 'add', path: '{list}', value: []}}]) \
         + [JSONPatch{{op: 'add', path: '{list}/-', value: {term}{{weight: 100, preference: {term}.preference{{matchExpressions: \
         [{term}.preference.matchExpressions{{key: '{TEAM}', operator: 'In', values: [variables.team]}}]}}}}}}]"
    )
}
