//! What others tell of the node, and what is told of it: why an ADD would fail, STATUS.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use cni_spec::Error;
use datapath::Uplink;
use datapath::calls::LIMIT;
use ipam_pool::range::Family;
use ipam_pool::{PoolError, RangeState};
use node_api::BootMillis;

use super::{Attachments, State};
use crate::cni_errors;
use crate::kernel::Kernel;
use crate::readiness::{self, Fault, StatusPolicy};

impl<K: Kernel> Attachments<K> {
    /// Every reason why an ADD would fail now.
    #[must_use]
    pub fn faults(&self, now: BootMillis) -> Vec<Fault> {
        let mut faults = Vec::new();
        let state = self.state();
        if state.draining {
            faults.push(Fault::Draining);
        }
        match (state.uplinks.iter().find(|uplink| uplink.index == 0), &state.no_uplink) {
            (Some(own), _) if own.running => {}
            (Some(own), _) => faults.push(Fault::UplinkDown(own.ifname.clone())),
            (None, Some(why)) => faults.push(Fault::NoUplink(why.clone())),
            (None, None) => {
                let why = state.obstacle.clone().unwrap_or_else(|| "the interfaces could not be read".to_owned());
                faults.push(Fault::UplinkUnknown(why));
            }
        }
        faults.extend(state.not_forwarding.clone().map(Fault::NotForwarding));
        if let Some(lack) = state.pool.lacking(now) {
            let family = if let PoolError::Exhausted { family, .. } = lack { family } else { Family::V4 };
            faults.push(Fault::Exhausted(family, state.refusal(&lack).msg));
        }
        drop(state);
        if self.is_held_up() {
            faults.push(Fault::KernelHeldUp(cni_errors::held_up()));
        }
        faults.extend(self.store_fault.lock().unwrap_or_else(PoisonError::into_inner).clone().map(Fault::Store));
        faults
    }

    /// Whether somebody has held the kernel's lock of network configuration for so long that an ADD would be refused.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        self.kernel.held_up().first().is_some_and(|(_, lasts)| *lasts >= LIMIT)
    }

    /// STATUS, as `cni.status` has it answered: see [`readiness`].
    ///
    /// # Errors
    /// [`cni_spec::Code::NotAvailable`] or, where running pods suffer too, [`cni_spec::Code::LimitedConnectivity`].
    pub fn status(&self, now: BootMillis) -> Result<(), Error> {
        let policy = self.state().status_policy;
        readiness::status(policy, &self.faults(now))
    }

    /// Whether an ADD would succeed.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self, now: BootMillis) -> Result<(), Error> {
        readiness::status(StatusPolicy::Strict, &self.faults(now))
    }

    /// How STATUS is answered from now on.
    pub fn set_status_policy(&self, policy: StatusPolicy) {
        self.state().status_policy = policy;
    }

    /// What the uplinks are now. New pods get the smallest MTU of them.
    pub fn set_uplinks(&self, uplinks: &[Uplink]) {
        let mut state = self.state();
        state.no_uplink = None;
        if state.uplinks != uplinks {
            tracing::info!(?uplinks, "uplinks changed");
            uplinks.clone_into(&mut state.uplinks);
        }
    }

    /// The node's own uplink was looked for and is not there.
    pub fn set_no_uplink(&self, why: String) {
        let mut state = self.state();
        state.uplinks.clear();
        state.no_uplink = Some(why);
    }

    /// Says why the kernel forwards no packets of pods, or that it does.
    pub fn set_not_forwarding(&self, why: Option<String>) {
        self.state().not_forwarding = why;
    }

    /// Says why there are no more addresses, to those who ask in vain.
    pub fn set_obstacle(&self, obstacle: Option<String>) {
        self.state().obstacle = obstacle;
    }

    /// Says whether and how the node can have more addresses, to those who ask in vain where nothing is wrong.
    pub fn set_growth(&self, growth: BTreeMap<Family, String>) {
        self.state().growth = growth;
    }

    /// From now on ADDs are told to try again, those that wait for an address too. STATUS goes on telling of the node's network: the
    /// plugin waits for the next daemon, and nothing is wrong with pods that run.
    pub fn drain(&self) {
        self.state().draining = true;
        self.pool_changed.notify_all();
    }
}

impl State {
    /// What a pod is told that gets no address.
    pub(super) fn refusal(&self, error: &PoolError) -> Error {
        let mut told = cni_errors::pool(error);
        if let PoolError::Exhausted { family, .. } = error {
            let closed = self.pool.ranges().filter_map(|(range, state)| match state {
                RangeState::Closed(why) if range.family() == *family => Some(why.to_string()),
                RangeState::Open | RangeState::Suspect | RangeState::Closed(_) => None,
            });
            let mut reasons: BTreeSet<_> = self.obstacle.clone().into_iter().chain(closed).collect();
            if reasons.is_empty() {
                reasons.extend(self.growth.get(family).cloned());
            }
            if !reasons.is_empty() {
                told.msg = format!("{} ({})", told.msg, reasons.into_iter().collect::<Vec<_>>().join("; "));
            }
        }
        told
    }
}
