//! What is planned for the host of a machine that cannot be moved while it runs, hours to weeks ahead: `upcoming-maintenance` ("Monitor and plan
//! for a host maintenance event" in Compute Engine's documentation).
//!
//! Its keys are written `windowStartTime` here and `window_start_time` there, on their own or within an object of one key; and that nothing is
//! planned is `NONE`, `{}`, or an `error` that says so.

use serde_json::{Map, Value};

use super::super::maintenance::{Maintenance, time};
use super::super::metadata::MetadataError;

/// Reads an answer.
pub(super) fn planned(url: &str, text: &str) -> Result<Option<Maintenance>, MetadataError> {
    let malformed = || MetadataError::malformed(url, text, "NONE, or an object with windowStartTime");
    if text.trim().trim_matches('"') == "NONE" {
        return Ok(None);
    }
    let Ok(Value::Object(told)) = serde_json::from_str(text) else { return Err(malformed()) };
    let told = unwrapped(told);
    if told.is_empty() || told.contains_key("error") {
        return Ok(None);
    }
    let word = |names: &[&str]| names.iter().find_map(|name| told.get(*name)?.as_str());
    let begins = word(&["windowStartTime", "window_start_time", "startTime"]).ok_or_else(malformed)?;
    let is_under_way = word(&["maintenanceStatus", "maintenance_status"]) == Some("ONGOING");
    let kind = word(&["type"]).unwrap_or("SCHEDULED");
    Ok(Some(Maintenance {
        what: format!("upcoming-maintenance {kind}"),
        begins: if is_under_way { None } else { Some(time(url, begins)?) },
    }))
}

fn unwrapped(told: Map<String, Value>) -> Map<String, Value> {
    match told.values().next() {
        Some(Value::Object(inner)) if told.len() == 1 => inner.clone(),
        _ => told,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn begins(text: &str) -> Option<SystemTime> {
        planned("u", text).unwrap().unwrap().begins
    }

    #[test]
    fn every_way_in_which_it_is_written_is_read() {
        let expected = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_733_079_601));
        let fields = r#""type": "SCHEDULED", "window_end_time": "2024-12-01T21:00:01Z", "window_start_time": "2024-12-01T19:00:01Z""#;
        for text in [
            r#"{"canReschedule":"TRUE","maintenanceStatus":"PENDING","type":"UNSCHEDULED","windowStartTime":"2024-12-01T19:00:01Z"}"#
                .to_owned(),
            format!(r#"{{ "maintenance_reasons": ["PLANNED_UPDATE"], "maintenance_status": "PENDING", {fields} }}"#),
            format!(r#"{{ "Upcoming maintenance": {{ {fields} }} }}"#),
            r#"{"startTime": "2024-12-01T19:00:01Z"}"#.to_owned(),
        ] {
            assert_eq!(begins(&text), expected, "{text}");
        }
        let under_way = format!(r#"{{ "maintenance_status": "ONGOING", {fields} }}"#);
        assert_eq!(begins(&under_way), None);
        assert_eq!(planned("u", &under_way).unwrap().unwrap().what, "upcoming-maintenance SCHEDULED");
    }

    #[test]
    fn nothing_is_planned() {
        for text in ["NONE\n", r#""NONE""#, "{ }", r#"{ "error": "no notifications have been received yet, try again later" }"#] {
            assert_eq!(planned("u", text).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn something_else_is_an_error_that_shows_it() {
        for text in
            ["", "[]", "<html>Sign in</html>", r#"{"type": "SCHEDULED"}"#, r#"{"windowStartTime": 7}"#, r#"{"windowStartTime": "soon"}"#]
        {
            assert!(planned("http://m/n", text).unwrap_err().to_string().starts_with("http://m/n answered "), "{text}");
        }
    }
}
