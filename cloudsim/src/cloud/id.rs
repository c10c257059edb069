//! Names of resources, as EC2 writes them: a kind and seventeen hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A text that is no name of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid id: \"{text}\" (expecting \"{kind}-...\")")]
pub struct Malformed {
    /// What was given.
    pub text: String,
    /// What it should begin with.
    pub kind: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!($kind, "-0{:016x}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = Malformed;
            fn from_str(text: &str) -> Result<Self, Malformed> {
                let digits = text.strip_prefix(concat!($kind, "-")).filter(|digits| matches!(digits.len(), 8 | 17));
                digits
                    .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                    .map(Self)
                    .ok_or_else(|| Malformed { text: text.to_owned(), kind: $kind })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

id!(
    /// A network interface, `eni-…`.
    InterfaceId,
    "eni"
);
id!(
    /// An instance, `i-…`.
    InstanceId,
    "i"
);
id!(
    /// A subnet, `subnet-…`.
    SubnetId,
    "subnet"
);
id!(
    /// The bond between an interface and an instance, `eni-attach-…`.
    AttachmentId,
    "eni-attach"
);
id!(
    /// A VPC, `vpc-…`.
    VpcId,
    "vpc"
);

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The `number`th address: locally administered, all different for 2^40 numbers.
    #[must_use]
    pub(crate) fn numbered(number: u64) -> Self {
        // Odd, so that the multiplication permutes: neighbours in number look nothing alike, as in a real cloud.
        let scattered = number.wrapping_mul(0x9e_3779_b97f_4a7d).to_be_bytes();
        let [.., a, b, c, d, e] = scattered;
        Self([2, a, b, c, d, e])
    }

    /// Twelve upper-case digits without separators, as Azure writes it.
    #[must_use]
    pub fn bare(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02X}")).collect()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for Mac {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bytes: Vec<u8> = text.split(':').map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        bytes.try_into().map(Self).map_err(|_| Malformed { text: text.to_owned(), kind: "02:00:00:00:00:01" })
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let id = InterfaceId(0x0123_4567_89ab_cdef);
        assert_eq!(id.to_string(), "eni-00123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("eni-12345678".parse(), Ok(InterfaceId(0x1234_5678)), "the short form of old resources");
        assert!("eni-xyz".parse::<InterfaceId>().is_err());
        assert!("eni-attach-00123456789abcdef".parse::<InterfaceId>().is_err());
        assert!("i-00123456789abcdef".parse::<InterfaceId>().is_err());
    }

    #[test]
    fn hardware_addresses_differ_and_are_local() {
        let many: std::collections::BTreeSet<_> = (0..10_000).map(Mac::numbered).collect();
        assert_eq!(many.len(), 10_000);
        assert!(many.iter().all(|mac| mac.0[0] == 2));
        assert_eq!("02:00:00:00:00:0a".parse::<Mac>().unwrap().bare(), "02000000000A");
        assert!("02:00".parse::<Mac>().is_err());
    }
}
