//! The pool, as those work on it who bring addresses and take them away.

use std::time::Duration;

use ipam_pool::Pool;

use super::{Attachments, Demand, State};
use crate::kernel::Kernel;

/// Threads that may be made for what waits in the kernel.
const HELD_UP_MAX: u64 = 256;

impl<K: Kernel> Attachments<K> {
    /// Ends when an ADD has begun to wait for an address, perhaps since this was called last.
    pub async fn shortage(&self) {
        self.shortage.notified().await;
    }

    /// From now on an ADD waits that long for an address, where the pool has none: somebody gets more.
    pub fn wait_for_addresses(&self, patience: Duration) {
        self.state().patience = Some(patience);
    }

    /// Has `relief` called whenever an ADD begins to wait for an address, on its thread, or when threads are held up in the kernel. The first
    /// that is told stays.
    pub fn relieve(&self, relief: impl Fn() + Send + Sync + 'static) {
        let _ = self.relief.set(Box::new(relief));
    }

    /// Calls what [`Attachments::relieve`] was told.
    pub(crate) fn call_relief(&self) {
        if let Some(relief) = self.relief.get() {
            relief();
        }
    }

    /// How many requests keep a thread from serving others: ADDs that wait for an address, and whatever waits in the kernel.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        let in_kernel = u64::try_from(self.kernel.held_up().len()).unwrap_or(u64::MAX).saturating_add(self.kernel.waiting());
        self.state().demand.waiting().saturating_add(in_kernel.min(HELD_UP_MAX))
    }

    /// Works on the pool beside the ADDs; `work` is told which pods want an address. ADDs that wait look again afterwards.
    pub fn with_pool<T>(&self, work: impl FnOnce(&mut Pool, &Demand) -> T) -> T {
        let mut state = self.state();
        let State { pool, demand, .. } = &mut *state;
        let outcome = work(pool, demand);
        drop(state);
        self.pool_changed.notify_all();
        outcome
    }

    /// Looks at the pool, and wakes nobody.
    pub fn read_pool<T>(&self, look: impl FnOnce(&Pool, &Demand) -> T) -> T {
        let state = self.state();
        look(&state.pool, &state.demand)
    }
}
