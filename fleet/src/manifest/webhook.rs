//! What the webhook of admission adds: two configurations, a Secret for its certificate, and the rights to keep both.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::teams::document;

/// Of the Secret and of both configurations.
pub(super) const NAME: &str = "barewire-fleet-admission";
/// Where it is not asked: these have to come up without it.
const LEFT_ALONE: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Rights in the cluster.
pub(super) fn rules() -> String {
    let resources = "[mutatingwebhookconfigurations, validatingwebhookconfigurations]";
    format!("\n  - {{apiGroups: [admissionregistration.k8s.io], resources: {resources}, resourceNames: [{NAME}], verbs: [get, update]}}")
}

/// Rights in the namespace. Not to create: who may create Secrets may have a token of each service account there.
pub(super) fn own_rules() -> String {
    format!("\n  - {{apiGroups: [''], resources: [secrets], resourceNames: [{NAME}], verbs: [get, update]}}")
}

/// Each with a line of dashes before it. `listen` is where an API server asks the replica on its own machine.
pub(super) fn objects(namespace: &str, listen: SocketAddr) -> String {
    // Without data: what is there stays when it is applied again.
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": NAME, "namespace": namespace }, "type": "Opaque" });
    let configuration = |kind: &str, path: &str, operations: &[&str], more: Value| {
        let mut webhook = json!({
            "name": format!("{path}.teams.barewire.cloud"),
            "admissionReviewVersions": ["v1"],
            "clientConfig": { "url": format!("https://{listen}/{path}") },
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": operations, "resources": ["pods"], "scope": "Namespaced" }],
            "namespaceSelector": {
                "matchExpressions": [{ "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": LEFT_ALONE }],
            },
            // No pod waits for a fleet that is away.
            "failurePolicy": "Ignore",
            "sideEffects": "None",
            "timeoutSeconds": 2,
        });
        if let (Some(webhook), Value::Object(more)) = (webhook.as_object_mut(), more) {
            webhook.extend(more);
        }
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": { "name": NAME }, "webhooks": [webhook],
        })
    };
    let mutating = configuration("MutatingWebhookConfiguration", "mutate", &["CREATE"], json!({ "reinvocationPolicy": "IfNeeded" }));
    let validating = configuration("ValidatingWebhookConfiguration", "validate", &["CREATE", "UPDATE"], json!({}));
    [secret, mutating, validating].iter().map(document).collect()
}
