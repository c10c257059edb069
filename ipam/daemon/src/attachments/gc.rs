//! GC.

use std::collections::HashSet;

use cni_spec::Error;
use ipam_state::record::Record;
use node_api::{BootMillis, GcRequest};

use super::{Attachments, owns};
use crate::cni_errors;
use crate::kernel::Kernel;

impl<K: Kernel> Attachments<K> {
    /// Detaches every attachment of the network that is not in the list. An empty list is what a runtime sends that has
    /// lost its memory, too: then only attachments whose link is gone as well are detached (invariant I5).
    ///
    /// # Errors
    /// Those of the DELs, after all have been tried.
    pub fn gc(&self, request: &GcRequest, now: BootMillis) -> Result<(), Error> {
        let valid: HashSet<_> = request.valid.iter().map(|entry| (&entry.container_id, &entry.ifname)).collect();
        let mut stale: Vec<Record> = self.state().records.values().filter(|record| record.network == request.network).cloned().collect();
        stale.retain(|record| !valid.contains(&(&record.key.container_id, &record.key.ifname)));
        if valid.is_empty() && !stale.is_empty() {
            let links = self.links_by_number().map_err(|error| cni_errors::netlink(&error))?;
            let before = stale.len();
            stale.retain(|record| !links.get(&record.host_ifindex).is_some_and(|link| owns(record, link)));
            if stale.len() < before {
                tracing::warn!(kept = before - stale.len(), "GC with an empty list: attachments whose interface exists are kept");
            }
        }
        let mut failed = Vec::new();
        for record in stale {
            // The list is as old as the request: what was attached since is not in it, and must stay.
            tracing::info!(attachment = %record.key, "GC: detaching");
            failed.extend(self.del_same(&record, |_| true, now).err());
        }
        failed.into_iter().next().map_or(Ok(()), Err)
    }
}
