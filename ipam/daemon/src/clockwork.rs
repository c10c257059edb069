//! Threads that do something again and again until they are dropped.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Between two times, where nothing else is said.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// How long whoever drops one waits for its thread.
const LAST: Duration = Duration::from_secs(1);

/// A thread that does something each second; it ends when this is dropped, or is left behind where the kernel does not let it go.
pub(crate) struct Clockwork {
    stop: Option<Sender<()>>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl Clockwork {
    /// Calls `work` with the number of the tick, from 0, at once and then each second.
    pub(crate) fn start(name: &str, mut work: impl FnMut(u64) + Send + 'static) -> std::io::Result<Self> {
        Self::start_at_pace(name, move |tick| {
            work(tick);
            TICK
        })
    }

    /// Likewise, where `work` tells how soon the next tick is.
    pub(crate) fn start_at_pace(name: &str, mut work: impl FnMut(u64) -> Duration + Send + 'static) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let (ends, ended) = channel::<()>();
        let run = move || {
            for tick in 0_u64.. {
                let pause = work(tick);
                if let Err(RecvTimeoutError::Disconnected) = stopped.recv_timeout(pause) {
                    break;
                }
            }
            drop(ends);
        };
        std::thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self { stop: Some(stop), ended })
    }

    /// Has it end, and does not wait.
    pub(crate) fn stop(&mut self) {
        self.stop = None;
    }
}

impl Drop for Clockwork {
    fn drop(&mut self) {
        self.stop();
        let _ = self.ended.recv_timeout(LAST);
    }
}
