//! Keeps the node's networks as the configuration and the interfaces say: whatever of the two changes, the description is made
//! anew, and where it differs from what was applied, applied.

use std::sync::Arc;

use datapath::netlink::Socket;
use datapath::{ApplyError, NodeNetwork, PodRange, Uplink, UplinkError, find_uplinks};

use crate::attachments::Attachments;
use crate::config::{Config, ConfigFile};
use crate::kernel::Linux;

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
    applied: Option<NodeNetwork>,
    /// What the last look failed with; said once.
    complaint: Option<String>,
}

impl Keeper {
    pub(crate) const fn new(file: ConfigFile, config: Config, attachments: Arc<Attachments<Linux>>) -> Self {
        Self { file, config, attachments, applied: None, complaint: None }
    }

    /// Looks at the interfaces, and applies what is news. What could not be applied is tried again at the next look.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(crate) fn look(&mut self) -> Result<(), ApplyError> {
        let found = Socket::open().map_err(Into::into).and_then(|mut socket| find_uplinks(&mut socket, &self.config.uplinks));
        let (uplinks, node_addresses) = match found {
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
        self.attachments.set_uplinks(&uplinks);
        let network = NodeNetwork { uplinks: lasting(uplinks), node_addresses, ..describe(&self.config) };
        if self.applied.as_ref() != Some(&network) {
            self.attachments.kernel().apply(&network)?;
            self.applied = Some(network);
        }
        Ok(())
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

/// Whether an interface runs is for STATUS; nothing that is applied depends on it.
fn lasting(uplinks: Vec<Uplink>) -> Vec<Uplink> {
    uplinks.into_iter().map(|uplink| Uplink { running: true, ..uplink }).collect()
}
