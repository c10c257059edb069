//! The kernel as attachments see it: one trait, so that every crash point can be reached in a test.

pub mod link_numbers;
mod linux;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::thread::ThreadId;
use std::time::Duration;

use datapath::netlink::NetlinkError;
use datapath::{FoundLink, HostEnd, Ifindex, NetnsError, NetnsId, PodLink, PodState, WiringError};
use ipam_state::record::Record;

pub use linux::Linux;

/// What attachments ask of the kernel.
pub trait Kernel: Send + Sync + 'static {
    /// An open network namespace of a pod.
    type Netns;

    /// Checks what a request brought.
    ///
    /// # Errors
    /// Where it is no network namespace, or the host's.
    fn open_netns(&self, fd: OwnedFd) -> Result<Self::Netns, NetnsError>;

    /// Which namespace it is.
    fn netns_id(&self, netns: &Self::Netns) -> NetnsId;

    /// Wires a pod; on failure nothing of it is left.
    ///
    /// # Errors
    /// See [`WiringError`].
    fn attach(&self, netns: &Self::Netns, link: &PodLink) -> Result<(), WiringError>;

    /// Sets a host end's routes and neighbours again.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn repair(&self, link: &PodLink) -> Result<(), WiringError>;

    /// The MAC address of a pod's interface behind a host end; `None` where there is none, or it does not speak for the pod.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    fn pod_mac(&self, link: Ifindex, ifname: &str) -> Result<Option<[u8; 6]>, NetlinkError>;

    /// Has the host take the pod's MAC address as it is in `link`.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn follow_mac(&self, link: &PodLink) -> Result<(), WiringError>;

    /// Forgets every pod but those behind these links, after a restart.
    fn forget_all_but(&self, links: &[Ifindex]);

    /// Takes up pods that run already: after a restart, or when they have moved to another uplink.
    fn adopt(&self, links: &[PodLink]);

    /// Has what is counted for an attachment's link belong to its pod, now that it is durable or was taken up again.
    fn open_account(&self, record: &Record);

    /// Tells neighbours of the addresses that a new pod uses beside its own, where neighbours look for them.
    fn announce(&self, _link: &PodLink) {}

    /// Tells neighbours of these no more.
    fn withdraw(&self, _addresses: &[IpAddr]) {}

    /// Stops a pod's packets, has its link removed soon, and its number given back when it is gone.
    fn remove_soon(&self, link: Ifindex);

    /// Waits until all removals ordered so far are done; tells whether they are.
    fn flush_removals(&self, limit: Duration) -> bool;

    /// Threads whose call of the kernel has not come back for suspiciously long, the oldest first: somebody holds its lock of network
    /// configuration. While there are any, the other calls here wait for them, and give up after [`datapath::calls::LIMIT`].
    fn held_up(&self) -> Vec<(ThreadId, Duration)> {
        Vec::new()
    }

    /// How many threads wait for these.
    fn waiting(&self) -> u64 {
        0
    }

    /// Every pod link of ours.
    ///
    /// # Errors
    /// Where a table cannot be read.
    fn links(&self) -> Result<Vec<FoundLink>, NetlinkError>;

    /// Has a pod that asks for its IPv6 gateway answered. Safe to repeat.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn answer_solicitations(&self, link: Ifindex) -> Result<(), NetlinkError>;

    /// One interface of a pod from inside, and how packets from these addresses leave by it; `None` where it has none of that name.
    ///
    /// # Errors
    /// Where the namespace cannot be entered or the kernel not be asked.
    fn inspect(&self, netns: &Self::Netns, ifname: &str, sources: &[IpAddr]) -> Result<Option<PodState>, WiringError>;

    /// A host end, and the host's way to the pod's addresses; `None` where there is no such link of ours.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    fn inspect_host_end(&self, link: Ifindex, addresses: &[IpAddr]) -> Result<Option<HostEnd>, NetlinkError>;

    /// What a pod's link lacks of the kernel programs, where they are used.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    fn programs_lack(&self, link: &PodLink) -> Result<Vec<&'static str>, WiringError>;
}
