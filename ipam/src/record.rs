//! An attachment as the daemon remembers it.

use std::net::IpAddr;

use cni_spec::{AddResult, ContainerId, IfName, Interface, IpConfig, NetworkName, PodIdentity, Route};
use datapath::{FoundLink, GATEWAY_V4, GATEWAY_V6, HOST_MAC, Ifindex, NetnsId, PodLink};
use ipnetwork::IpNetwork;
use node_api::BootMillis;
use serde::{Deserialize, Serialize};

/// The form of [`Record`] that this version writes. A store may hold records of a later form, which are left alone.
pub const RECORD_FORMAT: u32 = 1;

/// What an attachment is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// The container.
    pub container_id: ContainerId,
    /// Its interface.
    pub ifname: IfName,
}

impl std::fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

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
}

impl Record {
    /// The record of a link found in the kernel, where the store that knew it is lost. `None` for a link that no ADD was
    /// ever answered for: it lacks its owner or its addresses.
    #[must_use]
    pub fn adopted(found: &FoundLink, network: &NetworkName, now: BootMillis) -> Option<Self> {
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
            host_ifindex: found.ifindex.0,
            mtu: found.mtu,
            mac: None,
            addresses: found.addresses.clone(),
            attached_at: now,
        })
    }

    /// Whether it was made for this namespace; unknown counts as yes.
    #[must_use]
    pub fn is_in(&self, netns: NetnsId) -> bool {
        self.netns.is_none_or(|id| id == (netns.device, netns.inode))
    }

    /// The link to make or repair.
    #[must_use]
    pub fn link(&self) -> Option<PodLink> {
        Some(PodLink {
            host_ifname: self.host_ifname.clone(),
            host_ifindex: Ifindex(self.host_ifindex),
            pod_ifname: self.key.ifname.to_string(),
            pod_mac: self.mac?,
            mtu: self.mtu,
            container_id: self.key.container_id.to_string(),
            addresses: self.addresses.clone(),
        })
    }

    /// What the runtime is told; `netns_path` is the namespace's path as the runtime named it.
    #[must_use]
    pub fn result(&self, netns_path: &str) -> AddResult {
        const POD_INTERFACE: usize = 1;
        let interfaces = vec![
            Interface::new(&self.host_ifname, HOST_MAC, self.mtu, ""),
            Interface::new(self.key.ifname.as_str(), self.mac.unwrap_or_default(), self.mtu, netns_path),
        ];
        let gateway = |address: &IpAddr| if address.is_ipv4() { IpAddr::from(GATEWAY_V4) } else { GATEWAY_V6.into() };
        let ips = self.addresses.iter().map(|address| IpConfig::new(IpNetwork::from(*address), gateway(address), POD_INTERFACE));
        let everywhere = |address: &IpAddr| if address.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0_u16; 8]) };
        let routes = self
            .addresses
            .iter()
            .filter_map(|address| IpNetwork::new(everywhere(address), 0).ok().map(|destination| Route::new(destination, gateway(address))));
        AddResult::new(interfaces, ips.collect(), routes.collect())
    }
}
