//! Operations on one attachment come one after the other.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use cni_spec::{Code, Error};
use ipam_state::record::AttachmentKey;
use node_api::BootMillis;

use super::Attachments;
use crate::cni_errors;
use crate::kernel::Kernel;

/// Less than a client waits for its answer.
const LIMIT: Duration = Duration::from_secs(20);
/// How often it is looked whether the one that has the lock is held up in the kernel.
const LOOK: Duration = Duration::from_secs(1);

/// The right to work on one attachment, until it is dropped.
pub(super) struct AttachmentLock<'a, K: Kernel> {
    attachments: &'a Attachments<K>,
    key: AttachmentKey,
    /// How long it took to get it.
    waited: Duration,
}

impl<K: Kernel> AttachmentLock<'_, K> {
    /// What time it was when it was got, of a request that began at `begun`: a cooldown begins no earlier.
    pub(super) fn since(&self, begun: BootMillis) -> BootMillis {
        begun.plus(u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX))
    }
}

impl<K: Kernel> Attachments<K> {
    pub(super) fn lock(&self, key: &AttachmentKey) -> Result<AttachmentLock<'_, K>, Error> {
        let begun = Instant::now();
        let mut state = self.state();
        while state.locked.contains(key) {
            let left = LIMIT.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let msg = format!("another operation on {key} has not ended for {} s; try again later", LIMIT.as_secs());
                return Err(Error::new(Code::TryAgainLater, msg));
            }
            // It may be the one that is held up.
            if self.is_held_up() {
                return Err(Error::new(
                    Code::TryAgainLater,
                    format!("another operation on {key} has not ended: {}", cni_errors::held_up()),
                ));
            }
            state = self.unlocked.wait_timeout(state, left.min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.locked.insert(key.clone());
        Ok(AttachmentLock { attachments: self, key: key.clone(), waited: begun.elapsed() })
    }

    /// The lock, where nobody else has it.
    pub(super) fn try_lock(&self, key: &AttachmentKey) -> Option<AttachmentLock<'_, K>> {
        let is_free = self.state().locked.insert(key.clone());
        is_free.then(|| AttachmentLock { attachments: self, key: key.clone(), waited: Duration::ZERO })
    }
}

impl<K: Kernel> Drop for AttachmentLock<'_, K> {
    fn drop(&mut self) {
        self.attachments.state().locked.remove(&self.key);
        self.attachments.unlocked.notify_all();
    }
}
