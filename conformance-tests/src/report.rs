//! What a run found: for people as text, for machines as one JSON document.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

use serde::{Serialize, Serializer};

use super::{case::Case, stage::Execution, version::SpecVersion};

/// How a case ended in one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The plugin meets the requirement.
    Pass,
    /// The plugin does not meet it.
    Fail {
        /// What was expected, and what happened.
        reason: String,
    },
    /// It was not judged.
    Skip {
        /// Why not.
        reason: String,
    },
    /// The plugin does not meet it, as the list of known failures says.
    KnownFailure {
        /// What was expected, and what happened.
        reason: String,
        /// The list's explanation.
        known: String,
    },
    /// The plugin meets it, though the list of known failures says that it does not.
    UnexpectedPass {
        /// The list's explanation, which is out of date.
        known: String,
    },
}

impl Outcome {
    /// Turns a verdict into an outcome in the light of the list of known failures.
    #[must_use]
    pub fn in_light_of(self, known: Option<&str>) -> Self {
        match (self, known) {
            (Self::Fail { reason }, Some(known)) => Self::KnownFailure { reason, known: known.to_owned() },
            (Self::Pass, Some(known)) => Self::UnexpectedPass { known: known.to_owned() },
            (outcome, _) => outcome,
        }
    }

    /// Whether the run is a success in spite of it.
    #[must_use]
    pub fn is_expected(&self) -> bool {
        match self {
            Self::Pass | Self::Skip { .. } | Self::KnownFailure { .. } => true,
            Self::Fail { .. } | Self::UnexpectedPass { .. } => false,
        }
    }
}

/// One case in one version.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// The case's name.
    pub case: &'static str,
    /// The version it was played in.
    #[serde(serialize_with = "text")]
    pub version: SpecVersion,
    /// What the specification asks for.
    pub requirement: &'static str,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How the plugin was executed.
    pub executions: Vec<Execution>,
}

impl Record {
    /// The record of a case.
    #[must_use]
    pub fn new(case: &Case, version: SpecVersion, outcome: Outcome, executions: Vec<Execution>) -> Self {
        Self { case: case.name, version, requirement: case.requirement, outcome, executions }
    }
}

/// How many cases ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Requirements that are met.
    pub pass: usize,
    /// Requirements that are not met.
    pub fail: usize,
    /// Requirements that were not judged.
    pub skip: usize,
    /// Requirements that are not met, as is known.
    pub known_failure: usize,
    /// Requirements that are met though they are listed as known failures.
    pub unexpected_pass: usize,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The plugin under test.
    pub plugin: PathBuf,
    /// What its VERSION says, if that can be read.
    pub supported_versions: Option<Vec<String>>,
    /// Every case in every version.
    pub cases: Vec<Record>,
}

impl Report {
    /// How many cases ended how, in `version` or in all.
    #[must_use]
    pub fn counts(&self, version: Option<SpecVersion>) -> Counts {
        let mut counts = Counts::default();
        for record in self.cases.iter().filter(|record| version.is_none_or(|version| record.version == version)) {
            match record.outcome {
                Outcome::Pass => counts.pass += 1,
                Outcome::Fail { .. } => counts.fail += 1,
                Outcome::Skip { .. } => counts.skip += 1,
                Outcome::KnownFailure { .. } => counts.known_failure += 1,
                Outcome::UnexpectedPass { .. } => counts.unexpected_pass += 1,
            }
        }
        counts
    }

    /// The plugin was judged, and nothing is unexpected.
    #[must_use]
    pub fn is_success(&self) -> bool {
        let judged = self.cases.iter().any(|record| !matches!(record.outcome, Outcome::Skip { .. }));
        judged && self.cases.iter().all(|record| record.outcome.is_expected())
    }

    /// The versions that cases were played in.
    fn versions(&self) -> BTreeSet<SpecVersion> {
        self.cases.iter().map(|record| record.version).collect()
    }

    /// The document of `--json`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let Self { plugin, supported_versions, cases } = self;
        let versions: BTreeMap<_, _> = self.versions().into_iter().map(|version| (version.as_str(), self.counts(Some(version)))).collect();
        serde_json::json!({
            "plugin": plugin,
            "supported_versions": supported_versions,
            "success": self.is_success(),
            "counts": self.counts(None),
            "versions": versions,
            "cases": cases,
        })
    }

    /// The end of the text: skips by reason, and the counts.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut skips: BTreeMap<&str, usize> = BTreeMap::new();
        for record in &self.cases {
            if let Outcome::Skip { reason } = &record.outcome {
                *skips.entry(reason).or_default() += 1;
            }
        }
        let mut lines: Vec<_> = skips.iter().map(|(reason, count)| format!("skipped {count}: {reason}")).collect();
        let versions = self.versions();
        lines.extend(versions.iter().map(|version| format!("CNI {version}: {}", self.counts(Some(*version)))));
        if versions.len() > 1 {
            lines.push(format!("all: {}", self.counts(None)));
        }
        lines.push(match (self.is_success(), self.cases.iter().all(|record| record.outcome.is_expected())) {
            (true, _) => "the plugin conforms, known failures aside".to_owned(),
            (false, false) => "the plugin does not conform, or the list of known failures is out of date".to_owned(),
            (false, true) => "no case was judged: see the reasons for the skips".to_owned(),
        });
        lines.join("\n")
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pass, fail, skip, known_failure, unexpected_pass } = self;
        write!(f, "{pass} pass, {fail} fail, {skip} skip, {known_failure} known failures, {unexpected_pass} unexpected passes")
    }
}

/// One line, and under a failure what it takes to understand it.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, version, requirement, outcome, executions } = self;
        let word = match outcome {
            Outcome::Pass => "pass",
            Outcome::Fail { .. } => "FAIL",
            Outcome::Skip { .. } => "skip",
            Outcome::KnownFailure { .. } => "known",
            Outcome::UnexpectedPass { .. } => "UNEXPECTED PASS",
        };
        write!(f, "{word:5} {version} {case}")?;
        match outcome {
            Outcome::Pass => {}
            Outcome::Skip { reason } => write!(f, " ({reason})")?,
            Outcome::KnownFailure { known, .. } => write!(f, " ({known})")?,
            Outcome::UnexpectedPass { known } => write!(f, "\n      remove it from the list of known failures, which says: {known}")?,
            Outcome::Fail { reason } => {
                write!(f, "\n      required: {requirement}\n      {reason}")?;
                if let Some(last) = executions.last() {
                    write!(f, "\n      last execution: {}", last.to_string().replace('\n', "\n        "))?;
                }
            }
        }
        Ok(())
    }
}

fn text<S: Serializer>(version: &SpecVersion, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[Outcome]) -> Report {
        let record = |outcome: &Outcome| Record {
            case: "2.del.idempotent",
            version: SpecVersion::V1_0_0,
            requirement: "It holds.",
            outcome: outcome.clone(),
            executions: Vec::new(),
        };
        Report { plugin: "/bin/plugin".into(), supported_versions: None, cases: outcomes.iter().map(record).collect() }
    }

    fn failed() -> Outcome {
        Outcome::Fail { reason: "expected 1, got 2".to_owned() }
    }

    #[test]
    fn the_list_of_known_failures_turns_outcomes_around() {
        assert!(matches!(failed().in_light_of(Some("old")), Outcome::KnownFailure { .. }));
        assert!(matches!(Outcome::Pass.in_light_of(Some("old")), Outcome::UnexpectedPass { .. }));
        let skipped = Outcome::Skip { reason: "why".to_owned() };
        assert_eq!(skipped.clone().in_light_of(Some("old")), skipped);
        assert_eq!(failed().in_light_of(None), failed());
    }

    #[test]
    fn only_what_is_unexpected_fails_a_run() {
        let skipped = Outcome::Skip { reason: "why".to_owned() };
        assert!(report(&[Outcome::Pass, skipped.clone(), failed().in_light_of(Some("old"))]).is_success());
        assert!(!report(&[Outcome::Pass, failed()]).is_success());
        assert!(!report(&[Outcome::Pass, Outcome::Pass.in_light_of(Some("old"))]).is_success());
        assert!(!report(&[skipped]).is_success(), "a run that judges nothing shows nothing");
        assert!(!report(&[]).is_success());
    }

    #[test]
    fn a_failure_is_told_with_its_requirement_and_a_document_with_its_counts() {
        let report = report(&[Outcome::Pass, failed()]);
        let text = report.cases[1].to_string();
        assert!(text.starts_with("FAIL  1.0.0 2.del.idempotent\n") && text.contains("It holds.") && text.contains("got 2"), "{text}");
        let json = report.to_json();
        assert_eq!(json["success"], false);
        assert_eq!(json["counts"]["fail"], 1);
        assert_eq!(json["cases"][1]["outcome"], "fail");
        assert_eq!(json["cases"][1]["version"], "1.0.0");
    }
}
