//! Protocol versions (section 2, "VERSION"; section 1, "Version considerations").

use serde::{Serialize, Serializer};

use crate::{Code, Error};

/// A CNI protocol version that Barewire speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// The oldest that current runtimes still send.
    V0_3_1,
    /// Brought CHECK, and `prevResult` on DEL.
    V0_4_0,
    /// Dropped `ips[].version`.
    V1_0_0,
    /// Brought GC and STATUS, and more fields of interfaces and routes.
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest version.
    pub const LATEST: Self = Self::V1_1_0;

    /// The version as the protocol spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

impl std::str::FromStr for Version {
    type Err = Error;

    /// # Errors
    /// [`Code::IncompatibleVersion`] for a version that is not in [`Version::ALL`].
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| {
            Error::new(
                Code::IncompatibleVersion,
                format!("cniVersion {text:?} is not supported; use one of {}", Self::ALL.map(Self::as_str).join(", ")),
            )
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The answer to VERSION (section 5, "Version Success").
#[derive(Debug, Serialize)]
pub struct VersionInfo {
    #[serde(rename = "cniVersion")]
    cni_version: String,
    #[serde(rename = "supportedVersions")]
    supported_versions: [Version; 4],
}

impl VersionInfo {
    /// `asked` is the `cniVersion` of the request. It is echoed even where we do not speak it: a runtime that probes
    /// a plugin with its own newest version must get the list of ours, not an error.
    #[must_use]
    pub fn answering(asked: Option<&str>) -> Self {
        Self { cni_version: asked.unwrap_or(Version::LATEST.as_str()).to_owned(), supported_versions: Version::ALL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_reads_back_what_it_writes() {
        for version in Version::ALL {
            assert_eq!(version.as_str().parse::<Version>().unwrap(), version);
        }
    }

    #[test]
    fn unknown_version_names_the_value_and_the_remedy() {
        let error = "9.9.9".parse::<Version>().unwrap_err();
        assert_eq!(error.code, Code::IncompatibleVersion);
        assert!(error.msg.contains("9.9.9") && error.msg.contains("1.1.0"), "{error}");
    }

    #[test]
    fn version_answer_lists_all() {
        let text = serde_json::to_string(&VersionInfo::answering(Some("1.0.0"))).unwrap();
        assert_eq!(text, r#"{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}"#);
    }
}
