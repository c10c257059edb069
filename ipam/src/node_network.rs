//! Keeps the node's networks as configuration, cloud and interfaces say: whatever of them changes, the description is made
//! anew, and where it differs from what was applied, applied.

use std::net::IpAddr;
use std::sync::Arc;

use datapath::netlink::Socket;
use datapath::{ApplyError, NodeNetwork, PodRange, Uplink, UplinkChoice, UplinkError, find_uplinks, set_up_uplink};
use ipnetwork::IpNetwork;

use crate::attachments::Attachments;
use crate::cloud_record::{CloudRecord, Known};
use crate::cloud_uplinks::{self, UplinkNumbers};
use crate::config::{Config, ConfigFile};
use crate::driver::Driver;
use crate::kernel::Linux;
use crate::store::Change;

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
    }
}

/// The keeper.
pub(crate) struct Keeper {
    file: ConfigFile,
    config: Config,
    attachments: Arc<Attachments<Linux>>,
    /// Where a cloud tells uplinks and addresses.
    cloud: Option<CloudNetwork>,
    applied: Option<NodeNetwork>,
    /// What the last look failed with; said once.
    complaint: Option<String>,
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
            Err(error) => tracing::error!(%error, "what the cloud has told is not on record; trying again"),
        }
    }
}

impl Keeper {
    /// A keeper that has applied nothing yet; of a cloud it has the driver and what the store remembers.
    pub(crate) fn new(
        file: ConfigFile,
        config: Config,
        attachments: Arc<Attachments<Linux>>,
        cloud: Option<(Arc<Driver<Linux>>, CloudRecord)>,
    ) -> Self {
        let cloud = cloud.map(|(driver, stored)| {
            let numbers = UplinkNumbers(stored.uplinks.clone());
            CloudNetwork { driver, numbers, stored, has_adopted: false, not_native: None }
        });
        Self { file, config, attachments, cloud, applied: None, complaint: None }
    }

    /// Looks at the interfaces, and applies what is news. What could not be applied is tried again at the next look.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(crate) fn look(&mut self) -> Result<(), ApplyError> {
        // Before a cloud has told anything, what an earlier daemon has set stays as it is.
        let Some(Wanted { choices, network, known }) = self.wanted() else { return Ok(()) };
        let (uplinks, node_addresses) = match self.find(&choices, known.as_ref()) {
            Ok(found) => found,
            // Not to be able to look is no news.
            Err(UplinkError::Netlink(error)) => {
                tracing::warn!(%error, "cannot look for the uplinks; keeping what is known");
                return Ok(());
            }
            Err(error @ (UplinkError::Unknown(..) | UplinkError::NoDefaultRoute)) => {
                tracing::warn!(%error, "an uplink is missing");
                self.attachments.set_uplinks(&[]);
                if self.applied.is_some() {
                    return Ok(());
                }
                (Vec::new(), Vec::new())
            }
        };
        self.attachments.set_uplinks(&usable(&uplinks, known.is_some()));
        let told = self.cloud.as_ref().zip(known.as_ref());
        let told = told.map(|(cloud, known)| (cloud.numbers.present(&uplinks), cloud.numbers.carried(known)));
        let network = NodeNetwork { uplinks: lasting(uplinks), node_addresses, ..network };
        // On record before a pod can have an address of it.
        if let Some((cloud, known)) = self.cloud.as_mut().zip(known) {
            cloud.remember(known, &self.attachments);
        }
        let moved = self.applied.as_ref().map_or_else(Vec::new, |applied| cloud_uplinks::moved(&applied.pods, &network.pods));
        let mut outcome = Ok(());
        if self.applied.as_ref() != Some(&network) {
            outcome = self.attachments.kernel().apply(&network);
            // Where the programs alone were refused, the stack carries all that was described.
            match &outcome {
                Ok(()) => self.applied = Some(network),
                Err(ApplyError::FastPath(_)) => {}
                Err(_) => return outcome,
            }
        }
        if let Some((cloud, (present, carried))) = self.cloud.as_mut().zip(told) {
            if !cloud.has_adopted {
                self.attachments.adopt()?;
                cloud.has_adopted = true;
            }
            if !moved.is_empty() {
                self.attachments.follow(&moved);
            }
            cloud.driver.set_network(present, carried);
        }
        outcome
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
        let not_native = cloud_uplinks::not_native(&known, &native).filter(|_| network.masquerade);
        if let Some(block) = not_native.filter(|_| not_native != cloud.not_native) {
            tracing::error!(%block, "network.native_cidrs do not cover it: its pods are masqueraded on their way to others; add its network");
        }
        cloud.not_native = not_native;
        let network = NodeNetwork { pods: cloud.numbers.pods(&known), native, ..network };
        Some(Wanted { choices: cloud.numbers.choices(&known.interfaces), network, known: Some(known) })
    }

    /// Finds the uplinks. Those of a cloud are made ready first, as nobody else may do it: up, and with their own address.
    fn find(&self, choices: &[UplinkChoice], known: Option<&Known>) -> Result<(Vec<Uplink>, Vec<IpAddr>), UplinkError> {
        let mut socket = Socket::open()?;
        let found = find_uplinks(&mut socket, choices)?;
        let Some((cloud, known)) = self.cloud.as_ref().zip(known) else { return Ok(found) };
        let mut is_changed = false;
        for uplink in &found.0 {
            let address = cloud.numbers.interface(&known.interfaces, uplink).and_then(|interface| interface.address);
            if uplink.running && address.is_none_or(|address| !uplink.lacks(address)) {
                continue;
            }
            match set_up_uplink(&mut socket, uplink, address) {
                Ok(()) => {
                    tracing::info!(uplink = uplink.ifname, ?address, "made ready");
                    is_changed = true;
                }
                Err(error) => tracing::error!(uplink = uplink.ifname, %error, "cannot be made ready; trying again"),
            }
        }
        if is_changed { find_uplinks(&mut socket, choices) } else { Ok(found) }
    }

    /// Looks, and says what is wrong: the same once, however often it is tried.
    pub(crate) fn look_again(&mut self) {
        let complaint = self.look().err().map(|error| error.to_string());
        if let Some(error) = complaint.as_ref().filter(|_| complaint != self.complaint) {
            tracing::error!(error, "trying again every ten seconds");
        }
        self.complaint = complaint;
    }

    /// Reads the configuration again. What all pods share takes effect now; for the rest the log says that it has to wait.
    pub(crate) fn reload(&mut self) {
        let new = match self.file.read() {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(%error, "the configuration was not reloaded; the old one stays");
                return;
            }
        };
        let now = Config {
            native_cidrs: new.native_cidrs.clone(),
            service_cidrs: new.service_cidrs.clone(),
            internal_cidrs: new.internal_cidrs.clone(),
            masquerade: new.masquerade,
            ..self.config.clone()
        };
        if now != new {
            tracing::warn!(
                "reloaded; network.native_cidrs, service_cidrs, internal_cidrs and masquerade take effect, the rest when barewired restarts"
            );
        }
        self.config = now;
        self.look_again();
        tracing::info!("the configuration was reloaded");
    }
}

/// The uplinks that new pods need: all that were configured, or, of a cloud's, the node's own and those that run. Without the node's
/// own there are none.
fn usable(uplinks: &[Uplink], are_a_clouds: bool) -> Vec<Uplink> {
    if are_a_clouds && uplinks.first().is_none_or(|uplink| uplink.index != 0) {
        return Vec::new();
    }
    uplinks.iter().filter(|uplink| !are_a_clouds || uplink.index == 0 || uplink.running).cloned().collect()
}

/// Whether an interface runs is for STATUS; nothing that is applied depends on it.
fn lasting(uplinks: Vec<Uplink>) -> Vec<Uplink> {
    uplinks.into_iter().map(|uplink| Uplink { running: true, ..uplink }).collect()
}
