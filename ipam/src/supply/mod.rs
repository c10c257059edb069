//! The supply of addresses: what the cloud has assigned to the node, what of it may be used, and what to ask for next.
//!
//! Pure: it is told what was read and answered, and tells what to call. Time is an argument, chance comes from the node's name. The
//! daemon drives it with real clouds, the simulator with thousands of nodes under a virtual clock (docs/adr/0010).
//!
//! - One request is in flight. What became of it is not guessed: without an answer, both readers are asked first (a request whose
//!   reply was lost may have been granted).
//! - A block is used when the cloud has granted it or a reader lists it; see [`evidence`] for when it is used no more.
//! - A block is given back only when every address of it is free and every reader lists it. It is closed before the call, and stays
//!   closed where a reader lists it afterwards: only what every reader lists, a good while after the call, has stayed with the node.

pub mod budget;
pub mod evidence;
pub mod sizing;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use node_api::BootMillis;

use crate::pool::{Pool, Use};
use crate::range::{AddressRange, Family};
use budget::{Backoff, Random, TokenBucket};
use evidence::{Belief, Evidence, Reader};
use sizing::Sizing;

/// What a node may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The node's name: chance and start-up delay follow from it.
    pub node: String,
    /// Whether the API is used at all. Without, the node has what was assigned to it at launch.
    pub api: bool,
    /// By family; a family without is not asked for.
    pub sizing: [Option<Sizing>; 2],
    /// Nodes of the cluster, for the delay of the first call.
    pub cluster_nodes: u64,
    /// Calls a second that the account has for the call that everybody makes first.
    pub account_calls_per_second: u64,
}

/// An interface to the cloud network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The cloud's name of it.
    pub id: String,
    /// Its MAC address, by which the kernel's interface is found.
    pub mac: [u8; 6],
    /// Its own address, which no pod gets.
    pub address: Option<IpAddr>,
    /// Its subnet's gateways, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// What is assigned to it for pods.
    pub blocks: BTreeSet<IpNetwork>,
    /// How many more blocks it can have, by family.
    pub room: [u64; 2],
}

/// What a reader says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Who.
    pub reader: Reader,
    /// All interfaces, in the order of their attachment: the first is the node's own.
    pub interfaces: Vec<Interface>,
    /// Whether the instance can have another interface.
    pub interface_room: bool,
}

/// A call to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Read what is assigned.
    Read(Reader),
    /// Assign that many blocks to an interface.
    Assign {
        /// Which one.
        interface: String,
        /// Of which family.
        family: Family,
        /// How many.
        blocks: u64,
    },
    /// Make and attach an interface that has that many blocks.
    AddInterface {
        /// Of which family.
        family: Family,
        /// How many.
        blocks: u64,
    },
    /// Take a block from an interface. Every address of it is free, and nobody will get one.
    Unassign {
        /// Which one.
        interface: String,
        /// What.
        block: IpNetwork,
    },
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Read.
    Read(Reading),
    /// Assigned, all or some of what was asked for.
    Assigned(Vec<IpNetwork>),
    /// The interface is attached, or will be; readers will list it.
    Added,
    /// Taken.
    Unassigned,
    /// Refused: nothing was done.
    Refused(Refusal),
    /// No answer: it may have been done.
    Unknown,
}

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Too many calls; the cloud may say for how many milliseconds there should be none.
    Throttled(Option<u64>),
    /// The interface or instance can have no more.
    Full,
    /// The subnet has no (unfragmented) room.
    Exhausted,
    /// Everything else: credentials, faults of the service.
    Other(String),
}

/// What the operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Readers agree that the node lost a block.
    Lost {
        /// Which.
        block: IpNetwork,
        /// Addresses of it that pods have.
        held: usize,
    },
    /// A lost block is back.
    Found(IpNetwork),
    /// Blocks overlap: the later one is left alone.
    Overlap(IpNetwork),
    /// A call was refused for a reason that time alone may not heal.
    Refused(String),
    /// More addresses are wanted, and neither interface nor subnet has room.
    NoRoom(Family),
}

/// How freely the cloud is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stance {
    /// As needed.
    Normal,
    /// Nothing is given back: calls fail.
    NoReleases,
    /// Nothing is called but to find out whether calls succeed again.
    NoCalls,
}

/// What the node may call of the API now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// So many calls at once.
    pub calls_left: u64,
    /// Failures in a row.
    pub failures: u32,
    /// In so many milliseconds: failures are waited out, and so is the node's turn after its start.
    pub wait: u64,
}

/// Why a block is not used whose interface the node's kernel does not have.
const ABSENT: &str = "its interface has not appeared on the node";
/// Why a block is not used that the node's network does not know.
const NOT_CARRIED: &str = "the node's network is not set up for it yet";
/// Why a block is not used that every reader misses.
const LOST: &str = "the cloud has taken it from this node";
/// Why a block is not used that is given back.
const LEAVING: &str = "it is being given back to the cloud";
/// How often metadata is read, and the API where nothing is in doubt; in milliseconds.
const METADATA_EVERY: u64 = 30_000;
const API_EVERY: u64 = 30 * 60_000;
/// How soon a doubtful block is asked after.
const DOUBT_EVERY: u64 = 20_000;
/// For how long the API is: it has said what it knows by then, and a reader that is wrong for days must not cost the account its calls.
const NEW_DOUBT: u64 = 5 * 60_000;
/// How long a block may take to be carried: an interface that is attached appears later.
const APPEARS: u64 = 5 * 60_000;
/// How old a word may be that a change rests on.
const FRESH: u64 = 60_000;
/// How long what was given back is not believed to be there; from then on, when every reader lists it.
const TOMBSTONE: u64 = 15 * 60_000;
/// When the last of two readers knows what became of a call: it takes seconds, and a reader lags for two minutes at most.
const CALL_SETTLES: u64 = 3 * 60_000;
/// How long a full or exhausted place is not asked again.
const NO_ROOM: u64 = 10 * 60_000;
const BACKOFF_BASE: u64 = 1_000;
/// At least; in a large cluster as long as the account's bucket takes to serve everybody once.
const BACKOFF_CAP: u64 = 5 * 60_000;
/// Failures in a row that make a node stop giving back, and stop calling.
const FEW_FAILURES: u32 = 3;
const MANY_FAILURES: u32 = 8;
/// A node's own bucket: what it may call in a burst, and each second from then on.
const CALLS: u64 = 10;
const CALLS_PER_SECOND: u64 = 1;

#[derive(Debug, Clone)]
struct Block {
    interface: String,
    evidence: Evidence,
    /// It is being given back, or was: since when.
    leaving: Option<BootMillis>,
    /// The node's network carried it at some time: what it carries no more is lost, not late.
    was_carried: bool,
}

/// The supply of one node.
#[derive(Debug)]
pub struct Supply {
    settings: Settings,
    blocks: BTreeMap<IpNetwork, Block>,
    interfaces: Vec<Interface>,
    interface_room: bool,
    /// Interfaces that the node's kernel has; none where that was not told.
    present: Option<BTreeSet<String>>,
    /// Blocks that the node's network is set up for; none where that was not told.
    carried: Option<BTreeSet<IpNetwork>>,
    /// What was given back, and when.
    tombstones: BTreeMap<IpNetwork, BootMillis>,
    in_flight: Option<Request>,
    last_read: [Option<BootMillis>; 2],
    /// A call had no answer: who has not been asked since.
    unsure: BTreeSet<Reader>,
    surplus_since: [Option<BootMillis>; 2],
    no_room_until: [BootMillis; 2],
    /// The most blocks that are asked for in one call: fewer where a subnet had room for fewer, for it gives all or nothing.
    at_once: [u64; 2],
    bucket: TokenBucket,
    backoff: Backoff,
    /// Of metadata alone: it is another service, and asking it costs the account nothing.
    metadata_backoff: Backoff,
    random: Random,
    /// Its turn: before this, no call that changes anything…
    calls_from: BootMillis,
    /// …but where pods wait that came after others had addresses. Whoever is throttled then waits for its turn.
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
            present: None,
            carried: None,
            tombstones,
            in_flight: None,
            last_read: [None; 2],
            unsure: BTreeSet::new(),
            surplus_since: [None; 2],
            no_room_until: [BootMillis(0); 2],
            at_once: [u64::MAX; 2],
            bucket: TokenBucket::new(CALLS, CALLS_PER_SECOND, now),
            backoff: Backoff::new(BACKOFF_BASE, BACKOFF_CAP.max(window)),
            metadata_backoff: Backoff::new(BACKOFF_BASE, METADATA_EVERY),
            random,
            calls_from: now.plus(delay),
            may_be_early: true,
            settings,
        }
    }

    /// How freely the cloud is called now.
    #[must_use]
    pub const fn stance(&self) -> Stance {
        match self.backoff.failures() {
            failures if failures >= MANY_FAILURES => Stance::NoCalls,
            failures if failures >= FEW_FAILURES => Stance::NoReleases,
            _ => Stance::Normal,
        }
    }

    /// What may be called now.
    #[must_use]
    pub fn budget(&self, now: BootMillis) -> Budget {
        let from = self.backoff.until().max(self.calls_from);
        Budget { calls_left: self.bucket.left(now), failures: self.backoff.failures(), wait: from.since(now) }
    }

    /// The interface that a block is on.
    #[must_use]
    pub fn interface_of(&self, block: &IpNetwork) -> Option<&str> {
        self.blocks.get(block).map(|block| block.interface.as_str())
    }

    /// What was given back, or is about to be, and is not believed to be there yet.
    pub fn given_back(&self) -> impl Iterator<Item = &IpNetwork> {
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

    /// Tells which interfaces the node's kernel has, ready to carry packets. Until one is there, its blocks are of no use: a cloud
    /// attaches first and shows the device later.
    pub fn set_present(&mut self, interfaces: BTreeSet<String>, pool: &mut Pool, now: BootMillis) -> Vec<Report> {
        self.present = Some(interfaces);
        let mut reports = Vec::new();
        self.judge(pool, now, &mut reports);
        reports
    }

    /// Tells which blocks the node's network is set up for: pods are given addresses of these alone. Whoever never tells has it set
    /// up for all.
    pub fn set_carried(&mut self, blocks: BTreeSet<IpNetwork>, pool: &mut Pool, now: BootMillis) -> Vec<Report> {
        for block in &blocks {
            self.blocks.entry(*block).and_modify(|known| known.was_carried = true);
        }
        self.carried = Some(blocks);
        let mut reports = Vec::new();
        self.judge(pool, now, &mut reports);
        reports
    }

    /// Why a block is of no use to the node yet, or any more, though it is assigned.
    fn obstacle(&self, block: &IpNetwork, interface: &str) -> Option<&'static str> {
        obstacle(self.present.as_ref(), self.carried.as_ref(), block, interface)
    }

    /// Addresses that are assigned and will be of use when the node's network carries them.
    fn expected(&self, family: Family, now: BootMillis) -> u64 {
        let late = self.blocks.iter().filter(|(block, known)| {
            self.obstacle(block, &known.interface).is_some() && !known.was_carried && now.since(known.evidence.learned()) < APPEARS
        });
        let ranges = late.map(|(block, _)| AddressRange::from(*block)).filter(|range| range.family() == family);
        ranges.fold(0, |sum, range| sum.saturating_add(range.size()))
    }

    /// What to call now, if anything; `waiting` pods have asked for addresses that the pool did not have. The caller tells what became
    /// of it with [`Supply::done`] before it asks again; a block to be unassigned is closed in the pool, and its tombstone is to be made
    /// durable before the call.
    pub fn next(&mut self, pool: &mut Pool, waiting: u64, now: BootMillis) -> Option<Request> {
        if self.in_flight.is_some() {
            return None;
        }
        let request = self.reading_to_make(now).map(Request::Read).or_else(|| self.change_to_make(pool, waiting, now))?;
        let calls_api = request != Request::Read(Reader::Metadata);
        if calls_api && (now < self.backoff.until() || self.bucket.take(now).is_err()) {
            return None;
        }
        if let Request::Unassign { block, .. } = &request {
            let closed = pool.set_use(&AddressRange::from(*block), Use::Closed(LEAVING.to_owned()));
            closed.ok()?;
            self.tombstones.insert(*block, now);
            if let Some(known) = self.blocks.get_mut(block) {
                known.leaving = Some(now);
            }
        }
        self.in_flight = Some(request.clone());
        Some(request)
    }

    /// Takes in what became of the request in flight.
    pub fn done(&mut self, outcome: Outcome, pool: &mut Pool, now: BootMillis) -> Vec<Report> {
        let mut reports = Vec::new();
        let Some(request) = self.in_flight.take() else { return reports };
        match outcome {
            Outcome::Read(reading) => {
                match reading.reader {
                    Reader::Api => self.backoff.succeeded(),
                    Reader::Metadata => self.metadata_backoff.succeeded(),
                }
                self.read(reading, pool, now, &mut reports);
            }
            Outcome::Assigned(blocks) => {
                self.backoff.succeeded();
                if let Request::Assign { interface, family, .. } = request {
                    for known in self.interfaces.iter_mut().filter(|known| known.id == interface) {
                        let room = &mut known.room[family as usize];
                        *room = room.saturating_sub(blocks.len() as u64);
                    }
                    for block in blocks {
                        self.tombstones.remove(&block);
                        self.take_up(block, &interface, pool, now, &mut reports);
                    }
                }
            }
            Outcome::Added => {
                self.backoff.succeeded();
                // Readers list the interface when it is there.
                self.ask_everybody();
            }
            Outcome::Unassigned => {
                self.backoff.succeeded();
                if let Request::Unassign { block, .. } = request {
                    self.blocks.remove(&block);
                    // Closed and free since before the call; what is not so is a fault that recovery must see.
                    if let Err(error) = pool.remove_range(&AddressRange::from(block), now) {
                        reports.push(Report::Refused(error.to_string()));
                    }
                }
            }
            Outcome::Refused(refusal) => self.refused(&request, &refusal, now, &mut reports),
            Outcome::Unknown => {
                self.backoff.failed(now, None, &mut self.random);
                if !matches!(request, Request::Read(_)) {
                    self.ask_everybody();
                }
            }
        }
        self.judge(pool, now, &mut reports);
        reports
    }

    fn readers(&self) -> &'static [Reader] {
        if self.settings.api { &[Reader::Metadata, Reader::Api] } else { &[Reader::Metadata] }
    }

    fn ask_everybody(&mut self) {
        self.unsure.extend(self.readers());
    }

    fn reading_to_make(&self, now: BootMillis) -> Option<Reader> {
        let due = |reader: Reader, every: u64| self.last_read[reader as usize].is_none_or(|last| now.since(last) >= every);
        let is_doubtful = |known: &&Block| known.leaving.is_some() || known.evidence.belief(self.readers(), now) == Belief::Doubtful;
        let mut doubts =
            self.blocks.values().filter(is_doubtful).map(|known| known.evidence.changed().max(known.leaving.unwrap_or_default()));
        let is_in_doubt = doubts.clone().next().is_some();
        let is_soon = |reader: Reader, doubt: bool| (doubt || self.unsure.contains(&reader)) && due(reader, DOUBT_EVERY);
        let metadata_is_due = if self.metadata_backoff.failures() > 0 {
            now >= self.metadata_backoff.until()
        } else {
            due(Reader::Metadata, METADATA_EVERY) || is_soon(Reader::Metadata, is_in_doubt)
        };
        if metadata_is_due {
            return Some(Reader::Metadata);
        }
        // Metadata alone is enough to start with.
        let asked = self.settings.api && now >= self.calls_from;
        let api_is_due = due(Reader::Api, API_EVERY) && (is_in_doubt || self.last_read[Reader::Api as usize].is_some());
        let is_new = |since: BootMillis| now.since(since) < NEW_DOUBT;
        let needed = api_is_due || is_soon(Reader::Api, doubts.any(is_new));
        (asked && needed).then_some(Reader::Api)
    }

    fn change_to_make(&mut self, pool: &Pool, waiting: u64, now: BootMillis) -> Option<Request> {
        let is_early = self.may_be_early && waiting > 0 && !self.blocks.is_empty();
        if !self.settings.api
            || now < self.calls_from && !is_early
            || !self.unsure.is_empty()
            || self.stance() == Stance::NoCalls && now < self.backoff.until()
        {
            return None;
        }
        for (family, sizing) in Family::ALL.into_iter().zip(self.settings.sizing) {
            let Some(sizing) = sizing else { continue };
            let (have, used) = self.have_and_used(family, pool, waiting, now);
            if have < sizing.at_least(used) * sizing.block {
                self.surplus_since[family as usize] = None;
                if let Some(request) = self.growth(family, sizing, pool, waiting, now) {
                    return Some(request);
                }
            } else if have <= sizing.at_most(used) * sizing.block {
                self.surplus_since[family as usize] = None;
            } else {
                let since = *self.surplus_since[family as usize].get_or_insert(now);
                let may_release = now.since(since) >= sizing.release_after && self.stance() == Stance::Normal;
                if may_release && let Some(request) = self.release(family, pool, now) {
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

    fn growth(&self, family: Family, sizing: Sizing, pool: &Pool, waiting: u64, now: BootMillis) -> Option<Request> {
        let (have, used) = self.have_and_used(family, pool, waiting, now);
        let missing = (sizing.at_least(used) * sizing.block).saturating_sub(have).div_ceil(sizing.block);
        if missing == 0 || now < self.no_room_until[family as usize] {
            return None;
        }
        self.place_for(family, missing.min(self.at_once[family as usize]), now)
    }

    /// Whether the node should have more addresses of a family, and nothing that it knows of has room for them.
    #[must_use]
    pub fn is_stuck(&self, family: Family, pool: &Pool, waiting: u64, now: BootMillis) -> bool {
        let Some(sizing) = self.settings.sizing[family as usize].filter(|_| !self.interfaces.is_empty()) else { return false };
        let (have, used) = self.have_and_used(family, pool, waiting, now);
        have < sizing.at_least(used) * sizing.block && self.growth(family, sizing, pool, waiting, now).is_none()
    }

    fn place_for(&self, family: Family, blocks: u64, now: BootMillis) -> Option<Request> {
        let roomy = self.interfaces.iter().find(|interface| interface.room[family as usize] > 0);
        if let Some(interface) = roomy {
            let blocks = blocks.min(interface.room[family as usize]);
            return Some(Request::Assign { interface: interface.id.clone(), family, blocks });
        }
        if self.interface_room {
            return Some(Request::AddInterface { family, blocks });
        }
        // Metadata does not tell limits: before the API was asked, a node that was launched with all that is granted to an unknown one
        // has no room that anybody knows of.
        let is_old = self.last_read[Reader::Api as usize].is_none_or(|last| now.since(last) >= NO_ROOM);
        is_old.then_some(Request::Read(Reader::Api))
    }

    /// The highest block that is free. Before it is given back, every reader has to list it.
    fn release(&self, family: Family, pool: &Pool, now: BootMillis) -> Option<Request> {
        let is_free = |range: AddressRange| pool.counts_of(&range, now).is_ok_and(|counts| counts.free() == counts.size);
        let mut candidates = self.blocks.iter().rev().filter(|(block, known)| {
            let range = AddressRange::from(**block);
            range.family() == family
                && known.leaving.is_none()
                && known.evidence.belief(self.readers(), now) == Belief::Assigned
                && is_free(range)
        });
        let (block, known) = candidates.next()?;
        if known.evidence.all_list_it(self.readers(), FRESH, now) {
            return Some(Request::Unassign { interface: known.interface.clone(), block: *block });
        }
        let is_stale = |reader: &&Reader| self.last_read[**reader as usize].is_none_or(|last| now.since(last) >= FRESH);
        self.readers().iter().find(is_stale).map(|reader| Request::Read(*reader))
    }

    fn refused(&mut self, request: &Request, refusal: &Refusal, now: BootMillis, reports: &mut Vec<Report>) {
        if let Request::Unassign { block, .. } = request {
            // Nothing was done: it is ours still.
            self.tombstones.remove(block);
            self.blocks.entry(*block).and_modify(|known| known.leaving = None);
        }
        match refusal {
            Refusal::Throttled(retry_after) => {
                self.may_be_early = false;
                self.backoff.failed(now, *retry_after, &mut self.random);
            }
            Refusal::Full | Refusal::Exhausted => {
                self.backoff.succeeded();
                match request {
                    Request::Assign { interface, family, .. } if *refusal == Refusal::Full => {
                        let known = self.interfaces.iter_mut().find(|known| known.id == *interface);
                        known.into_iter().for_each(|known| known.room[*family as usize] = 0);
                    }
                    Request::Assign { family, blocks, .. } | Request::AddInterface { family, blocks }
                        if *refusal == Refusal::Exhausted && *blocks > 1 =>
                    {
                        self.at_once[*family as usize] = blocks / 2;
                    }
                    Request::Assign { family, .. } | Request::AddInterface { family, .. } => {
                        self.at_once[*family as usize] = u64::MAX;
                        self.no_room_until[*family as usize] = now.plus(NO_ROOM);
                        reports.push(Report::NoRoom(*family));
                    }
                    Request::Read(_) | Request::Unassign { .. } => {}
                }
            }
            Refusal::Other(why) => {
                let backoff = if *request == Request::Read(Reader::Metadata) { &mut self.metadata_backoff } else { &mut self.backoff };
                backoff.failed(now, None, &mut self.random);
                reports.push(Report::Refused(why.clone()));
            }
        }
        if let Request::Read(reader) = request {
            self.last_read[*reader as usize] = Some(now);
        }
    }

    fn read(&mut self, reading: Reading, pool: &mut Pool, now: BootMillis, reports: &mut Vec<Report>) {
        let Reading { reader, mut interfaces, interface_room } = reading;
        self.last_read[reader as usize] = Some(now);
        self.unsure.remove(&reader);
        let listed: BTreeMap<_, _> =
            interfaces.iter().flat_map(|interface| interface.blocks.iter().map(|block| (*block, interface.id.clone()))).collect();
        let Self { blocks, present, carried, .. } = self;
        for (block, known) in blocks {
            let interface = listed.get(block);
            known.evidence.note(reader, interface.is_some(), now);
            // A block can move; whether a reader is behind that says so, the kernel knows.
            let elsewhere = interface.filter(|interface| **interface != known.interface && is_in(present.as_ref(), interface));
            if let Some(interface) = elsewhere {
                known.interface.clone_from(interface);
                // The node's network has it where it was.
                if let Some(carried) = carried {
                    carried.remove(block);
                }
            }
        }
        for (block, interface) in listed {
            let given_back = self.tombstones.get(&block).copied();
            if !self.blocks.contains_key(&block) && given_back.is_none_or(|at| now.since(at) >= TOMBSTONE) {
                self.take_up(block, &interface, pool, now, reports);
                self.blocks.entry(block).and_modify(|known| {
                    known.evidence.note(reader, true, now);
                    known.leaving = given_back;
                });
            }
        }
        // The reader that is read often has had its say about those that are due.
        if reader == Reader::Metadata {
            self.tombstones.retain(|_, at| now.since(*at) < TOMBSTONE);
        }
        // A reading may omit an interface: it is known as long as one of its blocks is.
        for known in std::mem::take(&mut self.interfaces) {
            let is_omitted = !interfaces.iter().any(|interface| interface.id == known.id);
            if is_omitted && self.blocks.values().any(|block| block.interface == known.id) {
                interfaces.push(Interface { blocks: BTreeSet::new(), room: [0; 2], ..known });
            }
        }
        self.interfaces = interfaces;
        self.interface_room = interface_room;
    }

    fn take_up(&mut self, block: IpNetwork, interface: &str, pool: &mut Pool, now: BootMillis, reports: &mut Vec<Report>) {
        let range = AddressRange::from(block);
        match pool.add_range(range) {
            Ok(()) => {
                if let Some(obstacle) = self.obstacle(&block, interface) {
                    // Before anybody else sees the pool.
                    let _ = pool.set_use(&range, Use::Closed(obstacle.to_owned()));
                }
                let known = Block { interface: interface.to_owned(), evidence: Evidence::new(now), leaving: None, was_carried: false };
                self.blocks.entry(block).or_insert(known);
            }
            Err(_) => reports.push(Report::Overlap(block)),
        }
    }

    /// Follows what is believed of each block.
    fn judge(&mut self, pool: &mut Pool, now: BootMillis, reports: &mut Vec<Report>) {
        let readers = self.readers();
        let Self { blocks, present, carried, tombstones, .. } = self;
        blocks.retain(|block, known| {
            let range = AddressRange::from(*block);
            let belief = known.evidence.belief(readers, now);
            if let Some(since) = known.leaving {
                let settled = now.since(since).checked_sub(CALL_SETTLES);
                if belief == Belief::Gone {
                    return pool.remove_range(&range, now).is_err();
                }
                if !settled.is_some_and(|age| known.evidence.all_list_it(readers, age, now)) {
                    let _ = pool.set_use(&range, Use::Closed(LEAVING.to_owned()));
                    return true;
                }
                tombstones.remove(block);
                known.leaving = None;
            }
            let was = pool.ranges().find(|(other, _)| **other == range).map(|(_, may_be_used)| may_be_used.clone());
            let held = pool.counts_of(&range, now).map_or(0, |counts| counts.held);
            let next = match belief {
                Belief::Gone => Use::Closed(LOST.to_owned()),
                // What was lost is found when nobody doubts it.
                Belief::Doubtful if was == Some(Use::Closed(LOST.to_owned())) => Use::Closed(LOST.to_owned()),
                Belief::Assigned | Belief::Doubtful => match obstacle(present.as_ref(), carried.as_ref(), block, &known.interface) {
                    Some(obstacle) => Use::Closed(obstacle.to_owned()),
                    None if belief == Belief::Assigned => Use::Open,
                    None => Use::LastResort,
                },
            };
            if was.as_ref() != Some(&next) {
                match (&was, &next) {
                    // Nobody has lost anything that the network was about to be set up for.
                    (_, Use::Closed(why)) if why == LOST || (held > 0 && why == ABSENT) => {
                        reports.push(Report::Lost { block: *block, held })
                    }
                    (Some(Use::Closed(why)), Use::Open) if why == LOST => reports.push(Report::Found(*block)),
                    _ => {}
                }
            }
            let _ = pool.set_use(&range, next);
            // Gone, and nobody has any of it: there is nothing to remember.
            belief != Belief::Gone || pool.remove_range(&range, now).is_err()
        });
    }
}

fn obstacle(
    present: Option<&BTreeSet<String>>,
    carried: Option<&BTreeSet<IpNetwork>>,
    block: &IpNetwork,
    interface: &str,
) -> Option<&'static str> {
    if !is_in(present, interface) {
        return Some(ABSENT);
    }
    carried.is_some_and(|carried| !carried.contains(block)).then_some(NOT_CARRIED)
}

/// Where the kernel has not told, every interface is taken to be there.
fn is_in(present: Option<&BTreeSet<String>>, interface: &str) -> bool {
    present.is_none_or(|present| present.contains(interface))
}

#[cfg(test)]
mod tests;
