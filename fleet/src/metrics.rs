//! What a metric of a replica is: declared once, with how it is read. `/metrics` and docs/metrics.md are written from the declarations.

use std::fmt::Write as _;

/// What all names begin with.
const PREFIX: &str = "barewire_fleet";

/// A metric that is read from an `S`.
#[derive(Debug)]
pub struct Metric<S> {
    /// Without the prefix.
    name: &'static str,
    kind: Kind<S>,
    help: &'static str,
}

/// Each series by the values of its labels.
pub type Series = Vec<(Vec<&'static str>, u64)>;

#[derive(Debug)]
enum Kind<S> {
    Gauge(fn(&S) -> u64),
    Counter(fn(&S) -> u64),
    /// The names of labels.
    Counters(&'static [&'static str], fn(&S) -> Series),
    Histogram(fn(&S) -> Histogram),
}

/// Of seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Upper bounds in seconds, rising, each with how many were no longer.
    pub buckets: Vec<(f64, u64)>,
    /// All, those beyond the last bound too.
    pub count: u64,
    /// Seconds of all together.
    pub sum: f64,
}

/// What documentation says of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declared {
    /// Without the prefix.
    pub name: &'static str,
    /// Prometheus' word for it.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// A value that goes up and down.
pub const fn gauge<S>(name: &'static str, help: &'static str, value: fn(&S) -> u64) -> Metric<S> {
    Metric { name, kind: Kind::Gauge(value), help }
}

/// Its name ends with `_total`.
pub const fn counter<S>(name: &'static str, help: &'static str, value: fn(&S) -> u64) -> Metric<S> {
    Metric { name, kind: Kind::Counter(value), help }
}

/// A counter with labels; its name ends with `_total`.
pub const fn counters<S>(name: &'static str, labels: &'static [&'static str], help: &'static str, values: fn(&S) -> Series) -> Metric<S> {
    Metric { name, kind: Kind::Counters(labels, values), help }
}

/// Of seconds; its name ends with `_seconds`.
pub const fn histogram<S>(name: &'static str, help: &'static str, value: fn(&S) -> Histogram) -> Metric<S> {
    Metric { name, kind: Kind::Histogram(value), help }
}

impl<S> Metric<S> {
    /// For documentation.
    #[must_use]
    pub const fn declared(&self) -> Declared {
        let (kind, labels): (_, &[&str]) = match self.kind {
            Kind::Gauge(_) => ("gauge", &[]),
            Kind::Counter(_) => ("counter", &[]),
            Kind::Counters(labels, _) => ("counter", labels),
            Kind::Histogram(_) => ("histogram", &["le"]),
        };
        Declared { name: self.name, kind, labels, help: self.help }
    }
}

/// Appends them as they are now, in Prometheus' text format.
pub fn write<S>(metrics: &[Metric<S>], of: &S, text: &mut String) {
    for metric in metrics {
        let Declared { name, kind, help, .. } = metric.declared();
        let name = format!("{PREFIX}_{name}");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        match &metric.kind {
            Kind::Gauge(value) | Kind::Counter(value) => drop(writeln!(text, "{name} {}", value(of))),
            Kind::Counters(labels, values) => {
                for (values, count) in values(of) {
                    let labels: Vec<_> = labels.iter().zip(values).map(|(label, value)| format!("{label}=\"{value}\"")).collect();
                    let _ = writeln!(text, "{name}{{{}}} {count}", labels.join(","));
                }
            }
            Kind::Histogram(value) => {
                let Histogram { buckets, count, sum } = value(of);
                for (bound, count) in buckets {
                    let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {count}");
                }
                let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_written_as_prometheus_reads_it() {
        let metrics: [Metric<u64>; 4] = [
            gauge("nodes", "Nodes", |seen| *seen),
            counter("sent_total", "Sent", |seen| seen + 1),
            counters("acts_total", &["part", "outcome"], "Acts", |seen| vec![(vec!["teams", "done"], *seen), (vec!["health", "gone"], 0)]),
            histogram("took_seconds", "Took", |_| Histogram { buckets: vec![(0.001, 2), (0.5, 3)], count: 4, sum: 7.25 }),
        ];
        let mut text = String::new();
        write(&metrics, &7, &mut text);
        let expected = "\
# HELP barewire_fleet_nodes Nodes
# TYPE barewire_fleet_nodes gauge
barewire_fleet_nodes 7
# HELP barewire_fleet_sent_total Sent
# TYPE barewire_fleet_sent_total counter
barewire_fleet_sent_total 8
# HELP barewire_fleet_acts_total Acts
# TYPE barewire_fleet_acts_total counter
barewire_fleet_acts_total{part=\"teams\",outcome=\"done\"} 7
barewire_fleet_acts_total{part=\"health\",outcome=\"gone\"} 0
# HELP barewire_fleet_took_seconds Took
# TYPE barewire_fleet_took_seconds histogram
barewire_fleet_took_seconds_bucket{le=\"0.001\"} 2
barewire_fleet_took_seconds_bucket{le=\"0.5\"} 3
barewire_fleet_took_seconds_bucket{le=\"+Inf\"} 4
barewire_fleet_took_seconds_sum 7.25
barewire_fleet_took_seconds_count 4
";
        assert_eq!(text, expected);
    }
}
