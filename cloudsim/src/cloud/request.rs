//! Calls of the EC2 API, parsed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};

use super::action::Action;
use super::id::{AttachmentId, InstanceId, InterfaceId, SubnetId};
use super::instance::InterfaceSpec;

/// A call. Fields are named as in the EC2 API reference.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the EC2 API reference documents its parameters")]
pub enum Request {
    CreateNetworkInterface { spec: InterfaceSpec, client_token: Option<String> },
    AttachNetworkInterface { interface: InterfaceId, instance: InstanceId, device_index: u32, network_card: u32 },
    DetachNetworkInterface { attachment: AttachmentId, force: bool },
    DeleteNetworkInterface { interface: InterfaceId },
    ModifyNetworkInterfaceAttribute { interface: InterfaceId, change: AttributeChange },
    AssignPrivateIpAddresses { interface: InterfaceId, wanted: Ipv4Wanted },
    UnassignPrivateIpAddresses { interface: InterfaceId, addresses: Vec<Ipv4Addr>, prefixes: Vec<Ipv4Network> },
    AssignIpv6Addresses { interface: InterfaceId, wanted: Ipv6Wanted },
    UnassignIpv6Addresses { interface: InterfaceId, addresses: Vec<Ipv6Addr>, prefixes: Vec<Ipv6Network> },
    CreateTags { resources: Vec<String>, tags: BTreeMap<String, String> },
    DescribeNetworkInterfaces { interfaces: BTreeSet<InterfaceId>, filters: Vec<Filter>, page: Page },
    DescribeInstances { instances: BTreeSet<InstanceId>, filters: Vec<Filter>, page: Page },
    DescribeSubnets { subnets: BTreeSet<SubnetId>, filters: Vec<Filter>, page: Page },
    DescribeInstanceTypes { instance_types: BTreeSet<String>, filters: Vec<Filter>, page: Page },
}

/// What `ModifyNetworkInterfaceAttribute` changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeChange {
    /// Whether the interface goes with its instance.
    DeleteOnTermination {
        /// The bond, by name.
        attachment: AttachmentId,
        /// Whether.
        delete: bool,
    },
    /// Free text.
    Description(String),
    /// Names of security groups.
    SecurityGroups(Vec<String>),
    /// Whether packets of others are dropped; nothing here looks at it.
    SourceDestCheck(bool),
}

/// What IPv4 addresses or prefixes an interface is to have in addition. EC2 allows one of the four.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the parameters of AssignPrivateIpAddresses")]
pub enum Ipv4Wanted {
    SecondaryPrivateIpAddressCount(u32),
    PrivateIpAddresses(Vec<Ipv4Addr>),
    Ipv4PrefixCount(u32),
    Ipv4Prefixes(Vec<Ipv4Network>),
}

/// What IPv6 addresses or prefixes an interface is to have in addition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the parameters of AssignIpv6Addresses")]
pub enum Ipv6Wanted {
    Ipv6AddressCount(u32),
    Ipv6Addresses(Vec<Ipv6Addr>),
    Ipv6PrefixCount(u32),
    Ipv6Prefixes(Vec<Ipv6Network>),
}

/// One of several values of one property; `*` and `?` stand for any text and any character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// E.g. `attachment.instance-id`, `tag:Name`.
    pub name: String,
    /// Any of them will do.
    pub values: Vec<String>,
}

/// Which part of a long answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// 5 to 1000.
    pub max_results: Option<u32>,
    /// What the page before said.
    pub next_token: Option<String>,
}

impl Request {
    /// Its name in the EC2 API.
    #[must_use]
    pub const fn action(&self) -> Action {
        match self {
            Self::CreateNetworkInterface { .. } => Action::CreateNetworkInterface,
            Self::AttachNetworkInterface { .. } => Action::AttachNetworkInterface,
            Self::DetachNetworkInterface { .. } => Action::DetachNetworkInterface,
            Self::DeleteNetworkInterface { .. } => Action::DeleteNetworkInterface,
            Self::ModifyNetworkInterfaceAttribute { .. } => Action::ModifyNetworkInterfaceAttribute,
            Self::AssignPrivateIpAddresses { .. } => Action::AssignPrivateIpAddresses,
            Self::UnassignPrivateIpAddresses { .. } => Action::UnassignPrivateIpAddresses,
            Self::AssignIpv6Addresses { .. } => Action::AssignIpv6Addresses,
            Self::UnassignIpv6Addresses { .. } => Action::UnassignIpv6Addresses,
            Self::CreateTags { .. } => Action::CreateTags,
            Self::DescribeNetworkInterfaces { .. } => Action::DescribeNetworkInterfaces,
            Self::DescribeInstances { .. } => Action::DescribeInstances,
            Self::DescribeSubnets { .. } => Action::DescribeSubnets,
            Self::DescribeInstanceTypes { .. } => Action::DescribeInstanceTypes,
        }
    }

    /// Whether it asks for everything at once: no ids, no filter, no pages.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let whole = |named: bool, filters: &[Filter], page: &Page| !named && filters.is_empty() && *page == Page::default();
        match self {
            Self::DescribeNetworkInterfaces { interfaces, filters, page } => whole(!interfaces.is_empty(), filters, page),
            Self::DescribeInstances { instances, filters, page } => whole(!instances.is_empty(), filters, page),
            Self::DescribeSubnets { subnets, filters, page } => whole(!subnets.is_empty(), filters, page),
            Self::DescribeInstanceTypes { instance_types, filters, page } => whole(!instance_types.is_empty(), filters, page),
            _ => false,
        }
    }
}
