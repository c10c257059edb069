//! The threads that serve: a fixed number that work, and one more for each ADD that waits for an address, so that no pod that waits
//! keeps another, or a DEL, from being served. They come with the ADDs that wait and go with them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The threads.
#[derive(Debug)]
pub(super) struct Crew {
    workers: usize,
    /// Threads that run, or are about to.
    threads: AtomicUsize,
    /// Each thread has the sender until it ends; none is made once it is gone.
    here: Mutex<Option<Sender<()>>>,
    ended: Mutex<Receiver<()>>,
}

/// What a thread of the crew keeps until it ends.
pub(super) type Presence = Sender<()>;

impl Crew {
    /// Nobody yet; `workers` of them are to work.
    pub(super) fn new(workers: usize) -> Self {
        let (here, ended) = channel();
        Self { workers, threads: AtomicUsize::new(0), here: Mutex::new(Some(here)), ended: Mutex::new(ended) }
    }

    /// Has `spawn` start threads, each told its number from 0 on, until so many as work can while `waiting` ADDs wait.
    pub(super) fn fill(&self, waiting: u64, spawn: impl Fn(usize, Presence) -> std::io::Result<()>) -> std::io::Result<()> {
        let Some(here) = self.here.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return Ok(()) };
        while self.change(waiting, |threads, wanted| (threads < wanted).then_some(threads + 1)) {
            // The one that was counted just now.
            let number = self.threads.load(Ordering::Acquire).saturating_sub(1);
            if let Err(error) = spawn(number, here.clone()) {
                self.threads.fetch_sub(1, Ordering::AcqRel);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether the thread that asks is one too many, and may end: it does not count from then on.
    pub(super) fn may_leave(&self, waiting: u64) -> bool {
        self.change(waiting, |threads, wanted| (threads > wanted).then_some(threads - 1))
    }

    /// Ends when every thread has, or when it was waited for; tells whether they have. No further one is made.
    pub(super) fn join(&self, limit: Duration) -> bool {
        self.here.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected)
    }

    fn change(&self, waiting: u64, next: impl Fn(usize, usize) -> Option<usize>) -> bool {
        let wanted = self.workers.saturating_add(usize::try_from(waiting).unwrap_or(usize::MAX));
        self.threads.fetch_update(Ordering::AcqRel, Ordering::Acquire, |threads| next(threads, wanted)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn there_are_as_many_as_work_beside_those_that_wait_and_they_go_again() {
        let crew = Arc::new(Crew::new(2));
        let (ended, ends) = channel();
        let waits = Arc::new(Mutex::new(3_u64));
        let (go, gate) = channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let spawn = |_, here| {
            let (crew, ended, waits, gate) = (Arc::clone(&crew), ended.clone(), Arc::clone(&waits), Arc::clone(&gate));
            let thread = std::thread::Builder::new().spawn(move || {
                // Until there is nothing left to do, or too many do it.
                while gate.lock().unwrap().recv().is_ok() {
                    if crew.may_leave(*waits.lock().unwrap()) {
                        break;
                    }
                }
                ended.send(()).unwrap();
                drop::<Presence>(here);
            });
            thread.map(drop)
        };
        crew.fill(0, spawn).unwrap();
        assert_eq!(crew.threads.load(Ordering::Acquire), 2);
        crew.fill(3, spawn).unwrap();
        crew.fill(1, spawn).unwrap();
        assert_eq!(crew.threads.load(Ordering::Acquire), 5, "none is sent away while others wait");
        assert!(!crew.may_leave(3));
        *waits.lock().unwrap() = 0;
        (0..20).for_each(|_| go.send(()).unwrap());
        for _ in 0..3 {
            ends.recv().unwrap();
        }
        assert_eq!(crew.threads.load(Ordering::Acquire), 2);
        assert!(!crew.may_leave(0));
        assert!(!crew.join(Duration::ZERO), "two are at work still");
        drop(go);
        assert!(crew.join(SOON));
        assert_eq!(ends.try_iter().count(), 2);
    }

    #[test]
    fn a_thread_that_cannot_be_started_does_not_count() {
        let crew = Crew::new(1);
        assert!(crew.fill(0, |_, _| Err(std::io::ErrorKind::WouldBlock.into())).is_err());
        assert_eq!(crew.threads.load(Ordering::Acquire), 0);
        assert!(crew.join(SOON));
    }
}
