//! What observed facts mean. Pure: facts and times in, verdicts out. How often something has to be said before anybody acts is the fleet's
//! leader's to decide (ADR 31); what is remembered here is what a fact alone does not say, as whether there was ever another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use datapath::clock::Clock;

use crate::health_check::Verdict;

/// An uplink as the kernel describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) has_carrier: bool,
    /// In Mbit/s; nothing where the driver does not say.
    pub(super) speed: Option<u64>,
    /// How often the carrier came or went.
    pub(super) carrier_changes: u64,
    /// Received and sent.
    pub(super) packets: u64,
    /// Of these, or instead of them, with errors.
    pub(super) errors: u64,
}

/// Uplinks, and those that were there once and are no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Links {
    pub(super) there: Vec<Link>,
    pub(super) gone: BTreeSet<String>,
}

/// Parts, joined, where there are any.
fn failed_if(parts: Vec<String>) -> Verdict {
    if parts.is_empty() { Verdict::Ok } else { Verdict::Failed(parts.join("; ")) }
}

fn without_links(links: &Links) -> Option<Verdict> {
    links.there.is_empty().then(|| Verdict::Unknown("there is no uplink to look at".to_owned()))
}

/// An interface that is gone is taken away where another is left, as clouds do; the last one is not.
pub(super) fn carrier(links: &Links) -> Verdict {
    if links.there.is_empty() && !links.gone.is_empty() {
        return Verdict::Failed(format!("{} is gone, and there is no other uplink", Vec::from_iter(links.gone.clone()).join(", ")));
    }
    let down = links.there.iter().filter(|link| !link.has_carrier).map(|link| format!("{} has no carrier", link.name));
    without_links(links).unwrap_or_else(|| failed_if(down.collect()))
}

/// The highest speed that was seen of each.
#[derive(Debug, Default)]
pub(super) struct Speed(BTreeMap<String, u64>);

impl Speed {
    pub(super) fn judge(&mut self, links: &Links) -> Verdict {
        let mut slow = Vec::new();
        let mut is_known = false;
        // Without a carrier there is no speed: that is another check's.
        for (link, speed) in links.there.iter().filter(|link| link.has_carrier).filter_map(|link| Some((link, link.speed?))) {
            is_known = true;
            let highest = self.0.entry(link.name.clone()).or_default();
            *highest = speed.max(*highest);
            if speed < *highest {
                slow.push(format!("{} has {speed} Mbit/s, and has had {highest}", link.name));
            }
        }
        if is_known { failed_if(slow) } else { Verdict::Unknown("no uplink tells its speed".to_owned()) }
    }
}

/// What was counted lately.
type Counted = VecDeque<(Duration, [u64; 2])>;

/// Adds what was first seen `at`, and drops what is older than `window`, but for one. Counters that were set back begin anew.
fn note(counted: &mut Counted, at: Duration, now: Duration, window: Duration, figures: [u64; 2]) -> [u64; 2] {
    if counted.back().is_some_and(|(_, last)| last[0] > figures[0] || last[1] > figures[1]) {
        counted.clear();
    }
    counted.push_back((at, figures));
    while counted.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= window) {
        counted.pop_front();
    }
    let first = counted.front().map_or(figures, |(_, first)| *first);
    [figures[0] - first[0], figures[1] - first[1]]
}

/// Three losses of the carrier within ten minutes.
#[derive(Debug, Default)]
pub(super) struct Flaps(BTreeMap<String, Counted>);

impl Flaps {
    const WINDOW: Duration = Duration::from_secs(600);
    /// A loss and a return are two changes.
    const CHANGES: u64 = 6;

    pub(super) fn judge(&mut self, links: &Links, now: Duration) -> Verdict {
        let mut flapping = Vec::new();
        for link in &links.there {
            let counted = self.0.entry(link.name.clone()).or_default();
            // What has not changed keeps its place and its time, so that places are as few as changes whatever the interval.
            let same = counted.pop_back_if(|(_, last)| last[0] == link.carrier_changes);
            let at = same.map_or(now, |(at, _)| at);
            let [changes, _] = note(counted, at, now, Self::WINDOW, [link.carrier_changes, 0]);
            if changes >= Self::CHANGES {
                flapping.push(format!("the carrier of {} came or went {changes} times within ten minutes", link.name));
            }
        }
        without_links(links).unwrap_or_else(|| failed_if(flapping))
    }
}

/// One packet of a hundred, and a hundred of them, within half a minute.
#[derive(Debug, Default)]
pub(super) struct Errors(BTreeMap<String, Counted>);

impl Errors {
    const WINDOW: Duration = Duration::from_secs(30);
    const LEAST: u64 = 100;

    pub(super) fn judge(&mut self, links: &Links, now: Duration) -> Verdict {
        let mut bad = Vec::new();
        for link in &links.there {
            let counted = self.0.entry(link.name.clone()).or_default();
            let [packets, errors] = note(counted, now, now, Self::WINDOW, [link.packets, link.errors]);
            if errors >= Self::LEAST && errors.saturating_mul(100) >= packets {
                bad.push(format!("{} has had {errors} errors beside {packets} packets lately", link.name));
            }
        }
        without_links(links).unwrap_or_else(|| failed_if(bad))
    }
}

/// How full a table is, where there is one. At nine tenths the last pods of a burst begin to fail.
pub(super) fn fullness(tables: &[(&str, u64, u64)]) -> Verdict {
    let full = tables.iter().filter(|(_, used, most)| *most > 0 && used.saturating_mul(10) >= most.saturating_mul(9));
    failed_if(full.map(|(what, used, most)| format!("{used} of {most} {what} are taken")).collect())
}

/// A file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) is_read_only: bool,
    pub(super) blocks: u64,
    pub(super) available: u64,
    /// None on file systems that make them as they need them.
    pub(super) inodes: u64,
    pub(super) inodes_available: u64,
}

/// A root that was never writable is an image; one that has become read-only is broken. `/var` has to be writable in any case.
#[derive(Debug, Default)]
pub(super) struct Writable {
    pub(super) was_writable: bool,
}

impl Writable {
    pub(super) fn judge(&mut self, path: &str, disk: Disk) -> Verdict {
        let Disk { is_read_only, blocks, available, inodes, inodes_available } = disk;
        self.was_writable |= !is_read_only;
        if is_read_only {
            return if self.was_writable { Verdict::Failed(format!("{path} has become read-only")) } else { Verdict::Ok };
        }
        let is_out = |left: u64, all: u64| all > 0 && left.saturating_mul(100) < all;
        let mut bad = Vec::new();
        if is_out(available, blocks) {
            bad.push(format!("less than a hundredth of {path} is free"));
        }
        if is_out(inodes_available, inodes) {
            bad.push(format!("{inodes_available} of {inodes} inodes of {path} are free"));
        }
        failed_if(bad)
    }
}

/// Something that has to answer, and may be restarted: bad after a time without a good answer, and never where there was none at all, as
/// where it listens elsewhere.
#[derive(Debug)]
pub(super) struct Answering {
    patience: Duration,
    was_well: bool,
    bad_since: Option<Duration>,
}

impl Answering {
    pub(super) fn within(patience: Duration) -> Self {
        Self { patience, was_well: false, bad_since: None }
    }

    pub(super) fn judge(&mut self, now: Duration, answer: Result<(), String>) -> Verdict {
        let Err(why) = answer else {
            (self.was_well, self.bad_since) = (true, None);
            return Verdict::Ok;
        };
        if !self.was_well {
            return Verdict::Unknown(format!("{why}; it has not been well since barewired has started"));
        }
        let lasts = now.saturating_sub(*self.bad_since.get_or_insert(now));
        if lasts >= self.patience { Verdict::Failed(why) } else { Verdict::Unknown(format!("{why}; it may be restarting")) }
    }
}

/// What is kept, and is wrong by less than certificates and leases of some seconds mind.
pub(super) fn clock(Clock { is_synchronised, error }: Clock) -> Result<(), String> {
    const ERROR_MAX: Duration = Duration::from_millis(500);
    match is_synchronised {
        false => Err("nothing keeps the clock (adjtimex: STA_UNSYNC)".to_owned()),
        true if error > ERROR_MAX => Err(format!("the clock is wrong by {:.1} s, as who keeps it says (adjtimex)", error.as_secs_f64())),
        true => Ok(()),
    }
}

/// How the node's connections to the API server do: each by how often it has sent the same again. Kubelet has one all the time, and says
/// something every ten seconds; to ask by a connection of our own would be a line in the API server's log for each node and look.
pub(super) fn api_server(addresses: &[SocketAddr], connections: &[u32]) -> Result<(), String> {
    /// A second and a half without a word.
    const SILENT: u32 = 3;
    let names = || addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match connections {
        [] => Err(format!("the node has no connection to {}", names())),
        _ if connections.iter().all(|sent_again| *sent_again >= SILENT) => Err(format!("{} acknowledges nothing", names())),
        _ => Ok(()),
    }
}

/// The gateways of default routes, and whether each one's neighbour entry is resolved.
pub(super) fn gateway(answers: &[(String, bool)]) -> Option<Result<(), String>> {
    let silent: Vec<_> =
        answers.iter().filter(|(_, is_resolved)| !is_resolved).map(|(name, _)| format!("gateway {name} does not answer")).collect();
    let is_known = !answers.is_empty();
    is_known.then(|| if silent.is_empty() { Ok(()) } else { Err(silent.join("; ")) })
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
