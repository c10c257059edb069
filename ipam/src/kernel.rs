//! The kernel as attachments see it: one trait, so that every crash point can be reached in a test.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use datapath::fast_path::{FastPath, FastPathError, Traffic, TrafficOf};
use datapath::netlink::{NetlinkError, Socket};
use datapath::{
    ApplyError, FoundLink, HostEnd, HostNetns, Ifindex, LinkRemover, Netns, NetnsError, NetnsId, NodeNetwork, PodLink, PodState,
    WiringError, stack,
};

use crate::accounts::Accounts;
use crate::link_numbers::LinkNumbers;
use crate::record::Record;

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

    /// Forgets every pod but these, after a restart.
    fn forget_all_but(&self, links: &[PodLink]);

    /// Takes up pods that run already: after a restart, or when they have moved to another uplink.
    fn adopt(&self, links: &[PodLink]);

    /// Has what is counted for an attachment's link belong to its pod, now that it is durable or was taken up again.
    fn open_account(&self, record: &Record);

    /// Stops a pod's packets, has its link removed soon, and its number given back when it is gone.
    fn remove_soon(&self, link: Ifindex);

    /// Waits until all removals ordered so far are done; tells whether they are.
    fn flush_removals(&self, limit: Duration) -> bool;

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

/// The kernel that we run on.
pub struct Linux {
    /// Sockets of the host's namespace; each request borrows one.
    sockets: Mutex<Vec<Socket>>,
    remover: LinkRemover,
    host: HostNetns,
    /// `None` where packets take the host's stack.
    fast_path: Option<Arc<FastPath>>,
    accounts: Arc<Accounts>,
    /// As it was applied last, or will be first.
    network: RwLock<NodeNetwork>,
}

impl Linux {
    /// Connects to the kernel in the caller's network namespace. Of `network` nothing is applied yet.
    ///
    /// # Errors
    /// Where the system has no socket or thread left.
    pub fn start(
        numbers: Arc<LinkNumbers>,
        accounts: Arc<Accounts>,
        fast_path: Option<FastPath>,
        network: NodeNetwork,
    ) -> Result<Self, WiringError> {
        let fast_path = fast_path.map(Arc::new);
        let (counting, closing) = (fast_path.clone(), Arc::clone(&accounts));
        let remover = LinkRemover::start(move |links| {
            close_accounts(&closing, counting.as_deref(), links);
            links.iter().for_each(|link| numbers.give_back(*link));
        })?;
        let (sockets, network) = (Mutex::new(Vec::new()), RwLock::new(network));
        Ok(Self { sockets, remover, host: HostNetns::current()?, fast_path, accounts, network })
    }

    /// The pods' accounts.
    #[must_use]
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// The programs, where they are used.
    #[must_use]
    pub fn fast_path(&self) -> Option<&FastPath> {
        self.fast_path.as_deref()
    }

    /// Sets what all pods of the node share; what the kernel refused of it. New pods go by it all the same.
    #[must_use]
    pub fn apply(&self, network: &NodeNetwork) -> Vec<ApplyError> {
        network.clone_into(&mut self.network.write().unwrap_or_else(PoisonError::into_inner));
        match Socket::open() {
            Ok(mut socket) => network.apply(&mut socket, self.fast_path()),
            Err(error) => vec![error.into()],
        }
    }

    /// Looks whether what was applied of the programs still stands, and sets it again; what the kernel refused of it.
    #[must_use]
    pub fn keep(&self, network: &NodeNetwork) -> Vec<ApplyError> {
        let Some(fast_path) = self.fast_path() else { return Vec::new() };
        match Socket::open() {
            Ok(mut socket) => network.keep(&mut socket, fast_path),
            Err(error) => vec![error.into()],
        }
    }

    /// Leaves pods to the stack on whose link another tool has a filter; tells these.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub fn heed_others(&self, links: &[Ifindex]) -> Result<Vec<(Ifindex, String)>, FastPathError> {
        let Some(fast_path) = self.fast_path() else { return Ok(Vec::new()) };
        self.with_socket(|socket| fast_path.heed_others(socket, links))
    }

    fn network(&self) -> RwLockReadGuard<'_, NodeNetwork> {
        self.network.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop_packets(&self, link: Ifindex) {
        if let Some(fast_path) = self.fast_path()
            && let Err(error) = fast_path.remove_endpoint(link)
        {
            tracing::error!(%link, %error, "an endpoint cannot be removed from the maps");
        }
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

/// Takes what links that are gone were counted with, from the programs or from the stack.
fn close_accounts(accounts: &Accounts, fast_path: Option<&FastPath>, links: &[Ifindex]) {
    match fast_path {
        Some(fast_path) => {
            accounts.close(links.iter().map(|link| (*link, fast_path.traffic(TrafficOf::Pod(*link)).unwrap_or_default())));
        }
        None => match stack::close_accounts(links) {
            Ok(counted) => accounts.close(links.iter().map(|link| (*link, counted.get(link).copied().unwrap_or_default()))),
            Err(error) => {
                tracing::warn!(%error, "what links that are gone were counted with is not known");
                accounts.close(links.iter().map(|link| (*link, Traffic::default())));
            }
        },
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
        let fast_path = self.fast_path();
        if let Some(fast_path) = fast_path {
            fast_path.add_endpoint(link, &self.network())?;
        }
        let wired = self.with_socket(|socket| datapath::attach(socket, netns, link, fast_path));
        if wired.is_err() {
            self.stop_packets(link.host_ifindex);
        }
        wired
    }

    fn repair(&self, link: &PodLink) -> Result<(), WiringError> {
        self.with_socket(|socket| datapath::refresh_host_end(socket, link))
    }

    fn pod_mac(&self, link: Ifindex, ifname: &str) -> Result<Option<[u8; 6]>, NetlinkError> {
        self.with_socket(|socket| datapath::pod_mac(socket, link, ifname))
    }

    fn follow_mac(&self, link: &PodLink) -> Result<(), WiringError> {
        if let Some(fast_path) = self.fast_path() {
            fast_path.set_mac(link)?;
        }
        self.repair(link)
    }

    fn forget_all_but(&self, links: &[PodLink]) {
        if let Some(fast_path) = self.fast_path()
            && let Err(error) = fast_path.retain_endpoints(links)
        {
            tracing::error!(%error, "pods that are gone cannot be removed from the maps");
        }
    }

    fn adopt(&self, links: &[PodLink]) {
        let Some(fast_path) = self.fast_path() else { return };
        for link in links {
            if let Err(error) = self.with_socket(|socket| fast_path.adopt_endpoint(socket, link, &self.network())) {
                tracing::error!(link = link.host_ifname, %error, "stays with the host's stack");
            }
        }
        if let Err(error) = fast_path.heal() {
            tracing::warn!(%error, "pods keep to the host's stack; it is tried again every ten seconds");
        }
    }

    fn open_account(&self, record: &Record) {
        self.accounts.open(record);
    }

    fn remove_soon(&self, link: Ifindex) {
        self.stop_packets(link);
        self.remover.remove(link);
    }

    fn flush_removals(&self, limit: Duration) -> bool {
        self.remover.flush(limit)
    }

    fn links(&self) -> Result<Vec<FoundLink>, NetlinkError> {
        self.with_socket(datapath::pod_links)
    }

    fn answer_solicitations(&self, link: Ifindex) -> Result<(), NetlinkError> {
        self.with_socket(|socket| datapath::answer_solicitations(socket, link))
    }

    fn inspect(&self, netns: &Netns, ifname: &str, sources: &[IpAddr]) -> Result<Option<PodState>, WiringError> {
        Ok(datapath::inspect_pod(netns, ifname, sources)??)
    }

    fn inspect_host_end(&self, link: Ifindex, addresses: &[IpAddr]) -> Result<Option<HostEnd>, NetlinkError> {
        self.with_socket(|socket| datapath::inspect_host_end(socket, link, addresses))
    }

    fn programs_lack(&self, link: &PodLink) -> Result<Vec<&'static str>, WiringError> {
        let Some(fast_path) = self.fast_path() else { return Ok(Vec::new()) };
        self.with_socket(|socket| Ok(fast_path.lacks(socket, link, &self.network())?))
    }
}
