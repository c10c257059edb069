//! The list of failures that are known of a plugin, so that a run can tell the new ones.
//!
//! Promise: the list stays true. A known failure that passes is an error, and so is an entry for a case that does not exist.
//!
//! ```toml
//! [[known]]
//! case = "5.error.echoes-cniversion"
//! versions = ["1.0.0"]               # without it: every version
//! reason = "its error results have no cniVersion"
//! spec = "Section 5, Error: an error result repeats the cniVersion of the configuration."
//! ```

use std::{collections::HashSet, fs, io, path::Path};

use serde::Deserialize;

use super::{
    cases,
    version::{SpecVersion, UnknownVersion},
};

/// The list could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KnownError {
    /// The file could not be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: String,
        /// The reason.
        source: io::Error,
    },
    /// The file is no list of known failures.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// An entry is for no case.
    #[error("there is no case {0:?}: remove the entry, or see `conform --list` for its name")]
    NoSuchCase(String),
    /// An entry is for no version.
    #[error("case {case:?}")]
    Version {
        /// The entry's case.
        case: String,
        /// What is wrong.
        source: UnknownVersion,
    },
    /// Two entries are for the same case in the same version.
    #[error("case {0:?} is listed twice for version {1}: merge the entries")]
    Twice(String, SpecVersion),
    /// An entry does not say why.
    #[error("case {0:?}: \"reason\" and \"spec\" must say what the plugin does and what the specification asks for")]
    Unexplained(String),
}

/// The failures that are known of a plugin.
#[derive(Clone, Debug, Default)]
pub struct Known {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    case: String,
    versions: Vec<SpecVersion>,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    known: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    case: String,
    versions: Option<Vec<String>>,
    reason: String,
    spec: String,
}

impl Known {
    /// Reads a list from a file.
    pub fn read(path: &Path) -> Result<Self, KnownError> {
        let text = fs::read_to_string(path).map_err(|source| KnownError::Io { path: path.display().to_string(), source })?;
        Self::parse(&text)
    }

    /// Reads a list.
    pub fn parse(text: &str) -> Result<Self, KnownError> {
        let cases: HashSet<_> = cases::all().map(|case| case.name).collect();
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        for Record { case, versions, reason, spec } in toml::from_str::<Document>(text)?.known {
            if !cases.contains(case.as_str()) {
                return Err(KnownError::NoSuchCase(case));
            }
            if reason.trim().is_empty() || spec.trim().is_empty() {
                return Err(KnownError::Unexplained(case));
            }
            let versions = match versions {
                None => SpecVersion::ALL.to_vec(),
                Some(texts) => texts
                    .iter()
                    .map(|text| text.parse())
                    .collect::<Result<_, _>>()
                    .map_err(|source| KnownError::Version { case: case.clone(), source })?,
            };
            for version in &versions {
                if !seen.insert((case.clone(), *version)) {
                    return Err(KnownError::Twice(case, *version));
                }
            }
            entries.push(Entry { case, versions, reason });
        }
        Ok(Self { entries })
    }

    /// Why `case` is known to fail in `version`, if it is.
    #[must_use]
    pub fn reason(&self, case: &str, version: SpecVersion) -> Option<&str> {
        let entry = self.entries.iter().find(|entry| entry.case == case && entry.versions.contains(&version))?;
        Some(&entry.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(case: &str, more: &str) -> String {
        format!("[[known]]\ncase = {case:?}\nreason = \"it does not\"\nspec = \"Section 2, DEL: it should.\"\n{more}\n")
    }

    #[test]
    fn an_entry_counts_for_its_versions() {
        let known = Known::parse(&entry("2.del.idempotent", "versions = [\"0.4.0\", \"1.0.0\"]")).unwrap();
        assert_eq!(known.reason("2.del.idempotent", SpecVersion::V1_0_0), Some("it does not"));
        assert_eq!(known.reason("2.del.idempotent", SpecVersion::V1_1_0), None);
        assert_eq!(known.reason("2.del.without-add", SpecVersion::V1_0_0), None);

        let everywhere = Known::parse(&entry("2.del.idempotent", "")).unwrap();
        assert!(SpecVersion::ALL.iter().all(|version| everywhere.reason("2.del.idempotent", *version).is_some()));
        assert!(Known::parse("").unwrap().entries.is_empty());
    }

    #[test]
    fn a_list_that_cannot_stay_true_is_refused() {
        let twice = format!("{}{}", entry("2.del.idempotent", ""), entry("2.del.idempotent", "versions = [\"1.0.0\"]"));
        assert!(matches!(Known::parse(&twice), Err(KnownError::Twice(_, SpecVersion::V1_0_0))));
        assert!(matches!(Known::parse(&entry("2.del.gone", "")), Err(KnownError::NoSuchCase(_))));
        assert!(matches!(Known::parse(&entry("2.del.idempotent", "versions = [\"1.0\"]")), Err(KnownError::Version { .. })));
        assert!(matches!(Known::parse(&entry("2.del.idempotent", "why = 1")), Err(KnownError::Syntax(_))));
        let silent = "[[known]]\ncase = \"2.del.idempotent\"\nreason = \" \"\nspec = \"Section 2\"\n";
        assert!(matches!(Known::parse(silent), Err(KnownError::Unexplained(_))));
    }
}
