//! Pods that run already: after a restart, or when they have moved to another uplink.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use datapath::netlink::NetlinkError;
use datapath::{FoundLink, PodRange};
use ipam_state::record::Record;

use super::link::pod_link;
use super::lock::AttachmentLock;
use super::{Attachments, owns};
use crate::kernel::Kernel;

impl<K: Kernel> Attachments<K> {
    /// Has the kernel take up the pods that run already. Once, and when the kernel knows the node's network: that tells which uplink is a
    /// pod's.
    ///
    /// # Errors
    /// Where the kernel's tables cannot be read.
    pub fn adopt(&self) -> Result<(), NetlinkError> {
        self.look_after_all();
        let records = self.records();
        let links = self.links_by_number()?;
        let has_link = |record: &Record| links.get(&record.host_ifindex).is_some_and(|link| owns(record, link));
        let dead: HashSet<_> = records.iter().filter(|record| !has_link(record)).map(|record| (record.host_ifindex, &record.key)).collect();
        // Whatever else has a number is an attachment or becomes one: an ADD may be at work, and a pod whose link cannot be described
        // stays as it was, in both directions.
        self.numbers.with_owned(|owned| {
            let kept: Vec<_> =
                owned.iter().filter(|(number, owner)| !dead.contains(&(number.0, owner))).map(|(number, _)| *number).collect();
            self.kernel.forget_all_but(&kept);
        });
        let (_locks, living) = self.locked(&records);
        let living: Vec<_> = living.iter().filter(|record| has_link(record)).filter_map(pod_link).collect();
        self.kernel.adopt(&living);
        for link in &living {
            if let Err(error) = self.kernel.repair(link) {
                tracing::error!(link = link.host_ifname, %error, "host-side veth not repaired");
            }
        }
        Ok(())
    }

    /// The locks of attachments, and their records as they are now: a pod that is detached meanwhile is stopped after this, and not before.
    /// Those that somebody else is at work on for long are left out. Nobody else has more than one, so nobody waits for anybody in a circle; and it is not the lock of all, for the
    /// kernel may take its time.
    fn locked(&self, records: &[Record]) -> (Vec<AttachmentLock<'_, K>>, Vec<Record>) {
        let mut locks = Vec::new();
        let mut current = Vec::new();
        for record in records {
            match self.lock(&record.key) {
                Ok(lock) => locks.push(lock),
                Err(error) => {
                    tracing::warn!(attachment = %record.key, %error, "is not taken up now");
                    continue;
                }
            }
            current.extend(self.state().records.get(&record.key).filter(|record| self.has_number(record)).cloned());
        }
        (locks, current)
    }

    pub(super) fn links_by_number(&self) -> Result<HashMap<u32, FoundLink>, NetlinkError> {
        Ok(self.kernel.links()?.into_iter().map(|link| (link.ifindex.0, link)).collect())
    }

    /// Has the kernel follow pods whose addresses have moved to another uplink.
    pub fn follow(&self, moved: &[PodRange]) {
        let has_moved = |address: &IpAddr| moved.iter().any(|range| (range.first..=range.last).contains(address));
        let concerned: Vec<_> = self.records().into_iter().filter(|record| record.addresses.iter().any(has_moved)).collect();
        let (_locks, concerned) = self.locked(&concerned);
        let links: Vec<_> = concerned.iter().filter_map(pod_link).collect();
        if !links.is_empty() {
            tracing::warn!(pods = links.len(), "pod addresses moved to another interface, pods follow on the slow path");
            self.kernel.adopt(&links);
        }
    }
}
