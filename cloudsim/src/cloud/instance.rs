//! An instance, and what it is launched with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

use super::id::{InstanceId, InterfaceId, Mac, SubnetId};
use super::instance_type::{InstanceType, UNDOCUMENTED};
use super::subnet::IPV4_PREFIX;
use crate::time::Millis;

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instance {
    /// Its name.
    pub id: InstanceId,
    /// As it was launched; may be a type that nobody knows.
    pub instance_type: String,
    /// Where.
    pub availability_zone: String,
    /// When.
    pub launched_at: Millis,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// The role whose credentials its metadata serves.
    pub role: Option<String>,
    /// How many hops a metadata token goes.
    pub hop_limit: u8,
    /// What is announced for it.
    pub maintenance: Option<Maintenance>,
    /// When it was terminated; it stays listed for an hour.
    pub terminated_at: Option<Millis>,
    /// Every interface that is or was attached to it and still exists, or did a moment ago.
    #[serde(skip)]
    pub(crate) interfaces: BTreeSet<InterfaceId>,
}

impl Instance {
    /// Its limits.
    #[must_use]
    pub fn limits(&self) -> &'static InstanceType {
        InstanceType::find(&self.instance_type).unwrap_or(&UNDOCUMENTED)
    }

    /// Whether it has not been terminated.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.terminated_at.is_none()
    }
}

/// What is announced for an instance. Nothing comes of it: it is the announcement that is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// What is to be done.
    pub kind: MaintenanceKind,
    /// Not before then.
    pub begins: Millis,
}

/// What may be announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaintenanceKind {
    /// It is started anew, or ended for the host's sake where the cloud does not restart.
    Reboot,
    /// The same, planned long ahead, where a cloud has a way of its own to say so (Google Cloud, of machines that it cannot move while they
    /// run); else like [`Self::Reboot`].
    Planned,
    /// It was cheaper, and is taken back.
    Reclaim,
    /// It stands still for some seconds, as for a live migration.
    Pause,
}

/// What an instance is launched with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchSpec {
    /// E.g. `m5.large`. A type that is in no table launches as well, and nobody can describe it.
    pub instance_type: String,
    /// One interface each, the first is the primary.
    pub interfaces: Vec<InterfaceSpec>,
    /// Tags of the instance.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// The role whose credentials its metadata serves.
    #[serde(default)]
    pub role: Option<String>,
    /// `HttpPutResponseHopLimit`: how many hops a metadata token goes. EC2's default is 1.
    #[serde(default = "one")]
    pub hop_limit: u8,
}

const fn one() -> u8 {
    1
}

impl LaunchSpec {
    /// One interface with a primary IPv4 address alone.
    #[must_use]
    pub fn new(instance_type: &str, subnet: SubnetId) -> Self {
        let interfaces = vec![InterfaceSpec::new(subnet)];
        Self { instance_type: instance_type.to_owned(), interfaces, tags: BTreeMap::new(), role: None, hop_limit: 1 }
    }
}

/// What an interface is made with. What is not named is drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceSpec {
    /// Where its addresses come from.
    pub subnet: SubnetId,
    /// Hardware address.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// The primary address.
    #[serde(default)]
    pub primary: Option<Ipv4Addr>,
    /// Further addresses by name.
    #[serde(default)]
    pub secondary: Vec<Ipv4Addr>,
    /// Further addresses by number.
    #[serde(default)]
    pub secondary_count: u32,
    /// Prefixes by name.
    #[serde(default)]
    pub ipv4_prefixes: Vec<Ipv4Network>,
    /// Prefixes by number.
    #[serde(default)]
    pub ipv4_prefix_count: u32,
    /// How long the prefixes by number are; 28 on EC2, anything up to it for Google Cloud's alias ranges.
    #[serde(default = "ipv4_prefix")]
    pub ipv4_prefix_length: u8,
    /// IPv6 addresses by name.
    #[serde(default)]
    pub ipv6: Vec<Ipv6Addr>,
    /// IPv6 addresses by number.
    #[serde(default)]
    pub ipv6_count: u32,
    /// IPv6 prefixes by name.
    #[serde(default)]
    pub ipv6_prefixes: Vec<Ipv6Network>,
    /// IPv6 prefixes by number.
    #[serde(default)]
    pub ipv6_prefix_count: u32,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Names of security groups.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

const fn ipv4_prefix() -> u8 {
    IPV4_PREFIX
}

impl InterfaceSpec {
    /// A primary IPv4 address alone.
    #[must_use]
    pub const fn new(subnet: SubnetId) -> Self {
        Self {
            subnet,
            mac: None,
            primary: None,
            secondary: Vec::new(),
            secondary_count: 0,
            ipv4_prefixes: Vec::new(),
            ipv4_prefix_count: 0,
            ipv4_prefix_length: IPV4_PREFIX,
            ipv6: Vec::new(),
            ipv6_count: 0,
            ipv6_prefixes: Vec::new(),
            ipv6_prefix_count: 0,
            description: String::new(),
            security_groups: Vec::new(),
            tags: BTreeMap::new(),
        }
    }
}
