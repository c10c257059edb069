//! The simulated cloud on sockets, with the wall clock as its time.
//!
//! One [`Server`] holds one [`Cloud`] and serves it on as many listeners as it is given: the EC2 API, metadata services, the control API
//! ([`control`]). Listeners come from the caller, so they may stand in any network namespace. After each change the [`Fabric`] is told,
//! before the reply that speaks of it goes out.

pub mod control;
mod listener;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::cloud::{Cloud, InstanceId};
use crate::fabric::{Event, Fabric};
use crate::metadata::Service;
use crate::time::Millis;

/// How many events are remembered for those who ask.
const EVENTS: usize = 10_000;

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The EC2 Query API.
    Api,
    /// A metadata service, to one instance or to whoever asks.
    Metadata(Service, Asker),
    /// The control API.
    Control,
}

/// Whose metadata a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// This instance's.
    Instance(InstanceId),
    /// That of the instance whose interface holds the address that the request comes from, as in a real cloud.
    Peer,
}

/// A cloud that is served, until it is dropped.
#[derive(Debug)]
pub struct Server {
    shared: Shared,
    /// Taken when dropped.
    runtime: Option<Runtime>,
}

impl Server {
    /// Begins to keep time for `cloud`.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(cloud: Cloud, fabric: Box<dyn Fabric>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("cloudsim").enable_all().build()?;
        let shared = Shared::new(cloud, fabric);
        runtime.spawn(shared.clone().keep_time());
        Ok(Self { shared, runtime: Some(runtime) })
    }

    /// Serves `role` on `listener`; returns its address.
    ///
    /// # Errors
    /// Where the listener cannot be used.
    pub fn listen(&self, listener: TcpListener, role: Role) -> io::Result<SocketAddr> {
        let Some(runtime) = &self.runtime else { return Err(io::ErrorKind::NotConnected.into()) };
        let _entered = runtime.enter();
        self.shared.listen(listener, role)
    }

    /// The cloud and its time, with nobody else at it. The fabric hears of what is changed.
    pub fn with<R>(&self, work: impl FnOnce(&mut Cloud, Millis) -> R) -> R {
        self.shared.with(work)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Requests that wait would hold a shutdown up, and one inside of another runtime may not block.
            runtime.shutdown_background();
        }
    }
}

/// What all listeners have in common.
#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    /// Stirs when packets feel a change, and when the next change of itself is due at another time.
    stirred: watch::Sender<()>,
}

struct State {
    cloud: Cloud,
    fabric: Box<dyn Fabric>,
    events: VecDeque<Event>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    fn new(cloud: Cloud, fabric: Box<dyn Fabric>) -> Self {
        let state = State { cloud, fabric, events: VecDeque::new() };
        Self { state: Arc::new(Mutex::new(state)), stirred: watch::Sender::new(()) }
    }

    fn with<R>(&self, work: impl FnOnce(&mut Cloud, Millis) -> R) -> R {
        // A test that panics inside of `work` must not end every other request.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let due = state.cloud.next_change();
        let result = work(&mut state.cloud, now());
        let events = state.cloud.take_events();
        let is_stirred = !events.is_empty() || state.cloud.next_change() != due;
        for event in events {
            state.fabric.apply(&event.change);
            if state.events.len() == EVENTS {
                state.events.pop_front();
            }
            state.events.push_back(event);
        }
        if is_stirred {
            self.stirred.send_replace(());
        }
        result
    }

    fn events_after(&self, number: u64) -> Vec<Event> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.events.iter().filter(|event| event.number > number).cloned().collect()
    }

    /// Lets happen what happens by itself, at its time.
    async fn keep_time(self) {
        let mut stirred = self.stirred.subscribe();
        loop {
            let next = self.with(|cloud, now| {
                cloud.advance(now);
                cloud.next_change().map(|at| at.since(now))
            });
            let rest = Duration::from_millis(next.map_or(u64::from(u32::MAX), |rest| rest.0));
            // Whether it stirred or the time has come, the next thing to do is the same.
            let _either = tokio::time::timeout(rest, stirred.changed()).await;
        }
    }
}

/// The time by the wall clock.
///
/// # Panics
/// Where it is before 1970: a cloud that tells a wrong time is of no use to a test.
#[must_use]
pub fn now() -> Millis {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is before 1970: set it");
    Millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
