//! A record and its link in the kernel.

use datapath::fast_path::Limits;
use datapath::{FoundLink, Ifindex, NetnsId, PodLink};
use ipam_state::record::{AttachmentKey, Record};
use ipam_state::recovery::KernelLink;

use crate::limits::{self, Asked};

/// The link to make or repair; `None` where the record does not say which MAC address the pod has.
#[must_use]
pub fn pod_link(record: &Record) -> Option<PodLink> {
    Some(PodLink {
        host_ifname: record.host_ifname.clone(),
        host_ifindex: Ifindex(record.host_ifindex),
        pod_ifname: record.key.ifname.to_string(),
        pod_mac: record.mac?,
        mtu: record.mtu,
        container_id: record.key.container_id.to_string(),
        addresses: record.addresses.clone(),
        namespace: record.pod.namespace.clone(),
        limits: limits::of(record),
        allowed: record.allowed.clone(),
    })
}

/// Whether a link bears the name of this attachment.
#[must_use]
pub fn is_of(link: &FoundLink, key: &AttachmentKey) -> bool {
    let owner = link.owner.as_ref().map(|(container, ifname)| (container.as_str(), ifname.as_str()));
    owner == Some((key.container_id.as_str(), key.ifname.as_str()))
}

/// Whether the attachment was made for this namespace; unknown counts as yes.
#[must_use]
pub fn is_in(record: &Record, netns: NetnsId) -> bool {
    record.is_in(netns.device, netns.inode)
}

/// A link as recovery looks at it, with what the programs hold its pod to.
#[must_use]
pub fn for_recovery(found: FoundLink, held_to: Limits) -> KernelLink {
    let FoundLink { ifindex, ifname, mtu, owner, addresses, allowed } = found;
    let Asked { bandwidth, internet_egress } = limits::asked(held_to);
    KernelLink { ifindex: ifindex.0, ifname, mtu, owner, addresses, allowed, bandwidth, internet_egress }
}
