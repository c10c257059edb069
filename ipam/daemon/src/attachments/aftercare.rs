//! What an ADD leaves for later, and what becomes of a pod when the ADD is long answered.
//!
//! * A pod's MAC address is the one that its interface has. A plugin behind ours may change it (`tuning`), and nobody tells: so the kernel
//!   is asked.
//! * Who asks for the IPv6 gateway is answered. An ordinary pod does not ask, and what it takes costs an ADD too much.
//!
//! Soon after an ADD this is looked at every second, and later now and then.

use std::net::IpAddr;

use datapath::Ifindex;
use ipam_state::record::{AttachmentKey, Record};
use ipam_state::store::Change;
use node_api::BootMillis;

use super::Attachments;
use super::link::pod_link;
use crate::kernel::Kernel;

/// How long after an ADD plugins behind ours may still be at work.
const FRESH_MILLIS: u64 = 15_000;

/// When a changed MAC address is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    AtOnce,
    /// One that is there at two looks in a row: whoever puts a pod's interface behind a bridge (KubeVirt) changes it too, a moment before.
    SeenTwice,
}

/// Whether a pod was attached a moment ago, so that what is left for later may not be done yet.
pub(crate) fn is_fresh(record: &Record, now: BootMillis) -> bool {
    now.since(record.attached_at) < FRESH_MILLIS
}

impl<K: Kernel> Attachments<K> {
    /// Looks after pods that were attached a moment ago.
    pub fn look_after_fresh(&self, now: BootMillis) {
        self.look_after_those(|record| is_fresh(record, now));
    }

    pub(super) fn look_after_all(&self) {
        self.look_after_those(|_| true);
    }

    fn look_after_those(&self, wanted: impl Fn(&Record) -> bool) {
        let keys: Vec<AttachmentKey> = self
            .state()
            .records
            .values()
            .filter(|record| wanted(record) && self.has_number(record))
            .map(|record| record.key.clone())
            .collect();
        for key in keys {
            // Whoever is at work on it now leaves it as it should be, or gone.
            let Some(_lock) = self.try_lock(&key) else { continue };
            let record = self.state().records.get(&key).cloned();
            record.map(|record| self.look_after(record, When::SeenTwice));
        }
    }

    /// The record with the MAC address that the pod has, which the host goes by from now on. Under the attachment's lock, for a runtime that
    /// asks: its plugins are not at work on the pod now.
    pub(super) fn looked_after(&self, record: Record) -> Record {
        self.look_after(record, When::AtOnce)
    }

    fn look_after(&self, record: Record, when: When) -> Record {
        let link = Ifindex(record.host_ifindex);
        if record.addresses.iter().any(IpAddr::is_ipv6)
            && let Err(error) = self.kernel.answer_solicitations(link)
        {
            tracing::warn!(attachment = %record.key, %error, "neighbour solicitations of the pod not answered");
        }
        match self.kernel.pod_mac(link, record.key.ifname.as_str()) {
            Ok(Some(mac)) if record.mac != Some(mac) => {
                let before = self.state().changed_macs.insert(record.key.clone(), mac);
                // One that was rebuilt from its link has none on record.
                let is_due = when == When::AtOnce || before == Some(mac) || record.mac.is_none();
                if is_due { self.follow_mac(record, mac) } else { record }
            }
            // Its interface is down, or behind a bridge; then the host's neighbour entry tells what the host goes by.
            Ok(None) if record.mac.is_none() => match self.mac_on_host(&record) {
                Some(mac) => self.follow_mac(record, mac),
                None => record,
            },
            Ok(_) => {
                self.state().changed_macs.remove(&record.key);
                record
            }
            Err(error) => {
                tracing::warn!(attachment = %record.key, %error, "pod MAC address not read");
                record
            }
        }
    }

    fn mac_on_host(&self, record: &Record) -> Option<[u8; 6]> {
        let host = self.kernel.inspect_host_end(Ifindex(record.host_ifindex), &record.addresses).ok()??;
        host.neighbours.iter().find_map(|(_, mac)| mac.as_slice().try_into().ok())
    }

    fn follow_mac(&self, record: Record, mac: [u8; 6]) -> Record {
        let followed = Record { mac: Some(mac), ..record.clone() };
        if let Some(link) = pod_link(&followed)
            && let Err(error) = self.kernel.follow_mac(&link)
        {
            tracing::warn!(attachment = %record.key, %error, "pod MAC address changed, not followed; trying again");
            return record;
        }
        tracing::info!(attachment = %record.key, mac = ?mac, was = ?record.mac, "pod MAC address changed, followed");
        if let Err(error) = self.commit(&Change::Attach(&followed)) {
            // The kernel has it, and a daemon that starts asks again.
            tracing::warn!(attachment = %record.key, %error, "new MAC address of the pod not on record");
        }
        self.state().records.insert(followed.key.clone(), followed.clone());
        followed
    }
}
