//! Names that cross the border: parsed once, valid ever after.

use serde::{Deserialize, Serialize};

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                $check(&text)?;
                Ok(Self(text))
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A container ID (section 2, "Parameters"): starts with a letter or digit, then letters, digits, `_`, `.`, `-`.
    ///
    /// The specification sets no length. Ours is 200 bytes: the ID is part of a file name (255) and of a link alias (255).
    ContainerId,
    check_identifier
);

name_type!(
    /// A network name (section 1): the same alphabet as a container ID.
    NetworkName,
    check_identifier
);

name_type!(
    /// A network interface's name as the kernel accepts it (`dev_valid_name`): 1 to 15 bytes, no `/`, `:` or white
    /// space, neither `.` nor `..`. Non-ASCII bytes are refused too: tools do not agree on how to show them.
    IfName,
    check_ifname
);

const IDENTIFIER_MAX: usize = 200;
/// `IFNAMSIZ` less the terminating NUL.
const IFNAME_MAX: usize = 15;

fn check_identifier(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty".into());
    }
    if text.len() > IDENTIFIER_MAX {
        return Err(format!("is {} bytes long; at most {IDENTIFIER_MAX} are allowed", text.len()));
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!("{text:?} must start with a letter or a digit"));
    }
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.' | '-')) {
        Some(bad) => Err(format!("{text:?} contains {bad:?}; only letters, digits, '_', '.' and '-' are allowed")),
        None => Ok(()),
    }
}

fn check_ifname(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty".into());
    }
    if text.len() > IFNAME_MAX {
        return Err(format!("{text:?} is {} bytes long; an interface name has at most {IFNAME_MAX}", text.len()));
    }
    if matches!(text, "." | "..") {
        return Err(format!("{text:?} is not an interface name"));
    }
    match text.chars().find(|c| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control() || !c.is_ascii()) {
        Some(bad) => Err(format!("{text:?} contains {bad:?}; an interface name has no '/', ':', white space or non-ASCII character")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_follow_the_kernel() {
        for good in ["eth0", "a", "net1.100", "a-b_c", "fifteen-bytes-x"] {
            assert!(good.parse::<IfName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "sixteen-bytes-xx", "a/b", "a:b", "a b", "a\tb", "é"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn identifiers_follow_the_specification() {
        for good in ["a", "0", "abc_D.9-x"] {
            assert!(good.parse::<ContainerId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a/b", "a b", "ä"] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(IDENTIFIER_MAX).parse::<ContainerId>().is_ok());
        assert!("x".repeat(IDENTIFIER_MAX + 1).parse::<ContainerId>().is_err());
    }
}
