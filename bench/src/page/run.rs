//! A run, read back from the line of JSON that it printed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::datapath::cluster::Contender;
use crate::datapath::findings::median;

/// A run.
#[derive(Debug, Clone)]
pub struct Run(Value);

/// A promise, and what a run made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// In a few words.
    pub promise: String,
    /// The ratio or figure.
    pub value: f64,
    /// What it must be.
    pub must: String,
    /// Whether it is.
    pub is_kept: bool,
    /// What it should be, where that is more, and whether it is.
    pub aim: Option<(String, bool)>,
}

impl Run {
    /// Reads what was printed.
    ///
    /// # Errors
    /// When the file cannot be read or is no run.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not what a measurement prints with --json", path.display()))
    }

    /// Parses what was printed.
    ///
    /// # Errors
    /// When that is no run.
    pub fn parse(text: &str) -> Result<Self> {
        let run: Value = serde_json::from_str(text)?;
        ensure!(run["what"].is_string() && run["verdicts"].is_object(), "there is no `what` or no `verdicts`");
        Ok(Self(run))
    }

    /// The line itself.
    #[must_use]
    pub fn as_printed(&self) -> String {
        format!("{}\n", self.0)
    }

    /// A text at the top level; empty where there is none.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    /// A figure at the top level.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<f64> {
        self.0[key].as_f64()
    }

    /// All rounds of a contender's figure, or, without a contender, of one that no peer has.
    #[must_use]
    pub fn rounds(&self, row: &str, contender: Option<Contender>) -> Vec<f64> {
        let rounds = &self.0["rounds"][row];
        let rounds = contender.map_or(rounds, |contender| &rounds[contender.key().as_str()]);
        rounds.as_array().map(|rounds| rounds.iter().filter_map(Value::as_f64).collect()).unwrap_or_default()
    }

    /// The median, round by round, of one contender's figure by the other's.
    #[must_use]
    pub fn ratio(&self, row: &str, one: Contender, other: Contender) -> Option<f64> {
        let (one, other) = (self.rounds(row, Some(one)), self.rounds(row, Some(other)));
        median(one.iter().zip(other).map(|(one, other)| one / other).collect())
    }

    /// What became of a promise.
    #[must_use]
    pub fn judged(&self, key: &str) -> Option<Judged> {
        let verdict = &self.0["verdicts"][key];
        let text = |key: &str| verdict[key].as_str().map(str::to_owned);
        Some(Judged {
            promise: text("promise")?,
            value: verdict["value"].as_f64()?,
            must: text("must")?,
            is_kept: verdict["pass"].as_bool()?,
            aim: text("aim").zip(verdict["aim_met"].as_bool()),
        })
    }

    /// Why a promise was not measured, if it was not.
    #[must_use]
    pub fn skipped(&self, key: &str) -> Option<&str> {
        self.0["skipped"][key].as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_printed_is_found_again() {
        let run = Run::parse(
            r#"{"what":"w","rounds":{"rr":{"host":[10,20],"fast_path":[11,24]},"own":[1]},"skipped":{"b":"no kernel"},
                "verdicts":{"a":{"promise":"p","value":1.1,"must":"≤ 1.15","pass":true,"aim":"≤ 1.05","aim_met":false}}}"#,
        )
        .unwrap();
        assert!((run.ratio("rr", Contender::FastPath, Contender::Host).unwrap() - 1.15).abs() < 1e-9);
        assert_eq!((run.rounds("own", None), run.rounds("rr", Some(Contender::Stack))), (vec![1.0], vec![]));
        let aim = Some(("≤ 1.05".to_owned(), false));
        let judged = Judged { promise: "p".to_owned(), value: 1.1, must: "≤ 1.15".to_owned(), is_kept: true, aim };
        assert_eq!((run.judged("a"), run.judged("b"), run.skipped("b")), (Some(judged), None, Some("no kernel")));
    }

    #[test]
    fn another_document_is_refused() {
        assert!(Run::parse("{}").is_err() && Run::parse("no JSON").is_err());
    }
}
