//! A kernel in memory that outlives the daemon, with crash points: a panic stands for the daemon's death.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use barewired::kernel::Kernel;
use barewired::kernel::link_numbers::LinkNumbers;
use datapath::netlink::NetlinkError;
use datapath::{FoundLink, HostEnd, Ifindex, NetnsError, NetnsId, PodLink, PodState, WayOut, WiringError};
use ipam_state::record::Record;
#[cfg(feature = "shuttle")]
use shuttle::sync::Mutex as RemovalLock;
#[cfg(not(feature = "shuttle"))]
use std::sync::Mutex as RemovalLock;

/// Where the daemon dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CrashPoint {
    /// ADD: addresses are taken, nothing else.
    BeforeLink,
    /// ADD: the pair exists, without owner and routes.
    BareLink,
    /// ADD: the pod is wired, nothing is committed.
    BeforeCommit,
    /// ADD: committed, and nobody was told.
    AfterCommit,
    /// DEL, or an ADD that is undone: the link is still there.
    BeforeRemoval,
}

/// What survives the daemon.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    pub(crate) links: BTreeMap<u32, (FoundLink, u64, String)>,
    pub(crate) namespaces: BTreeSet<u64>,
    pub(crate) crash_at: Option<CrashPoint>,
}

impl Machine {
    #[cfg_attr(feature = "shuttle", expect(dead_code, reason = "the test of concurrency keeps its namespaces"))]
    /// The pod's namespace is destroyed, and with it every veth that has an end in it.
    pub(crate) fn kill_namespace(&mut self, inode: u64) {
        self.namespaces.remove(&inode);
        self.links.retain(|_, (_, home, _)| *home != inode);
    }

    #[cfg_attr(feature = "shuttle", expect(dead_code, reason = "the test of concurrency looks at links"))]
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.links.values().flat_map(|(link, _, _)| link.addresses.clone()).collect()
    }
}

/// Time passes in the kernel, and others are at work meanwhile, where the order of threads is what is tested.
fn passes() {
    #[cfg(feature = "shuttle")]
    shuttle::thread::yield_now();
}

/// One daemon's connection to the machine.
pub(crate) struct ModelKernel {
    machine: Arc<Mutex<Machine>>,
    numbers: Arc<LinkNumbers>,
    /// Removals are forgotten when the daemon dies.
    due: RemovalLock<Vec<Ifindex>>,
}

impl ModelKernel {
    pub(crate) fn new(machine: Arc<Mutex<Machine>>, numbers: Arc<LinkNumbers>) -> Self {
        Self { machine, numbers, due: RemovalLock::new(Vec::new()) }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn maybe_crash(&self, point: CrashPoint) {
        // A daemon dies once.
        let hit = self.machine().crash_at == Some(point) && !std::thread::panicking();
        if hit {
            self.machine().crash_at = None;
            std::panic::panic_any("the daemon dies here");
        }
    }
}

impl Kernel for ModelKernel {
    type Netns = u64;

    fn open_netns(&self, _: OwnedFd) -> Result<u64, NetnsError> {
        Err(NetnsError::NotNetns)
    }

    fn netns_id(&self, netns: &u64) -> NetnsId {
        NetnsId { device: 4, inode: *netns }
    }

    fn attach(&self, netns: &u64, link: &PodLink) -> Result<(), WiringError> {
        passes();
        self.maybe_crash(CrashPoint::BeforeLink);
        {
            let mut machine = self.machine();
            if !machine.namespaces.contains(netns) {
                return Err(NetnsError::NotNetns.into());
            }
            if machine.links.values().any(|(_, home, ifname)| home == netns && *ifname == link.pod_ifname) {
                return Err(WiringError::NameTaken(link.pod_ifname.clone()));
            }
            assert!(!machine.links.contains_key(&link.host_ifindex.0), "the number of a link that exists was chosen");
            let bare = FoundLink {
                ifindex: link.host_ifindex,
                ifname: link.host_ifname.clone(),
                mtu: link.mtu,
                owner: None,
                addresses: vec![],
                allowed: vec![],
            };
            machine.links.insert(link.host_ifindex.0, (bare, *netns, link.pod_ifname.clone()));
        }
        self.maybe_crash(CrashPoint::BareLink);
        passes();
        if let Some((made, _, _)) = self.machine().links.get_mut(&link.host_ifindex.0) {
            made.owner = Some((link.container_id.clone(), link.pod_ifname.clone()));
            (made.addresses, made.allowed) = (link.addresses.clone(), link.allowed.clone());
        }
        self.maybe_crash(CrashPoint::BeforeCommit);
        Ok(())
    }

    fn open_account(&self, _: &Record) {
        self.maybe_crash(CrashPoint::AfterCommit);
    }

    fn repair(&self, link: &PodLink) -> Result<(), WiringError> {
        passes();
        if let Some((made, _, _)) = self.machine().links.get_mut(&link.host_ifindex.0) {
            (made.addresses, made.allowed) = (link.addresses.clone(), link.allowed.clone());
        }
        Ok(())
    }

    fn forget_all_but(&self, _: &[Ifindex]) {}

    fn adopt(&self, _: &[PodLink]) {}

    fn remove_soon(&self, link: Ifindex) {
        passes();
        self.maybe_crash(CrashPoint::BeforeRemoval);
        self.due.lock().unwrap().push(link);
    }

    fn flush_removals(&self, _: Duration) -> bool {
        // Held all the while: whoever flushes waits for removals that another has begun.
        let mut due = self.due.lock().unwrap();
        for link in due.drain(..) {
            passes();
            self.machine().links.remove(&link.0);
            self.numbers.give_back(link);
        }
        true
    }

    fn links(&self) -> Result<Vec<FoundLink>, NetlinkError> {
        passes();
        let links = self.machine().links.values().map(|(link, _, _)| link.clone()).collect();
        // Old as soon as it is read.
        passes();
        Ok(links)
    }

    fn inspect(&self, netns: &u64, ifname: &str, sources: &[IpAddr]) -> Result<Option<PodState>, WiringError> {
        passes();
        let machine = self.machine();
        let found = machine.links.values().find(|(_, home, name)| home == netns && name == ifname);
        let way_out = |source: &IpAddr| WayOut { source: *source, by_gateway: true, gateway_on_link: true, wrong_gateway_mac: None };
        Ok(found.map(|(link, _, _)| PodState {
            up: true,
            mtu: link.mtu,
            addresses: link.addresses.clone(),
            ways_out: sources.iter().map(way_out).collect(),
            ..PodState::default()
        }))
    }

    fn inspect_host_end(&self, link: Ifindex, _: &[IpAddr]) -> Result<Option<HostEnd>, NetlinkError> {
        passes();
        let machine = self.machine();
        Ok(machine.links.get(&link.0).map(|(link, _, _)| HostEnd {
            neighbours: link.addresses.iter().map(|address| (*address, Vec::new())).collect(),
            link: link.clone(),
            up: true,
        }))
    }

    fn pod_mac(&self, _: Ifindex, _: &str) -> Result<Option<[u8; 6]>, NetlinkError> {
        Ok(None)
    }

    fn follow_mac(&self, _: &PodLink) -> Result<(), WiringError> {
        Ok(())
    }

    fn answer_solicitations(&self, _: Ifindex) -> Result<(), NetlinkError> {
        Ok(())
    }

    fn programs_lack(&self, _: &PodLink) -> Result<Vec<&'static str>, WiringError> {
        Ok(Vec::new())
    }
}
