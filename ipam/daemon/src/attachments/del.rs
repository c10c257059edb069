//! DEL: by names, whatever else is known of the attachment.

use std::net::IpAddr;

use cni_spec::Error;
use datapath::Ifindex;
use ipam_state::record::{AttachmentKey, LaterRecord, Record};
use ipam_state::store::Change;
use node_api::{BootMillis, DelRequest};

use super::Attachments;
use crate::kernel::Kernel;

/// An attachment that has ended, and the addresses that this freed.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    key: AttachmentKey,
    freed: Vec<IpAddr>,
    at: BootMillis,
}

impl<K: Kernel> Attachments<K> {
    /// Detaches a pod; one that is not attached counts as detached.
    ///
    /// # Errors
    /// Only where another operation on the same attachment does not end.
    pub fn del(&self, request: &DelRequest, now: BootMillis) -> Result<(), Error> {
        self.del_if(&key_of(request), |_| true, |_| true, now)
    }

    /// Applies a DEL that was queued at `queued_at`: an attachment made since is not the one that was meant.
    ///
    /// # Errors
    /// See [`Attachments::del`].
    pub fn del_queued(&self, request: &DelRequest, queued_at: BootMillis, now: BootMillis) -> Result<(), Error> {
        let was_meant = |later: &LaterRecord| later.attached_at.is_none_or(|at| at <= queued_at);
        self.del_if(&key_of(request), |record| record.attached_at <= queued_at, was_meant, now)
    }

    /// Detaches an attachment that is still the one that was looked at.
    pub(super) fn del_same(&self, seen: &Record, is_due: impl FnOnce(&Record) -> bool, now: BootMillis) -> Result<(), Error> {
        self.del_if(&seen.key, |current| current.attached_at == seen.attached_at && is_due(current), |_| false, now)
    }

    fn del_if(
        &self,
        key: &AttachmentKey,
        applies: impl FnOnce(&Record) -> bool,
        applies_to_later: impl FnOnce(&LaterRecord) -> bool,
        now: BootMillis,
    ) -> Result<(), Error> {
        let lock = self.lock(key)?;
        let (known, later) = {
            let state = self.state();
            (state.records.get(key).cloned(), state.later.get(key).cloned())
        };
        if let Some(record) = known.filter(applies) {
            self.release(&record, lock.since(now));
        }
        if let Some(later) = later.filter(applies_to_later) {
            self.release_later(&later, lock.since(now));
        }
        Ok(())
    }

    /// Ends an attachment. Under its lock.
    pub(super) fn release(&self, record: &Record, now: BootMillis) {
        self.give_back_beside(record, now);
        self.end(&record.key, &record.addresses, now);
        let link = Ifindex(record.host_ifindex);
        if self.numbers.let_go(link, &record.key) {
            self.kernel.remove_soon(link);
        }
        tracing::info!(attachment = %record.key, addresses = ?record.addresses, "detached");
    }

    /// Ends an attachment that is not understood, as far as it can be read. Under its lock.
    pub(super) fn release_later(&self, later: &LaterRecord, now: BootMillis) {
        let Some(key) = &later.key else { return };
        self.end(key, &later.addresses, now);
        for link in self.numbers.all_of(key) {
            if self.numbers.let_go(link, key) {
                self.kernel.remove_soon(link);
            }
        }
        tracing::info!(attachment = %key, addresses = ?later.addresses, why = later.why, "detached; its record is not understood");
    }

    /// Forgets an attachment, frees those of the addresses that are its own, and makes that durable.
    fn end(&self, key: &AttachmentKey, addresses: &[IpAddr], now: BootMillis) {
        let freed = {
            let mut state = self.state();
            state.records.remove(key);
            state.later.remove(key);
            state.changed_macs.remove(key);
            addresses.iter().filter(|address| state.pool.release(**address, key, now)).copied().collect()
        };
        let ended = Ended { key: key.clone(), freed, at: now };
        if let Err(error) = self.commit(&Change::Detach { key, freed: &ended.freed, at: now }) {
            // A pod's deletion must not hang on a full disk. Until this is settled a crash brings the record back,
            // without a link, and the sweep finds it.
            tracing::error!(attachment = %key, %error, "detached, but not yet on disk");
            self.state().uncommitted.push(ended);
        }
    }

    /// Commits DELs that could not be committed when they were made.
    pub fn settle(&self) {
        let due = std::mem::take(&mut self.state().uncommitted);
        for ended in due {
            if !self.try_settle(&ended) {
                self.state().uncommitted.push(ended);
            }
        }
    }

    fn try_settle(&self, ended: &Ended) -> bool {
        // Whoever is at work on an attachment of this name decides what its row says.
        let Some(_lock) = self.try_lock(&ended.key) else { return false };
        let (is_superseded, freed) = {
            let state = self.state();
            // What another has by now is not free, whatever it was then.
            let freed: Vec<_> = ended.freed.iter().filter(|address| state.pool.owner_of(**address).is_none()).copied().collect();
            (state.records.contains_key(&ended.key), freed)
        };
        let change = if is_superseded {
            Change::Free { freed: &freed, at: ended.at }
        } else {
            Change::Detach { key: &ended.key, freed: &freed, at: ended.at }
        };
        self.commit(&change).is_ok()
    }
}

fn key_of(request: &DelRequest) -> AttachmentKey {
    AttachmentKey { container_id: request.container_id.clone(), ifname: request.ifname.clone() }
}
