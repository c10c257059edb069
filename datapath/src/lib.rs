//! How packets reach a pod: network namespaces, the veth pair between pod and host, the host's routes and rules.
//!
//! Everything here speaks to the kernel; what is to be done is decided above. Costs that shaped it are in docs/adr/0003.

pub mod announcement;
pub mod calls;
pub mod clock;
mod conntrack;
pub mod elsewhere;
pub mod fast_path;
pub mod forwarding;
mod gateway;
mod host_ends;
mod inspection;
mod inventory;
pub mod local_routes;
mod marks;
mod neighbour_proxy;
pub mod netlink;
mod netns;
mod nft;
mod nft_kept;
mod node_network;
mod ours;
mod own_addresses;
mod pod_link;
mod policy_routes;
mod prefixes;
pub mod process_limits;
mod queueing;
mod raw_netlink;
mod removal;
pub mod repairs;
mod rules;
pub mod scheduling;
pub mod service_tables;
pub mod stack;
mod sysctl;
pub mod udp_flows;
mod unreachable;
mod uplink;

pub use host_ends::{Difference, HostEnds};
pub use inspection::{HostEnd, PodState, WayOut, inspect_host_end, inspect_pod, pod_mac};
pub use inventory::{FoundLink, pod_links};
pub use marks::Marks;
pub use netns::{HostNetns, Netns, NetnsError, NetnsId};
pub use nft::RulesError;
pub use node_network::{ApplyError, Families, Kept, NodeNetwork, PodRange};
pub use pod_link::{
    GATEWAY_V4, GATEWAY_V6, HOST_MAC, PodLink, WiringError, answer_solicitations, attach, refresh_host_end, restore_host_end,
};
pub use queueing::{Departures, Queueing, queueing};
pub use removal::{LinkRemover, remove_links};
pub use sysctl::SysctlError;
pub use uplink::{
    FoundUplinks, SERVICE_INTERFACES, SetUpError, Uplink, UplinkChoice, UplinkError, UplinkName, find_uplinks, set_up_uplink,
};

/// The kernel's number of an interface within its network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ifindex(pub u32);

impl std::fmt::Display for Ifindex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of the host end with this number.
#[must_use]
pub fn host_ifname(link: Ifindex) -> String {
    format!("bw{:010x}", link.0)
}

/// The number in a host end's name.
pub(crate) fn ifindex_of(host_ifname: &str) -> Option<Ifindex> {
    u32::from_str_radix(host_ifname.strip_prefix("bw")?, 16).ok().map(Ifindex)
}
