//! Error results (section 5, "Error").

use serde::{Deserialize, Serialize};

/// Names and numbers in one place, so that each name is written as its number and read back.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// The error codes of section 5, and our own from 100 on, the range the specification leaves to plugins. The set is
        /// open: a daemon of a later version has codes that this one does not know, and they are passed on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(into = "u32", from = "u32")]
        pub enum Code {
            $($(#[$doc])* $name,)*
            /// None of these. It comes of reading only: [`Code::from`] takes the name where there is one.
            Other(u32),
        }

        impl From<Code> for u32 {
            fn from(code: Code) -> Self {
                match code {
                    $(Code::$name => $number,)*
                    Code::Other(number) => number,
                }
            }
        }

        impl From<u32> for Code {
            fn from(number: u32) -> Self {
                match number {
                    $($number => Self::$name,)*
                    other => Self::Other(other),
                }
            }
        }

        #[cfg(test)]
        const NAMED: &[Code] = &[$(Code::$name),*];
    };
}

codes! {
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
    fn codes_survive_the_wire_known_or_not() {
        for code in NAMED {
            assert_eq!(Code::from(u32::from(*code)), *code);
        }
        for number in [0, 8, 103, 199, 999, u32::MAX] {
            assert_eq!((Code::from(number), u32::from(Code::from(number))), (Code::Other(number), number));
        }
        let error: Error = serde_json::from_str(r#"{"code":199,"msg":"later"}"#).unwrap();
        assert_eq!(error.to_json(Some("1.1.0")), r#"{"cniVersion":"1.1.0","code":199,"msg":"later"}"#);
    }

    #[test]
    fn error_result_has_the_shape_of_section_5() {
        let error = Error { code: Code::TryAgainLater, msg: "pool empty".into(), details: String::new() };
        assert_eq!(error.to_json(Some("0.4.0")), r#"{"cniVersion":"0.4.0","code":11,"msg":"pool empty"}"#);
    }
}
