//! What the datapath benchmark found, judged: one line of JSON, or tables.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

use crate::datapath::cluster::Contender;
use crate::report::{Must, Verdict, number, rounded};

/// A figure that every contender gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its name in JSON; ends with its unit.
    pub key: &'static str,
    /// What is measured, in a few words.
    pub meaning: &'static str,
    /// Where.
    pub part: Part,
    /// Whether less is better.
    pub less_is_better: bool,
}

/// A part of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// From node to node.
    Across,
    /// On one node.
    OnOneNode,
    /// A full node beside an empty one.
    FullNode,
}

/// One figure of one contender in each round, by row and contender.
#[derive(Debug, Default, Clone)]
pub struct Table(BTreeMap<(&'static str, Contender), Vec<f64>>);

impl Table {
    /// Adds a round's figure.
    pub fn push(&mut self, row: &'static str, contender: Contender, value: f64) {
        self.0.entry((row, contender)).or_default().push(value);
    }

    /// The median over rounds.
    #[must_use]
    pub fn median(&self, row: &'static str, contender: Contender) -> Option<f64> {
        median(self.rounds(row, contender)?.to_vec())
    }

    /// The median over rounds of one contender's figure by the other's of the same round: what hits a round hits both.
    #[must_use]
    pub fn ratio(&self, row: &'static str, one: Contender, other: Contender) -> Option<f64> {
        let (one, other) = (self.rounds(row, one)?, self.rounds(row, other)?);
        median(one.iter().zip(other).map(|(one, other)| one / other).collect())
    }

    fn rounds(&self, row: &'static str, contender: Contender) -> Option<&[f64]> {
        self.0.get(&(row, contender)).map(Vec::as_slice)
    }
}

/// The one in the middle, or the mean of both.
#[must_use]
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], upper) } else { upper })
}

/// A promise that could not be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The figure's name in JSON.
    pub key: &'static str,
    /// Why.
    pub reason: String,
}

/// A figure that no peer has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Own {
    /// Its name in JSON; has its unit.
    pub key: &'static str,
    /// What was measured, in a few words.
    pub meaning: &'static str,
    /// What is promised of it, and what should be.
    pub limits: Option<(Must, Must)>,
}

/// The figures that no peer has.
pub const OWN: [Own; 6] = [
    Own {
        key: "bpf_ns_per_packet",
        meaning: "kernel programs for a packet across nodes, ns",
        limits: Some((Must::AtMost(200.0), Must::AtMost(150.0))),
    },
    Own { key: "returns_at_once_ns", meaning: "a program that returns at once, ns a run: not in the figure above", limits: None },
    Own {
        key: "churn_rr_ratio",
        meaning: "pod to pod while 300 connections a second go through a service, by without",
        limits: Some((Must::AtMost(1.05), Must::AtMost(1.02))),
    },
    Own {
        key: "notes_after_churn",
        meaning: "flows noted 60 s after 100,000 connections through a service were closed",
        limits: Some((Must::AtMost(1_000.0), Must::AtMost(100.0))),
    },
    Own {
        key: "slow_endpoints_after_churn",
        meaning: "pods that the programs leave to the stack after that",
        limits: Some((Must::AtMost(0.0), Must::AtMost(0.0))),
    },
    Own { key: "attach_add_ms", meaning: "what attaching adds to an ADD, ms", limits: Some((Must::AtMost(0.15), Must::AtMost(0.1))) },
];

/// All that was found.
#[derive(Debug, Clone)]
pub struct Findings {
    /// What was measured and how: one line over the table.
    pub title: String,
    /// What the machine's processors call themselves.
    pub processor: String,
    /// Ports of services in the rules of each node.
    pub services: u32,
    /// CPU time that others used just before, in percent.
    pub noise_percent: f64,
    /// In the order they are printed.
    pub rows: Vec<Row>,
    /// The contenders' figures.
    pub table: Table,
    /// Figures that no peer has, with one value a round.
    pub own: Vec<(Own, Vec<f64>)>,
    /// What is promised and was measured.
    pub verdicts: Vec<Verdict>,
    /// What is promised and was not.
    pub skipped: Vec<Skipped>,
}

/// A promise that is a ratio of two contenders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// Its name in JSON.
    pub key: &'static str,
    /// What was promised, in a few words.
    pub promise: &'static str,
    row: &'static str,
    one: Contender,
    other: Contender,
    must: Must,
    aim: Option<Must>,
}

const fn ratio(key: &'static str, promise: &'static str, row: &'static str, other: Contender, must: Must, aim: Must) -> Ratio {
    Ratio { key, promise, row, one: Contender::FastPath, other, must, aim: Some(aim) }
}

const fn loaded(key: &'static str, promise: &'static str, row: &'static str) -> Ratio {
    Ratio { key, promise, row, one: Contender::Loaded, other: Contender::FastPath, must: Must::AtMost(1.05), aim: None }
}

/// The promises that are a ratio, in the order they are printed.
pub const RATIOS: [Ratio; 15] = {
    use Contender::{Bare, Floor, Host, Overlay, Stack};
    use Must::{AtLeast, AtMost};
    [
        ratio("rr_cross_ratio_bare", "cross-node latency against nodes without rules", "rr_cross_us", Bare, AtMost(1.10), AtMost(1.05)),
        ratio(
            "crr_cross_ratio_bare",
            "cross-node connections against nodes without rules",
            "crr_cross_per_s",
            Bare,
            AtLeast(0.88),
            AtLeast(0.95),
        ),
        ratio(
            "stream_ratio_bare",
            "cross-node stream against nodes without rules",
            "stream_cross_gbit",
            Bare,
            AtLeast(0.82),
            AtLeast(0.92),
        ),
        ratio(
            "cpu_per_gb_ratio_bare",
            "CPU for a gigabyte against nodes without rules",
            "stream_cross_cpu_s_per_gb",
            Bare,
            AtMost(1.20),
            AtMost(1.10),
        ),
        ratio("rr_cross_ratio_host", "cross-node latency against the nodes'", "rr_cross_us", Host, AtMost(1.15), AtMost(1.05)),
        ratio("crr_cross_ratio_host", "cross-node connections against the nodes'", "crr_cross_per_s", Host, AtLeast(0.90), AtLeast(0.97)),
        ratio("stream_ratio_host", "cross-node stream against the nodes'", "stream_cross_gbit", Host, AtLeast(0.95), AtLeast(1.0)),
        ratio(
            "cpu_per_gb_ratio_host",
            "CPU for a gigabyte against the nodes'",
            "stream_cross_cpu_s_per_gb",
            Host,
            AtMost(1.15),
            AtMost(1.05),
        ),
        ratio("rr_same_ratio_floor", "same-node latency against one veth", "rr_same_us", Floor, AtMost(1.08), AtMost(1.03)),
        ratio("rr_cross_ratio_stack", "cross-node latency against the stack", "rr_cross_us", Stack, AtMost(0.92), AtMost(0.85)),
        ratio("rr_same_ratio_stack", "same-node latency against the stack", "rr_same_us", Stack, AtMost(0.85), AtMost(0.80)),
        ratio("overlay_stream_gain", "stream against the overlay", "stream_cross_gbit", Overlay, AtLeast(1.5), AtLeast(2.0)),
        ratio("overlay_pps_gain", "small packets against the overlay", "udp_cross_pps", Overlay, AtLeast(1.5), AtLeast(2.0)),
        loaded("loaded_ratio_empty", "cross-node latency, a full node against an empty one", "rr_cross_full_us"),
        loaded("loaded_same_ratio_empty", "same-node latency, a full node against an empty one", "rr_same_full_us"),
    ]
};

/// The promise to be better than the bridge in every row.
pub const ROWS_BEHIND_BRIDGE: &str = "rows_behind_bridge";

impl Findings {
    /// Judges the fast path beside its peers; `absent` says why it could not be measured, where that is so.
    pub fn judge(&mut self, absent: Option<&str>) {
        let reason = absent.unwrap_or("not measured");
        for Ratio { key, promise, row, one, other, must, aim } in RATIOS {
            match self.table.ratio(row, one, other) {
                Some(value) => self.verdicts.push(Verdict { key, promise, value, must, aim }),
                None => self.skip(key, reason),
            }
        }
        let gains: Vec<_> = self.rows.iter().filter_map(|row| self.gain(*row, Contender::FastPath, Contender::Bridge)).collect();
        if gains.is_empty() {
            self.skip(ROWS_BEHIND_BRIDGE, reason);
        } else {
            let behind = gains.iter().filter(|gain| **gain <= 1.0).map(|_| 1.0).sum();
            self.verdicts.push(Verdict {
                key: ROWS_BEHIND_BRIDGE,
                promise: "rows in which the bridge is as good or better",
                value: behind,
                must: Must::AtMost(0.0),
                aim: None,
            });
        }
        for (Own { key, meaning, limits }, rounds) in self.own.clone() {
            match (median(rounds), limits) {
                (Some(value), Some((must, aim))) => {
                    self.verdicts.push(Verdict { key, promise: meaning, value, must, aim: Some(aim) });
                }
                (None, Some(_)) => self.skip(key, reason),
                (_, None) => {}
            }
        }
    }

    /// Notes that a promise was not measured.
    fn skip(&mut self, key: &'static str, reason: &str) {
        self.skipped.push(Skipped { key, reason: reason.to_owned() });
    }

    /// How many times better `one` is than `other`.
    fn gain(&self, row: Row, one: Contender, other: Contender) -> Option<f64> {
        let ratio = self.table.ratio(row.key, one, other)?;
        Some(if row.less_is_better { ratio.recip() } else { ratio })
    }

    /// The same ratios for Barewire without its fast path, which are no promises.
    fn ratios_of_stack(&self) -> Map<String, Value> {
        RATIOS
            .iter()
            .filter(|ratio| ratio.one == Contender::FastPath && ratio.other != Contender::Stack)
            .filter_map(|ratio| Some((ratio.key.to_owned(), number(self.table.ratio(ratio.row, Contender::Stack, ratio.other)?))))
            .collect()
    }

    /// One object: each promised figure under its key (`null` where it was not measured), the verdicts, what was skipped and
    /// why, the medians of each contender, and the rounds that they are the medians of.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Self { title, processor, services, noise_percent, rows, table, own, verdicts, skipped } = self;
        let mut object = Map::new();
        object.insert("what".to_owned(), json!(title));
        object.insert("processor".to_owned(), json!(processor));
        object.insert("services".to_owned(), json!(services));
        object.insert("noise_percent".to_owned(), number(*noise_percent));
        object.extend(verdicts.iter().map(|verdict| (verdict.key.to_owned(), number(verdict.value))));
        object.extend(skipped.iter().map(|skipped| (skipped.key.to_owned(), Value::Null)));
        let by_row = |value: &dyn Fn(&'static str, Contender) -> Option<Value>| -> Map<String, Value> {
            let of_row = |row: &Row| Contender::all().filter_map(|c| Some((c.key(), value(row.key, c)?))).collect();
            rows.iter().map(|row| (row.key.to_owned(), Value::Object(of_row(row)))).collect()
        };
        let numbers = |values: &[f64]| Value::from_iter(values.iter().copied().map(number));
        let mut medians = by_row(&|row, contender| table.median(row, contender).map(number));
        let mut rounds = by_row(&|row, contender| table.rounds(row, contender).map(numbers));
        for (own, of_own) in own {
            medians.insert(own.key.to_owned(), median(of_own.clone()).map_or(Value::Null, number));
            rounds.insert(own.key.to_owned(), numbers(of_own));
        }
        object.insert("medians".to_owned(), Value::Object(medians));
        object.insert("rounds".to_owned(), Value::Object(rounds));
        object.insert("ratios_of_stack".to_owned(), Value::Object(self.ratios_of_stack()));
        let judged: Map<_, _> = verdicts.iter().map(|verdict| (verdict.key.to_owned(), verdict.to_json())).collect();
        object.insert("verdicts".to_owned(), Value::Object(judged));
        let reasons: Map<_, _> = skipped.iter().map(|skipped| (skipped.key.to_owned(), json!(skipped.reason))).collect();
        object.insert("skipped".to_owned(), Value::Object(reasons));
        object.insert("pass".to_owned(), json!(skipped.is_empty() && verdicts.iter().all(Verdict::is_kept)));
        Value::Object(object)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { title, processor: _, services: _, noise_percent, rows, table, own, verdicts, skipped } = self;
        writeln!(out, "{title}\nothers used {}% of the machine's CPU time just before\n", rounded(*noise_percent))?;
        write!(out, "{:<28}", "")?;
        for contender in Contender::TABLE {
            write!(out, "{:>10}", contender.key())?;
        }
        writeln!(out)?;
        for row in rows {
            write!(out, "{:<28}", row.key)?;
            for contender in Contender::TABLE {
                let median = table.median(row.key, contender);
                write!(out, "{:>10}", median.map_or_else(|| "-".to_owned(), |median| rounded(median).to_string()))?;
            }
            writeln!(out, "   {}", row.meaning)?;
        }
        writeln!(out, "\nnodes by their rules")?;
        for row in rows {
            let medians: Vec<_> = [Contender::Bare, Contender::Host]
                .into_iter()
                .chain(Contender::RULED)
                .filter_map(|nodes| Some(format!("{} {}", nodes.key(), rounded(table.median(row.key, nodes)?))))
                .collect();
            if medians.len() > 2 {
                writeln!(out, "{:<28}{}", row.key, medians.join(", "))?;
            }
        }
        writeln!(out)?;
        for (Own { key, meaning, limits: _ }, rounds) in own {
            let value = median(rounds.clone()).map_or_else(|| "-".to_owned(), |value| rounded(value).to_string());
            writeln!(out, "{key:<28}{value:>10}   {meaning}")?;
        }
        writeln!(out)?;
        for verdict in verdicts {
            writeln!(out, "{verdict}")?;
        }
        for of_one_reason in skipped.chunk_by(|one, next| one.reason == next.reason) {
            let keys: Vec<_> = of_one_reason.iter().map(|skipped| skipped.key).collect();
            writeln!(out, "SKIP   {}: {}", keys.join(", "), of_one_reason[0].reason)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [Row; 2] = [
        Row { key: "rr_cross_us", meaning: "latency", part: Part::Across, less_is_better: true },
        Row { key: "stream_cross_gbit", meaning: "throughput", part: Part::Across, less_is_better: false },
    ];

    fn findings(measured: &[(&'static str, Contender, &[f64])]) -> Findings {
        let mut table = Table::default();
        for (row, contender, values) in measured {
            values.iter().for_each(|value| table.push(row, *contender, *value));
        }
        Findings {
            title: "t".to_owned(),
            processor: "p".to_owned(),
            services: 300,
            noise_percent: 0.0,
            rows: ROWS.to_vec(),
            table,
            own: Vec::new(),
            verdicts: Vec::new(),
            skipped: Vec::new(),
        }
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let found =
            findings(&[("rr_cross_us", Contender::FastPath, &[11.0, 22.0, 55.0]), ("rr_cross_us", Contender::Host, &[10.0, 20.0, 50.0])]);
        assert!((found.table.ratio("rr_cross_us", Contender::FastPath, Contender::Host).unwrap() - 1.1).abs() < 1e-9);
    }

    #[test]
    fn json_has_every_promised_key_whether_measured_or_not() {
        let mut found = findings(&[("rr_cross_us", Contender::FastPath, &[11.0]), ("rr_cross_us", Contender::Host, &[10.0])]);
        found.judge(Some("no kernel programs"));
        let json = found.to_json();
        assert_eq!(json["rr_cross_ratio_host"], json!(1.1));
        assert_eq!(
            json["verdicts"]["rr_cross_ratio_host"],
            json!({"promise": RATIOS[4].promise, "value": 1.1, "must": "≤ 1.15", "pass": true, "aim": "≤ 1.05", "aim_met": false})
        );
        for Ratio { key, .. } in RATIOS {
            assert!(json.get(key).is_some(), "{key}");
            assert!(json["verdicts"].get(key).is_some() != json["skipped"].get(key).is_some(), "{key}");
        }
        assert_eq!(json["skipped"]["stream_ratio_host"], json!("no kernel programs"));
        assert_eq!(json["pass"], json!(false), "what was not measured is not kept");
        assert_eq!(json["rounds"]["rr_cross_us"]["host"], json!([10]));
    }

    #[test]
    fn a_row_in_which_the_bridge_is_better_is_told_whichever_way_it_counts() {
        let mut found = findings(&[
            ("rr_cross_us", Contender::FastPath, &[9.0]),
            ("rr_cross_us", Contender::Bridge, &[10.0]),
            ("stream_cross_gbit", Contender::FastPath, &[9.0]),
            ("stream_cross_gbit", Contender::Bridge, &[10.0]),
        ]);
        found.judge(None);
        assert_eq!(found.to_json()[ROWS_BEHIND_BRIDGE], json!(1));
    }
}
