//! Keeps the node's networks as configuration, cloud and interfaces say: the description is made anew at each look, and the kernel is
//! compared with it, whoever has changed either.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use datapath::calls::{self, HeldUp};
use datapath::netlink::Socket;
use datapath::{
    ApplyError, Families, FoundUplinks, NodeNetwork, PodRange, Queueing, RulesError, Uplink, UplinkChoice, UplinkError, UplinkName,
    find_uplinks, set_up_uplink,
};
use ipam_pool::{Closed, RangeState};
use ipam_state::store::Change;
use ipam_supply::memory::{CloudRecord, Known};
use ipnetwork::IpNetwork;
use node_api::BootMillis;

use crate::attachments::Attachments;
use crate::cloud::Driver;
use crate::cloud::uplinks::{self, UplinkNumbers};
use crate::conditions::{Finding, Kind, NodeConditions};
use crate::config::{BitRate, Config, ConfigFile, Source};
use crate::kernel::Linux;
use crate::logs;
use crate::reconcile::pods;
use crate::reconcile::slow_path::{HostView, SlowPath};
use crate::reconcile::tried_again;
use crate::reconcile::{leftover, link_speed};

/// What the configuration says, before any interface was looked at.
pub(crate) fn describe(config: &Config) -> NodeNetwork {
    let pods = config.source.uplink_ranges().iter().map(|owned| {
        let (first, last) = owned.range.ends();
        PodRange { first, last, uplink: owned.uplink }
    });
    NodeNetwork {
        uplinks: Vec::new(),
        node_addresses: Vec::new(),
        pods: pods.collect(),
        native: config.native_cidrs.clone(),
        service: config.service_cidrs.clone(),
        internal: config.internal_cidrs.clone(),
        masquerade: config.masquerade,
        elsewhere: Vec::new(),
        carried: Families::default(),
        marks: config.marks,
        were_carried: !config.fast_path && leftover::may_live(&config.run_dir),
        internet_egress: config.pod_internet_egress.map_or(0, BitRate::bytes),
        internet_egress_of: config.namespaces.iter().map(|(name, rate)| (name.clone(), rate.bytes())).collect(),
        allowed_of: config.allowed_addresses.clone(),
        answers_neighbours: matches!(config.source, Source::Fixed(_)) && !config.on_link_by_gateway,
        node_internet_egress: config.node_internet_egress.map_or(0, BitRate::bytes),
        queueing: Vec::new(),
    }
}

/// The node's reconciler.
pub(crate) struct Reconciler {
    file: ConfigFile,
    config: Config,
    attachments: Arc<Attachments<Linux>>,
    /// Where a cloud tells uplinks and addresses.
    cloud: Option<CloudNetwork>,
    conditions: Arc<NodeConditions>,
    /// Where pods' addresses belonged at the last look; nothing before anything was applied.
    pods: Option<Vec<PodRange>>,
    /// What the host would treat otherwise than the programs.
    host: HostView,
    /// Further uplinks that are not there or down: their addresses are closed. Where a cloud tells uplinks, the driver does that.
    down: BTreeSet<u16>,
}

/// What the cloud tells, and what was made of it.
struct CloudNetwork {
    driver: Arc<Driver<Linux>>,
    numbers: UplinkNumbers,
    /// What the store has of it.
    stored: CloudRecord,
    /// Whether pods that ran already were taken up: not before it is known which uplink is theirs.
    has_adopted: bool,
    /// A block that is not native was complained of.
    not_native: Option<IpNetwork>,
}

/// What to look for, and what to make of it.
struct Wanted {
    choices: Vec<UplinkChoice>,
    network: NodeNetwork,
    known: Option<Known>,
}

impl CloudNetwork {
    fn remember(&mut self, known: Known, attachments: &Attachments<Linux>) {
        let record = CloudRecord { known, uplinks: self.numbers.0.clone() };
        if record == self.stored {
            return;
        }
        match attachments.commit(&Change::Cloud(&record)) {
            Ok(()) => self.stored = record,
            Err(error) => tracing::error!(%error, "cloud topology not on record; trying again"),
        }
    }
}

impl Reconciler {
    /// A reconciler that has applied nothing yet; of a cloud it has the driver and what the store remembers.
    pub(crate) fn new(
        file: ConfigFile,
        config: Config,
        attachments: Arc<Attachments<Linux>>,
        conditions: Arc<NodeConditions>,
        cloud: Option<(Arc<Driver<Linux>>, CloudRecord)>,
        slow_path: Arc<SlowPath>,
    ) -> Self {
        let cloud = cloud.map(|(driver, stored)| {
            let numbers = UplinkNumbers(stored.uplinks.clone());
            CloudNetwork { driver, numbers, stored, has_adopted: false, not_native: None }
        });
        attachments.set_allowed(config.allowed_addresses.clone());
        let host = HostView::new(Arc::clone(&conditions), slow_path);
        Self { file, config, attachments, cloud, conditions, pods: None, host, down: BTreeSet::new() }
    }

    /// Looks at the interfaces and at what the kernel has, and sets what differs. What the kernel refuses is a condition, and tried again at the next look: it
    /// keeps neither the rest from being set nor pods from being served.
    pub(crate) fn look(&mut self) {
        // What is not there cannot be seen either.
        if let Err(HeldUp(lasts)) = calls::wait_for_others() {
            tracing::warn!(seconds = lasts.as_secs(), "somebody holds the kernel's lock of network configuration; looking again later");
            return;
        }
        // Before a cloud has told anything, what an earlier daemon has set stays as it is.
        let Some(Wanted { choices, network, known }) = self.wanted() else { return };
        let FoundUplinks { uplinks, node_addresses, service_addresses, not_ethernet } = match self.find(&choices, known.as_ref()) {
            Ok(found) => found,
            // Not to be able to look is no news.
            Err(UplinkError::Netlink(error)) => {
                tracing::warn!(%error, "uplinks not read; keeping the known ones");
                return;
            }
            Err(error @ (UplinkError::Unknown(..) | UplinkError::NoDefaultRoute | UplinkError::NotEthernet(_))) => {
                self.attachments.set_no_uplink(error.to_string());
                if self.pods.is_some() {
                    self.keep_the_rest();
                    return;
                }
                FoundUplinks::default()
            }
        };
        let refused = (!not_ethernet.is_empty()).then(|| {
            let remedy = "take it out of uplink.secondary; the fast path and pods' addresses need Ethernet frames";
            Finding::new("NotEthernet", not_ethernet.join("; "), remedy)
        });
        self.conditions.report(Kind::UplinkNotEthernet, refused);
        self.withhold(&node_addresses);
        if uplinks.iter().any(|uplink| uplink.index == 0) {
            self.attachments.set_uplinks(&usable(&uplinks, known.is_some()));
        } else if known.is_some() {
            self.attachments.set_no_uplink("the interface that the cloud names first is not there".to_owned());
        }
        if known.is_none() {
            self.close_what_is_down(&choices, &uplinks);
        }
        let told = self.cloud.as_ref().zip(known.as_ref());
        let told = told.map(|(cloud, known)| (cloud.numbers.present(&uplinks), cloud.numbers.carried(known)));
        let node_addresses = own_addresses(node_addresses, &uplinks, &network.service);
        let has_programs = self.attachments.kernel().fast_path().is_some();
        let queueing = if has_programs { queues(&uplinks) } else { Vec::new() };
        let mut network = NodeNetwork { uplinks: lasting(uplinks), node_addresses, queueing, ..network };
        self.host.look(&mut network, &service_addresses, &self.config, has_programs);
        // On record before a pod can have an address of it.
        if let Some((cloud, known)) = self.cloud.as_mut().zip(known) {
            cloud.remember(known, &self.attachments);
        }
        let moved = self.pods.as_ref().map_or_else(Vec::new, |before| uplinks::moved(before, &network.pods));
        self.apply(&network);
        self.conditions.report(Kind::LimitAboveLink, link_speed::judge(&network, &self.attachments.records()));
        self.pods = Some(network.pods);
        if let Some((cloud, (present, carried))) = self.cloud.as_mut().zip(told) {
            if !cloud.has_adopted {
                if let Err(error) = self.attachments.adopt() {
                    tracing::error!(%error, "running pods not adopted; trying again");
                    return;
                }
                cloud.has_adopted = true;
            }
            if !moved.is_empty() {
                self.attachments.follow(&moved);
            }
            cloud.driver.set_network(present, carried);
        }
    }

    /// No pod gets an address that the host has.
    fn withhold(&self, node_addresses: &[IpAddr]) {
        let found = self.attachments.with_pool(|pool, _| pool.set_host_addresses(node_addresses, BootMillis::now()));
        let told = found.iter().map(|(address, is_held)| format!("{address}{}", if *is_held { ", which a pod has as well" } else { "" }));
        let told: Vec<_> = told.collect();
        let remedy = "remove them from the node's interfaces (cloud-init, netplan), or exclude them from the pods' ranges";
        let message = format!("the node itself has addresses of the pods' ranges, and no pod gets them: {}", told.join("; "));
        self.conditions.report(Kind::AddressesOfHost, (!told.is_empty()).then(|| Finding::new("OnAnInterfaceOfTheNode", message, remedy)));
    }

    /// Without the node's own uplink there is no new description. What all else hangs on is kept as it was described last; what concerns
    /// the uplink itself is no fault of its own.
    fn keep_the_rest(&self) {
        let refused = self.attachments.kernel().apply_again();
        self.conditions.report(Kind::RulesRefused, refused_of(Kind::RulesRefused, &refused));
        self.conditions.report(Kind::RoutesRefused, refused_of(Kind::RoutesRefused, &refused));
    }

    /// Has the kernel be as described, and tells what of it was refused.
    fn apply(&self, network: &NodeNetwork) {
        let refused = self.attachments.kernel().apply(network);
        for kind in [Kind::ForwardingRefused, Kind::SysctlRefused, Kind::RulesRefused, Kind::RoutesRefused] {
            self.conditions.report(kind, refused_of(kind, &refused));
        }
        // Where there are no programs, somebody else has said why.
        if self.attachments.kernel().fast_path().is_some() {
            for kind in [Kind::FastPathUnavailable, Kind::UplinkHookLost] {
                self.conditions.report(kind, refused_of(kind, &refused));
            }
        }
        let forwarding = refused_of(Kind::ForwardingRefused, &refused).map(|finding| finding.message);
        self.attachments.set_not_forwarding(forwarding);
    }

    /// Closes the addresses of further uplinks that are not there or down to new pods, and opens them when they are back.
    fn close_what_is_down(&mut self, choices: &[UplinkChoice], found: &[Uplink]) {
        let runs = |index: u16| found.iter().any(|uplink| uplink.index == index && uplink.running);
        let down: Vec<_> = choices.iter().filter(|choice| choice.index != 0 && !runs(choice.index)).collect();
        let names = down.iter().map(|choice| name_of(choice)).collect::<Vec<_>>().join(", ");
        let message = format!("{names}: not there or down; no new pod gets an address of it, and those that have one are cut off");
        let finding = (!down.is_empty()).then(|| Finding::new("NoCarrier", message, "bring it up, or take it out of uplink.secondary"));
        self.conditions.report(Kind::SecondaryUplinkDown, finding);
        let down: BTreeSet<u16> = down.iter().map(|choice| choice.index).collect();
        if down == self.down {
            return;
        }
        self.attachments.with_pool(|pool, _| {
            for owned in self.config.source.uplink_ranges().iter().filter(|owned| owned.uplink != 0) {
                let why = || Closed::UplinkDown(names.clone());
                let state = if down.contains(&owned.uplink) { RangeState::Closed(why()) } else { RangeState::Open };
                if let Err(error) = pool.set_state(&owned.range, state) {
                    tracing::error!(%error, "state of an uplink's addresses not changed");
                }
            }
        });
        self.down = down;
    }

    /// What configuration and cloud tell; nothing where the cloud has not told anything yet.
    fn wanted(&mut self) -> Option<Wanted> {
        let network = describe(&self.config);
        let Some(cloud) = &mut self.cloud else {
            return Some(Wanted { choices: self.config.uplinks.clone(), network, known: None });
        };
        let known = cloud.driver.known()?;
        cloud.numbers.assign(&known.interfaces);
        let mut native = network.native.clone();
        native.extend(known.native.iter().filter(|cidr| !network.native.contains(cidr)));
        let not_native = uplinks::not_native(&known, &native).filter(|_| network.masquerade);
        if let Some(block) = not_native.filter(|_| not_native != cloud.not_native) {
            tracing::error!(%block, "block outside of network.native_cidrs: its pods are masqueraded on their way to others; add its network");
        }
        cloud.not_native = not_native;
        let network = NodeNetwork { pods: cloud.numbers.pods(&known), native, ..network };
        Some(Wanted { choices: cloud.numbers.choices(&known.interfaces), network, known: Some(known) })
    }

    /// Finds the uplinks. Those of a cloud are made ready first, as nobody else may do it: up, and with their own address.
    fn find(&self, choices: &[UplinkChoice], known: Option<&Known>) -> Result<FoundUplinks, UplinkError> {
        let mut socket = Socket::open()?;
        let mut found = find_uplinks(&mut socket, choices)?;
        let Some((cloud, known)) = self.cloud.as_ref().zip(known) else { return Ok(found) };
        let mut is_changed = false;
        for uplink in &found.uplinks {
            let address = cloud.numbers.interface(&known.interfaces, uplink).and_then(|interface| interface.address);
            if uplink.running && address.is_none_or(|address| !uplink.lacks(address)) {
                continue;
            }
            match set_up_uplink(&mut socket, uplink, address) {
                Ok(()) => {
                    tracing::info!(uplink = uplink.ifname, ?address, "uplink configured");
                    is_changed = true;
                }
                Err(error) => tracing::error!(uplink = uplink.ifname, %error, "uplink not configured; trying again"),
            }
        }
        if is_changed {
            found = find_uplinks(&mut socket, choices)?;
        }
        // The cloud knows which address is the interface's own.
        for uplink in &mut found.uplinks {
            let own = cloud.numbers.interface(&known.interfaces, uplink).and_then(|interface| interface.address);
            uplink.addresses.sort_by_key(|address| Some(*address) != own);
        }
        Ok(found)
    }

    /// Reads the configuration again. What all pods share takes effect now; for the rest the log says that it has to wait.
    pub(crate) fn reload(&mut self) {
        let new = match self.file.read() {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(%error, "configuration not reloaded; the old one stays");
                return;
            }
        };
        logs::set_levels(&new.log_levels);
        self.file.warn(&new);
        let now = Config {
            log_levels: new.log_levels.clone(),
            native_cidrs: new.native_cidrs.clone(),
            service_cidrs: new.service_cidrs.clone(),
            internal_cidrs: new.internal_cidrs.clone(),
            masquerade: new.masquerade,
            forward_accept: new.forward_accept,
            pod_internet_egress: new.pod_internet_egress,
            node_internet_egress: new.node_internet_egress,
            namespaces: new.namespaces.clone(),
            allowed_addresses: new.allowed_addresses.clone(),
            // Not the reconciler's; it is taken all the same.
            health: new.health.clone(),
            warnings: new.warnings.clone(),
            ..self.config.clone()
        };
        if now != new {
            tracing::warn!(
                "reloaded; network.native_cidrs, service_cidrs, internal_cidrs, masquerade, forward_accept, pod_internet_egress, node_internet_egress, namespaces, log.level and health take effect, the rest when barewired restarts"
            );
        }
        self.config = now;
        self.attachments.set_allowed(self.config.allowed_addresses.clone());
        self.look();
        for record in self.attachments.records() {
            if let Err(error) = pods::grant(&self.attachments, &record) {
                tracing::warn!(attachment = %record.key, %error, "limits and further addresses of a pod not set; tried again in a few seconds");
            }
        }
        tracing::info!("configuration reloaded");
    }
}

/// The uplinks that new pods need: all that were configured, or, of a cloud's, the node's own and those that run.
fn usable(uplinks: &[Uplink], are_a_clouds: bool) -> Vec<Uplink> {
    uplinks.iter().filter(|uplink| !are_a_clouds || uplink.index == 0 || uplink.running).cloned().collect()
}

/// What was refused of a kind, in the words of a condition.
fn refused_of(kind: Kind, refused: &[ApplyError]) -> Option<Finding> {
    let of_kind = refused.iter().filter(|error| kind_of(error) == kind);
    let (reason, remedy) = match kind {
        Kind::RulesRefused if !of_kind.clone().any(|error| matches!(error, ApplyError::Rules(RulesError::Missing))) => {
            ("NftFailed", format!("until nft succeeds pods may reach native networks alone; {}", tried_again()))
        }
        Kind::RulesRefused => (
            "NftMissing",
            "install the package nftables; until then pods reach native networks alone, and traffic may not be counted".to_owned(),
        ),
        Kind::UplinkHookLost => (
            "HookLost",
            format!(
                "packets of pods take the slow path, both ways; {}: see /debug/fast_path, and what else attaches programs to the uplink",
                tried_again()
            ),
        ),
        Kind::ForwardingRefused => ("SysctlRefused", "pods reach nobody beyond this node: set it at boot (sysctl.d)".to_owned()),
        Kind::SysctlRefused => ("SysctlRefused", "set it at boot (sysctl.d)".to_owned()),
        Kind::RoutesRefused => {
            ("RouteRefused", "pods with addresses of secondary uplinks may be cut off; see what else sets routes and rules".to_owned())
        }
        _ => ("ProgramsRefused", "pods are served all the same; network.fast_path = \"off\" asks for no programs".to_owned()),
    };
    let messages: Vec<_> = of_kind.map(ToString::to_string).collect();
    (!messages.is_empty()).then(|| Finding::new(reason, messages.join("; "), remedy))
}

const fn kind_of(error: &ApplyError) -> Kind {
    match error {
        ApplyError::Forwarding(_) => Kind::ForwardingRefused,
        ApplyError::Sysctl(_) => Kind::SysctlRefused,
        ApplyError::Rules(_) => Kind::RulesRefused,
        ApplyError::Netlink(_) => Kind::RoutesRefused,
        ApplyError::FastPath(_) => Kind::FastPathUnavailable,
        ApplyError::Hooks(_) => Kind::UplinkHookLost,
        ApplyError::Accepts(_) => Kind::ForwardAcceptRefused,
    }
}

fn name_of(choice: &UplinkChoice) -> String {
    match &choice.interface {
        UplinkName::Interface(name) => name.clone(),
        UplinkName::DefaultRoute => "the interface of the default route".to_owned(),
        UplinkName::Mac(mac) => mac.map(|byte| format!("{byte:02x}")).join(":"),
    }
}

/// How uplinks queue what leaves; nothing where no socket is to be had.
fn queues(uplinks: &[Uplink]) -> Vec<Queueing> {
    let named = uplinks.iter().map(|uplink| (uplink.ifindex, uplink.ifname.as_str()));
    Socket::open().map_or_else(|_| Vec::new(), |mut socket| datapath::queueing(&mut socket, named))
}

/// Whether an interface runs is for STATUS; nothing that is applied depends on it.
fn lasting(uplinks: Vec<Uplink>) -> Vec<Uplink> {
    uplinks.into_iter().map(|uplink| Uplink { running: true, ..uplink }).collect()
}

/// The node's own addresses without those of services. The uplinks' are the node's whatever somebody has listed.
fn own_addresses(addresses: Vec<IpAddr>, uplinks: &[Uplink], services: &[IpNetwork]) -> Vec<IpAddr> {
    let is_service = |address: &IpAddr| services.iter().any(|cidr| cidr.contains(*address));
    let is_uplinks = |address: &IpAddr| uplinks.iter().any(|uplink| uplink.addresses.contains(address));
    addresses.into_iter().filter(|address| is_uplinks(address) || !is_service(address)).collect()
}
