//! The calls there are, and how many of each an account may make.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A call of the EC2 API, by its name there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the EC2 API reference documents its actions")]
pub enum Action {
    AssignIpv6Addresses,
    AssignPrivateIpAddresses,
    AttachNetworkInterface,
    CreateNetworkInterface,
    CreateTags,
    DeleteNetworkInterface,
    DescribeInstanceTypes,
    DescribeInstances,
    DescribeNetworkInterfaces,
    DescribeSubnets,
    DetachNetworkInterface,
    ModifyNetworkInterfaceAttribute,
    UnassignIpv6Addresses,
    UnassignPrivateIpAddresses,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::AssignIpv6Addresses,
        Self::AssignPrivateIpAddresses,
        Self::AttachNetworkInterface,
        Self::CreateNetworkInterface,
        Self::CreateTags,
        Self::DeleteNetworkInterface,
        Self::DescribeInstanceTypes,
        Self::DescribeInstances,
        Self::DescribeNetworkInterfaces,
        Self::DescribeSubnets,
        Self::DetachNetworkInterface,
        Self::ModifyNetworkInterfaceAttribute,
        Self::UnassignIpv6Addresses,
        Self::UnassignPrivateIpAddresses,
    ];

    /// Whether it changes nothing.
    #[must_use]
    pub const fn is_read(self) -> bool {
        matches!(self, Self::DescribeInstanceTypes | Self::DescribeInstances | Self::DescribeNetworkInterfaces | Self::DescribeSubnets)
    }

    /// The token bucket of this action: its size, and its refill a second. Each action has one of its own.
    ///
    /// From "Request throttling for the Amazon EC2 API" in the Amazon EC2 developer guide. `whole` is a describe without a filter, without
    /// ids and without pages, which has a smaller bucket.
    #[must_use]
    pub const fn bucket(self, whole: bool) -> (u32, u32) {
        match self {
            Self::AssignIpv6Addresses
            | Self::AssignPrivateIpAddresses
            | Self::CreateNetworkInterface
            | Self::DeleteNetworkInterface
            | Self::ModifyNetworkInterfaceAttribute
            | Self::UnassignIpv6Addresses
            | Self::UnassignPrivateIpAddresses => (100, 5),
            Self::CreateTags => (100, 10),
            Self::AttachNetworkInterface | Self::DetachNetworkInterface => (50, 5),
            Self::DescribeInstanceTypes | Self::DescribeInstances | Self::DescribeNetworkInterfaces | Self::DescribeSubnets => {
                if whole {
                    (50, 10)
                } else {
                    (100, 20)
                }
            }
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// A name that is no [`Action`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such action: {0}")]
pub struct UnknownAction(pub String);

impl FromStr for Action {
    type Err = UnknownAction;
    fn from_str(name: &str) -> Result<Self, UnknownAction> {
        Self::ALL.into_iter().find(|action| format!("{action:?}") == name).ok_or_else(|| UnknownAction(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_read_by_name() {
        for action in Action::ALL {
            assert_eq!(action.to_string().parse(), Ok(action));
        }
        assert!("RunInstances".parse::<Action>().is_err());
    }
}
