//! An attachment as the daemon remembers it.

use std::net::IpAddr;

use cni_spec::{Bandwidth, NetworkName, PodIdentity};
pub use ipam_pool::AttachmentKey;
use node_api::BootMillis;
use serde::{Deserialize, Serialize};

use crate::recovery::KernelLink;

/// The form of [`Record`] that this version writes. A store may hold records of a later form, of which [`LaterRecord`] is what is
/// understood.
pub const RECORD_FORMAT: u32 = 1;

/// An attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_FORMAT`] of the writer.
    pub format: u32,
    /// Whose it is.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// The network that it belongs to.
    pub network: NetworkName,
    /// The pod behind the container.
    pub pod: PodIdentity,
    /// Device and inode of the network namespace; `None` where the record was rebuilt from the kernel.
    pub netns: Option<(u64, u64)>,
    /// The host end's name.
    pub host_ifname: String,
    /// The host end's number.
    pub host_ifindex: u32,
    /// Bytes.
    pub mtu: u32,
    /// The MAC address in the pod; `None` where the record was rebuilt from the kernel.
    pub mac: Option<[u8; 6]>,
    /// At most one of each family.
    pub addresses: Vec<IpAddr>,
    /// When the ADD was answered.
    pub attached_at: BootMillis,
    /// Limits of all that the pod sends and is sent. Records of versions without them have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Bits a second that the pod may send to the internet, where its annotation says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internet_egress: Option<u64>,
    /// Addresses that the pod may use beside its own. Records of versions without them have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<IpAddr>,
}

impl Record {
    /// The record of a link found in the kernel, where the store that knew it is lost. `None` for a link that no ADD was
    /// ever answered for: it lacks its owner or its addresses. When it was attached nobody knows; every DEL that was queued came later.
    #[must_use]
    pub fn adopted(found: &KernelLink, network: &NetworkName) -> Option<Self> {
        let (container_id, ifname) = found.owner.as_ref()?;
        let key = AttachmentKey { container_id: container_id.parse().ok()?, ifname: ifname.parse().ok()? };
        if found.addresses.is_empty() {
            return None;
        }
        Some(Self {
            format: RECORD_FORMAT,
            key,
            network: network.clone(),
            pod: PodIdentity::default(),
            netns: None,
            host_ifname: found.ifname.clone(),
            host_ifindex: found.ifindex,
            mtu: found.mtu,
            mac: None,
            addresses: found.addresses.clone(),
            attached_at: BootMillis(0),
            bandwidth: found.bandwidth,
            internet_egress: found.internet_egress,
            allowed: found.allowed.clone(),
        })
    }

    /// Whether it was made for the namespace with this device and inode; unknown counts as yes.
    #[must_use]
    pub fn is_in(&self, device: u64, inode: u64) -> bool {
        self.netns.is_none_or(|id| id == (device, inode))
    }
}

/// An attachment of a form that this version does not understand. What every form has in the same place is read all the same, so
/// that neither its addresses nor its interface number are given to another pod (invariant I6, docs/adr/0019).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaterRecord {
    /// Its row in the store.
    pub row: String,
    /// Whose it is, where the row names it.
    pub key: Option<AttachmentKey>,
    /// What is not understood.
    pub why: String,
    /// As far as they can be read.
    pub addresses: Vec<IpAddr>,
    /// The host end's number, where it can be read.
    pub host_ifindex: Option<u32>,
    /// When the ADD was answered, where that can be read.
    pub attached_at: Option<BootMillis>,
}

impl LaterRecord {
    /// What can be told of a row that is not understood.
    pub(crate) fn of(row: &str, bytes: &[u8], why: String) -> Self {
        let value = serde_json::from_slice::<serde_json::Value>(bytes).unwrap_or_default();
        let addresses = value["addresses"].as_array().into_iter().flatten();
        Self {
            row: row.to_owned(),
            key: row.parse().ok(),
            why,
            addresses: addresses.filter_map(|address| address.as_str()?.parse().ok()).collect(),
            host_ifindex: value["host_ifindex"].as_u64().and_then(|number| number.try_into().ok()),
            attached_at: value["attached_at"].as_u64().map(BootMillis),
        }
    }
}
