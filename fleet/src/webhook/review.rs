//! One AdmissionReview (`admission.k8s.io/v1`) and its answer. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fleet_plans::admission::{Decision, decide};
use fleet_plans::teams::Teams;
use serde::Deserialize;
use serde_json::{Value, json};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// What is to be added.
    Mutate,
    /// Whether it is refused.
    Validate,
}

#[derive(Deserialize)]
struct Review {
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    operation: String,
    #[serde(default)]
    namespace: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Deserialize)]
struct Resource {
    group: String,
    resource: String,
}

/// The answer, and whether it is another than plain admission.
///
/// # Errors
/// Where the body is no AdmissionReview.
pub fn answer(endpoint: Endpoint, teams: Option<&Teams>, body: &[u8]) -> Result<(Value, bool), serde_json::Error> {
    let Review { request } = serde_json::from_slice(body)?;
    let mut response = json!({ "uid": request.uid, "allowed": true });
    let Resource { group, resource } = &request.resource;
    let is_pod = group.is_empty() && resource == "pods" && request.sub_resource.is_empty();
    let is_meant = match (endpoint, request.operation.as_str()) {
        (_, "CREATE") => true,
        // Tolerations of a pod can grow later. What was there before is not judged again.
        (Endpoint::Validate, "UPDATE") => request.object["spec"]["tolerations"] != request.old_object["spec"]["tolerations"],
        _ => false,
    };
    let decision = teams.filter(|_| is_pod && is_meant).map(|teams| decide(teams, &request.namespace, &request.object));
    let is_changed = match (endpoint, decision) {
        (Endpoint::Mutate, Some(Decision::Admitted(patch))) if !patch.is_empty() => {
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(STANDARD.encode(Value::from(patch).to_string()));
            true
        }
        (Endpoint::Validate, Some(Decision::Refused(why))) => {
            response["allowed"] = json!(false);
            response["status"] = json!({ "code": 403, "reason": "Forbidden", "message": why });
            true
        }
        _ => false,
    };
    Ok((json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response }), is_changed))
}
