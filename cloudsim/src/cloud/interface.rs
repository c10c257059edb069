//! A network interface.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::Serialize;

use super::id::{AttachmentId, InstanceId, InterfaceId, Mac, SubnetId};
use crate::time::Millis;

/// A network interface with its addresses, in the order of their assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name.
    pub id: InterfaceId,
    /// Where its addresses come from.
    pub subnet: SubnetId,
    /// Hardware address.
    pub mac: Mac,
    /// Free text.
    pub description: String,
    /// Names of security groups.
    pub security_groups: Vec<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// The address that it always has.
    pub primary: Ipv4Addr,
    /// Further addresses.
    pub secondary: Vec<Ipv4Addr>,
    /// /28 on EC2; Google Cloud's alias ranges have any length.
    pub ipv4_prefixes: Vec<Ipv4Network>,
    /// Single IPv6 addresses.
    pub ipv6: Vec<Ipv6Addr>,
    /// /80.
    pub ipv6_prefixes: Vec<Ipv6Network>,
    /// When it was made.
    pub created_at: Millis,
    /// The instance it belongs to, if any.
    pub attachment: Option<Attachment>,
}

/// What ties an interface to an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attachment {
    /// Its name.
    pub id: AttachmentId,
    /// Which instance.
    pub instance: InstanceId,
    /// The place that was asked for; 0 is the interface that the instance was launched with.
    pub device_index: u32,
    /// Which network card.
    pub network_card: u32,
    /// Whether the interface goes with the instance.
    pub delete_on_termination: bool,
    /// How far attaching or detaching is.
    pub status: AttachmentStatus,
    /// When attaching was asked for.
    pub attached_at: Millis,
    /// The device in the guest, from when it is there.
    pub device: Option<Device>,
}

/// An interface as the guest has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The kernel's name.
    pub name: String,
    /// The index that instance metadata says.
    pub index: u32,
}

/// How far an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachmentStatus {
    /// Asked for.
    Attaching,
    /// Done.
    Attached,
    /// To be ended.
    Detaching,
}

impl AttachmentStatus {
    /// EC2's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
        }
    }
}

impl Interface {
    /// EC2's word for its state.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match self.attachment.as_ref().map(|attachment| attachment.status) {
            None => "available",
            Some(AttachmentStatus::Attaching) => "attaching",
            Some(AttachmentStatus::Attached) => "in-use",
            Some(AttachmentStatus::Detaching) => "detaching",
        }
    }

    /// What counts against the limit of IPv4 addresses.
    #[must_use]
    pub fn ipv4_count(&self) -> u32 {
        (1 + self.secondary.len() + self.ipv4_prefixes.len()) as u32
    }

    /// What counts against the limit of IPv6 addresses.
    #[must_use]
    pub fn ipv6_count(&self) -> u32 {
        (self.ipv6.len() + self.ipv6_prefixes.len()) as u32
    }

    /// The primary address and the further ones.
    pub fn ipv4(&self) -> impl Iterator<Item = Ipv4Addr> {
        std::iter::once(self.primary).chain(self.secondary.iter().copied())
    }

    /// All that it holds, single addresses as /32 and /128.
    pub fn networks(&self) -> impl Iterator<Item = IpNetwork> {
        let ipv4 = self.ipv4().map(|address| IpNetwork::from(IpAddr::V4(address)));
        let ipv6 = self.ipv6.iter().map(|address| IpNetwork::from(IpAddr::V6(*address)));
        let prefixes = self.ipv4_prefixes.iter().map(|prefix| IpNetwork::V4(*prefix));
        ipv4.chain(ipv6).chain(prefixes).chain(self.ipv6_prefixes.iter().map(|prefix| IpNetwork::V6(*prefix)))
    }

    /// Everything that can be unassigned: all but the primary address and the single IPv6 addresses.
    pub(crate) fn extras(&self) -> usize {
        self.secondary.len() + self.ipv4_prefixes.len() + self.ipv6_prefixes.len()
    }

    /// Leaves out the `number`th of [`Interface::extras`].
    pub(crate) fn omit(&mut self, number: usize) {
        let (secondary, prefixes) = (self.secondary.len(), self.ipv4_prefixes.len());
        if number < secondary {
            self.secondary.remove(number);
        } else if number < secondary + prefixes {
            self.ipv4_prefixes.remove(number - secondary);
        } else {
            self.ipv6_prefixes.remove(number - secondary - prefixes);
        }
    }

    /// The device in the guest, if it is there.
    #[must_use]
    pub fn device(&self) -> Option<&Device> {
        self.attachment.as_ref()?.device.as_ref()
    }
}
