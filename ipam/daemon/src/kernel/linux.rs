//! The kernel that we run on.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::ThreadId;
use std::time::Duration;

use datapath::announcement::{self, AnnounceError};
use datapath::fast_path::{FastPath, FastPathError, Limits, Traffic, TrafficOf};
use datapath::netlink::{NetlinkError, Socket};
use datapath::repairs::Uncounted;
use datapath::{
    ApplyError, Difference, FoundLink, HostEnd, HostNetns, Ifindex, Kept, LinkRemover, Netns, NetnsError, NetnsId, NodeNetwork, PodLink,
    PodState, Uplink, WiringError, calls, stack,
};
use ipam_state::record::Record;

use super::Kernel;
use crate::accounts::Accounts;
use crate::kernel::link_numbers::LinkNumbers;
use crate::scheduling::Scheduling;

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
    network: RwLock<Arc<NodeNetwork>>,
    /// What is remembered from one comparison to the next.
    kept: Mutex<Kept>,
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
        scheduling: Scheduling,
    ) -> Result<Self, WiringError> {
        let fast_path = fast_path.map(Arc::new);
        let (counting, closing) = (fast_path.clone(), Arc::clone(&accounts));
        let removed = move |links: &[Ifindex]| {
            close_accounts(&closing, counting.as_deref(), links);
            links.iter().for_each(|link| numbers.give_back(*link));
        };
        // It holds the RTNL for which ADDs wait.
        let remover = LinkRemover::start(move || scheduling.apply(), removed)?;
        let (sockets, network) = (Mutex::new(Vec::new()), RwLock::new(Arc::new(network)));
        Ok(Self { sockets, remover, host: HostNetns::current()?, fast_path, accounts, network, kept: Mutex::default() })
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

    /// Likewise, for a thread of its own.
    #[must_use]
    pub fn shared_fast_path(&self) -> Option<Arc<FastPath>> {
        self.fast_path.clone()
    }

    /// Compares what all pods of the node share with the description, and sets what differs; what the kernel refused of it. New pods go by
    /// the description all the same.
    #[must_use]
    pub fn apply(&self, network: &NodeNetwork) -> Vec<ApplyError> {
        let before = std::mem::replace(&mut *self.network.write().unwrap_or_else(PoisonError::into_inner), Arc::new(network.clone()));
        // What another description asks for is no repair.
        let _news = (*before != *network).then(Uncounted::begin);
        self.apply_again()
    }

    /// The same, with the description that was given last.
    #[must_use]
    pub fn apply_again(&self) -> Vec<ApplyError> {
        let network = self.network();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match calls::wait_for_others().map_err(NetlinkError::from).and_then(|()| Socket::open()) {
            Ok(mut socket) => network.apply(&mut socket, self.fast_path(), &mut kept),
            Err(error) => vec![error.into()],
        }
    }

    /// Looks at the links of some pods: has the programs back, and leaves pods to the stack on whose link another tool has a filter; tells
    /// these, of all that live.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub fn heed_others(&self, some: &[Ifindex], living: &[Ifindex]) -> Result<Vec<(Ifindex, String)>, FastPathError> {
        let Some(fast_path) = self.fast_path() else { return Ok(Vec::new()) };
        self.with_socket(|socket| fast_path.heed_others(socket, some, living))
    }

    /// Sets again what of a pod's host end is not as it was made.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn restore(&self, link: &PodLink, differences: &[Difference]) -> Result<(), WiringError> {
        self.with_socket(|socket| datapath::restore_host_end(socket, link, differences))
    }

    /// Whether the programs, where they are used, know a pod otherwise than it is.
    ///
    /// # Errors
    /// Where the maps cannot be read.
    pub fn programs_know_otherwise(&self, link: &PodLink) -> Result<bool, WiringError> {
        let Some(fast_path) = self.fast_path() else { return Ok(false) };
        Ok(fast_path.knows_otherwise(link, &self.network())?)
    }

    /// Whether the programs, where they are used, grant a pod other limits or addresses than they should.
    ///
    /// # Errors
    /// Where the maps cannot be read.
    pub fn is_granted_otherwise(&self, link: &PodLink) -> Result<bool, WiringError> {
        let Some(fast_path) = self.fast_path() else { return Ok(false) };
        Ok(fast_path.is_granted_otherwise(link, &self.network())?)
    }

    /// What the programs hold the pod behind a link to; nothing where they do not know it. What they do not tell is not known to anybody.
    #[must_use]
    pub fn limits_known(&self, link: Ifindex) -> Limits {
        let Some(fast_path) = self.fast_path() else { return Limits::default() };
        fast_path.limits_known(link).unwrap_or_else(|error| {
            tracing::warn!(%link, %error, "limits of a pod not read");
            Limits::default()
        })
    }

    /// Has the programs grant a pod its limits and addresses as they are now.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn grant(&self, link: &PodLink) -> Result<(), WiringError> {
        let Some(fast_path) = self.fast_path() else { return Ok(()) };
        Ok(fast_path.grant(link, &self.network())?)
    }

    /// A pod's link with the addresses that it may use beside its own as things are now.
    pub(crate) fn granted(&self, link: PodLink) -> PodLink {
        self.network().granted(link)
    }

    /// Has neighbours on the first uplink's link answered for these addresses of pods and no others, where they look for them.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(crate) fn answer_neighbours_for(&self, addresses: &[IpAddr]) -> Result<(), AnnounceError> {
        let network = self.network();
        let uplink = network.uplinks.first().filter(|_| network.answers_neighbours);
        self.with_socket(|socket| announcement::keep(socket, uplink, addresses))
    }

    /// Does something about addresses of pods on the link of the first uplink, where neighbours look for them there.
    fn on_uplinks_link(&self, what: &str, addresses: &[IpAddr], work: impl FnOnce(&mut Socket, &Uplink) -> Result<(), AnnounceError>) {
        let network = self.network();
        let Some(uplink) = network.uplinks.first().filter(|_| network.answers_neighbours && !addresses.is_empty()) else { return };
        if let Err(error) = self.with_socket(|socket| work(socket, uplink)) {
            tracing::warn!(?addresses, uplink = uplink.ifname, %error, "{what}; tried again in a few seconds");
        }
    }

    /// Tells the programs of a pod again.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn tell_programs(&self, link: &PodLink) -> Result<(), WiringError> {
        let Some(fast_path) = self.fast_path() else { return Ok(()) };
        Ok(fast_path.restore_endpoint(link, &self.network())?)
    }

    /// Not under the lock, so that nobody who waits in the kernel has it.
    pub(crate) fn network(&self) -> Arc<NodeNetwork> {
        Arc::clone(&self.network.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn stop_packets(&self, link: Ifindex) {
        if let Some(fast_path) = self.fast_path()
            && let Err(error) = fast_path.remove_endpoint(link)
        {
            tracing::error!(%link, %error, "endpoint not removed from the maps");
        }
    }

    /// A socket that failed is not used again: an answer could still be on its way. Where somebody has held the kernel's lock for long,
    /// nothing is done.
    fn with_socket<T, E: From<NetlinkError>>(&self, work: impl FnOnce(&mut Socket) -> Result<T, E>) -> Result<T, E> {
        calls::wait_for_others().map_err(NetlinkError::from)?;
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
                tracing::warn!(%error, "traffic counters of removed links not read");
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
        // Before anything is done that would have to be undone.
        calls::wait_for_others().map_err(NetlinkError::from)?;
        let fast_path = self.fast_path();
        if let Some(fast_path) = fast_path {
            if let Err(error) = fast_path.add_endpoint(link, &self.network()) {
                self.stop_packets(link.host_ifindex);
                return Err(error.into());
            }
        } else if link.limits != Limits::default() {
            tracing::warn!(container = link.container_id, limits = ?link.limits, "limits of a pod not kept: no kernel programs are in use");
        }
        let wired = self.with_socket(|socket| datapath::attach(socket, netns, link, fast_path));
        if wired.is_err() {
            self.stop_packets(link.host_ifindex);
        }
        wired
    }

    fn repair(&self, link: &PodLink) -> Result<(), WiringError> {
        let link = self.granted(link.clone());
        self.with_socket(|socket| datapath::refresh_host_end(socket, &link))
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

    fn forget_all_but(&self, links: &[Ifindex]) {
        if let Some(fast_path) = self.fast_path()
            && let Err(error) = fast_path.retain_endpoints(links)
        {
            tracing::error!(%error, "endpoints of removed pods not removed from the maps");
        }
    }

    fn adopt(&self, links: &[PodLink]) {
        let Some(fast_path) = self.fast_path() else { return };
        for link in links {
            let granted = self.granted(link.clone());
            if let Err(error) = self.with_socket(|socket| fast_path.adopt_endpoint(socket, &granted, &self.network())) {
                tracing::error!(link = link.host_ifname, %error, "pod kept on the slow path");
            }
        }
        if let Err(error) = fast_path.heal() {
            tracing::warn!(%error, "pods kept on the slow path; tried again at the next look");
        }
    }

    fn open_account(&self, record: &Record) {
        self.accounts.open(record);
    }

    fn remove_soon(&self, link: Ifindex) {
        self.stop_packets(link);
        self.remover.remove(link);
    }

    fn announce(&self, link: &PodLink) {
        let addresses = self.granted(link.clone()).allowed;
        let work = |socket: &mut Socket, uplink: &Uplink| announcement::begin(socket, uplink, &addresses);
        self.on_uplinks_link("addresses of a pod not announced", &addresses, work);
    }

    fn withdraw(&self, addresses: &[IpAddr]) {
        let work = |socket: &mut Socket, uplink: &Uplink| announcement::end(socket, uplink, addresses);
        self.on_uplinks_link("neighbours are still answered for addresses of a pod that is gone", addresses, work);
    }

    fn held_up(&self) -> Vec<(ThreadId, Duration)> {
        calls::held_up()
    }

    fn waiting(&self) -> u64 {
        calls::waiting()
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
        calls::wait_for_others().map_err(NetlinkError::from)?;
        Ok(datapath::inspect_pod(netns, ifname, sources)??)
    }

    fn inspect_host_end(&self, link: Ifindex, addresses: &[IpAddr]) -> Result<Option<HostEnd>, NetlinkError> {
        self.with_socket(|socket| datapath::inspect_host_end(socket, link, addresses))
    }

    fn programs_lack(&self, link: &PodLink) -> Result<Vec<&'static str>, WiringError> {
        let Some(fast_path) = self.fast_path() else { return Ok(Vec::new()) };
        let link = self.granted(link.clone());
        self.with_socket(|socket| Ok(fast_path.lacks(socket, &link, &self.network())?))
    }
}
