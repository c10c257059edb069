//! What was found of limits, judged: one line of JSON, or tables.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::cells::{CELLS, Cell, HEADROOM, Protocol, RATES};
use super::{Options, Pair};
use crate::datapath::findings::median;
use crate::node::UPLINK_MTU;
use crate::report::{Figure, Must, Report, Verdict, rounded, title};

/// All that was found.
#[derive(Debug, Clone)]
pub struct Findings {
    options: Options,
    noise_percent: f64,
    /// What a pod without a limit sends to the internet, in bits a second.
    pub(super) unlimited: Vec<(Protocol, usize, f64)>,
    errors: BTreeMap<&'static str, Vec<f64>>,
    cluster: Vec<f64>,
    off: Vec<f64>,
    on_cluster: Vec<f64>,
    on_internet: Vec<f64>,
}

impl Findings {
    pub(super) fn new(options: Options, noise_percent: f64) -> Self {
        Self {
            options,
            noise_percent,
            unlimited: Vec::new(),
            errors: BTreeMap::new(),
            cluster: Vec::new(),
            off: Vec::new(),
            on_cluster: Vec::new(),
            on_internet: Vec::new(),
        }
    }

    pub(super) fn push_error(&mut self, cell: &Cell, percent: f64) {
        self.errors.entry(cell.key).or_default().push(percent);
    }

    pub(super) fn push_ratio(&mut self, pair: Pair, ratio: f64) {
        let ratios = match pair {
            Pair::Cluster => &mut self.cluster,
            Pair::Off => &mut self.off,
            Pair::OnCluster => &mut self.on_cluster,
            Pair::OnInternet => &mut self.on_internet,
        };
        ratios.push(ratio);
    }

    fn unlimited(&self, of: &Cell) -> f64 {
        let found = self.unlimited.iter().find(|(protocol, streams, _)| (*protocol, *streams) == (of.protocol, of.streams));
        found.map_or(0.0, |(_, _, bits)| *bits)
    }

    /// Whether a limit can be seen to hold here.
    pub(super) fn is_measured(&self, cell: &Cell) -> bool {
        cell.is_within(self.unlimited(cell))
    }

    /// What was not measured, and why.
    fn skipped(&self) -> Vec<(&'static str, String)> {
        let skipped = CELLS.iter().filter(|cell| !self.is_measured(cell));
        let why = |cell: &Cell| {
            let (unlimited, (rate, _)) = (self.unlimited(cell) / 1e9, RATES[cell.rate]);
            format!("a pod without a limit sends {} Gbit/s here, less than {HEADROOM} times {} Gbit/s", rounded(unlimited), rate / 1e9)
        };
        skipped.map(|cell| (cell.key, why(cell))).collect()
    }

    fn report(&self) -> Report {
        let figure = |key, value, meaning| Figure { key, value, meaning };
        let of = |values: &[f64]| median(values.to_vec()).unwrap_or(f64::NAN);
        let errors: Vec<_> = CELLS.iter().filter_map(|cell| Some((cell, median(self.errors.get(cell.key)?.clone())?))).collect();
        let most = errors.iter().map(|(_, error)| error.abs()).fold(f64::NAN, f64::max);
        let [cluster, off, on_cluster, on_internet] = [&self.cluster, &self.off, &self.on_cluster, &self.on_internet].map(|all| of(all));
        let unlimited = self.unlimited.iter().map(|(protocol, streams, bits)| {
            let key = match (protocol, streams) {
                (Protocol::Tcp, 1) => "tcp_unlimited_1_gbit",
                (Protocol::Tcp, _) => "tcp_unlimited_16_gbit",
                (Protocol::Udp, 1) => "udp_unlimited_1_gbit",
                (Protocol::Udp, _) => "udp_unlimited_16_gbit",
            };
            figure(key, bits / 1e9, "what a pod without a limit sends to the internet")
        });
        let errors = errors.iter().map(|(cell, error)| figure(cell.key, *error, "goodput against the payload that the limit lets pass"));
        let ratios = [
            figure("cluster_ratio", cluster, "a pod with a limit of 10 Mbit/s to the internet: its stream in the cluster"),
            figure("off_rr_ratio", off, "ping-pong without limits where others have some, by where nobody has"),
            figure("on_rr_cluster_ratio", on_cluster, "ping-pong in the cluster with every limit, by without"),
            figure("on_rr_internet_ratio", on_internet, "ping-pong to the internet with every limit, by without"),
            figure("on_rr_ratio", on_cluster.max(on_internet), "the larger of these"),
            figure("error_percent_max", most, "the largest of these errors"),
            figure("noise_percent", self.noise_percent, "CPU time that others used just before: trust ratios at most where it is high"),
        ];
        let verdict = |key, promise, value, must| Verdict { key, promise, value, must, aim: None };
        Report {
            title: title(&format!(
                "limits, medians of {} rounds of {} s a slot, packets of {UPLINK_MTU} bytes, a round trip of a tenth of a millisecond",
                self.options.rounds,
                self.options.slot.as_secs_f64()
            )),
            verdicts: vec![
                verdict("error_percent_max", "traffic comes near to its limit, in percent", most, Must::AtMost(5.0)),
                verdict("cluster_ratio", "a limit to the internet leaves the cluster alone", cluster, Must::AtLeast(0.97)),
                verdict("off_rr_ratio", "limits of others cost nothing", off, Must::AtMost(1.01)),
                verdict("on_rr_ratio", "limits that are not reached cost little", on_cluster.max(on_internet), Must::AtMost(1.03)),
            ],
            figures: unlimited.chain(errors).chain(ratios).collect(),
        }
    }

    /// One object: see [`Report::to_json`]; and under `skipped` what was not measured, with the reason.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut told = self.report().to_json();
        told["skipped"] = self.skipped().into_iter().map(|(key, why)| (key.to_owned(), json!(why))).collect();
        told
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.report().fmt(out)?;
        self.skipped().iter().try_for_each(|(key, why)| writeln!(out, "SKIP   {key}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn findings(gbit: f64) -> Findings {
        let mut findings = Findings::new(Options { rounds: 3, slot: Duration::from_secs(1) }, 0.0);
        findings.unlimited =
            [Protocol::Tcp, Protocol::Udp].iter().flat_map(|protocol| [(*protocol, 1, gbit * 1e9), (*protocol, 16, gbit * 1e9)]).collect();
        findings
    }

    #[test]
    fn the_error_is_the_largest_median_on_either_side() {
        let mut findings = findings(10.0);
        for (cell, errors) in CELLS.iter().zip([[1.0, 40.0, 1.0], [-6.0, -6.5, 0.0], [2.0, 2.0, 2.0]]) {
            errors.into_iter().for_each(|error| findings.push_error(cell, error));
        }
        let told = findings.to_json();
        assert_eq!((&told["error_percent_max"], &told["verdicts"]["error_percent_max"]["pass"]), (&json!(6), &json!(false)));
        assert_eq!(told["tcp_10m_1_error_percent"], json!(1));
    }

    #[test]
    fn what_cannot_be_seen_here_is_told_and_what_was_not_measured_is_not_kept() {
        let findings = findings(6.0);
        let told = findings.to_json();
        let skipped = told["skipped"].as_object().unwrap();
        assert_eq!(skipped.len(), 4, "{skipped:?}");
        assert!(skipped.keys().all(|key| key.contains("_5g_")) && findings.to_string().contains("SKIP   tcp_5g_1_error_percent"));
        assert_eq!(told["pass"], json!(false), "nothing was measured at all");
    }
}
