//! One request that writes, and what has come of it. Nothing is tried again here: the leader decides anew.

use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use tokio::time::timeout;

/// A request that has had no answer for so long is lost; it may have been heard.
const ANSWER: Duration = Duration::from_secs(10);
/// No object is larger (etcd's limit is 1.5 MiB), but a list of pods may be.
const LARGEST: usize = 16 << 20;
/// Where the API server asks to wait and does not say for how long.
const WAIT: Duration = Duration::from_secs(1);

/// What has come of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// Done; the object as it is now.
    Done(Value),
    /// The object is not what was decided on (409; 422, with which a `test` fails).
    Conflict(String),
    /// There is no such object.
    Gone,
    /// Not now: so long is to be waited (429, 503). `is_budget`: it is a disruption budget that says so, of one pod.
    Later { after: Duration, is_budget: bool },
    /// Never, as things are: rights, or an object that makes no sense.
    Refused(String),
    /// No answer, or none that makes sense.
    Lost(String),
}

/// A JSON body to `path`. A patch is one of RFC 6902.
pub(crate) async fn ask(client: &Client, method: Method, path: &str, body: Option<&Value>) -> Outcome {
    let kind = if method == Method::PATCH { "application/json-patch+json" } else { "application/json" };
    let bytes = body.map(Value::to_string).unwrap_or_default().into_bytes();
    let request = match Request::builder().method(method).uri(path).header(CONTENT_TYPE, kind).body(Body::from(bytes)) {
        Ok(request) => request,
        Err(error) => return Outcome::Refused(format!("{path:?} is no path: {error}")),
    };
    match timeout(ANSWER, answered(client, request)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::Lost(error),
        Err(_) => Outcome::Lost(format!("no answer within {} s", ANSWER.as_secs())),
    }
}

async fn answered(client: &Client, request: Request<Body>) -> Result<Outcome, String> {
    let response = client.send(request).await.map_err(|error| error.to_string())?;
    let (head, body) = response.into_parts();
    // Of priority and fairness the body is a sentence, and the header says how long.
    let header = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = Limited::new(body, LARGEST).collect().await.map_err(|error| error.to_string())?.to_bytes();
    let value: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(outcome(head.status, header, value, &String::from_utf8_lossy(&body)))
}

fn outcome(status: StatusCode, header: Option<u64>, value: Value, text: &str) -> Outcome {
    let message = || {
        let text = value["message"].as_str().unwrap_or(text);
        format!("{status}: {}", text.chars().take(500).collect::<String>())
    };
    match status {
        _ if status.is_success() && value.is_object() => Outcome::Done(value),
        StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => Outcome::Conflict(message()),
        StatusCode::NOT_FOUND => Outcome::Gone,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let details = &value["details"];
            let is_budget =
                details["causes"].as_array().is_some_and(|causes| causes.iter().any(|cause| cause["reason"] == "DisruptionBudget"));
            let seconds = header.or(details["retryAfterSeconds"].as_u64());
            Outcome::Later { after: seconds.map_or(WAIT, Duration::from_secs), is_budget }
        }
        _ if status.is_client_error() => Outcome::Refused(message()),
        _ => Outcome::Lost(message()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_says_what_is_to_be_done() {
        let budget = json!({ "message": "m", "details": { "causes": [{ "reason": "DisruptionBudget" }], "retryAfterSeconds": 10 } });
        let later = |seconds, is_budget| Outcome::Later { after: Duration::from_secs(seconds), is_budget };
        for (code, header, body, expected) in [
            (200, None, json!({ "a": 1 }), Outcome::Done(json!({ "a": 1 }))),
            (409, None, json!({ "message": "m" }), Outcome::Conflict("409 Conflict: m".to_owned())),
            (422, None, json!({ "message": "m" }), Outcome::Conflict("422 Unprocessable Entity: m".to_owned())),
            (404, None, json!({}), Outcome::Gone),
            (429, Some(7), Value::Null, later(7, false)),
            (429, None, Value::Null, later(1, false)),
            (429, None, budget, later(10, true)),
            (503, Some(3), Value::Null, later(3, false)),
            (403, None, json!({ "message": "m" }), Outcome::Refused("403 Forbidden: m".to_owned())),
            (500, None, Value::Null, Outcome::Lost("500 Internal Server Error: text".to_owned())),
            (200, None, Value::Null, Outcome::Lost("200 OK: text".to_owned())),
        ] {
            assert_eq!(outcome(StatusCode::from_u16(code).unwrap(), header, body, "text"), expected, "{code}");
        }
    }
}
