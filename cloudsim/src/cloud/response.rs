//! Answers of the EC2 API.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::{Ipv4Network, Ipv6Network};

use super::error::ApiError;
use super::id::{AttachmentId, InterfaceId, SubnetId};
use super::instance::Instance;
use super::instance_type::InstanceType;
use super::interface::Interface;
use crate::time::Millis;

/// What a call says when it succeeds. Named as in the EC2 API reference.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the EC2 API reference documents its answers")]
pub enum Response {
    CreateNetworkInterface {
        interface: Arc<Interface>,
        client_token: Option<String>,
    },
    AttachNetworkInterface {
        attachment: AttachmentId,
        network_card: u32,
    },
    AssignPrivateIpAddresses {
        interface: InterfaceId,
        addresses: Vec<Ipv4Addr>,
        prefixes: Vec<Ipv4Network>,
    },
    AssignIpv6Addresses {
        interface: InterfaceId,
        addresses: Vec<Ipv6Addr>,
        prefixes: Vec<Ipv6Network>,
    },
    UnassignIpv6Addresses {
        interface: InterfaceId,
        addresses: Vec<Ipv6Addr>,
        prefixes: Vec<Ipv6Network>,
    },
    /// Detach, delete, modify, unassign, tag: it is done.
    Done,
    DescribeNetworkInterfaces {
        interfaces: Vec<Arc<Interface>>,
        next_token: Option<String>,
    },
    DescribeInstances {
        instances: Vec<DescribedInstance>,
        next_token: Option<String>,
    },
    DescribeSubnets {
        subnets: Vec<DescribedSubnet>,
        next_token: Option<String>,
    },
    DescribeInstanceTypes {
        instance_types: Vec<&'static InstanceType>,
        next_token: Option<String>,
    },
}

/// An instance with the interfaces that the reader sees on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedInstance {
    /// The instance.
    pub instance: Instance,
    /// Its interfaces by device index.
    pub interfaces: Vec<Arc<Interface>>,
}

/// A subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedSubnet {
    /// Its name.
    pub id: SubnetId,
    /// Where.
    pub availability_zone: String,
    /// Its IPv4 block.
    pub cidr: Ipv4Network,
    /// Its IPv6 block, if it has one.
    pub ipv6_cidr: Option<Ipv6Network>,
    /// IPv4 addresses that are free.
    pub available: u32,
    /// Tags.
    pub tags: std::collections::BTreeMap<String, String>,
}

/// What the caller gets, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// So long after the call. What the call changes is changed at the time of the call.
    pub after: Millis,
    /// What it hears.
    pub outcome: Outcome,
}

/// What the caller hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Success, possibly a partial one.
    Answered(Response),
    /// An error that EC2 words.
    Refused(ApiError),
    /// Nothing: the call may or may not have been carried out.
    NoReply,
}

impl Outcome {
    /// The answer or the error; `None` where nothing was heard.
    #[must_use]
    pub fn heard(self) -> Option<Result<Response, ApiError>> {
        match self {
            Self::Answered(response) => Some(Ok(response)),
            Self::Refused(error) => Some(Err(error)),
            Self::NoReply => None,
        }
    }
}
