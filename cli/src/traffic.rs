//! `barewire traffic`: rates, from two readings of the daemon's counters.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::table::Table;

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    Pod,
    Namespace,
    /// Where the other end is
    Scope,
}

/// The host's own has no pod.
const HOST: &str = "node (host network)";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Page {
    at_millis: u64,
    pods: Vec<Pod>,
    host: Directions,
    not_carried: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pod {
    namespace: String,
    name: String,
    container_id: String,
    #[serde(flatten)]
    directions: Directions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Directions {
    sent: BTreeMap<String, Count>,
    received: BTreeMap<String, Count>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(default)]
struct Count {
    packets: u64,
    bytes: u64,
}

/// Sums: packets and bytes sent, packets and bytes received.
type Sums = [u64; 4];

/// By whose counter it is (a container that has gone and one that has come are two), then by scope.
type Counters = BTreeMap<(String, String, String, String), Sums>;

/// Rates a second.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rates {
    rows: Vec<(String, [f64; 4])>,
    /// Packets that the programs dropped or left to the stack, by reason.
    not_carried: Vec<(String, f64)>,
    by: By,
}

impl Rates {
    /// What happened between two readings. One that is not there before has counted from nothing; a counter that fell was another's.
    pub(crate) fn between(before: &Value, after: &Value, by: By) -> Self {
        let [before, after] = [before, after].map(|page| Page::deserialize(page).unwrap_or_default());
        let seconds = after.at_millis.saturating_sub(before.at_millis).max(1) as f64 / 1000.0;
        let old = counters(&before);
        let mut sums = BTreeMap::<String, Sums>::new();
        for (key, now) in counters(&after) {
            let then = old.get(&key).copied().unwrap_or_default();
            let (namespace, pod, _, scope) = key;
            let row = match by {
                By::Scope => scope,
                _ if namespace == HOST => namespace,
                By::Namespace => namespace,
                By::Pod => format!("{namespace}/{pod}"),
            };
            let sum = sums.entry(row).or_default();
            for at in 0..4 {
                sum[at] += now[at].saturating_sub(then[at]);
            }
        }
        let mut rows: Vec<_> = sums.into_iter().map(|(row, sum)| (row, sum.map(|count| count as f64 / seconds))).collect();
        // The order of names holds among equals.
        rows.sort_by(|(_, a), (_, b)| (b[1] + b[3]).total_cmp(&(a[1] + a[3])));
        let reasons = after.not_carried.iter().map(|(reason, now)| {
            let then = before.not_carried.get(reason).copied().unwrap_or_default();
            (reason.clone(), now.saturating_sub(then) as f64 / seconds)
        });
        Self { rows, not_carried: reasons.filter(|(_, rate)| *rate > 0.0).collect(), by }
    }

    pub(crate) fn text(&self) -> String {
        let head = match self.by {
            By::Pod => "POD",
            By::Namespace => "NAMESPACE",
            By::Scope => "SCOPE",
        };
        let mut table = Table::new(&[head, ">SENT bit/s", ">RECEIVED bit/s", ">SENT pkt/s", ">RECEIVED pkt/s"]);
        for (row, [sent, sent_bytes, received, received_bytes]) in &self.rows {
            table.row([row.clone(), short(sent_bytes * 8.0), short(received_bytes * 8.0), short(*sent), short(*received)]);
        }
        let mut text = table.text();
        if !self.not_carried.is_empty() {
            let mut table = Table::new(&["DROPPED OR SLOW, BECAUSE", ">pkt/s"]);
            self.not_carried.iter().for_each(|(reason, rate)| table.row([reason.clone(), short(*rate)]));
            text = text + "\n" + &table.text();
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let row = |(row, [sent, sent_bytes, received, received_bytes]): &(String, [f64; 4])| {
            json!({
                "name": row, "sent_packets_per_second": sent, "sent_bytes_per_second": sent_bytes,
                "received_packets_per_second": received, "received_bytes_per_second": received_bytes,
            })
        };
        let not_carried: BTreeMap<_, _> = self.not_carried.iter().cloned().collect();
        json!({ "rows": self.rows.iter().map(row).collect::<Vec<_>>(), "not_carried_packets_per_second": not_carried })
    }
}

fn counters(page: &Page) -> Counters {
    let mut counters = Counters::new();
    let host = (HOST.to_owned(), String::new(), String::new());
    let pods = page.pods.iter().map(|pod| ((pod.namespace.clone(), pod.name.clone(), pod.container_id.clone()), &pod.directions));
    for ((namespace, pod, container), Directions { sent, received }) in pods.chain([(host, &page.host)]) {
        for (at, counts) in [(0, sent), (2, received)] {
            for (scope, Count { packets, bytes }) in counts {
                let sums = counters.entry((namespace.clone(), pod.clone(), container.clone(), scope.clone())).or_default();
                sums[at] += packets;
                sums[at + 1] += bytes;
            }
        }
    }
    counters
}

/// Three digits or four, and a unit.
fn short(number: f64) -> String {
    let (scaled, unit) = match number {
        number if number >= 1e9 => (number / 1e9, "G"),
        number if number >= 1e6 => (number / 1e6, "M"),
        number if number >= 1e3 => (number / 1e3, "k"),
        number => return format!("{number:.0}"),
    };
    format!("{scaled:.1}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(at: u64, container: &str, sent: u64) -> Value {
        json!({
            "at_millis": at,
            "pods": [
                { "namespace": "web", "name": "api", "container_id": container,
                  "sent": { "internet": { "packets": sent, "bytes": sent * 100 } }, "received": { "vpc": { "packets": 1, "bytes": 60 } } },
                { "namespace": "web", "name": "b", "container_id": "c9", "sent": {}, "received": {} },
            ],
            "host": { "sent": { "vpc": { "packets": 5, "bytes": 500 } }, "received": {} },
            "not_carried": { "fragment": sent },
        })
    }

    #[test]
    fn rates_are_of_the_time_between_the_readings() {
        let rates = Rates::between(&page(1_000, "c1", 100), &page(3_000, "c1", 2_100), By::Pod);
        assert_eq!(rates.rows[0], ("web/api".to_owned(), [1_000.0, 100_000.0, 0.0, 0.0]));
        assert_eq!(rates.not_carried, [("fragment".to_owned(), 1_000.0)]);
        assert!(rates.text().contains("web/api") && rates.text().contains("800.0k"), "{}", rates.text());
        let by_scope = Rates::between(&page(1_000, "c1", 100), &page(3_000, "c1", 2_100), By::Scope);
        assert_eq!(by_scope.rows[0].0, "internet");
        let by_namespace = Rates::between(&page(1_000, "c1", 100), &page(3_000, "c1", 2_100), By::Namespace);
        assert_eq!(by_namespace.rows.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["web", HOST]);
    }

    #[test]
    fn a_new_container_counts_from_nothing_and_a_fallen_counter_is_no_rate() {
        let replaced = Rates::between(&page(0, "c1", 5_000), &page(1_000, "c2", 7), By::Pod);
        assert_eq!(replaced.rows[0].1[0], 7.0);
        let fallen = Rates::between(&page(0, "c1", 5_000), &page(0, "c1", 7), By::Pod);
        assert!(fallen.rows.iter().all(|(_, rates)| *rates == [0.0; 4]), "{fallen:?}");
    }
}
