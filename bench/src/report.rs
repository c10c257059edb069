//! What a benchmark prints: a table with its promises for people, or one line of JSON.

use std::{fmt, fs, thread};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::samples::Rounds;

/// One measured figure.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Its name in JSON; ends with its unit.
    pub key: &'static str,
    /// The figure, in the unit that the key names.
    pub value: f64,
    /// What was measured, in a few words.
    pub meaning: &'static str,
}

/// What a figure or a ratio must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Must {
    /// No more than this.
    AtMost(f64),
    /// Less than this.
    Below(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Must {
    fn is_met_by(self, value: f64) -> bool {
        match self {
            Must::AtMost(limit) => value <= limit,
            Must::Below(limit) => value < limit,
            Must::AtLeast(limit) => value >= limit,
        }
    }
}

impl fmt::Display for Must {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Must::AtMost(limit) => write!(out, "≤ {}", rounded(*limit)),
            Must::Below(limit) => write!(out, "< {}", rounded(*limit)),
            Must::AtLeast(limit) => write!(out, "≥ {}", rounded(*limit)),
        }
    }
}

/// A promise and what was measured of it.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Its name in JSON.
    pub key: &'static str,
    /// What was promised, in a few words.
    pub promise: &'static str,
    /// The ratio or figure that the promise is about.
    pub value: f64,
    /// What it must be.
    pub must: Must,
    /// What it should be, where that is more.
    pub aim: Option<Must>,
}

impl Verdict {
    /// Whether the promise is kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.must.is_met_by(self.value)
    }

    /// The promise, the value, what it must and should be, and whether it is.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Self { key: _, promise, value, must, aim } = self;
        let mut judged = json!({"promise": promise, "value": number(*value), "must": must.to_string(), "pass": self.is_kept()});
        if let Some(aim) = aim {
            judged["aim"] = json!(aim.to_string());
            judged["aim_met"] = json!(aim.is_met_by(*value));
        }
        judged
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key: _, promise, value, must, aim } = self;
        let judged = if self.is_kept() { "pass" } else { "FAIL" };
        write!(out, "{judged}   {promise:<58}{:>10}   must be {must}", rounded(*value))?;
        aim.map_or(Ok(()), |aim| write!(out, ", aim {aim}"))
    }
}

/// All that a benchmark found.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was measured and how: one line over the table.
    pub title: String,
    /// In the order they are printed.
    pub figures: Vec<Figure>,
    /// In the order they are printed.
    pub verdicts: Vec<Verdict>,
}

impl Report {
    /// One object: each figure under its key, what was measured under `what`, the verdicts under `verdicts`, and whether all are kept under `pass`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Self { title, figures, verdicts } = self;
        let mut object: Map<_, _> = figures.iter().map(|figure| (figure.key.to_owned(), number(figure.value))).collect();
        object.insert("what".to_owned(), json!(title));
        let judged: Map<_, _> = verdicts.iter().map(|verdict| (verdict.key.to_owned(), verdict.to_json())).collect();
        object.insert("verdicts".to_owned(), Value::Object(judged));
        object.insert("pass".to_owned(), json!(verdicts.iter().all(Verdict::is_kept)));
        Value::Object(object)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { title, figures, verdicts } = self;
        writeln!(out, "{title}\n")?;
        for Figure { key, value, meaning } in figures {
            writeln!(out, "{key:<34}{:>10}   {meaning}", rounded(*value))?;
        }
        if !verdicts.is_empty() {
            writeln!(out)?;
        }
        for verdict in verdicts {
            writeln!(out, "{verdict}")?;
        }
        Ok(())
    }
}

/// What was measured, and on which machine.
#[must_use]
pub fn title(what: &str) -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "unknown".to_owned());
    let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{what}; Linux {}, {processors} CPUs", kernel.trim())
}

/// A percentile in milliseconds.
///
/// # Errors
/// When nothing was measured.
pub fn millis(rounds: &Rounds, percent: u32) -> Result<f64> {
    let duration = rounds.percentile(percent).context("a figure has no samples: ask for at least one pod and one round")?;
    Ok(duration.as_secs_f64() * 1e3)
}

/// A count stays a count: `0`, not `0.0`.
pub(crate) fn number(value: f64) -> Value {
    let value = rounded(value);
    if value.fract() == 0.0 && value.abs() < 1e15 {
        format!("{value:.0}").parse::<i64>().map_or(Value::Null, Value::from)
    } else {
        json!(value)
    }
}

/// Four significant digits: more would be noise, fewer would hide a ratio's miss.
pub(crate) fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    format!("{value:.3e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(value: f64) -> Report {
        Report {
            title: "t".to_owned(),
            figures: vec![Figure { key: "add_p50_ms", value: 2.123_456, meaning: "ADD" }],
            verdicts: vec![Verdict { key: "add_vs_floor", promise: "ADD is near the floor", value, must: Must::AtMost(1.6), aim: None }],
        }
    }

    #[test]
    fn a_limit_itself_is_met_only_where_the_promise_includes_it() {
        assert!(Must::AtMost(1.6).is_met_by(1.6));
        assert!(!Must::Below(1_000.0).is_met_by(1_000.0));
        assert!(Must::AtLeast(1.6).is_met_by(1.6));
        assert!(!Must::AtLeast(1.6).is_met_by(1.599));
        assert!(!Must::AtMost(1.6).is_met_by(f64::NAN));
    }

    #[test]
    fn json_has_figures_and_verdicts() {
        let json = report(1.5).to_json();
        assert_eq!(json["add_p50_ms"], json!(2.123));
        assert_eq!(
            json["verdicts"]["add_vs_floor"],
            json!({"promise": "ADD is near the floor", "value": 1.5, "must": "≤ 1.6", "pass": true})
        );
        assert_eq!(json["pass"], json!(true));
    }

    #[test]
    fn one_broken_promise_shows_in_both_forms() {
        assert_eq!(report(1.7).to_json()["pass"], json!(false));
        assert!(report(1.7).to_string().contains("FAIL   ADD is near the floor"));
    }
}
