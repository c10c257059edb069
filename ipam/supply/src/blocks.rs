//! What each block may be used for: as its evidence and the node's own network say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipam_pool::range::AddressRange;
use ipam_pool::{Closed, Pool, RangeState};
use ipnetwork::IpNetwork;
use node_api::BootMillis;

use super::evidence::{Belief, Evidence, Reader};
use super::protocol::Report;

/// The configuration has no exclusion of more addresses, but for whole blocks.
pub const EXCLUDED_MAX: usize = 1 << 16;
/// When the last of two readers knows what became of a call: it takes seconds, and a reader lags for two minutes at most.
const CALL_SETTLES: u64 = 3 * 60_000;

/// A block that the node has, or had.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) interface: String,
    pub(super) evidence: Evidence,
    /// It is being given back, or was: since when.
    pub(super) releasing: Option<BootMillis>,
    /// The node's network carried it at some time: what it carries no more is lost, not late.
    pub(super) was_programmed: bool,
    /// It was assigned at this node's request. What was there before is used, and never unassigned.
    pub(super) assigned_here: bool,
    /// A reader's last word was that it is on another interface, and has been since then.
    elsewhere: Option<(Reader, String, BootMillis)>,
}

impl Block {
    pub(super) fn new(interface: &str, now: BootMillis) -> Self {
        Self {
            interface: interface.to_owned(),
            evidence: Evidence::new(now),
            releasing: None,
            was_programmed: false,
            assigned_here: false,
            elsewhere: None,
        }
    }

    /// Since when it is in doubt whose it is or where, if it is.
    pub(super) fn in_doubt_since(&self, readers: &[Reader], now: BootMillis) -> Option<BootMillis> {
        let elsewhere = self.elsewhere.as_ref().map(|(.., since)| *since);
        let evidence = (self.evidence.belief(readers, now) == Belief::Doubtful).then(|| self.evidence.changed());
        self.releasing.map(|since| since.max(self.evidence.changed())).max(evidence).max(elsewhere)
    }

    /// Notes on which interface a reader has it; tells whether it moves there. A block can move, but one reader that is behind must not
    /// re-route live pods: it moves where its interface is not there any more, or where all readers say so.
    pub(super) fn moves(&mut self, reader: Reader, to: &str, readers: &[Reader], network: &Network, now: BootMillis) -> bool {
        if to == self.interface {
            self.elsewhere = self.elsewhere.take().filter(|(who, ..)| *who != reader);
            return false;
        }
        if !network.has(to) {
            return false;
        }
        let others_agree = readers.len() == 1 || matches!(&self.elsewhere, Some((who, interface, _)) if *who != reader && interface == to);
        if network.has(&self.interface) && !others_agree {
            if self.elsewhere.is_none() {
                self.elsewhere = Some((reader, to.to_owned(), now));
            }
            return false;
        }
        to.clone_into(&mut self.interface);
        self.elsewhere = None;
        true
    }
}

/// What the node's own network is ready for.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// Interfaces that the kernel has; none where that was not told, and every interface is taken to be there.
    pub(super) present: Option<BTreeSet<String>>,
    /// Blocks that are set up; none where that was not told.
    pub(super) carried: Option<BTreeSet<IpNetwork>>,
    /// Addresses that no pod gets.
    pub(super) excluded: Vec<AddressRange>,
}

impl Network {
    pub(super) fn has(&self, interface: &str) -> bool {
        self.present.as_ref().is_none_or(|present| present.contains(interface))
    }

    /// Why a block is of no use to the node yet, or any more, though it is assigned.
    pub(super) fn obstacle(&self, block: &IpNetwork, interface: &str) -> Option<Closed> {
        if self.is_excluded(block) {
            return Some(Closed::Excluded);
        }
        if !self.has(interface) {
            return Some(Closed::InterfaceAbsent);
        }
        self.carried.as_ref().is_some_and(|carried| !carried.contains(block)).then_some(Closed::NotProgrammed)
    }

    /// Whether all of a block is excluded.
    fn is_excluded(&self, block: &IpNetwork) -> bool {
        let mut left = vec![AddressRange::from(*block)];
        for hole in &self.excluded {
            left = left.into_iter().flat_map(|range| range.without(hole)).collect();
        }
        left.is_empty()
    }

    /// The addresses of a block that are excluded though it is not, at most [`EXCLUDED_MAX`] by each exclusion.
    pub(super) fn excluded_of(&self, block: &IpNetwork) -> BTreeSet<IpAddr> {
        if self.is_excluded(block) {
            return BTreeSet::new();
        }
        let range = AddressRange::from(*block);
        self.excluded.iter().flat_map(|hole| range.common(hole).take(EXCLUDED_MAX)).collect()
    }
}

/// Has the pool follow what is believed of each block, and forgets those that are gone and free.
pub(super) fn judge(
    blocks: &mut BTreeMap<IpNetwork, Block>,
    tombstones: &mut BTreeMap<IpNetwork, BootMillis>,
    network: &Network,
    readers: &[Reader],
    pool: &mut Pool,
    now: BootMillis,
) -> Vec<Report> {
    let mut reports = Vec::new();
    blocks.retain(|block, known| {
        let range = AddressRange::from(*block);
        let belief = known.evidence.belief(readers, now);
        if let Some(since) = known.releasing {
            let settled = now.since(since).checked_sub(CALL_SETTLES);
            if belief == Belief::Gone {
                return pool.remove_range(&range, now).is_err();
            }
            if !settled.is_some_and(|age| known.evidence.all_list_it(readers, age, now)) {
                let _ = pool.set_state(&range, RangeState::Closed(Closed::Releasing));
                return true;
            }
            tombstones.remove(block);
            known.releasing = None;
        }
        let was = pool.state_of(&range).cloned();
        let was_lost = was == Some(RangeState::Closed(Closed::Lost));
        let held = pool.counts_of(&range, now).map_or(0, |counts| counts.held);
        let next = match belief {
            Belief::Gone => RangeState::Closed(Closed::Lost),
            // What was lost is found when nobody doubts it.
            Belief::Doubtful if was_lost => RangeState::Closed(Closed::Lost),
            Belief::Assigned | Belief::Doubtful => match network.obstacle(block, &known.interface) {
                Some(obstacle) => RangeState::Closed(obstacle),
                None if belief == Belief::Assigned => RangeState::Open,
                None => RangeState::Suspect,
            },
        };
        if was.as_ref() != Some(&next) {
            match &next {
                RangeState::Closed(Closed::Lost) => reports.push(Report::Lost { block: *block, held, why: Closed::Lost }),
                // Nobody has lost anything that the network was about to be set up for.
                RangeState::Closed(Closed::InterfaceAbsent) if held > 0 => {
                    reports.push(Report::Lost { block: *block, held, why: Closed::InterfaceAbsent });
                }
                RangeState::Closed(
                    Closed::InterfaceAbsent | Closed::NotProgrammed | Closed::Releasing | Closed::Excluded | Closed::UplinkDown(_),
                )
                | RangeState::Open
                | RangeState::Suspect => {}
            }
        }
        let _ = pool.set_state(&range, next);
        // Gone, and nobody has any of it: there is nothing to remember.
        belief != Belief::Gone || pool.remove_range(&range, now).is_err()
    });
    reports
}
