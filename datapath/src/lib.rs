//! How packets reach a pod: network namespaces, the veth pair between pod and host, the host's routes and rules.
//!
//! Everything here speaks to the kernel; what is to be done is decided above. Costs that shaped it are in docs/adr/0003.

pub mod fast_path;
mod inventory;
mod masquerade;
pub mod netlink;
mod netns;
mod pod_link;
mod removal;
mod sysctl;
mod uplink;

pub use inventory::{FoundLink, PodState, inspect_pod, pod_links};
pub use masquerade::{Masquerade, MasqueradeError};
pub use netns::{HostNetns, Netns, NetnsError, NetnsId};
pub use pod_link::{GATEWAY_V4, GATEWAY_V6, HOST_MAC, PodLink, WiringError, attach, refresh_host_end};
pub use removal::{LinkRemover, remove_links};
pub use sysctl::{SysctlError, enable_forwarding};
pub use uplink::{Uplink, UplinkError, find_uplink};

/// The kernel's number of an interface within its network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ifindex(pub u32);

impl std::fmt::Display for Ifindex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
