//! The kernel as attachments see it: one trait, so that every crash point can be reached in a test.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datapath::netlink::{NetlinkError, Socket};
use datapath::{FoundLink, HostNetns, Ifindex, LinkRemover, Netns, NetnsError, NetnsId, PodLink, PodState, WiringError};

use crate::link_numbers::LinkNumbers;

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
    fn repair(&self, link: &PodLink) -> Result<(), NetlinkError>;

    /// Has a link removed soon, and its number given back when it is gone.
    fn remove_soon(&self, link: Ifindex);

    /// Waits until all removals ordered so far are done; tells whether they are.
    fn flush_removals(&self, limit: Duration) -> bool;

    /// Every pod link of ours.
    ///
    /// # Errors
    /// Where a table cannot be read.
    fn links(&self) -> Result<Vec<FoundLink>, NetlinkError>;

    /// One interface of a pod from inside; `None` where it has none of that name.
    ///
    /// # Errors
    /// Where the namespace cannot be entered or a table not be read.
    fn inspect(&self, netns: &Self::Netns, ifname: &str) -> Result<Option<PodState>, WiringError>;
}

/// The kernel that we run on.
#[derive(Debug)]
pub struct Linux {
    /// Sockets of the host's namespace; each request borrows one.
    sockets: Mutex<Vec<Socket>>,
    remover: LinkRemover,
    host: HostNetns,
}

impl Linux {
    /// Connects to the kernel in the caller's network namespace.
    ///
    /// # Errors
    /// Where the system has no socket or thread left.
    pub fn start(numbers: Arc<LinkNumbers>) -> Result<Self, WiringError> {
        let remover = LinkRemover::start(move |links| links.iter().for_each(|link| numbers.give_back(*link)))?;
        Ok(Self { sockets: Mutex::new(Vec::new()), remover, host: HostNetns::current()? })
    }

    /// A socket that failed is not used again: an answer could still be on its way.
    fn with_socket<T, E: From<NetlinkError>>(&self, work: impl FnOnce(&mut Socket) -> Result<T, E>) -> Result<T, E> {
        let idle = self.sockets.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut socket = idle.map_or_else(Socket::open, Ok)?;
        let outcome = work(&mut socket);
        if outcome.is_ok() {
            self.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        }
        outcome
    }
}

impl Kernel for Linux {
    type Netns = Netns;

    fn open_netns(&self, fd: OwnedFd) -> Result<Netns, NetnsError> {
        Netns::new(fd, &self.host)
    }

    fn netns_id(&self, netns: &Netns) -> NetnsId {
        netns.id()
    }

    fn attach(&self, netns: &Netns, link: &PodLink) -> Result<(), WiringError> {
        self.with_socket(|socket| datapath::attach(socket, netns, link))
    }

    fn repair(&self, link: &PodLink) -> Result<(), NetlinkError> {
        self.with_socket(|socket| datapath::refresh_host_end(socket, link))
    }

    fn remove_soon(&self, link: Ifindex) {
        self.remover.remove(link);
    }

    fn flush_removals(&self, limit: Duration) -> bool {
        self.remover.flush(limit)
    }

    fn links(&self) -> Result<Vec<FoundLink>, NetlinkError> {
        self.with_socket(datapath::pod_links)
    }

    fn inspect(&self, netns: &Netns, ifname: &str) -> Result<Option<PodState>, WiringError> {
        Ok(datapath::inspect_pod(netns, ifname)??)
    }
}
