//! Operations on one attachment take turns.

use std::time::{Duration, Instant};

use cni_spec::{Code, Error};
use node_api::BootMillis;

use super::Attachments;
use crate::kernel::Kernel;
use crate::record::AttachmentKey;

/// Less than a client waits for its answer.
const LIMIT: Duration = Duration::from_secs(20);

/// The right to work on one attachment, until it is dropped.
pub(super) struct Turn<'a, K: Kernel> {
    attachments: &'a Attachments<K>,
    key: AttachmentKey,
    /// How long it took to get it.
    waited: Duration,
}

impl<K: Kernel> Turn<'_, K> {
    /// What time it was when the turn came, of a request that began at `begun`: a cooldown begins no earlier.
    pub(super) fn since(&self, begun: BootMillis) -> BootMillis {
        begun.plus(u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX))
    }
}

impl<K: Kernel> Attachments<K> {
    pub(super) fn take_turn(&self, key: &AttachmentKey) -> Result<Turn<'_, K>, Error> {
        let begun = Instant::now();
        let (mut state, wait) = self
            .turn_over
            .wait_timeout_while(self.lock(), LIMIT, |state| state.busy.contains(key))
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if wait.timed_out() {
            let msg = format!("another operation on {key} has not ended for {} s; try again later", LIMIT.as_secs());
            return Err(Error::new(Code::TryAgainLater, msg));
        }
        state.busy.insert(key.clone());
        Ok(Turn { attachments: self, key: key.clone(), waited: begun.elapsed() })
    }

    /// The turn, where nobody else has it.
    pub(super) fn turn_if_free(&self, key: &AttachmentKey) -> Option<Turn<'_, K>> {
        let free = self.lock().busy.insert(key.clone());
        free.then(|| Turn { attachments: self, key: key.clone(), waited: Duration::ZERO })
    }
}

impl<K: Kernel> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        self.attachments.lock().busy.remove(&self.key);
        self.attachments.turn_over.notify_all();
    }
}
