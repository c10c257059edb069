//! The supply of addresses: what the cloud has assigned to the node, what of it may be used, and what to ask for next.
//!
//! Pure, sans-IO: it is told what was read and answered, and tells what to call. Time is an argument, chance comes from the node's name. The
//! daemon drives it with real clouds, the simulator with thousands of nodes under a virtual clock (docs/adr/0010). Whoever drives it calls
//! [`Supply::poll_request`] whenever something may be due (there is no harm in asking too often), makes the call that this returns,
//! and hands what became of it to [`Supply::handle_response`]. Nothing happens by time alone: what was due at some time is done by the
//! first poll after it, and [`Supply::next_deadline`] tells when that may be.
//!
//! - One request is in flight. What became of it is not guessed: without an answer, both readers are asked first (a request whose
//!   reply was lost may have been granted).
//! - A block is used when the cloud has granted it or a reader lists it; see [`evidence`] for when it is used no more.
//! - A block is given back only if this node has asked for it, when every address of it is free and every reader lists it. It is closed before the call, and stays
//!   closed where a reader lists it afterwards: only what every reader lists, a good while after the call, has stayed with the node.
#![forbid(unsafe_code)]

mod blocks;
pub mod budget;
pub mod evidence;
pub mod memory;
mod protocol;
pub mod sizing;
mod timers;

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use node_api::BootMillis;

pub use blocks::EXCLUDED_MAX;
use blocks::{Block, Network};
use budget::Random;
use evidence::{Belief, Evidence, Reader};
use ipam_pool::range::{AddressRange, Family};
use ipam_pool::{Closed, Pool, RangeState};
pub use protocol::{ApiMode, Budget, Growth, Interface, Outcome, Reading, Refusal, Report, Request, Settings};
use timers::{APPEARS, Asked, FRESH, Full, Lack, Timers};

/// How long what was given back is not believed to be there; from then on, when every reader lists it.
const TOMBSTONE: u64 = 15 * 60_000;
/// Blocks that one call gives back at most. EC2 names no limit; an interface has fifty places at most, and a message to people some length.
const RELEASED_AT_ONCE: usize = 50;
/// Failures in a row that make a node stop giving back, and stop calling.
const FEW_FAILURES: u32 = 3;
const MANY_FAILURES: u32 = 8;

/// The supply of one node.
#[derive(Debug)]
pub struct Supply {
    settings: Settings,
    blocks: BTreeMap<IpNetwork, Block>,
    interfaces: Vec<Interface>,
    interface_room: bool,
    network: Network,
    /// What was given back, and when.
    tombstones: BTreeMap<IpNetwork, BootMillis>,
    in_flight: Option<Request>,
    timers: Timers,
    /// A call had no answer: who has not been asked since.
    unsure: BTreeSet<Reader>,
    /// An assignment had no answer: what appears on this interface next was asked for.
    unanswered: Option<String>,
    /// A change was made: whoever made it had to learn the limits of the machine for that.
    knows_limits: bool,
    /// Metadata lists interfaces of which the API alone can tell whether they are managed.
    has_unidentified: bool,
    /// The most blocks that are asked for in one call: fewer where a subnet had room for fewer, for it gives all or nothing.
    at_once: [u64; 2],
    random: Random,
    /// It may call before its turn where pods wait that came after others had addresses. Whoever is throttled then waits for it.
    may_be_early: bool,
}

impl Supply {
    /// A supply that knows nothing yet but what was given back before a restart.
    #[must_use]
    pub fn new(settings: Settings, tombstones: BTreeMap<IpNetwork, BootMillis>, now: BootMillis) -> Self {
        let window = budget::window(settings.cluster_nodes, settings.account_calls_per_second);
        let delay = budget::start_delay(&settings.node, window);
        let random = Random::of_name(&settings.node);
        Self {
            blocks: BTreeMap::new(),
            interfaces: Vec::new(),
            interface_room: false,
            network: Network { excluded: settings.exclude.clone(), ..Network::default() },
            tombstones,
            in_flight: None,
            timers: Timers::new(window, delay, now),
            unsure: BTreeSet::new(),
            unanswered: None,
            knows_limits: false,
            has_unidentified: false,
            at_once: [u64::MAX; 2],
            random,
            may_be_early: true,
            settings,
        }
    }

    /// Starts from what was known before a restart. From here on readers can raise doubt, and no more: whatever the first of them omits,
    /// its pods keep their network.
    pub fn restore<'a>(
        &mut self,
        interfaces: &[Interface],
        blocks: impl IntoIterator<Item = (&'a IpNetwork, &'a str)>,
        assigned_here: &BTreeSet<IpNetwork>,
        pool: &mut Pool,
        now: BootMillis,
    ) -> Vec<Report> {
        self.interfaces = interfaces.to_vec();
        let mut reports = Vec::new();
        for (block, interface) in blocks {
            if !self.tombstones.contains_key(block) {
                self.take_up(*block, interface, pool, now, &mut reports);
                self.blocks.entry(*block).and_modify(|known| {
                    known.evidence = Evidence::of_memory(now);
                    known.assigned_here = assigned_here.contains(block);
                });
            }
        }
        reports.extend(self.judge(pool, now));
        reports
    }

    /// How freely the cloud is called now.
    #[must_use]
    pub const fn api_mode(&self) -> ApiMode {
        match self.timers.backoff.failures() {
            failures if failures >= MANY_FAILURES => ApiMode::CircuitOpen,
            failures if failures >= FEW_FAILURES => ApiMode::ReleasesPaused,
            _ => ApiMode::Normal,
        }
    }

    /// What may be called now.
    #[must_use]
    pub fn budget(&self, now: BootMillis) -> Budget {
        let from = self.timers.backoff.until().max(self.timers.calls_from);
        Budget { tokens: self.timers.bucket.left(now), failures: self.timers.backoff.failures(), wait: from.since(now) }
    }

    /// The interface that a block is on.
    #[must_use]
    pub fn interface_of(&self, block: &IpNetwork) -> Option<&str> {
        self.blocks.get(block).map(|block| block.interface.as_str())
    }

    /// What was given back, or is about to be, and is not believed to be there yet.
    pub fn released(&self) -> impl Iterator<Item = &IpNetwork> {
        self.tombstones.keys()
    }

    /// The interfaces as they were read last, and those that were omitted then and have blocks.
    #[must_use]
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// Every block with its interface.
    pub fn blocks(&self) -> impl Iterator<Item = (&IpNetwork, &str)> {
        self.blocks.iter().map(|(block, known)| (block, known.interface.as_str()))
    }

    /// The blocks that were assigned at this node's request: the only ones that it unassigns.
    pub fn assigned_here(&self) -> impl Iterator<Item = &IpNetwork> {
        self.blocks.iter().filter(|(_, known)| known.assigned_here).map(|(block, _)| block)
    }

    /// Tells which interfaces the node's kernel has, ready to carry packets. Until one is there, its blocks are of no use: a cloud
    /// attaches first and shows the device later.
    pub fn set_present(&mut self, interfaces: BTreeSet<String>, pool: &mut Pool, now: BootMillis) -> Vec<Report> {
        self.network.present = Some(interfaces);
        self.judge(pool, now)
    }

    /// Tells which blocks the node's network is set up for: pods are given addresses of these alone. Whoever never tells has it set
    /// up for all.
    pub fn set_programmed(&mut self, blocks: BTreeSet<IpNetwork>, pool: &mut Pool, now: BootMillis) -> Vec<Report> {
        for block in &blocks {
            self.blocks.entry(*block).and_modify(|known| known.was_programmed = true);
        }
        self.network.carried = Some(blocks);
        self.judge(pool, now)
    }

    fn judge(&mut self, pool: &mut Pool, now: BootMillis) -> Vec<Report> {
        let readers = self.readers();
        blocks::judge(&mut self.blocks, &mut self.tombstones, &self.network, readers, pool, now)
    }

    /// Addresses that are assigned and will be of use when the node's network carries them.
    fn expected(&self, family: Family, now: BootMillis) -> u64 {
        let late = self.blocks.iter().filter(|(block, known)| {
            let is_to_come =
                matches!(self.network.obstacle(block, &known.interface), Some(Closed::InterfaceAbsent | Closed::NotProgrammed));
            is_to_come && !known.was_programmed && is_young(known, now)
        });
        let ranges = late.map(|(block, _)| AddressRange::from(*block)).filter(|range| range.family() == family);
        ranges.fold(0, |sum, range| sum.saturating_add(range.size()))
    }

    /// What to call now, if anything; `waiting` pods have asked for addresses that the pool did not have. The caller tells what became
    /// of it with [`Supply::handle_response`] before it asks again; a block to be unassigned is closed in the pool, and its tombstone is to be made
    /// durable before the call.
    pub fn poll_request(&mut self, pool: &mut Pool, waiting: u64, now: BootMillis) -> Option<Request> {
        if self.in_flight.is_some() {
            return None;
        }
        // A reader that answers slowly must not take the turn of pods that wait.
        let may_call = now >= self.timers.backoff.until() && self.timers.bucket.left(now) > 0;
        let is_urgent = waiting > 0 && may_call && !self.interfaces.is_empty();
        let mut request = if is_urgent { self.change_to_make(pool, waiting, now) } else { None };
        request = request.or_else(|| self.reading_to_make(waiting, now).map(Request::Read));
        let request = request.or_else(|| self.change_to_make(pool, waiting, now))?;
        let calls_api = request != Request::Read(Reader::Metadata);
        if calls_api && (now < self.timers.backoff.until() || self.timers.bucket.take(now).is_err()) {
            return None;
        }
        if let Request::Unassign { blocks, .. } = &request {
            for block in blocks {
                // It is in the pool: its counts were asked for a moment ago.
                let closed = pool.set_state(&AddressRange::from(*block), RangeState::Closed(Closed::Releasing));
                debug_assert_eq!(closed, Ok(()), "{block}");
                self.tombstones.insert(*block, now);
                self.blocks.entry(*block).and_modify(|known| known.releasing = Some(now));
            }
        }
        self.in_flight = Some(request.clone());
        Some(request)
    }

    /// Takes in what became of the request in flight.
    pub fn handle_response(&mut self, outcome: Outcome, pool: &mut Pool, now: BootMillis) -> Vec<Report> {
        let mut reports = Vec::new();
        let Some(request) = self.in_flight.take() else { return reports };
        match outcome {
            Outcome::Read(reading) => {
                match reading.reader {
                    Reader::Api => self.timers.backoff.succeeded(),
                    Reader::Metadata => self.timers.metadata_backoff.succeeded(),
                }
                self.read(reading, pool, now, &mut reports);
            }
            Outcome::Assigned(blocks) => {
                self.timers.backoff.succeeded();
                // What room there is, the readers tell by the limits that they know.
                if !std::mem::replace(&mut self.knows_limits, true) {
                    self.timers.read_anew(Reader::Metadata);
                }
                if let Request::Assign { interface, family, .. } = request {
                    let at_once = &mut self.at_once[family as usize];
                    *at_once = at_once.saturating_mul(2);
                    for known in self.interfaces.iter_mut().filter(|known| known.id == interface) {
                        let room = &mut known.free_slots[family as usize];
                        *room = room.saturating_sub(blocks.len() as u64);
                    }
                    for block in blocks {
                        self.tombstones.remove(&block);
                        self.take_up(block, &interface, pool, now, &mut reports);
                        self.blocks.entry(block).and_modify(|known| known.assigned_here = true);
                    }
                }
            }
            Outcome::Added => {
                self.timers.backoff.succeeded();
                self.expect_interface(now);
            }
            Outcome::Unassigned => {
                self.timers.backoff.succeeded();
                let Request::Unassign { blocks, .. } = request else { return reports };
                for block in blocks {
                    // Closed and free since before the call. Were it not, it would stay known, and closed.
                    if pool.remove_range(&AddressRange::from(block), now).is_ok() {
                        self.blocks.remove(&block);
                    }
                }
            }
            Outcome::Refused(refusal) => self.refused(&request, &refusal, now),
            Outcome::Unknown => {
                self.timers.backoff.failed(now, None, &mut self.random);
                match request {
                    Request::Read(_) => {}
                    Request::AddInterface { .. } => self.expect_interface(now),
                    Request::Assign { interface, .. } => {
                        self.unanswered = Some(interface);
                        self.ask_everybody();
                    }
                    Request::Unassign { .. } => self.ask_everybody(),
                }
            }
        }
        reports.extend(self.judge(pool, now));
        reports
    }

    /// Whether it is not known what became of a call.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        !self.unsure.is_empty()
    }

    /// Takes one of the node's own tokens for a call that is none of [`Supply::poll_request`]'s, if there is one and calls succeed.
    pub fn take_token(&mut self, now: BootMillis) -> bool {
        self.api_mode() == ApiMode::Normal && self.timers.bucket.take(now).is_ok()
    }

    fn readers(&self) -> &'static [Reader] {
        if self.settings.api { &[Reader::Metadata, Reader::Api] } else { &[Reader::Metadata] }
    }

    fn ask_everybody(&mut self) {
        self.unsure.extend(self.readers());
    }

    /// Readers list an interface when it is there, perhaps some seconds later; until then no other is asked for.
    fn expect_interface(&mut self, now: BootMillis) {
        self.timers.expect_interface(self.interfaces.len(), now);
        self.ask_everybody();
    }

    fn asked(&self, waiting: u64, now: BootMillis) -> Asked {
        let awaited = [Reader::Metadata, Reader::Api].map(|reader| self.unsure.contains(&reader) || self.timers.is_adding());
        Asked {
            newest_doubt: self.blocks.values().filter_map(|known| known.in_doubt_since(self.readers(), now)).max(),
            awaited,
            // What nobody here asks for comes by being read, and so does an interface that was asked for.
            is_wanted: waiting > 0 && (self.settings.sizing == [None; 2] || awaited[Reader::Metadata as usize]),
            has_unidentified: self.has_unidentified,
        }
    }

    fn reading_to_make(&self, waiting: u64, now: BootMillis) -> Option<Reader> {
        let asked = self.asked(waiting, now);
        let is_due = |reader: &&Reader| self.timers.reading_at(**reader, &asked, now).is_some_and(|at| at <= now);
        self.readers().iter().find(is_due).copied()
    }

    /// The earliest time at which [`Supply::poll_request`] may have something to call that it does not have now, if nobody tells anything
    /// until then. None while a call is in flight: the next thing is what becomes of it.
    #[must_use]
    pub fn next_deadline(&self, pool: &Pool, waiting: u64, now: BootMillis) -> Option<BootMillis> {
        if self.in_flight.is_some() {
            return None;
        }
        let release_after = self.settings.sizing.map(|sizing| sizing.map(|sizing| sizing.release_after));
        // What was to be carried by then is not counted upon any more.
        let late = self.blocks.values().map(|known| known.evidence.learned().plus(APPEARS)).filter(|at| *at > now);
        let cooled = pool.cooling(now).map(|(_, left)| now.plus(left));
        self.timers.next(&self.asked(waiting, now), release_after, now).into_iter().chain(late).chain(cooled).min()
    }

    fn change_to_make(&mut self, pool: &Pool, waiting: u64, now: BootMillis) -> Option<Request> {
        let is_early = self.may_be_early && waiting > 0 && !self.blocks.is_empty();
        // What it has may be on an interface that is not identified yet.
        if !self.settings.api || now < self.timers.calls_from && !is_early || self.is_unsure() || self.has_unidentified {
            return None;
        }
        self.timers.expect_no_longer(now);
        for (family, sizing) in Family::ALL.into_iter().zip(self.settings.sizing) {
            let Some(sizing) = sizing else { continue };
            let (have, used) = self.have_and_used(family, pool, waiting, now);
            let has_had_more = self.timers.surplus(family, have > sizing.at_most(used) * sizing.block, now);
            if have < sizing.at_least(used) * sizing.block {
                if let Some(request) = self.growth(family, (sizing.at_least(used) * sizing.block - have).div_ceil(sizing.block), now) {
                    return Some(request);
                }
            } else if let Some(has_had_more) = has_had_more {
                let may_release = has_had_more >= sizing.release_after && self.api_mode() == ApiMode::Normal;
                let surplus = have - sizing.at_most(used) * sizing.block;
                if may_release && let Some(request) = self.release(family, surplus, pool, now) {
                    return Some(request);
                }
            }
        }
        None
    }

    /// Addresses that the node has or will have in a moment, and how many of them are used or asked for.
    fn have_and_used(&self, family: Family, pool: &Pool, waiting: u64, now: BootMillis) -> (u64, u64) {
        let counts = pool.counts(family, now);
        let have = counts.size.saturating_sub(counts.quarantined).saturating_add(self.expected(family, now));
        (have, (counts.held + counts.cooling) as u64 + waiting)
    }

    /// How to get that many blocks more.
    fn growth(&self, family: Family, missing: u64, now: BootMillis) -> Option<Request> {
        let blocks = missing.min(self.at_once[family as usize]);
        if let Some((interface, room)) = self.roomy(family, now) {
            return Some(Request::Assign { interface: interface.to_owned(), family, blocks: blocks.min(room) });
        }
        if self.interface_room && !self.timers.is_adding() && self.timers.full(None, family, now).is_none() {
            return Some(Request::AddInterface { family, blocks });
        }
        // Metadata does not tell limits: before the API was asked, a node that was launched with all that is granted to an unknown one
        // has no room that anybody knows of.
        self.timers.may_know_of_room(now).then_some(Request::Read(Reader::Api))
    }

    /// The interface to ask for blocks. One that the kernel does not have (yet) gets some only if nothing else has room, and no more
    /// once it should have appeared.
    fn roomy(&self, family: Family, now: BootMillis) -> Option<(&str, u64)> {
        let has_room = |interface: &&Interface| interface.free_slots[family as usize] > 0 && self.is_full(interface, family, now).is_none();
        let is_late = |interface: &&Interface| self.blocks.values().any(|known| known.interface == interface.id && !is_young(known, now));
        let mut present = self.interfaces.iter().filter(|interface| self.network.has(&interface.id));
        let mut absent = self.interfaces.iter().filter(|interface| !self.network.has(&interface.id) && !is_late(interface));
        let found = present.find(has_room).or_else(|| absent.find(has_room))?;
        Some((&found.id, found.free_slots[family as usize]))
    }

    /// Whether the node can have more addresses of a family, as far as it knows.
    #[must_use]
    pub fn growth_of(&self, family: Family, now: BootMillis) -> Growth {
        if self.settings.sizing[family as usize].is_none() {
            return Growth::NotAsked;
        }
        let (full, open): (Vec<_>, Vec<_>) = self
            .interfaces
            .iter()
            .filter(|interface| interface.free_slots[family as usize] > 0)
            .partition(|interface| self.is_full(interface, family, now).is_some());
        let no_interface = self.timers.full(None, family, now);
        let interface = self.interface_room && no_interface.is_none();
        if interface || !open.is_empty() {
            let blocks = open.iter().fold(0_u64, |sum, interface| sum.saturating_add(interface.free_slots[family as usize]));
            return Growth::Room { blocks, interface };
        }
        let full = full.into_iter().filter_map(|interface| self.is_full(interface, family, now)).chain(no_interface);
        let subnets = full.filter(|full| full.lack == Lack::Subnet);
        subnets.map(|full| full.until).min().map_or(Growth::AtLimit, |retry_at| Growth::SubnetFull { retry_at })
    }

    fn is_full(&self, interface: &Interface, family: Family, now: BootMillis) -> Option<Full> {
        self.timers.full(Some(&interface.id), family, now)
    }

    /// Whether the node should have more addresses of a family, and nothing that it knows of has room for them.
    #[must_use]
    pub fn is_stuck(&self, family: Family, pool: &Pool, waiting: u64, now: BootMillis) -> bool {
        let sizing = self.settings.sizing[family as usize].filter(|_| !self.interfaces.is_empty() && !self.timers.is_adding());
        sizing.is_some_and(|sizing| {
            let (have, used) = self.have_and_used(family, pool, waiting, now);
            have < sizing.at_least(used) * sizing.block && self.growth(family, 1, now).is_none()
        })
    }

    /// The highest blocks that are free and were assigned here, of one interface, while more than `surplus` addresses are beyond what the node
    /// keeps. Before one is given back, every reader has to list it.
    fn release(&self, family: Family, surplus: u64, pool: &Pool, now: BootMillis) -> Option<Request> {
        let is_free = |range: AddressRange| pool.counts_of(&range, now).is_ok_and(|counts| counts.free() == counts.size);
        let mut candidates = self.blocks.iter().rev().filter(|(block, known)| {
            let range = AddressRange::from(**block);
            range.family() == family
                && known.assigned_here
                && known.releasing.is_none()
                && known.evidence.belief(self.readers(), now) == Belief::Assigned
                && is_free(range)
        });
        let (first, known) = candidates.next()?;
        if known.evidence.all_list_it(self.readers(), FRESH, now) {
            let interface = known.interface.clone();
            let mut left = surplus.saturating_sub(AddressRange::from(*first).size());
            let mut blocks = vec![*first];
            for (block, known) in candidates.filter(|(_, known)| known.interface == interface) {
                if left == 0 || blocks.len() == RELEASED_AT_ONCE || !known.evidence.all_list_it(self.readers(), FRESH, now) {
                    break;
                }
                left = left.saturating_sub(AddressRange::from(*block).size());
                blocks.push(*block);
            }
            return Some(Request::Unassign { interface, blocks });
        }
        let is_stale = |reader: &&Reader| self.timers.is_older(**reader, FRESH, now);
        self.readers().iter().find(is_stale).map(|reader| Request::Read(*reader))
    }

    fn refused(&mut self, request: &Request, refusal: &Refusal, now: BootMillis) {
        match request {
            // Nothing was done: they are ours still.
            Request::Unassign { blocks, .. } => {
                for block in blocks {
                    self.tombstones.remove(block);
                    self.blocks.entry(*block).and_modify(|known| known.releasing = None);
                }
            }
            Request::Read(reader) => self.timers.was_read(*reader, now),
            Request::Assign { .. } | Request::AddInterface { .. } => {}
        }
        let of_metadata = *request == Request::Read(Reader::Metadata);
        let backoff = if of_metadata { &mut self.timers.metadata_backoff } else { &mut self.timers.backoff };
        match refusal {
            Refusal::Throttled(retry_after) => {
                self.may_be_early &= of_metadata;
                backoff.failed(now, *retry_after, &mut self.random);
            }
            Refusal::Other(_) => backoff.failed(now, None, &mut self.random),
            Refusal::Full | Refusal::Exhausted => {
                backoff.succeeded();
                self.note_full(request, if *refusal == Refusal::Full { Lack::Place } else { Lack::Subnet }, now);
            }
        }
    }

    /// A subnet gives all or nothing, so that half as many are asked for next; one that has not even one block is left alone for a
    /// while, and so is an interface that is full whatever its limits say.
    fn note_full(&mut self, request: &Request, lack: Lack, now: BootMillis) {
        let (Request::Assign { family, blocks, .. } | Request::AddInterface { family, blocks }) = request else { return };
        let at_once = &mut self.at_once[*family as usize];
        if lack == Lack::Subnet && *blocks > 1 {
            *at_once = blocks / 2;
            return;
        }
        *at_once = u64::MAX;
        let interface = if let Request::Assign { interface, .. } = request { Some(interface.as_str()) } else { None };
        self.timers.note_full(interface, *family, lack, &mut self.random, now);
    }

    fn read(&mut self, reading: Reading, pool: &mut Pool, now: BootMillis, reports: &mut Vec<Report>) {
        let Reading { reader, mut interfaces, interface_room, has_unidentified } = reading;
        self.has_unidentified = has_unidentified;
        self.timers.was_read(reader, now);
        self.unsure.remove(&reader);
        let listed: BTreeMap<_, _> =
            interfaces.iter().flat_map(|interface| interface.blocks.iter().map(|block| (*block, interface.id.clone()))).collect();
        let readers = self.readers();
        for (block, known) in &mut self.blocks {
            let interface = listed.get(block);
            known.evidence.note(reader, interface.is_some(), now);
            if interface.is_some_and(|interface| known.moves(reader, interface, readers, &self.network, now)) {
                // The node's network has it where it was.
                self.network.carried.as_mut().map(|carried| carried.remove(block));
            }
        }
        for (block, interface) in listed {
            let released = self.tombstones.get(&block).copied();
            if !self.blocks.contains_key(&block) && released.is_none_or(|at| now.since(at) >= TOMBSTONE) {
                self.take_up(block, &interface, pool, now, reports);
                let asked_for = released.is_some() || self.unanswered.as_ref() == Some(&interface);
                self.blocks.entry(block).and_modify(|known| {
                    known.evidence.note(reader, true, now);
                    known.releasing = released;
                    known.assigned_here = asked_for;
                });
            }
        }
        for interface in interfaces.iter().filter(|interface| interface.created_here) {
            for block in &interface.blocks {
                self.blocks.entry(*block).and_modify(|known| known.assigned_here = true);
            }
        }
        if self.unsure.is_empty() {
            self.unanswered = None;
        }
        // The reader that is read often has had its say about those that are due. Of a block that is leaving still, a restart must know.
        if reader == Reader::Metadata {
            let is_leaving = |block: &IpNetwork| self.blocks.get(block).is_some_and(|known| known.releasing.is_some());
            self.tombstones.retain(|block, at| now.since(*at) < TOMBSTONE || is_leaving(block));
        }
        // A reading may omit an interface: it is known as long as one of its blocks is.
        for known in std::mem::take(&mut self.interfaces) {
            let is_omitted = !interfaces.iter().any(|interface| interface.id == known.id);
            if is_omitted && self.blocks.values().any(|block| block.interface == known.id) {
                interfaces.push(known.lasting());
            }
        }
        self.timers.interfaces_listed(interfaces.len());
        self.timers.forget_full(now);
        self.interfaces = interfaces;
        self.interface_room = interface_room;
    }

    fn take_up(&mut self, block: IpNetwork, interface: &str, pool: &mut Pool, now: BootMillis, reports: &mut Vec<Report>) {
        let range = AddressRange::from(block);
        match pool.add_range(range) {
            Ok(()) => {
                // Before anybody else sees the pool, as what follows.
                for address in self.network.excluded_of(&block) {
                    pool.quarantine(address, Closed::Excluded.to_string());
                }
                if let Some(obstacle) = self.network.obstacle(&block, interface) {
                    let _ = pool.set_state(&range, RangeState::Closed(obstacle));
                }
                self.blocks.entry(block).or_insert_with(|| Block::new(interface, now));
            }
            Err(_) => reports.push(Report::Overlap(block)),
        }
    }
}

/// Whether a block was learned of so lately that its interface may be about to appear.
fn is_young(known: &Block, now: BootMillis) -> bool {
    now.since(known.evidence.learned()) < APPEARS
}

#[cfg(test)]
mod tests;
