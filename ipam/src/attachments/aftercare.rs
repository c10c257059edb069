//! What an ADD leaves for later, and what becomes of a pod when the ADD is long answered.
//!
//! * A pod's MAC address is the one that its interface has. A plugin behind ours may change it (`tuning`), and nobody tells: so the kernel
//!   is asked.
//! * Who asks for the IPv6 gateway is answered. An ordinary pod does not ask, and what it takes costs an ADD too much.
//!
//! Soon after an ADD this is looked at every second, and later now and then.

use std::net::IpAddr;

use datapath::Ifindex;
use node_api::BootMillis;

use super::Attachments;
use crate::kernel::Kernel;
use crate::record::{AttachmentKey, Record};
use crate::store::Change;

/// How long after an ADD plugins behind ours may still be at work.
const FRESH_MILLIS: u64 = 15_000;

/// When a changed MAC address is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    AtOnce,
    /// One that is there at two looks in a row: whoever puts a pod's interface behind a bridge (KubeVirt) changes it too, a moment before.
    SeenTwice,
}

impl<K: Kernel> Attachments<K> {
    /// Looks after pods that were attached a moment ago.
    pub fn look_after_fresh(&self, now: BootMillis) {
        self.look_after_those(|record| now.since(record.attached_at) < FRESH_MILLIS);
    }

    pub(super) fn look_after_all(&self) {
        self.look_after_those(|_| true);
    }

    fn look_after_those(&self, wanted: impl Fn(&Record) -> bool) {
        let keys: Vec<AttachmentKey> =
            self.lock().records.values().filter(|record| wanted(record)).map(|record| record.key.clone()).collect();
        for key in keys {
            // Whoever is at work on it now leaves it as it should be, or gone.
            let Some(_turn) = self.turn_if_free(&key) else { continue };
            let record = self.lock().records.get(&key).cloned();
            record.map(|record| self.look_after(record, When::SeenTwice));
        }
    }

    /// The record with the MAC address that the pod has, which the host goes by from now on. In the attachment's turn, for a runtime that
    /// asks: its plugins are not at work on the pod now.
    pub(super) fn looked_after(&self, record: Record) -> Record {
        self.look_after(record, When::AtOnce)
    }

    fn look_after(&self, record: Record, when: When) -> Record {
        let link = Ifindex(record.host_ifindex);
        if record.addresses.iter().any(IpAddr::is_ipv6)
            && let Err(error) = self.kernel.answer_solicitations(link)
        {
            tracing::warn!(attachment = %record.key, %error, "its neighbour solicitations are not answered");
        }
        match self.kernel.pod_mac(link, record.key.ifname.as_str()) {
            Ok(Some(mac)) if record.mac != Some(mac) => {
                let before = self.lock().changed_macs.insert(record.key.clone(), mac);
                // One that was rebuilt from its link has none on record.
                let is_due = when == When::AtOnce || before == Some(mac) || record.mac.is_none();
                if is_due { self.follow_mac(record, mac) } else { record }
            }
            Ok(_) => {
                self.lock().changed_macs.remove(&record.key);
                record
            }
            Err(error) => {
                tracing::warn!(attachment = %record.key, %error, "its MAC address cannot be read");
                record
            }
        }
    }

    fn follow_mac(&self, record: Record, mac: [u8; 6]) -> Record {
        let followed = Record { mac: Some(mac), ..record.clone() };
        if let Some(link) = followed.link()
            && let Err(error) = self.kernel.follow_mac(&link)
        {
            tracing::warn!(attachment = %record.key, %error, "its MAC address has changed, and cannot be followed; trying again");
            return record;
        }
        tracing::info!(attachment = %record.key, mac = ?mac, was = ?record.mac, "its MAC address is followed");
        if let Err(error) = self.commit(&Change::Attach(&followed)) {
            // The kernel has it, and a daemon that starts asks again.
            tracing::warn!(attachment = %record.key, %error, "its new MAC address is not on record");
        }
        self.lock().records.insert(followed.key.clone(), followed.clone());
        followed
    }
}
