//! An operator's release of a quarantined address.

use std::net::IpAddr;

use cni_spec::{Code, Error};
use node_api::BootMillis;

use super::Attachments;
use crate::cni_errors;
use crate::kernel::Kernel;

impl<K: Kernel> Attachments<K> {
    /// Lets a quarantined address be used again once it has cooled down. `who` is for the log.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] where it is not quarantined, or somebody has it: a link of a pod, or an attachment whose record is not
    /// understood.
    pub fn release_address(&self, address: IpAddr, who: &str, now: BootMillis) -> Result<(), Error> {
        let refused = |why: String| Err(Error::new(Code::InvalidConfig, format!("{address} is not released: {why}")));
        // No link gets a quarantined address meanwhile: nobody is given one.
        let links = self.kernel.links().map_err(|error| cni_errors::netlink(&error))?;
        if let Some(link) = links.iter().find(|link| link.addresses.contains(&address)) {
            return refused(format!("the pod behind {} has it; delete the pod, or that link", link.ifname));
        }
        let mut state = self.state();
        if let Some(owner) = state.pool.owner_of(address) {
            return refused(format!("{owner} has it; delete the pod"));
        }
        if let Some(later) = state.later.values().find(|later| later.addresses.contains(&address)) {
            return refused(format!(
                "the record {} names it and is not understood ({}); upgrade barewired, or delete the pod",
                later.row, later.why
            ));
        }
        let Some(why) = state.pool.release_quarantined(address, now) else {
            return refused("it is not quarantined; see `barewire addresses --state quarantined`".to_owned());
        };
        drop(state);
        self.pool_changed.notify_all();
        tracing::warn!(%address, quarantined_for = why, by = who, "quarantined address released by an operator");
        Ok(())
    }
}
