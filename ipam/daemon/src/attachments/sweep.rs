//! What nobody told us: pods that died without a DEL, links that belong to nobody.

use std::collections::HashMap;

use datapath::{FoundLink, Ifindex};
use ipam_state::record::{AttachmentKey, Record};
use node_api::BootMillis;

use super::{Attachments, State, owns};
use crate::kernel::Kernel;

/// How long a pod's link must have been gone before its attachment is released without a DEL. A runtime that is going to
/// send the DEL has done so by then.
const DEAD_AFTER_MILLIS: u64 = 5 * 60 * 1000;

/// An attachment whose link is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dead {
    /// Which one of this name: another is alive until it is seen dead itself.
    attached_at: BootMillis,
    since: BootMillis,
}

impl<K: Kernel> Attachments<K> {
    /// Finds what nobody told us: pods whose link has been gone for five minutes are detached, links that belong to no
    /// attachment are removed; and all pods are looked after. containerd never sends GC; this is the daemon's own.
    ///
    /// The list of links is old as soon as it is read. Whatever is to be removed is looked at again when nobody else can be at work on it.
    pub fn sweep(&self, now: BootMillis) {
        self.look_after_all();
        let links = match self.links_by_number() {
            Ok(links) => links,
            Err(error) => {
                tracing::warn!(%error, "sweep: kernel's links not read");
                return;
            }
        };
        for record in self.long_dead(&links, now) {
            tracing::warn!(attachment = %record.key, "sweep: pod link missing without a DEL, detaching");
            if let Err(error) = self.del_same(&record, |current| self.is_dead(current), now) {
                tracing::warn!(attachment = %record.key, %error, "sweep: detach failed");
            }
        }
        for link in links.values().filter(|link| self.numbers.claim_stray(link.ifindex)) {
            tracing::warn!(link = link.ifname, "sweep: link without an attachment, removing");
            self.kernel.remove_soon(link.ifindex);
        }
    }

    /// Asks for this one link. Where the kernel cannot be asked, the pod lives.
    fn is_dead(&self, record: &Record) -> bool {
        let found = self.kernel.inspect_host_end(Ifindex(record.host_ifindex), &[]);
        found.is_ok_and(|host| !host.is_some_and(|host| owns(record, &host.link)))
    }

    fn long_dead(&self, links: &HashMap<u32, FoundLink>, now: BootMillis) -> Vec<Record> {
        let mut state = self.state();
        let State { records, dead, .. } = &mut *state;
        let has_link = |record: &Record| links.get(&record.host_ifindex).is_some_and(|link| owns(record, link));
        let is_there = |key: &AttachmentKey, dead: &Dead| records.get(key).is_some_and(|record| record.attached_at == dead.attached_at);
        dead.retain(|key, dead| is_there(key, dead));
        let mut long_dead = Vec::new();
        for record in records.values() {
            if has_link(record) {
                dead.remove(&record.key);
                continue;
            }
            // A record younger than the list of links is not in it for that reason.
            let found = dead.entry(record.key.clone()).or_insert(Dead { attached_at: record.attached_at, since: now });
            if now.since(found.since) >= DEAD_AFTER_MILLIS {
                long_dead.push(record.clone());
            }
        }
        long_dead
    }
}
