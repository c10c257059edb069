//! What an API server refuses, of its metrics: Prometheus' text format, two families of it. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

/// Of what was refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Refused {
    /// Answered with 429: of a verb and a resource.
    TooMany {
        /// Which verb.
        verb: String,
        /// Which resource; empty for a path.
        resource: String,
    },
    /// By priority and fairness: of a flow schema, and why.
    Rejected {
        /// The schema.
        schema: String,
        /// The priority level.
        level: String,
        /// `queue-full`, `time-out`, `concurrency-limit` or `cancelled`.
        reason: String,
    },
}

/// How often, since the server's start.
#[must_use]
pub fn refused(text: &str) -> BTreeMap<Refused, u64> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let sample = |name: &str| line.strip_prefix(name).and_then(|rest| rest.strip_prefix('{')).and_then(labels);
        let refused = if let Some((labels, value)) = sample("apiserver_request_total") {
            if labels.get("code").is_none_or(|code| code != "429") {
                continue;
            }
            (Refused::TooMany { verb: get(&labels, "verb"), resource: get(&labels, "resource") }, value)
        } else if let Some((labels, value)) = sample("apiserver_flowcontrol_rejected_requests_total") {
            let [schema, level, reason] = ["flow_schema", "priority_level", "reason"].map(|name| get(&labels, name));
            (Refused::Rejected { schema, level, reason }, value)
        } else {
            continue;
        };
        *found.entry(refused.0).or_default() += refused.1;
    }
    found
}

fn get(labels: &BTreeMap<&str, String>, name: &str) -> String {
    labels.get(name).cloned().unwrap_or_default()
}

/// The labels after a brace, and the value.
fn labels(mut rest: &str) -> Option<(BTreeMap<&str, String>, u64)> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(value) = rest.strip_prefix('}') {
            // Counts, written as floating point.
            let value: f64 = value.split_whitespace().next()?.parse().ok()?;
            return (value >= 0.0).then_some((labels, value as u64));
        }
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut letters = after.char_indices();
        loop {
            match letters.next()? {
                (_, '\\') => value.push(letters.next()?.1),
                (end, '"') => {
                    rest = after[end + 1..].trim_start_matches(',');
                    break;
                }
                (_, letter) => value.push(letter),
            }
        }
        labels.insert(name.trim(), value);
    }
}
