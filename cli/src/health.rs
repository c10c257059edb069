//! `barewire health`: what the node's checks of itself have found, what is bad first.

use serde::Deserialize;
use serde_json::Value;

use crate::exit::Exit;
use crate::table::Table;

/// A page of an older daemon lacks some of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    check: String,
    result: String,
    message: String,
    since: String,
    measured: Vec<Measured>,
}

/// Of a preflight with another node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Measured {
    peer: String,
    round_trip_micros: u64,
    received_mbit: u64,
    sent_mbit: u64,
}

impl Line {
    /// What is wrong, and what was measured.
    fn seen(&self) -> String {
        let measured = self.measured.iter().map(|of| {
            let Measured { peer, round_trip_micros, received_mbit, sent_mbit } = of;
            format!("{peer}: {round_trip_micros} us, {received_mbit} Mbit/s received, {sent_mbit} sent")
        });
        Some(self.message.clone()).filter(|message| !message.is_empty()).into_iter().chain(measured).collect::<Vec<_>>().join("; ")
    }
}

/// The page for a person, and what the exit code says: something failed.
pub(crate) fn text(page: &Value) -> (String, Exit) {
    let Ok(mut lines) = Vec::<Line>::deserialize(page) else {
        return ("The node does not look at itself: see health.enabled in docs/configuration.md.\n".to_owned(), Exit::Fine);
    };
    // A preflight runs or has passed.
    let rank = |line: &Line| ["failed", "running", "waiting", "unknown", "passed", "ok"].iter().position(|result| *result == line.result);
    lines.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.check.cmp(&b.check)));
    let mut table = Table::new(&["CHECK", "RESULT", "SINCE", "SEEN"]);
    let has_failed = lines.iter().any(|line| line.result == "failed");
    for line in lines {
        let seen = line.seen();
        let result = if line.result == "failed" { "FAILED".to_owned() } else { line.result };
        table.row([line.check, result, line.since, seen]);
    }
    (table.text(), if has_failed { Exit::Degraded } else { Exit::Fine })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_failed_comes_first_and_is_said_by_the_exit_code() {
        let mut page = json!([
            { "check": "clock", "basis": "own", "result": "ok", "since": "2026-11-26T18:00:00Z", "runs": 3, "took_seconds": 0.1 },
            { "check": "kubelet", "result": "unknown", "message": "refused", "since": "2026-11-26T18:00:00Z" },
            { "check": "disk_var", "result": "failed", "message": "less than a hundredth of /var is free", "since": "2026-11-26T18:00:01Z" },
        ]);
        let (said, exit) = text(&page);
        let expected = "CHECK     RESULT   SINCE                 SEEN\n\
                        disk_var  FAILED   2026-11-26T18:00:01Z  less than a hundredth of /var is free\n\
                        kubelet   unknown  2026-11-26T18:00:00Z  refused\n\
                        clock     ok       2026-11-26T18:00:00Z  -\n";
        assert_eq!((&*said, exit), (expected, Exit::Degraded));
        page.as_array_mut().unwrap().pop();
        assert_eq!(text(&page).1, Exit::Fine);
        let measured = json!([{ "check": "preflight", "result": "passed", "since": "s",
            "measured": [{ "peer": "b", "round_trip_micros": 90, "received_mbit": 9000, "sent_mbit": 8000 }] }]);
        assert!(text(&measured).0.ends_with("passed  s      b: 90 us, 9000 Mbit/s received, 8000 sent\n"));
        let line = |result: &str| json!([{ "check": "preflight", "result": result, "message": "plugin/a: x", "since": "s" }]);
        assert_eq!(
            text(&line("failed")),
            ("CHECK      RESULT  SINCE  SEEN\npreflight  FAILED  s      plugin/a: x\n".to_owned(), Exit::Degraded)
        );
        assert_eq!((text(&line("running")).1, text(&line("passed")).1), (Exit::Fine, Exit::Fine));
        assert!(text(&Value::Null).0.contains("health.enabled"));
    }
}
