//! Requests that are being served, each by its thread: a thread that is held up in the kernel can answer nobody, so somebody else does.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use cni_spec::Error;
use node_api::{Response, write_frame};

/// A request whose answer is still to be given, by whoever comes first.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Of the same connection as its thread's.
    stream: UnixStream,
    is_answered: AtomicBool,
}

impl Exchange {
    /// The right to answer; nobody else has it from then on.
    pub(super) fn take(&self) -> bool {
        !self.is_answered.swap(true, Ordering::AcqRel)
    }

    /// Whether somebody has answered.
    pub(super) fn is_answered(&self) -> bool {
        self.is_answered.load(Ordering::Acquire)
    }

    /// Refuses in place of the thread that should answer. What it does nobody waits for any more.
    fn refuse(&self, error: Error) -> bool {
        if !self.take() {
            return false;
        }
        // Who asked waits in poll(2), and takes the answer at once.
        let sent = self.stream.try_clone().map(|mut stream| write_frame(&mut stream, &Response::Error(error), None));
        if let Ok(Err(error)) = sent {
            tracing::warn!(%error, "an answer could not be delivered");
        }
        let _ = self.stream.shutdown(Shutdown::Both);
        true
    }
}

/// All requests that are being served.
#[derive(Debug, Default)]
pub(super) struct Exchanges(Mutex<HashMap<ThreadId, Arc<Exchange>>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Open<'a> {
    exchanges: &'a Exchanges,
    exchange: Arc<Exchange>,
}

impl Exchanges {
    /// The calling thread serves a request.
    pub(super) fn open(&self, stream: &UnixStream) -> std::io::Result<Open<'_>> {
        let exchange = Arc::new(Exchange { stream: stream.try_clone()?, is_answered: AtomicBool::new(false) });
        self.lock().insert(std::thread::current().id(), Arc::clone(&exchange));
        Ok(Open { exchanges: self, exchange })
    }

    /// Refuses what these threads serve and nobody has answered; how many that were.
    pub(super) fn refuse(&self, threads: &[ThreadId], error: &Error) -> usize {
        let concerned: Vec<_> = threads.iter().filter_map(|thread| self.lock().get(thread).cloned()).collect();
        concerned.iter().filter(|exchange| exchange.refuse(error.clone())).count()
    }

    /// Refuses all that is served; how many that were.
    pub(super) fn refuse_all(&self, error: &Error) -> usize {
        let threads: Vec<_> = self.lock().keys().copied().collect();
        self.refuse(&threads, error)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ThreadId, Arc<Exchange>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::ops::Deref for Open<'_> {
    type Target = Exchange;

    fn deref(&self) -> &Exchange {
        &self.exchange
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.exchanges.lock().remove(&std::thread::current().id());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use cni_spec::Code;
    use node_api::read_frame;

    use super::*;

    #[test]
    fn one_answer_is_given_whoever_gives_it() {
        let exchanges = Exchanges::default();
        let refusal = Error::new(Code::TryAgainLater, "held up");
        let own = [std::thread::current().id()];
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let open = exchanges.open(&ours).unwrap();
        assert_eq!((exchanges.refuse(&own, &refusal), exchanges.refuse_all(&refusal)), (1, 0));
        assert!(open.is_answered() && !open.take(), "the thread that comes back finds it answered");
        assert!(matches!(read_frame(&mut peer).unwrap(), Response::Error(error) if error.msg == "held up"));
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "and nothing follows");
        drop(open);
        let open = exchanges.open(&ours).unwrap();
        assert!(open.take() && exchanges.refuse(&own, &refusal) == 0, "what was answered in time stays so");
        drop(open);
        assert!(exchanges.lock().is_empty());
    }
}
