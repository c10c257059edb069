//! Changes of the store, and whether it takes any.

use std::sync::PoisonError;
use std::time::Instant;

use ipam_state::store::{Change, StoreError};

use super::Attachments;
use crate::cni_errors;
use crate::kernel::Kernel;

impl<K: Kernel> Attachments<K> {
    /// Makes a change durable.
    ///
    /// # Errors
    /// As [`ipam_state::store::Store::commit`].
    pub fn commit(&self, change: &Change<'_>) -> Result<(), StoreError> {
        let begun = Instant::now();
        let outcome = self.store.commit(change);
        self.metrics.commit(begun.elapsed(), outcome.is_ok());
        self.note_store(outcome.as_ref().err());
        outcome
    }

    /// Whether anything can be made durable: a commit, for those who look now and then. Between looks commits tell.
    pub fn probe_store(&self) {
        let outcome = self.store.probe();
        self.note_store(outcome.as_ref().err());
    }

    /// Whether the last commit failed, or the last probe.
    #[must_use]
    pub fn store_fails(&self) -> bool {
        self.store_fault.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn note_store(&self, error: Option<&StoreError>) {
        *self.store_fault.lock().unwrap_or_else(PoisonError::into_inner) = error.map(|error| cni_errors::store(error).msg);
    }
}
