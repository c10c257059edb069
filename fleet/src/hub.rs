//! The replica's state, shared by the watches that change it and the connections that tell of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_api::{Pacer, Replica};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// One for the whole program.
#[derive(Debug)]
pub struct Hub {
    replica: Mutex<Replica>,
    changed: Notify,
    told: watch::Sender<u64>,
    started: Instant,
}

impl Hub {
    /// Around a replica's state.
    #[must_use]
    pub fn new(replica: Replica) -> Self {
        Self { replica: Mutex::new(replica), changed: Notify::new(), told: watch::Sender::new(0), started: Instant::now() }
    }

    /// Looks at the state, or changes it without telling. Never held over a wait.
    pub fn replica(&self) -> MutexGuard<'_, Replica> {
        self.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state; where that says so, everybody is told soon.
    pub fn change(&self, change: impl FnOnce(&mut Replica) -> bool) {
        if change(&mut self.replica()) {
            self.changed.notify_one();
        }
    }

    /// Moves on whenever there is something to tell.
    pub(crate) fn tellings(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// Milliseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Tells of changes, gathered as [`Pacer`] says. Never returns.
    pub async fn tell(&self) {
        let mut pacer = Pacer::default();
        loop {
            self.changed.notified().await;
            let (now, due) = (self.now(), pacer.due(self.now()));
            tokio::time::sleep(Duration::from_millis(due.saturating_sub(now))).await;
            pacer.told(self.now());
            self.told.send_modify(|told| *told += 1);
        }
    }
}
