//! What was seen, by who asks for what. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::audit::{Asks, Count};
use super::dump::{Asked, Dump};
use super::metrics::Refused;

/// Who asks for what, and how often it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Requests that were seen, over all samples.
    pub seen: u64,
    /// Of these, in a queue.
    pub waiting: u64,
    /// Who.
    pub user: String,
    /// Which verb.
    pub verb: String,
    /// Of what.
    pub resource: String,
    /// By which FlowSchema.
    pub flow_schema: String,
    /// At which priority level.
    pub priority_level: String,
}

/// A client, by the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Client {
    /// Which, and what it asks for.
    #[serde(flatten)]
    pub asks: Asks,
    /// How often.
    #[serde(flatten)]
    pub count: Count,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Report {
    samples: u64,
    unreadable: usize,
    seen: BTreeMap<Asked, (u64, u64)>,
    refused: BTreeMap<Refused, u64>,
    /// By the audit log, where it was read.
    clients: Option<BTreeMap<Asks, Count>>,
}

impl Report {
    /// What the audit log says of the same time.
    pub fn asked(&mut self, clients: BTreeMap<Asks, Count>, unreadable: usize) {
        self.unreadable += unreadable;
        self.clients = Some(clients);
    }

    /// By the audit log: those who were refused the most first, then those who have asked the most; nothing where it was not read.
    #[must_use]
    pub fn clients(&self) -> Option<Vec<Client>> {
        let mut clients: Vec<_> = self.clients.as_ref()?.iter().map(|(asks, count)| Client { asks: asks.clone(), count: *count }).collect();
        clients.sort_by_key(|client| std::cmp::Reverse((client.count.refused, client.count.requests)));
        Some(clients)
    }

    /// One look more.
    pub fn add(&mut self, dump: Dump) {
        self.samples += 1;
        self.unreadable += dump.unreadable;
        for (asked, waits) in dump.requests {
            let (seen, waiting) = self.seen.entry(asked).or_default();
            *seen += 1;
            *waiting += u64::from(waits);
        }
    }

    /// What was refused between two looks at the metrics. A counter that went back is another server's.
    pub fn refused_since(&mut self, before: &BTreeMap<Refused, u64>, after: &BTreeMap<Refused, u64>) {
        let more = after.iter().map(|(of, count)| (of.clone(), count.saturating_sub(before.get(of).copied().unwrap_or_default())));
        self.refused = more.filter(|(_, count)| *count > 0).collect();
    }

    /// The busiest first.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let row = |(asked, (seen, waiting)): (&Asked, &(u64, u64))| {
            let Asked { user, verb, what, schema, level } = asked.clone();
            Row { seen: *seen, waiting: *waiting, user, verb, resource: what, flow_schema: schema, priority_level: level }
        };
        let mut rows: Vec<_> = self.seen.iter().map(row).collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.waiting, row.seen)));
        rows
    }

    /// For a program.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let refused: Vec<_> = self.refused.iter().map(|(of, count)| serde_json::json!({ "of": of, "count": count })).collect();
        let (requests, clients, unreadable) = (self.rows(), self.clients(), self.unreadable);
        serde_json::json!({ "samples": self.samples, "requests": requests, "clients": clients, "refused": refused, "unreadable": unreadable })
    }

    /// For a person: the busiest `most`.
    #[must_use]
    pub fn text(&self, most: usize) -> String {
        let rows = self.rows();
        let mut text = format!("{} samples of the requests that wait or are executed\n", self.samples);
        let width = |cell: fn(&Row) -> &str, name: &str| rows.iter().take(most).map(|row| cell(row).len()).chain([name.len()]).max();
        let [user, verb, what, schema] = [
            width(|row| &row.user, "USER"),
            width(|row| &row.verb, "VERB"),
            width(|row| &row.resource, "RESOURCE"),
            width(|row| &row.flow_schema, "FLOW SCHEMA"),
        ]
        .map(Option::unwrap_or_default);
        let mut line = |cells: [&str; 7]| {
            let [seen, waiting, a, b, c, d, level] = cells;
            let _ = writeln!(text, "{seen:>6} {waiting:>7}  {a:user$}  {b:verb$}  {c:what$}  {d:schema$}  {level}");
        };
        line(["SEEN", "WAITING", "USER", "VERB", "RESOURCE", "FLOW SCHEMA", "PRIORITY LEVEL"]);
        for row in rows.iter().take(most) {
            let (seen, waiting) = (row.seen.to_string(), row.waiting.to_string());
            line([&seen, &waiting, &row.user, &row.verb, &row.resource, &row.flow_schema, &row.priority_level]);
        }
        if rows.len() > most {
            let _ = writeln!(text, "and {} more", rows.len() - most);
        }
        if let Some(clients) = self.clients() {
            let head = ["REQUESTS", "REFUSED", "USER", "USER AGENT", "VERB", "RESOURCE"];
            let row = |Client { asks, count }: &Client| {
                let Asks { user, user_agent, verb, resource } = asks.clone();
                [count.requests.to_string(), count.refused.to_string(), user, user_agent, verb, resource]
            };
            let _ = writeln!(text, "by the audit log, meanwhile");
            text.push_str(&crate::nodes::columns(head, clients.iter().take(most).map(row)));
            if clients.len() > most {
                let _ = writeln!(text, "and {} more", clients.len() - most);
            }
        }
        if self.unreadable > 0 {
            let _ = writeln!(text, "{} lines could not be read", self.unreadable);
        }
        let _ = writeln!(text, "refused meanwhile: {}", if self.refused.is_empty() { "nothing" } else { "" });
        for (of, count) in &self.refused {
            let _ = match of {
                Refused::TooMany { verb, resource } => writeln!(text, "{count:>6}  429  {verb} {resource}"),
                Refused::Rejected { schema, level, reason } => writeln!(text, "{count:>6}  {reason}  flow schema {schema}, level {level}"),
            };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::refused;
    use super::*;

    /// As a server of 1.37 writes it, padding included.
    const DUMP: &str = "\
PriorityLevelName, FlowSchemaName,  QueueIndex, RequestIndexInQueue, FlowDistingsher, ArriveTime, InitialSeats, FinalSeats, AdditionalLatency, StartTime, UserName, Verb, APIPath, Namespace, Name, APIVersion, Resource, SubResource
workload-low,      service-accounts, 14,        -1,                  a,              2026-01-01T00:00:00Z, 10, 0, 0s, 2026-01-01T00:00:00Z, noisy, list, /api/v1/pods, , , v1, pods, 
workload-low,      service-accounts, 14,        0,                   a,              2026-01-01T00:00:00Z, 10, 0, 0s, 0001-01-01T00:00:00Z, noisy, list, /api/v1/pods, , , v1, pods, 
exempt,            exempt,           -1,        -1,                  ,               2026-01-01T00:00:00Z, 1,  0, 0s, 2026-01-01T00:00:00Z, admin, get, /debug/api_priority_and_fairness/dump_requests, , , , , 
system,            system-nodes,     3,         -1,                  b,              2026-01-01T00:00:00Z, 1,  0, 0s, 2026-01-01T00:00:00Z, node, update, /apis/x/v1/y, n, m, coordination.k8s.io/v1, leases, status
workload-low, too, few
";

    #[test]
    fn the_noisiest_is_first_and_what_is_refused_is_told() {
        let mut report = Report::default();
        for _ in 0..2 {
            report.add(Dump::read(DUMP).unwrap());
        }
        let rows = report.rows();
        let brief = |row: &Row| (row.seen, row.waiting, row.user.clone(), row.resource.clone());
        assert_eq!(
            rows.iter().map(brief).collect::<Vec<_>>(),
            [(4, 2, "noisy".to_owned(), "pods".to_owned()), (2, 0, "node".to_owned(), "leases.coordination.k8s.io/status".to_owned())]
        );
        let before = "apiserver_request_total{code=\"429\",verb=\"LIST\",resource=\"pods\"} 3\n";
        let after = "# TYPE apiserver_request_total counter\n\
            apiserver_request_total{code=\"200\",verb=\"LIST\",resource=\"pods\"} 9\n\
            apiserver_request_total{code=\"429\",component=\"a\\\"}\",verb=\"LIST\",resource=\"pods\"} 5\n\
            apiserver_request_total{code=\"429\",component=\"b\",verb=\"LIST\",resource=\"pods\"} 1e+01\n\
            apiserver_flowcontrol_rejected_requests_total{flow_schema=\"service-accounts\",priority_level=\"workload-low\",reason=\"queue-full\"} 7\n";
        report.refused_since(&refused(before), &refused(after));
        let text = report.text(1);
        for part in [
            "     4       2  noisy  list  pods      service-accounts  workload-low\nand 1 more\n2 lines",
            "    12  429  LIST pods",
            "     7  queue-full",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(report.json()["clients"].is_null() && !text.contains("audit log"));
        let asks = |agent: &str| Asks {
            user: "robot".to_owned(),
            user_agent: agent.to_owned(),
            verb: "list".to_owned(),
            resource: "pods".to_owned(),
        };
        let busy = Count { requests: 9, refused: 0 };
        report.asked([(asks("calm/1"), busy), (asks("noisy/2"), Count { requests: 5, refused: 4 })].into(), 0);
        assert_eq!(report.json()["clients"][0]["userAgent"], "noisy/2");
        assert!(report.text(1).contains("5         4        robot  noisy/2     list  pods\nand 1 more"), "{}", report.text(1));
        assert_eq!(report.json()["refused"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn another_page_is_refused() {
        assert!(Dump::read("<html>").unwrap_err().to_string().contains("has no column \"PriorityLevelName\""));
    }
}
