//! The kernel programs on this node: loaded, attached, and told what they need to know.
//!
//! Their maps are pinned, so that counters, endpoints and noted flows outlive the daemon: programs stay attached while it is
//! away and are replaced, one by one and without a gap, when it comes back. What they decide is in the crate `ebpf`.

mod attach;
mod tables;
mod view;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aya::EbpfLoader;
use aya::programs::{ProgramFd, SchedClassifier};
use ebpf::layout::{Endpoint, LAYOUT_VERSION};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

pub use ebpf::account::{Counter, Traffic};
pub use ebpf::layout::{ENDPOINTS_MAX, FIRST_IFINDEX, Network};
pub use ebpf::scope::Scope;
pub use tables::TrafficOf;
pub use view::{Destination, ViewError, view};

use crate::netlink::{NetlinkError, Request, Socket};
use crate::{Ifindex, PodLink, Uplink};
use tables::Tables;

const BPF_FS: &str = "/sys/fs/bpf";

/// Why the fast path is not used. Everything works without it, by the host's stack.
#[derive(Debug, thiserror::Error)]
pub enum FastPathError {
    /// The object file cannot be read.
    #[error("cannot read the kernel programs {path}: {source}", path = path.display())]
    Object {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        source: std::io::Error,
    },
    /// There is nowhere to pin maps.
    #[error("{BPF_FS} is no BPF file system; mount one (mount -t bpf bpf {BPF_FS})")]
    NoBpfFs,
    /// Pins could not be made or removed.
    #[error("pins in {path}: {source}", path = path.display())]
    Pins {
        /// The directory.
        path: PathBuf,
        /// What the file system says.
        source: std::io::Error,
    },
    /// The object was refused as a whole.
    #[error("the kernel programs cannot be loaded: {0}")]
    Load(#[from] Box<aya::EbpfError>),
    /// A program was refused.
    #[error("the kernel refuses the program {name}: {source}")]
    Program {
        /// Its name.
        name: &'static str,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map was refused.
    #[error("the map {name}: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// Why.
        source: Box<aya::maps::MapError>,
    },
    /// The network does not fit.
    #[error("{0}")]
    View(#[from] ViewError),
    /// An interface refused a program.
    #[error("{0}")]
    Attach(#[from] NetlinkError),
}

/// The programs, loaded.
pub struct FastPath {
    programs: [ProgramFd; 4],
    tables: Tables,
    /// Whether the maps were there before: endpoints and flows are then those of the daemon before this one.
    inherited: bool,
}

const PROGRAMS: [&str; 4] = ["from_pod", "to_pod", "from_uplink", "to_uplink"];

impl FastPath {
    /// Loads the programs of an object file. `state` names this daemon's pins: one directory for each run directory.
    ///
    /// # Errors
    /// See [`FastPathError`].
    pub fn load(object: &Path, state: &Path) -> Result<Self, FastPathError> {
        let bytes = std::fs::read(object).map_err(|source| FastPathError::Object { path: object.to_owned(), source })?;
        let pins = pins(state)?.join(format!("v{LAYOUT_VERSION}"));
        let inherited = pins.exists();
        std::fs::create_dir_all(&pins).map_err(|source| FastPathError::Pins { path: pins.clone(), source })?;
        let mut loaded = EbpfLoader::new().default_map_pin_directory(&pins).load(&bytes).map_err(Box::new)?;
        let mut load = |name: &'static str| {
            let refused = |source| FastPathError::Program { name, source: Box::new(source) };
            let missing = || refused(aya::programs::ProgramError::NotLoaded);
            let program: &mut SchedClassifier = loaded.program_mut(name).ok_or_else(missing)?.try_into().map_err(refused)?;
            program.load().map_err(refused)?;
            program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(refused)
        };
        let programs = [load(PROGRAMS[0])?, load(PROGRAMS[1])?, load(PROGRAMS[2])?, load(PROGRAMS[3])?];
        Ok(Self { programs, tables: Tables::take(&mut loaded)?, inherited })
    }

    /// Removes the pins, and with them what the maps hold. Filters go with [`detach_ours`].
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn unpin(state: &Path) -> Result<(), FastPathError> {
        let path = pins(state)?;
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(FastPathError::Pins { path, source }),
            _ => Ok(()),
        }
    }

    /// Tells the programs of the network.
    ///
    /// # Errors
    /// Where the kernel refuses the write.
    pub fn set_network(&self, network: &Network) -> Result<(), FastPathError> {
        self.tables.set_network(network)
    }

    /// Attaches to the uplink, in place of earlier programs, and tells of its gateways.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn attach_uplink(&self, host: &mut Socket, uplink: &Uplink) -> Result<(), FastPathError> {
        self.tables.set_uplink(uplink)?;
        let [_, _, from_uplink, to_uplink] = &self.programs;
        Ok(attach::attach(host, uplink.ifindex, from_uplink, to_uplink)?)
    }

    /// What makes a new host end carry the programs: part of the batch that sets it up.
    pub(crate) fn host_end_requests(&self, ifindex: Ifindex) -> Vec<Request> {
        let [from_pod, to_pod, _, _] = &self.programs;
        attach::requests(ifindex, from_pod, to_pod)
    }

    /// Lets a pod's packets pass. Before its link is made: from the first packet on the programs know it.
    ///
    /// # Errors
    /// Where the kernel refuses the write.
    pub fn add_endpoint(&self, link: &PodLink) -> Result<(), FastPathError> {
        match slot(link.host_ifindex) {
            Some(slot) => self.tables.add(slot, &endpoint(link)),
            None => Ok(()),
        }
    }

    /// After a restart: forgets pods that are gone. Before any new pod, which could be given the slot of one of them.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn retain_endpoints(&self, links: &[PodLink]) -> Result<(), FastPathError> {
        self.tables.retain(&links.iter().filter_map(|link| slot(link.host_ifindex)).collect())
    }

    /// Takes a pod up that runs already, after a restart. What the maps know of it stays; a pod that they do not know may have
    /// flows that the stack translates, so all its packets keep to the stack.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn adopt_endpoint(&self, host: &mut Socket, link: &PodLink) -> Result<(), FastPathError> {
        let Some(slot) = slot(link.host_ifindex) else { return Ok(()) };
        let wanted = endpoint(link);
        let known = self.tables.endpoint(slot)?;
        let same = self.inherited && Endpoint { has_flows: 0, stack_only: 0, ..known } == wanted;
        if !same {
            self.tables.add(slot, &Endpoint { stack_only: 1, ..wanted })?;
        }
        let [from_pod, to_pod, _, _] = &self.programs;
        Ok(attach::attach(host, link.host_ifindex, from_pod, to_pod)?)
    }

    /// Stops a pod's packets. Its link may live a moment longer.
    ///
    /// # Errors
    /// Where the kernel refuses the write.
    pub fn remove_endpoint(&self, link: Ifindex) -> Result<(), FastPathError> {
        match slot(link) {
            Some(slot) => self.tables.remove(slot),
            None => Ok(()),
        }
    }

    /// What a pod has sent and received.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn traffic(&self, of: TrafficOf) -> Result<Traffic, FastPathError> {
        self.tables.traffic(of)
    }

    /// Packets that the programs did not carry, by the reason's name.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn reasons(&self) -> Result<Vec<(&'static str, u64)>, FastPathError> {
        self.tables.reasons()
    }

    /// Forgets flows whose packets the stack has not emitted for longer than it remembers a connection. Tells how many stay.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn forget_idle_flows(&self, idle: tables::IdleSeconds) -> Result<usize, FastPathError> {
        self.tables.forget_idle_flows(idle)
    }
}

pub use attach::detach_ours;
pub use tables::IdleSeconds;

fn pins(state: &Path) -> Result<PathBuf, FastPathError> {
    let root = Path::new(BPF_FS);
    if !statfs(root).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC) {
        return Err(FastPathError::NoBpfFs);
    }
    // The BPF file system takes no dot in a name.
    let name: String = state.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Ok(root.join("barewire").join(name.trim_matches('-')))
}

fn slot(link: Ifindex) -> Option<u32> {
    link.0.checked_sub(FIRST_IFINDEX).filter(|slot| *slot < ENDPOINTS_MAX)
}

fn endpoint(link: &PodLink) -> Endpoint {
    let mut endpoint = Endpoint { ifindex: link.host_ifindex.0, mac: link.pod_mac, ..Endpoint::default() };
    for address in &link.addresses {
        match address {
            IpAddr::V4(address) => endpoint.ipv4 = address.octets(),
            IpAddr::V6(address) => endpoint.ipv6 = address.octets(),
        }
    }
    endpoint
}
