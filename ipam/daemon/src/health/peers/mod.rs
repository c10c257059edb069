//! Looks at a few other nodes, and answers those that look at this one (ADR 34). At whom, and who may ask, the fleet says.

mod answer;
mod datagram;
mod judge;
mod path_mtu;
mod probe;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_api::message::Peers;

use super::board::Writer;
use super::{AGAIN, PacedLook, be_nice};
use crate::clockwork::Clockwork;
use crate::health_check::Verdict;
use answer::Witnesses;
use probe::Prober;

/// What the fleet has told last; nothing where there is none.
pub(crate) type Told = Arc<dyn Fn() -> Option<Peers> + Send + Sync>;

/// How long a question is waited for before there is a look at what has been told.
const PATIENCE: Duration = Duration::from_millis(500);
/// Before a port that is taken is tried again: soon, as it may be this daemon's that is just being given up, then now and then.
const TAKEN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];
/// How often soon.
const TRIES: u32 = 5;

/// Looks at all peers once, and writes what was found of each.
pub(super) fn look(told: Told, port: u16, interval: Duration, writer: Writer) -> PacedLook {
    let mut prober = Prober::default();
    Box::new(move |_| {
        let begun = Instant::now();
        let peers = told();
        prober.ask(peers.as_ref().unwrap_or(&Peers::default()), port);
        let found = prober.round();
        let verdict = match (&peers, found.len()) {
            (None, _) => Verdict::Unknown("no fleet is configured".to_owned()),
            (Some(_), 0) => Verdict::Unknown("the fleet has told of nobody to look at".to_owned()),
            _ => Verdict::Ok,
        };
        writer.peers(found);
        // From one round to the next, however long was waited for answers: what is bad has to be said several times within a short time.
        let pace = if prober.is_in_doubt() { AGAIN.min(interval) } else { interval };
        (verdict, pace.saturating_sub(begun.elapsed()))
    })
}

/// Answers until it is dropped.
pub(super) fn keep_answering(told: Told, port: u16) -> io::Result<Clockwork> {
    let (mut socket, mut tries, mut witnesses) = (None, 0, Witnesses::default());
    let mut looked: Option<Instant> = None;
    Clockwork::start_at_pace("health-answers", move |run| {
        if run == 0 {
            be_nice();
        }
        let now = Instant::now();
        if looked.is_none_or(|looked| now.duration_since(looked) >= PATIENCE) {
            looked = Some(now);
            witnesses.are(now, Peers::addresses(&told().unwrap_or_default().witnesses));
        }
        if socket.is_none() {
            match answer::listen(port, PATIENCE) {
                Ok(listening) => socket = Some(listening),
                Err(error) => {
                    tries += 1;
                    if tries == TRIES {
                        tracing::warn!(port, %error, "peers are not answered; free the UDP port, or set health.peer_port on all nodes");
                    }
                    return TAKEN[usize::from(tries >= TRIES)];
                }
            }
        }
        if let Some(socket) = &socket {
            answer::answer_one(socket, |address| witnesses.may_ask(Instant::now(), address));
        }
        Duration::ZERO
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
