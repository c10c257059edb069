//! Error results (section 5, "Error").

use serde::{Deserialize, Serialize};

/// The error codes of section 5, and our own from 100 on, the range the specification leaves to plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
#[repr(u32)]
pub enum Code {
    /// The configuration's `cniVersion` is one we do not speak.
    IncompatibleVersion = 1,
    /// A field of the configuration has a value that cannot be honoured.
    UnsupportedField = 2,
    /// The container does not exist, or is not attached. The runtime need not clean up.
    UnknownContainer = 3,
    /// A `CNI_*` environment variable is missing or illegal.
    InvalidEnvironment = 4,
    /// Reading standard input or writing state failed.
    IoFailure = 5,
    /// Standard input is not the JSON that it should be.
    Undecodable = 6,
    /// The network configuration is decodable but not valid.
    InvalidConfig = 7,
    /// A passing condition: the runtime should try again later.
    TryAgainLater = 11,
    /// STATUS: an ADD would fail now.
    NotAvailable = 50,
    /// STATUS: an ADD would fail now, and running containers may have limited connectivity.
    LimitedConnectivity = 51,
    /// The kernel refused a step of wiring the pod.
    WiringFailed = 100,
    /// This container and interface are attached already, and not as this ADD asks.
    AlreadyAttached = 101,
    /// CHECK found the attachment changed.
    AttachmentChanged = 102,
}

impl Code {
    const ALL: [Self; 13] = [
        Self::IncompatibleVersion,
        Self::UnsupportedField,
        Self::UnknownContainer,
        Self::InvalidEnvironment,
        Self::IoFailure,
        Self::Undecodable,
        Self::InvalidConfig,
        Self::TryAgainLater,
        Self::NotAvailable,
        Self::LimitedConnectivity,
        Self::WiringFailed,
        Self::AlreadyAttached,
        Self::AttachmentChanged,
    ];
}

impl From<Code> for u32 {
    fn from(code: Code) -> Self {
        code as Self
    }
}

impl TryFrom<u32> for Code {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        Self::ALL.into_iter().find(|code| *code as u32 == number).ok_or_else(|| format!("unknown CNI error code {number}"))
    }
}

/// What went wrong, as the runtime is told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg} (CNI error code {})", u32::from(*code))]
pub struct Error {
    /// What kind of failure it is.
    pub code: Code,
    /// One sentence that names the value at fault and the remedy.
    pub msg: String,
    /// More for the person who looks into it; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl Error {
    /// An error without details.
    #[must_use]
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The error result that goes to standard output. `asked` is the request's `cniVersion` where it could be read.
    #[must_use]
    pub fn to_json(&self, asked: Option<&str>) -> String {
        #[derive(Serialize)]
        struct Wire<'a> {
            #[serde(rename = "cniVersion")]
            cni_version: &'a str,
            #[serde(flatten)]
            error: &'a Error,
        }
        let cni_version = asked.unwrap_or(crate::Version::LATEST.as_str());
        serde_json::to_string(&Wire { cni_version, error: self }).unwrap_or_else(|_| unreachable!("strings always serialise"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_wire() {
        for code in Code::ALL {
            assert_eq!(Code::try_from(u32::from(code)), Ok(code));
        }
        assert!(Code::try_from(8).is_err());
    }

    #[test]
    fn error_result_has_the_shape_of_section_5() {
        let error = Error { code: Code::TryAgainLater, msg: "pool empty".into(), details: String::new() };
        assert_eq!(error.to_json(Some("0.4.0")), r#"{"cniVersion":"0.4.0","code":11,"msg":"pool empty"}"#);
    }
}
