//! The kernel programs on this node: loaded, attached, and told what they need to know.
//!
//! Their maps are pinned, so that counters, endpoints and noted flows outlive the daemon: programs stay attached while it is
//! away and are replaced, one by one and without a gap, when it comes back. What they decide is in the crate `ebpf`.

mod batch;
mod clsact;
mod company;
mod drop_events;
mod import;
mod note_filter;
mod notes;
mod packet_summary;
mod pins;
mod services;
mod tables;
mod trace;
mod uplink_hooks;
mod view;
mod ways;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aya::programs::{ProgramError, ProgramFd, ProgramType, SchedClassifier};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use ebpf::layout::{Endpoint, LAYOUT_VERSION};
use ebpf::service::Jump;

pub use drop_events::DroppedPacket;
pub use ebpf::account::{Counter, Reason, Traffic};
pub use ebpf::drop_event::Hook as DropHook;
pub use ebpf::layout::{ENDPOINTS_MAX, FIRST_IFINDEX, Limit, Limits, Network, SLOTS_MAX};
pub use ebpf::scope::Scope;
pub use ebpf::service::apart;
pub use notes::{NotedFlows, Timeouts};
pub use packet_summary::PacketSummary;
pub use services::Fronts;
pub use tables::TrafficOf;
pub use trace::{Traced, TracedWay};
pub(crate) use view::Destination;
pub use view::{ViewError, view};
pub use ways::UplinkHooks;

use crate::netlink::{NetlinkError, Request, Socket};
use crate::{Ifindex, NodeNetwork, PodLink, inventory, queueing};
use drop_events::DropEvents;
use notes::Served;
use pins::MapPins;
use tables::{Tables, map};
use uplink_hooks::Hook;
use ways::Ways;

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
    #[error("the kernel refuses the program {name}: {}", in_short(source))]
    Program {
        /// Its name.
        name: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// A map was refused.
    #[error("the map {name}: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// Why.
        source: Box<aya::maps::MapError>,
    },
    /// Connection tracking cannot be read.
    #[error("connection tracking cannot be read: {0}; load the kernel module nf_conntrack_netlink")]
    Conntrack(std::io::Error),
    /// The network does not fit.
    #[error("{0}")]
    View(#[from] ViewError),
    /// A pod's interface refused a program.
    #[error("{0}")]
    Attach(#[from] NetlinkError),
    /// An uplink refused a program.
    #[error("the uplink {name} refuses a program: {source}")]
    Uplink {
        /// Its name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// An uplink lacks a program, or another's is ahead of it.
    #[error("nothing is carried by the uplink {name}: {why}")]
    Closed {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
}

/// The programs, loaded.
pub struct FastPath {
    from_pod: ProgramFd,
    to_pod: ProgramFd,
    to_backend: ProgramFd,
    /// Those of uplinks are used by it.
    programs: Mutex<Ebpf>,
    tables: Tables,
    drop_events: DropEvents,
    /// Where this daemon's pins are.
    pins: PathBuf,
    map_pins: MapPins,
    /// The uplinks as they were seen last.
    ways: Mutex<Ways>,
    /// Pods that are left to the stack for others' filters on their links, with the filters' names.
    in_company: Mutex<HashMap<Ifindex, String>>,
    /// Whether the maps were there before: endpoints and flows are then those of the daemon before this one.
    inherited: bool,
    /// Whether the kernel lets programs say when a packet departs.
    sets_departures: bool,
    /// Since when the maps count.
    counted_since: SystemTime,
}

const PROGRAMS: [&str; 7] = ["from_pod", "to_pod", "from_uplink", "to_uplink", "to_backend", "choose", "to_client"];

impl FastPath {
    /// Loads the programs of an object file. `state` names this daemon's pins: one directory for each run directory.
    ///
    /// # Errors
    /// See [`FastPathError`].
    pub fn load(object: &Path, state: &Path) -> Result<Self, FastPathError> {
        let bytes = std::fs::read(object).map_err(|source| FastPathError::Object { path: object.to_owned(), source })?;
        let pins = pins(state)?;
        let maps = pins.join(format!("v{LAYOUT_VERSION}"));
        let inherited = maps.exists();
        std::fs::create_dir_all(&maps).map_err(|source| FastPathError::Pins { path: maps.clone(), source })?;
        // Where the kernel cannot be asked it is taken for one that has it not: limits are kept all the same.
        let sets_departures = is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_skb_set_tstamp).unwrap_or(false);
        let mut loader = EbpfLoader::new();
        let departure_times = u8::from(sets_departures);
        loader.default_map_pin_directory(&maps).override_global("DEPARTURE_TIMES", &departure_times, true);
        let mut programs = loader.load(&bytes).map_err(Box::new)?;
        let mut load = |name: &'static str| {
            let refused = |source| FastPathError::Program { name, source: Box::new(source) };
            let missing = || refused(ProgramError::NotLoaded);
            let program: &mut SchedClassifier = programs.program_mut(name).ok_or_else(missing)?.try_into().map_err(refused)?;
            program.load().map_err(refused)?;
            program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(refused)
        };
        let [from_pod, to_pod, _, _, to_backend, choose, to_client] = [
            load(PROGRAMS[0])?,
            load(PROGRAMS[1])?,
            load(PROGRAMS[2])?,
            load(PROGRAMS[3])?,
            load(PROGRAMS[4])?,
            load(PROGRAMS[5])?,
            load(PROGRAMS[6])?,
        ];
        let tables = Tables::take(&mut programs)?;
        // Before anything is attached that goes on with them. Whether services are served is said later; what was translated goes on.
        let behind = [
            (Jump::FromPod, &from_pod),
            (Jump::Choose, &choose),
            (Jump::ToClient, &to_client),
            (Jump::ToBackend, &to_backend),
            (Jump::Services, &to_backend),
        ];
        for (jump, program) in behind {
            tables.services.set(jump, program)?;
        }
        let drop_events = DropEvents::take(&mut programs)?;
        forget_other_layouts(&pins, &maps)?;
        let map_pins = MapPins::of(&maps)?;
        let counted_since = std::fs::metadata(&maps).and_then(|made| made.modified()).unwrap_or_else(|_| SystemTime::now());
        Ok(Self {
            from_pod,
            to_pod,
            to_backend,
            programs: Mutex::new(programs),
            tables,
            drop_events,
            pins,
            map_pins,
            ways: Mutex::default(),
            in_company: Mutex::default(),
            inherited,
            sets_departures,
            counted_since,
        })
    }

    /// Since when packets are counted: since the maps were made. A version with another layout makes them anew.
    #[must_use]
    pub const fn counted_since(&self) -> SystemTime {
        self.counted_since
    }

    /// Whether a daemon has left programs and their maps.
    ///
    /// # Errors
    /// Where there is no place for them.
    pub fn is_in_place(state: &Path) -> Result<bool, FastPathError> {
        Ok(pins(state)?.exists())
    }

    /// Takes the programs off every host end and every uplink, and removes the pins, and with them what the maps hold.
    ///
    /// # Errors
    /// Where file system or kernel refuse.
    pub fn remove(host: &mut Socket, state: &Path) -> Result<(), FastPathError> {
        let links: Vec<_> = inventory::pod_links(host)?.into_iter().map(|link| link.ifindex).collect();
        clsact::detach_pods(host, &links)?;
        let path = pins(state)?;
        uplink_hooks::retain(host, &uplink_hooks::folder(&path), &[])?;
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(FastPathError::Pins { path, source }),
            _ => Ok(()),
        }
    }

    /// Tells the programs of the network, where they know another. Where that cannot be done they carry nothing, of old pods and of new ones: what they were told
    /// before is not true any more.
    ///
    /// # Errors
    /// Where it is too large, or the kernel refuses the write.
    pub fn set_network(&self, network: &NodeNetwork) -> Result<(), FastPathError> {
        let told = view(network).map_err(FastPathError::from).and_then(|mut view| {
            view.departure_packets = self.departure_packets(network).unwrap_or(0);
            // The map is asked, which somebody may have written.
            if self.knows_a_network() && *self.tables.network()? == view { Ok(()) } else { self.tell(&view) }
        });
        if told.is_err() {
            self.tables.set_uplinks(&[])?;
            self.tables.set_network(&Network::default())?;
        }
        self.lock_ways().no_network = told.as_ref().err().map(ToString::to_string);
        told
    }

    /// How many packets of a flow the uplinks' queues hold until the times at which the programs have them depart: then limits of what pods send
    /// out of the node are kept by these, and all others by token buckets.
    ///
    /// # Errors
    /// Why all are kept by token buckets.
    pub fn departure_packets(&self, network: &NodeNetwork) -> Result<u32, String> {
        if !self.sets_departures {
            return Err("the kernel lets no program say when a packet departs (bpf_skb_set_tstamp, Linux 5.18)".to_owned());
        }
        queueing::departure_packets(&network.queueing)
    }

    /// Whether [`FastPath::set_network`] succeeded last.
    fn knows_a_network(&self) -> bool {
        self.lock_ways().no_network.is_none()
    }

    fn lock_programs(&self) -> MutexGuard<'_, Ebpf> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What makes a new host end carry the programs: part of the batch that sets it up.
    pub(crate) fn host_end_requests(&self, ifindex: Ifindex) -> Vec<Request> {
        clsact::pod_requests(ifindex, &self.from_pod, &self.to_pod)
    }

    /// Lets a pod's packets pass. Before its link is made: from the first packet on the programs know it.
    ///
    /// # Errors
    /// Where the kernel refuses the write.
    pub fn add_endpoint(&self, link: &PodLink, network: &NodeNetwork) -> Result<(), FastPathError> {
        match slot(link.host_ifindex) {
            Some(slot) => {
                self.tables.add(slot, &endpoint(link, network), &limits_of(link, network))?;
                self.tables.allow(slot, &link.allowed)
            }
            None => Ok(()),
        }
    }

    /// After a restart: forgets pods that are behind none of these links.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn retain_endpoints(&self, links: &[Ifindex]) -> Result<(), FastPathError> {
        self.tables.retain(&links.iter().filter_map(|link| slot(*link)).collect())
    }

    /// Takes a pod up that runs already, after a restart. What the maps know of it stays; a pod that they do not know may have
    /// flows that the stack translates, so all its packets keep to the stack until [`FastPath::heal`] has noted these.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn adopt_endpoint(&self, host: &mut Socket, link: &PodLink, network: &NodeNetwork) -> Result<(), FastPathError> {
        let Some(slot) = slot(link.host_ifindex) else { return Ok(()) };
        let wanted = endpoint(link, network);
        let known = self.tables.endpoint(slot)?;
        let limits = limits_of(link, network);
        let is_known = self.inherited && (known.ifindex, known.ipv4, known.ipv6) == (wanted.ifindex, wanted.ipv4, wanted.ipv6);
        if !is_known {
            self.tables.add(slot, &Endpoint { stack_only: 1, ..wanted }, &limits)?;
        } else if (Endpoint { stack_only: 0, ..known }) != wanted {
            // Its uplink has another index, say: its flows and its counters are what they were.
            self.tables.hold_to(slot, &limits)?;
            self.tables.set_endpoint(slot, &Endpoint { stack_only: known.stack_only, ..wanted })?;
        }
        self.tables.allow(slot, &link.allowed)?;
        Ok(clsact::attach_pod(host, link.host_ifindex, &self.from_pod, &self.to_pod)?)
    }

    /// What of the programs a pod's link lacks: the filters, or the knowledge of the pod; nothing where all is there.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub fn lacks(&self, host: &mut Socket, link: &PodLink, network: &NodeNetwork) -> Result<Vec<&'static str>, FastPathError> {
        if slot(link.host_ifindex).is_none() {
            return Ok(Vec::new());
        }
        let mut lacks = Vec::new();
        let (hooks, _) = clsact::look_at_pod(host, link.host_ifindex)?;
        if hooks.iter().any(|hook| matches!(hook, Hook::Gone(_))) {
            lacks.push("the host end lacks the kernel programs");
        }
        if self.knows_otherwise(link, network)? {
            lacks.push("the kernel programs do not know the pod");
        }
        Ok(lacks)
    }

    /// Whether the programs know a pod otherwise than it is: somebody has written the maps. Of what it is granted, ask
    /// [`FastPath::is_granted_otherwise`].
    ///
    /// # Errors
    /// Where the maps cannot be read.
    pub fn knows_otherwise(&self, link: &PodLink, network: &NodeNetwork) -> Result<bool, FastPathError> {
        let Some(slot) = slot(link.host_ifindex) else { return Ok(false) };
        let wanted = endpoint(link, network);
        let known = Endpoint { stack_only: 0, limits: wanted.limits, ..self.tables.endpoint(slot)? };
        Ok(known != wanted || !self.tables.leads_to(slot, &known)?)
    }

    /// Tells the programs of a pod again. What the stack has had of it meanwhile is not noted, so it keeps to the stack until
    /// [`FastPath::heal`] has noted it. What was counted stays.
    ///
    /// # Errors
    /// Where the kernel refuses the write.
    pub fn restore_endpoint(&self, link: &PodLink, network: &NodeNetwork) -> Result<(), FastPathError> {
        let Some(slot) = slot(link.host_ifindex) else { return Ok(()) };
        self.tables.hold_to(slot, &limits_of(link, network))?;
        self.tables.tell_of(slot, &Endpoint { stack_only: 1, ..endpoint(link, network) })?;
        self.tables.allow(slot, &link.allowed)
    }

    /// Whether a pod is held to other limits, or allowed other addresses, than it should be: the configuration has changed, or somebody has
    /// written the maps.
    ///
    /// # Errors
    /// Where the maps cannot be read.
    pub fn is_granted_otherwise(&self, link: &PodLink, network: &NodeNetwork) -> Result<bool, FastPathError> {
        let Some(slot) = slot(link.host_ifindex) else { return Ok(false) };
        let (known, limits) = (self.tables.endpoint(slot)?, limits_of(link, network));
        if known.ifindex != link.host_ifindex.0 {
            return Ok(false);
        }
        let limits_differ = known.limits != limits.flags() || (known.limits != 0 && self.tables.limits(slot)? != limits);
        Ok(limits_differ || self.tables.allowed(slot) != link.allowed)
    }

    /// What the pod behind a link is held to, as the maps have it: of its own, or of its namespace. Nothing where they do not know it.
    ///
    /// # Errors
    /// Where the maps cannot be read.
    pub fn limits_known(&self, link: Ifindex) -> Result<Limits, FastPathError> {
        let Some(slot) = slot(link) else { return Ok(Limits::default()) };
        let known = self.tables.endpoint(slot)?;
        if known.ifindex == link.0 && known.limits != 0 { self.tables.limits(slot) } else { Ok(Limits::default()) }
    }

    /// Holds a pod to its limits, and allows it addresses, as they are now. Its connections live on, those from an address that it may use
    /// no more excepted.
    ///
    /// # Errors
    /// Where the kernel refuses the write.
    pub fn grant(&self, link: &PodLink, network: &NodeNetwork) -> Result<(), FastPathError> {
        let Some(slot) = slot(link.host_ifindex) else { return Ok(()) };
        let (known, limits) = (self.tables.endpoint(slot)?, limits_of(link, network));
        if known.ifindex != link.host_ifindex.0 {
            return Ok(());
        }
        self.tables.hold_to(slot, &limits)?;
        self.tables.allow(slot, &link.allowed)?;
        self.tables.set_endpoint(slot, &Endpoint { limits: limits.flags(), ..known })
    }

    /// Has the programs take another MAC address for a pod's.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn set_mac(&self, link: &PodLink) -> Result<(), FastPathError> {
        let Some(slot) = slot(link.host_ifindex) else { return Ok(()) };
        let known = self.tables.endpoint(slot)?;
        if known.ifindex != link.host_ifindex.0 || known.mac == link.pod_mac {
            return Ok(());
        }
        self.tables.set_endpoint(slot, &Endpoint { mac: link.pod_mac, ..known })
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
    pub fn reasons(&self) -> Result<Vec<(Reason, u64)>, FastPathError> {
        self.tables.reasons()
    }

    /// Ends the notes of flows that the stack has not, any more, and of addresses whose pods are gone. Every ten seconds: an address
    /// rests for longer before it is given again.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn sweep_notes(&self, timeouts: &Timeouts) -> Result<NotedFlows, FastPathError> {
        let served = &mut Served::default();
        let found = self.tables.notes.sweep(timeouts, served)?;
        self.tables.services.sweep(&self.tables.notes, served)?;
        Ok(found)
    }

    /// What the last sweep found.
    #[must_use]
    pub fn noted_flows(&self) -> NotedFlows {
        tables::lock(&self.tables.notes.last).clone()
    }
}

fn in_short(refusal: &ProgramError) -> String {
    match refusal {
        ProgramError::LoadError { io_error, verifier_log } => format!("{io_error}; {}", last_words(&verifier_log.to_string())),
        other => other.to_string(),
    }
}

/// The verifier's log can be thousands of lines; the last say what it objects to.
fn last_words(log: &str) -> String {
    const LAST: usize = 3;
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("processed ")).collect();
    lines[lines.len().saturating_sub(LAST)..].join("; ")
}

fn pins(state: &Path) -> Result<PathBuf, FastPathError> {
    pins::is_bpf_fs()?;
    // The BPF file system takes no dot in a name.
    let name: String = state.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Ok(Path::new(BPF_FS).join("barewire").join(name.trim_matches('-')))
}

/// Maps of another layout cannot be read. Programs that use them keep them until they are replaced; nobody else may find them.
fn forget_other_layouts(pins: &Path, maps: &Path) -> Result<(), FastPathError> {
    let failed = |source| FastPathError::Pins { path: pins.to_owned(), source };
    for entry in std::fs::read_dir(pins).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path != maps && path != uplink_hooks::folder(pins) {
            tracing::warn!(
                maps = %path.display(),
                "the layout of the maps has changed: counters begin anew, and flows that the host's stack has are read from connection tracking"
            );
            std::fs::remove_dir_all(&path).map_err(failed)?;
        }
    }
    Ok(())
}

fn slot(link: Ifindex) -> Option<u32> {
    link.0.checked_sub(FIRST_IFINDEX).filter(|slot| *slot < ENDPOINTS_MAX)
}

/// What a pod is held to: of its own, or of its namespace. Where neither says anything of the internet, the node does.
fn limits_of(link: &PodLink, network: &NodeNetwork) -> Limits {
    let internet = match network.internet_egress_of.get(&link.namespace) {
        Some(rate) if link.limits.internet == Limit::NONE => Limit::of(*rate),
        _ => link.limits.internet,
    };
    Limits { internet, ..link.limits }
}

fn endpoint(link: &PodLink, network: &NodeNetwork) -> Endpoint {
    let limits = limits_of(link, network).flags();
    let mut endpoint = Endpoint { ifindex: link.host_ifindex.0, mac: link.pod_mac, mtu: link.mtu, limits, ..Endpoint::default() };
    for address in &link.addresses {
        match address {
            IpAddr::V4(ipv4) => (endpoint.ipv4, endpoint.uplink_v4) = (ipv4.octets(), network.uplink_of(*address)),
            IpAddr::V6(ipv6) => (endpoint.ipv6, endpoint.uplink_v6) = (ipv6.octets(), network.uplink_of(*address)),
        }
    }
    endpoint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_a_line() {
        let log =
            "func#0 @0\n".repeat(500) + "77: (85) call bpf_redirect_peer#155\nunknown func bpf_redirect_peer#155\nprocessed 77 insns\n\n";
        let told = last_words(&log);
        assert!(told.ends_with("unknown func bpf_redirect_peer#155") && told.len() < 300, "{told}");
    }
}
