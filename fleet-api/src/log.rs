//! One kind at a replica: its table, the last changes as frames, and a snapshot that is encoded once for all who need it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::frame::{self, FRAME_MAX};
use crate::message::{Delta, Entry, FromFleet, Piece, Position, ToNode};
use crate::pack::pack;
use crate::{Change, Kind, Table};

/// Bytes of a piece of a snapshot.
const PIECE: usize = 64 << 10;
/// zstd's level: the third is its default; the first is three times as fast and a tenth larger.
const LEVEL: i32 = 3;
/// A node that lacks so many changes or more gets each key once, where that is shorter.
const COALESCE_FROM: usize = 32;

/// How much a log keeps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Changes.
    pub changes: usize,
    /// Bytes of their frames.
    pub bytes: usize,
}

impl Default for Limits {
    /// A quarter of an hour at twenty changes a second.
    fn default() -> Self {
        Self { changes: 16_384, bytes: 16 << 20 }
    }
}

#[derive(Debug)]
struct Recorded {
    resource_version: u64,
    /// Of the table, afterwards.
    checksum: u64,
    frame: Bytes,
    keys: Vec<Vec<u8>>,
}

/// A whole table as frames, and the number of the change that follows it.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) frames: Vec<Bytes>,
    pub(crate) next: u64,
    bytes: usize,
}

/// How a node that is at some position goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resume {
    /// By the changes from this number on.
    From(u64),
    /// Not yet: the node is ahead of this replica, or the replica has read nothing yet.
    Later,
    /// By a snapshot.
    Snapshot,
}

/// One kind at a replica. Changes are numbered; a number is never used again.
#[derive(Debug)]
pub struct Log {
    kind: Kind,
    limits: Limits,
    table: Table,
    is_ready: bool,
    /// As of which `resourceVersion` the table is.
    head: u64,
    /// Position before the first change that is kept.
    base: (u64, u64),
    /// Number of the first change that is kept.
    first: u64,
    changes: VecDeque<Recorded>,
    bytes: usize,
    snapshot: Option<Arc<Snapshot>>,
    encodes: u64,
}

impl Log {
    pub(crate) fn new(kind: Kind, limits: Limits) -> Self {
        Self {
            kind,
            limits,
            table: Table::default(),
            is_ready: false,
            head: 0,
            base: (0, 0),
            first: 0,
            changes: VecDeque::new(),
            bytes: 0,
            snapshot: None,
            encodes: 0,
        }
    }

    /// The table as it is.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Whether it has been read from the API server once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// How many snapshots have been encoded.
    #[must_use]
    pub fn snapshot_encodes(&self) -> u64 {
        self.encodes
    }

    /// Where it is.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position_at(self.head, self.table.checksum())
    }

    fn position_at(&self, resource_version: u64, checksum: u64) -> Position {
        Position { kind: self.kind.number(), resource_version, checksum }
    }

    /// What one event of the watch has changed, as of `resource_version`. What changes nothing is recorded as time only. False: nothing to tell.
    pub fn record(&mut self, resource_version: u64, changes: Vec<Change>) -> bool {
        if resource_version < self.head {
            // A watch does not go back. Whatever did, what is kept no longer leads to the table.
            for change in changes {
                self.table.apply(change);
            }
            self.forget(resource_version);
            return true;
        }
        self.head = resource_version;
        let told: Vec<Change> = changes.into_iter().filter(|change| self.table.apply(change.clone())).collect();
        if told.is_empty() {
            return false;
        }
        let keys: Vec<_> = told.iter().map(|change| change.key.clone()).collect();
        let frame = self.delta(resource_version, told);
        if frame.len() > FRAME_MAX {
            self.forget(resource_version);
            return true;
        }
        self.bytes += frame.len();
        self.changes.push_back(Recorded { resource_version, checksum: self.table.checksum(), frame, keys });
        while self.changes.len() > self.limits.changes || self.bytes > self.limits.bytes {
            let Some(old) = self.changes.pop_front() else { break };
            self.bytes -= old.frame.len();
            self.base = (old.resource_version, old.checksum);
            self.first += 1;
        }
        true
    }

    /// The whole table as of `resource_version`: what a list has told. What did not come is no more. False: nothing to tell.
    pub fn replace(&mut self, resource_version: u64, wanted: Table) -> bool {
        if !self.is_ready || resource_version < self.head {
            self.is_ready = true;
            self.table = wanted;
            self.forget(resource_version);
            return true;
        }
        let changes = self.table.difference(&wanted);
        self.record(resource_version, changes)
    }

    /// Drops all changes: who has not had them gets a snapshot.
    fn forget(&mut self, resource_version: u64) {
        // One number is left out, so that nobody's place is the new beginning.
        self.first += self.changes.len() as u64 + 1;
        self.changes.clear();
        self.bytes = 0;
        self.head = resource_version;
        self.base = (resource_version, self.table.checksum());
    }

    fn delta(&self, resource_version: u64, changes: Vec<Change>) -> Bytes {
        let mut delta = Delta { after: Some(self.position_at(resource_version, self.table.checksum())), ..Delta::default() };
        for Change { key, value } in changes {
            match value {
                Some(value) => delta.puts.push(Entry { key, value }),
                None => delta.deletes.push(key),
            }
        }
        frame::encode(&FromFleet { message: Some(ToNode::Delta(delta)) })
    }

    /// The number of the change that comes next.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    pub(crate) fn resume(&self, from: &Position) -> Resume {
        if !self.is_ready || from.resource_version > self.head {
            return Resume::Later;
        }
        if from.resource_version == 0 {
            return Resume::Snapshot;
        }
        if from.resource_version < self.base.0 {
            // Nothing has changed between: as after a restart of the replica, in a kind that is calm.
            return if from.checksum == self.base.1 { Resume::From(self.first) } else { Resume::Snapshot };
        }
        let had = self.changes.partition_point(|change| change.resource_version <= from.resource_version);
        let checksum = if had == 0 { self.base.1 } else { self.changes[had - 1].checksum };
        if checksum == from.checksum { Resume::From(self.first + had as u64) } else { Resume::Snapshot }
    }

    /// Frames for a node whose next change is `from`, some `budget` bytes of them, and the number of the change behind them. Nothing where
    /// that change is no longer kept.
    pub(crate) fn frames_from(&self, from: u64, budget: usize) -> Option<(Vec<Bytes>, u64)> {
        let skip = usize::try_from(from.checked_sub(self.first)?).ok()?;
        if skip > self.changes.len() {
            return None;
        }
        if self.changes.len() - skip >= COALESCE_FROM
            && let Some(frame) = self.coalesced(skip)
        {
            return Some((vec![frame], self.end()));
        }
        let (mut frames, mut bytes) = (Vec::new(), 0);
        for change in self.changes.range(skip..) {
            if bytes >= budget {
                break;
            }
            bytes += change.frame.len();
            frames.push(change.frame.clone());
        }
        let next = from + frames.len() as u64;
        Some((frames, next))
    }

    /// All changes but the first `skip` as one frame with each key's last value; nothing where the shared frames are shorter.
    fn coalesced(&self, skip: usize) -> Option<Bytes> {
        let behind = || self.changes.range(skip..);
        let keys: BTreeSet<&Vec<u8>> = behind().flat_map(|change| &change.keys).collect();
        let last = |key: &Vec<u8>| Change { key: key.clone(), value: self.table.get(key).map(<[u8]>::to_vec) };
        let frame = self.delta(self.changes.back()?.resource_version, keys.into_iter().map(last).collect());
        let shared: usize = behind().map(|change| change.frame.len()).sum();
        (frame.len() < shared && frame.len() <= FRAME_MAX).then_some(frame)
    }

    /// A snapshot from which the kept changes lead on. One that is there already serves as long as they do and are the smaller part.
    pub(crate) fn snapshot(&mut self) -> Arc<Snapshot> {
        if let Some(snapshot) = &self.snapshot
            && self.is_still_good(snapshot)
        {
            return Arc::clone(snapshot);
        }
        let snapshot = Arc::new(self.encode_snapshot());
        self.snapshot = Some(Arc::clone(&snapshot));
        snapshot
    }

    fn is_still_good(&self, snapshot: &Snapshot) -> bool {
        let Some(skip) = snapshot.next.checked_sub(self.first).and_then(|skip| usize::try_from(skip).ok()) else { return false };
        let since: usize = self.changes.iter().skip(skip).map(|change| change.frame.len()).sum();
        since <= snapshot.bytes / 2
    }

    fn encode_snapshot(&mut self) -> Snapshot {
        self.encodes += 1;
        let plain = self.table.to_entries().encode_to_vec();
        let packed = pack(&plain, LEVEL);
        let at = Some(self.position());
        let mut offset = 0;
        let piece = |data: &[u8]| {
            let piece = Piece { at, offset, packed: packed.len() as u64, unpacked: plain.len() as u64, data: data.to_vec() };
            offset += data.len() as u64;
            frame::encode(&FromFleet { message: Some(ToNode::Piece(piece)) })
        };
        let frames: Vec<_> = packed.chunks(PIECE).map(piece).collect();
        Snapshot { bytes: packed.len(), frames, next: self.end() }
    }
}
