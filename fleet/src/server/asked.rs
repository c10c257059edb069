//! How this replica stands, for people and other replicas that ask. A node is told of itself alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fleet_api::message::{ConnectedNode, Status, StatusRequest, Versions};
use fleet_api::{Kind, NEWEST, OLDEST, Refusal, agree};
use tokio::sync::watch;

use super::conversation::Ended;
use super::{Begun, Server, lock};

/// Who this replica is among the others.
#[derive(Debug)]
pub struct Standing {
    /// Where nodes reach it; empty where it does not know.
    pub address: String,
    /// Whether it leads.
    pub leads: watch::Receiver<bool>,
    /// Where the one is that leads, where it is another.
    pub leader: watch::Receiver<Option<String>>,
}

/// Up to which change a node has been sent everything: written by its connection, read by who asks.
#[derive(Debug)]
pub(super) struct Sent([AtomicU64; Kind::ALL.len()]);

/// While a whole table is sent.
const NOWHERE: u64 = u64::MAX;

impl Default for Sent {
    fn default() -> Self {
        Self(Kind::ALL.map(|_| AtomicU64::new(NOWHERE)))
    }
}

impl Sent {
    pub(super) fn note(&self, places: [Option<u64>; Kind::ALL.len()]) {
        for (sent, place) in self.0.iter().zip(places) {
            sent.store(place.unwrap_or(NOWHERE), Ordering::Relaxed);
        }
    }

    fn places(&self) -> [Option<u64>; Kind::ALL.len()] {
        self.0.each_ref().map(|sent| Some(sent.load(Ordering::Relaxed)).filter(|place| *place != NOWHERE))
    }
}

impl Server {
    /// The answer to whoever may ask.
    pub(super) fn tell(&self, asked: StatusRequest) -> Result<(Begun<'_>, Vec<Bytes>), Ended> {
        let theirs = asked.versions.unwrap_or_default();
        let ours = Versions { oldest: OLDEST, newest: NEWEST };
        agree(ours, theirs).ok_or(Refusal::NoCommonVersion { oldest: theirs.oldest, newest: theirs.newest })?;
        Ok((Begun::Asked, self.status().frames()))
    }

    /// How it stands now.
    #[must_use]
    pub fn status(&self) -> Status {
        // One lock after the other: connections take them in either order.
        let mut nodes: Vec<_> = lock(&self.nodes).iter().map(|(name, connected)| (name.clone(), connected.clone())).collect();
        nodes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let replica = self.hub.replica();
        let node = |(name, connected): (String, super::Connected)| ConnectedNode {
            name,
            address: connected.address.to_string(),
            age_millis: millis(connected.since.elapsed()),
            lag: replica.behind(connected.sent.places()),
            confirmed_millis: connected.confirmed.map(|at| millis(at.elapsed())),
        };
        let standing = self.standing.get();
        Status {
            replica: standing.map(|of| of.address.clone()).unwrap_or_default(),
            program: concat!("barewire-fleet ", env!("CARGO_PKG_VERSION")).to_owned(),
            cluster: replica.cluster().to_owned(),
            leads: standing.is_some_and(|of| *of.leads.borrow()),
            leader: standing.and_then(|of| of.leader.borrow().clone()).unwrap_or_default(),
            ready: replica.is_ready(),
            positions: replica.positions(),
            replicas: replica.replicas().to_vec(),
            nodes: nodes.into_iter().map(node).collect(),
            more: false,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
