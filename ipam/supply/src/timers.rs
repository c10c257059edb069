//! When: every time that the supply goes by is in this table, so that whoever drives it can be told the next of them. Nothing happens by
//! it: what was due is done by the first poll after.

use std::collections::BTreeMap;

use ipam_pool::range::Family;
use node_api::BootMillis;

use super::budget::{Backoff, Random, TokenBucket};
use super::evidence::Reader;

/// How often metadata is read, and the API where nothing is in doubt; in milliseconds.
pub(super) const METADATA_EVERY: u64 = 30_000;
const API_EVERY: u64 = 30 * 60_000;
/// How often metadata is read while pods wait for what only it can tell. Azure's answers five times a second for all that is on the
/// machine, and that is the least of the three.
const WANTED_EVERY: u64 = 2_000;
/// How soon a doubtful block is asked after.
const DOUBT_EVERY: u64 = 20_000;
/// For how long the API is: it has said what it knows by then, and a reader that is wrong for days must not cost the account its calls.
const NEW_DOUBT: u64 = 5 * 60_000;
/// How long a block may take to be carried, and an interface that was asked for to be listed: it is attached first, and appears later.
pub(super) const APPEARS: u64 = 5 * 60_000;
/// How old a word may be that a change rests on.
pub(super) const FRESH: u64 = 60_000;
/// How long an interface or subnet that was full is not asked again, on average; in a large cluster as long as the account's bucket takes to
/// serve everybody once, for all of its nodes may share the subnet.
const NO_ROOM: u64 = 10 * 60_000;
const BACKOFF_BASE: u64 = 1_000;
/// At least; in a large cluster as long as the account's bucket takes to serve everybody once.
const BACKOFF_CAP: u64 = 5 * 60_000;
/// A node's own bucket: what it may call in a burst, and each second from then on.
const CALLS: u64 = 10;
const CALLS_PER_SECOND: u64 = 1;

/// What there was not enough of, for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// Places on the interface, or for an interface.
    Place,
    /// Addresses of the subnet.
    Subnet,
}

/// A place that gives no blocks, until it is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) lack: Lack,
    pub(super) until: BootMillis,
}

/// Why readers are to be read sooner than they would be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// Something about a block is in doubt: since when, of the newest.
    pub(super) newest_doubt: Option<BootMillis>,
    /// Readers that have a call or an interface to tell of.
    pub(super) awaited: [bool; 2],
    /// Pods wait for what metadata alone can tell.
    pub(super) is_wanted: bool,
    /// There are interfaces that only the API can identify.
    pub(super) has_unidentified: bool,
}

/// The table.
#[derive(Debug)]
pub(super) struct Timers {
    /// Its turn: before this, no call that changes anything, but where pods wait that came after others had addresses.
    pub(super) calls_from: BootMillis,
    /// When each reader was read last, or refused to be.
    read: [Option<BootMillis>; 2],
    /// An interface was asked for that no reader lists yet: until when it is waited for, and how many there were.
    adding: Option<(BootMillis, usize)>,
    surplus_since: [Option<BootMillis>; 2],
    /// Places that have no room for blocks of a family: interfaces by their names, and without one those that are yet to be made.
    full: BTreeMap<(Option<String>, Family), Full>,
    /// How long something is full, on average.
    full_for: u64,
    pub(super) bucket: TokenBucket,
    pub(super) backoff: Backoff,
    /// Of metadata alone: it is another service, and asking it costs the account nothing.
    pub(super) metadata_backoff: Backoff,
}

impl Timers {
    /// `window` is how long the account's bucket takes to serve everybody once, `delay` how long this node waits for its turn.
    pub(super) fn new(window: u64, delay: u64, now: BootMillis) -> Self {
        Self {
            calls_from: now.plus(delay),
            read: [None; 2],
            adding: None,
            surplus_since: [None; 2],
            full: BTreeMap::new(),
            full_for: NO_ROOM.max(window),
            bucket: TokenBucket::new(CALLS, CALLS_PER_SECOND, now),
            backoff: Backoff::new(BACKOFF_BASE, BACKOFF_CAP.max(window)),
            metadata_backoff: Backoff::new(BACKOFF_BASE, METADATA_EVERY),
        }
    }

    /// A reader was read, or refused to be.
    pub(super) const fn was_read(&mut self, reader: Reader, now: BootMillis) {
        self.read[reader as usize] = Some(now);
    }

    /// It is to be read as if it never had been.
    pub(super) const fn read_anew(&mut self, reader: Reader) {
        self.read[reader as usize] = None;
    }

    /// Whether its word is so many milliseconds old, or it has never had one.
    pub(super) fn is_older(&self, reader: Reader, age: u64, now: BootMillis) -> bool {
        self.read[reader as usize].is_none_or(|last| now.since(last) >= age)
    }

    /// Whether the API has not been read for so long that it may know of room by now.
    pub(super) fn may_know_of_room(&self, now: BootMillis) -> bool {
        self.is_older(Reader::Api, NO_ROOM, now)
    }

    /// When a reader is to be read, if it is.
    pub(super) fn reading_at(&self, reader: Reader, asked: &Asked, now: BootMillis) -> Option<BootMillis> {
        let last = self.read[reader as usize];
        let is_awaited = asked.awaited[reader as usize];
        let every = match reader {
            Reader::Metadata if self.metadata_backoff.failures() > 0 => return Some(self.metadata_backoff.until()),
            Reader::Metadata if asked.is_wanted => Some(WANTED_EVERY),
            Reader::Metadata if is_awaited || asked.newest_doubt.is_some() => Some(DOUBT_EVERY),
            Reader::Metadata => Some(METADATA_EVERY),
            Reader::Api => {
                let is_new = asked.newest_doubt.is_some_and(|since| now.since(since) < NEW_DOUBT);
                let is_soon = asked.has_unidentified || is_awaited || is_new;
                // Metadata alone is enough to start with.
                let is_in_turn = asked.newest_doubt.is_some() || last.is_some();
                if is_soon { Some(DOUBT_EVERY) } else { is_in_turn.then_some(API_EVERY) }
            }
        };
        let at = last.map_or(BootMillis(0), |last| last.plus(every.unwrap_or_default()));
        every.map(|_| if reader == Reader::Api { at.max(self.calls_from) } else { at })
    }

    /// An interface was asked for.
    pub(super) fn expect_interface(&mut self, before: usize, now: BootMillis) {
        self.adding = Some((now.plus(APPEARS), before));
    }

    /// So many interfaces are listed.
    pub(super) fn interfaces_listed(&mut self, count: usize) {
        self.adding = self.adding.filter(|(_, before)| count <= *before);
    }

    /// An interface that was asked for so long ago does not come any more.
    pub(super) fn expect_no_longer(&mut self, now: BootMillis) {
        self.adding = self.adding.filter(|(until, _)| now < *until);
    }

    /// Whether an interface is to come.
    pub(super) const fn is_adding(&self) -> bool {
        self.adding.is_some()
    }

    /// Notes whether the node has more of a family than it keeps; tells for how many milliseconds it has had.
    pub(super) fn surplus(&mut self, family: Family, is_more: bool, now: BootMillis) -> Option<u64> {
        let since = &mut self.surplus_since[family as usize];
        if !is_more {
            *since = None;
        }
        is_more.then(|| now.since(*since.get_or_insert(now)))
    }

    /// An interface, or what would be one, has no room. Nodes that share a subnet do not come back together.
    pub(super) fn note_full(&mut self, interface: Option<&str>, family: Family, lack: Lack, random: &mut Random, now: BootMillis) {
        let until = now.plus(self.full_for * 3 / 4 + random.below(self.full_for / 2));
        self.full.insert((interface.map(str::to_owned), family), Full { lack, until });
    }

    pub(super) fn full(&self, interface: Option<&str>, family: Family, now: BootMillis) -> Option<Full> {
        self.full.get(&(interface.map(str::to_owned), family)).filter(|full| now < full.until).copied()
    }

    /// Forgets what may have room again.
    pub(super) fn forget_full(&mut self, now: BootMillis) {
        self.full.retain(|_, full| now < full.until);
    }

    /// The next time at which something may be due that is not now. What is above what the node keeps goes when it has been for
    /// `release_after`, by family.
    pub(super) fn next(&self, asked: &Asked, release_after: [Option<u64>; 2], now: BootMillis) -> Option<BootMillis> {
        let readings = [Reader::Metadata, Reader::Api].map(|reader| self.reading_at(reader, asked, now));
        let surplus = self.surplus_since.into_iter().zip(release_after).map(|(since, after)| Some(since?.plus(after?)));
        let to_come = readings
            .into_iter()
            .chain([
                Some(self.calls_from),
                Some(self.backoff.until()),
                Some(self.bucket.next_token(now)),
                self.read[Reader::Api as usize].map(|last| last.plus(NO_ROOM)),
                self.adding.map(|(until, _)| until),
            ])
            .chain(surplus)
            .chain(self.full.values().map(|full| Some(full.until)))
            // Before something is given back, what has grown old is read.
            .chain(self.read.map(|last| Some(last?.plus(FRESH))))
            .flatten();
        to_come.filter(|at| *at > now).min()
    }
}
