//! What pods use beside their own addresses: each belongs to one attachment, from its ADD to its DEL (invariant I1).

use std::net::IpAddr;

use cni_spec::{Code, Error};
use ipam_pool::PoolError;
use ipam_pool::range::Family;
use ipam_state::record::{AttachmentKey, Record};
use node_api::BootMillis;

use super::link::pod_link;
use super::{Attachments, State};
use crate::allowed::{self, OF_NODE_MAX, Ranges};
use crate::cni_errors;
use crate::kernel::Kernel;

impl<K: Kernel> Attachments<K> {
    /// What pods may ask for from now on.
    pub fn set_allowed(&self, ranges: Ranges) {
        self.state().allowed = ranges;
    }

    /// Tells neighbours of what a new attachment uses, once that is durable.
    pub(super) fn announce(&self, record: &Record) {
        if let Some(link) = pod_link(record).filter(|link| !link.allowed.is_empty()) {
            self.kernel.announce(&link);
        }
    }

    /// Gives back what an attachment has used. It cools down nowhere: whoever comes in the pod's place asks for the same.
    pub(super) fn give_back_beside(&self, record: &Record, now: BootMillis) {
        if record.allowed.is_empty() {
            return;
        }
        let mut state = self.state();
        let given_back: Vec<_> = record.allowed.iter().copied().filter(|address| state.pool.release(*address, &record.key, now)).collect();
        drop(state);
        self.kernel.withdraw(&given_back);
    }
}

impl State {
    /// Takes what a pod asks for, into `taken` one after the other. Of a pod with several interfaces the first has it.
    pub(super) fn take_beside(
        &mut self,
        key: &AttachmentKey,
        namespace: &str,
        asked: &[IpAddr],
        taken: &mut Vec<IpAddr>,
    ) -> Result<(), Error> {
        if self.records.values().any(|record| record.key.container_id == key.container_id && !record.allowed.is_empty()) {
            return Ok(());
        }
        let families: Vec<_> = self.pool.families().collect();
        allowed::judge(asked, namespace, &self.allowed, &families)?;
        for address in asked {
            if self.uplinks.iter().any(|uplink| uplink.gateways.contains(address)) {
                return Err(allowed::refusal(&format!("{address} is the gateway of this node's uplink; ask for another")));
            }
            let is_of_family = |other: &&IpAddr| Family::of(**other) == Family::of(*address);
            if self.records.values().flat_map(|record| &record.allowed).chain(&*taken).filter(is_of_family).count() >= OF_NODE_MAX {
                let why = format!("the pods of this node use {OF_NODE_MAX} addresses beside their own; start it on another");
                return Err(Error::new(Code::TryAgainLater, why));
            }
            self.pool.take_beside(*address, key).map_err(|error| self.refusal_of(&error))?;
            taken.push(*address);
        }
        Ok(())
    }

    fn refusal_of(&self, error: &PoolError) -> Error {
        let PoolError::InUse { address, owner } = error else { return cni_errors::pool(error) };
        let pod =
            self.records.get(owner).map_or_else(String::new, |record| format!(" of pod {}/{}", record.pod.namespace, record.pod.name));
        let why = format!("address {address} is in use by {owner}{pod} on this node, and one pod of a node has it at a time");
        Error::new(Code::TryAgainLater, format!("{why}; delete that pod, or keep the two on different nodes (podAntiAffinity)"))
    }
}
