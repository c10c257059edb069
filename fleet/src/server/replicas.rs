//! What other replicas forward while this one leads (ADR 37): the reports of their nodes, and how many nodes they have.
//!
//! A replica is heard as long as somebody reads reports here. When that ends the connection does, so that who reads next, here or elsewhere, is
//! told everything anew.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fleet_api::message::{Checkpoint, Forwarded, FromFleet, FromNode, ToNode};
use fleet_api::{FRAME_MAX, encode};
use tokio::sync::watch;
use tokio::time::Instant;

use super::conversation::{Conversation, Ended};
use super::{SILENT, Server, lock};

/// Between two signs of life, in both directions.
pub const SIGN: Duration = Duration::from_secs(1);
/// A replica that comes back so soon has never been away: its nodes' streams have not broken.
const GRACE: Duration = Duration::from_secs(5);
/// Replicas that forward at a time; there are a few.
const REPLICAS_MAX: usize = 16;

/// Who forwards, by name.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    by_name: HashMap<String, Known>,
    served: u64,
}

#[derive(Debug)]
struct Known {
    number: u64,
    nodes: usize,
    /// Since when its connection has ended.
    gone: Option<Instant>,
}

impl Replicas {
    /// How many forward now.
    pub(super) fn len(&self) -> usize {
        self.by_name.values().filter(|known| known.gone.is_none()).count()
    }

    /// Their nodes. Those of a replica that is lost count no more after a moment.
    pub(super) fn nodes(&mut self) -> usize {
        self.by_name.retain(|_, known| known.gone.is_none_or(|since| since.elapsed() < GRACE));
        self.by_name.values().map(|known| known.nodes).sum()
    }

    fn enter(&mut self, name: &str) -> Option<u64> {
        let before = self.by_name.get(name);
        if before.is_none_or(|known| known.gone.is_some()) && self.len() >= REPLICAS_MAX {
            return None;
        }
        let nodes = before.map_or(0, |known| known.nodes);
        self.served += 1;
        self.by_name.insert(name.to_owned(), Known { number: self.served, nodes, gone: None });
        Some(self.served)
    }

    fn current(&mut self, name: &str, number: u64) -> Option<&mut Known> {
        self.by_name.get_mut(name).filter(|known| known.number == number)
    }
}

/// One replica's place among those that forward.
pub(super) struct Forwards<'a> {
    server: &'a Server,
    name: String,
    number: u64,
    reading: watch::Receiver<u64>,
}

impl Forwards<'_> {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Takes note of how many nodes it has; false: another connection has its place.
    fn has_nodes(&self, nodes: usize) -> bool {
        lock(&self.server.replicas).current(&self.name, self.number).map(|known| known.nodes = nodes).is_some()
    }
}

impl Drop for Forwards<'_> {
    fn drop(&mut self) {
        if let Some(known) = lock(&self.server.replicas).current(&self.name, self.number) {
            known.gone = Some(Instant::now());
        }
    }
}

impl Server {
    /// A second connection of one replica takes the place of its first, which may be half open.
    pub(super) fn enter_replica(&self, name: &str) -> Result<Forwards<'_>, Ended> {
        let mut reading = self.reports.reading();
        if *reading.borrow_and_update() == 0 {
            return Err(Ended::NotLeading);
        }
        let number = lock(&self.replicas).enter(name).ok_or(Ended::Crowded(REPLICAS_MAX))?;
        Ok(Forwards { server: self, name: name.to_owned(), number, reading })
    }

    /// Hears a replica until one of both ends.
    pub(super) async fn receive(&self, conversation: &mut Conversation, from: &Forwards<'_>, admitted: Instant) -> Ended {
        match self.heard(conversation, from, admitted).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn heard(
        &self,
        conversation: &mut Conversation,
        from: &Forwards<'_>,
        admitted: Instant,
    ) -> Result<std::convert::Infallible, Ended> {
        conversation.allow(FRAME_MAX);
        let (mut reading, mut heard) = (from.reading.clone(), Instant::now());
        let mut expiry = std::pin::pin!(tokio::time::sleep_until(admitted));
        let mut signs = tokio::time::interval(SIGN);
        loop {
            tokio::select! {
                biased;
                // Also where another reads by now: it is to hear everything.
                _ = reading.changed() => return Err(Ended::NotLeading),
                () = &mut expiry => return Err(Ended::Expired),
                _ = signs.tick() => {
                    if heard.elapsed() > SILENT {
                        return Err(Ended::Silent);
                    }
                    let sign = FromFleet { message: Some(ToNode::Checkpoint(Checkpoint::default())) };
                    self.send(conversation, &[encode(&sign)]).await?;
                }
                said = conversation.read() => {
                    heard = Instant::now();
                    // What this version does not know is passed over.
                    if let Some(FromNode::Forwarded(forwarded)) = said?.message
                        && !self.take(from, forwarded)
                    {
                        return Err(Ended::Drained);
                    }
                }
            }
        }
    }

    fn take(&self, from: &Forwards<'_>, forwarded: Forwarded) -> bool {
        let is_current = from.has_nodes(forwarded.nodes as usize);
        let (good, bad) = forwarded.judged();
        self.counters.bad_reports.fetch_add(bad as u64, Ordering::Relaxed);
        self.counters.forwarded_reports.fetch_add(good.len() as u64, Ordering::Relaxed);
        for said in good {
            self.reports.put_forwarded(&said.node, said.report.unwrap_or_default());
        }
        is_current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_comes_back_soon_has_not_been_away_and_one_that_is_lost_has_no_nodes() {
        let mut replicas = Replicas::default();
        let [a, b] = ["a", "b"].map(|name| replicas.enter(name).unwrap());
        for (name, number, nodes) in [("a", a, 10), ("b", b, 5)] {
            replicas.current(name, number).unwrap().nodes = nodes;
        }
        assert_eq!((replicas.len(), replicas.nodes()), (2, 15));
        let lose = |replicas: &mut Replicas, number| replicas.current("a", number).unwrap().gone = Some(Instant::now());
        lose(&mut replicas, a);
        tokio::time::advance(GRACE / 2).await;
        assert_eq!((replicas.len(), replicas.nodes()), (1, 15));
        let again = replicas.enter("a").unwrap();
        assert!(replicas.current("a", a).is_none(), "the first connection is another's by now");
        tokio::time::advance(GRACE * 2).await;
        assert_eq!((replicas.len(), replicas.nodes()), (2, 15));
        lose(&mut replicas, again);
        tokio::time::advance(GRACE * 2).await;
        assert_eq!((replicas.len(), replicas.nodes()), (1, 5));
        assert!((1..REPLICAS_MAX).all(|number| replicas.enter(&number.to_string()).is_some()));
        assert_eq!(replicas.enter("one more"), None);
        assert!(replicas.enter("b").is_some(), "who has a place keeps it");
    }
}
