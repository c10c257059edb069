//! Reports reach the leader, whatever replica hears them (ADR 37).
//!
//! A replica that leads reads its nodes' reports itself, and what others forward; one that does not lead reads them to forward them. It is one task
//! that does either, so that there is one reader, which begins with the last report of every node.

mod stream;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};

use crate::acting::{Heard, hear};
use crate::backoff::Backoff;
use crate::server::Server;

/// Between two attempts to reach the leader: a new one is known a moment before it reads.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// What to show to the leader, and whom to trust: asked for each connection, as files are replaced.
pub type Shown = Box<dyn Fn() -> Result<Arc<ClientConfig>, String> + Send + Sync>;

/// What can be told of it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reports that were forwarded.
    pub forwarded: AtomicU64,
    reaches: AtomicBool,
}

impl Counters {
    /// Do reports of this replica's nodes reach who leads?
    #[must_use]
    pub fn reaches(&self) -> bool {
        self.reaches.load(Ordering::Relaxed)
    }
}

/// While this is there they do.
struct Reaching<'a>(&'a Counters);

impl<'a> Reaching<'a> {
    fn begin(counters: &'a Counters) -> Self {
        counters.reaches.store(true, Ordering::Relaxed);
        Self(counters)
    }
}

impl Drop for Reaching<'_> {
    fn drop(&mut self) {
        self.0.reaches.store(false, Ordering::Relaxed);
    }
}

/// The reports of one replica's nodes.
pub struct Forwarder {
    server: Arc<Server>,
    /// The name of this replica, no other's.
    name: String,
    cluster: String,
    shown: Shown,
    counters: Arc<Counters>,
}

impl Forwarder {
    /// Of the nodes that are connected to `server`.
    #[must_use]
    pub fn new(server: Arc<Server>, name: &str, cluster: &str, shown: Shown, counters: Arc<Counters>) -> Self {
        Self { server, name: name.to_owned(), cluster: cluster.to_owned(), shown, counters }
    }

    /// Has them heard here while this replica leads, and by `leader` otherwise. Ends when nobody can say any more who leads, or nobody hears.
    pub async fn run(
        self,
        mut leads: watch::Receiver<bool>,
        mut leader: watch::Receiver<Option<String>>,
        told: mpsc::Sender<(String, Heard)>,
    ) {
        loop {
            let is_leader = *leads.borrow_and_update();
            let address = leader.borrow_and_update().clone().filter(|_| !is_leader);
            let work = async {
                match address {
                    _ if is_leader => {
                        let _reaching = Reaching::begin(&self.counters);
                        hear(self.server.reports(), &told).await;
                    }
                    Some(address) => self.forward_to(&address).await,
                    None => std::future::pending().await,
                }
            };
            let is_known = tokio::select! {
                biased;
                led = leads.changed() => led.is_ok(),
                led = leader.changed() => led.is_ok(),
                () = work => false,
            };
            if !is_known {
                return;
            }
        }
    }

    /// Never returns: whoever leads next is another call.
    async fn forward_to(&self, leader: &str) {
        let (mut backoff, mut said) = (Backoff::new(SHORTEST, LONGEST), String::new());
        loop {
            let before = self.counters.forwarded.load(Ordering::Relaxed);
            let broken = match self.forward(leader).await {
                Ok(never) => match never {},
                Err(broken) => broken.to_string(),
            };
            if self.counters.forwarded.load(Ordering::Relaxed) != before {
                backoff.reset();
            }
            // Once, however often it is tried.
            if broken != said {
                tracing::warn!(leader, reason = broken, "reports are not forwarded");
                said = broken;
            }
            tokio::time::sleep(backoff.next(fastrand::f64())).await;
        }
    }
}

/// Where the replica with this identity (`HOST:PORT_NUMBER`) is reached; nothing where it does not say.
#[must_use]
pub fn address_of(identity: &str) -> Option<&str> {
    let (address, _) = identity.rsplit_once('_')?;
    let (host, port) = address.rsplit_once(':')?;
    let is_anywhere =
        address.parse::<SocketAddr>().is_ok_and(|it| it.ip().is_unspecified()) || host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    (!host.is_empty() && port.parse::<u16>().is_ok() && !is_anywhere).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_says_where_a_replica_is_or_nothing() {
        for (identity, expected) in [
            ("10.0.0.1:7443_00ff", Some("10.0.0.1:7443")),
            ("[2001:db8::1]:7443_00ff", Some("[2001:db8::1]:7443")),
            ("host_a.example:7443_00ff", Some("host_a.example:7443")),
            ("0.0.0.0:7443_00ff", None),
            ("[::]:7443_00ff", None),
            ("somebody", None),
            ("some_body", None),
            (":7443_00ff", None),
        ] {
            assert_eq!(address_of(identity), expected, "{identity}");
        }
    }
}
