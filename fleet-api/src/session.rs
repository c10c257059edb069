//! One node's place in the logs of one replica.

use std::sync::Arc;

use bytes::Bytes;

use crate::frame;
use crate::log::{Resume, Snapshot};
use crate::message::{Checkpoint, FromFleet, FromNode, Hello, Peers, Position, Refused, ToNode, Versions, Welcome};
use crate::{Kind, NEWEST, OLDEST, Replica, agree};

/// The least time between two snapshots of one kind that a node asks for because of its checksum, in milliseconds.
const RESYNC_EVERY: u64 = 30_000;

/// Why a node is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name of another.
    #[error("the certificate is of node {certificate:?}, and the hello of {hello:?}: a node may ask for itself alone")]
    AnothersName {
        /// Whom the certificate names.
        certificate: String,
        /// Whom the hello names.
        hello: String,
    },
    /// No version in common.
    #[error("the node speaks versions {oldest} to {newest} of the protocol, this replica {OLDEST} to {NEWEST}: upgrade the older one")]
    NoCommonVersion {
        /// The node's oldest.
        oldest: u32,
        /// The node's newest.
        newest: u32,
    },
    /// A replica of another cluster.
    #[error("the replica is of cluster {theirs:?}, and this one of {ours:?}")]
    AnotherCluster {
        /// The other's.
        theirs: String,
        /// This one's.
        ours: String,
    },
    /// Something else than a hello at first, or one later.
    #[error("a hello is the first message, and no other: {0}")]
    OutOfTurn(&'static str),
}

impl Refusal {
    /// As the node is told.
    #[must_use]
    pub fn frame(&self, retry_after_millis: u64) -> Bytes {
        frame::encode(&FromFleet { message: Some(ToNode::Refused(Refused { reason: self.to_string(), retry_after_millis })) })
    }
}

#[derive(Debug)]
enum Cursor {
    /// Until the replica is as far as the node.
    Waiting(Position),
    /// In the middle of a snapshot.
    Snapshot(Arc<Snapshot>, usize),
    /// The next change.
    At(u64),
}

/// One node that is served.
#[derive(Debug)]
pub struct Session {
    node: String,
    cursors: [Cursor; Kind::ALL.len()],
    resynced: [Option<u64>; Kind::ALL.len()],
    directive: u64,
    /// Which peers it has been told of; nothing where it does not ask.
    peers: Option<u64>,
    /// Which order it has been told; of whom asks for peers.
    order: u64,
    snapshots: u64,
    seen: Vec<Position>,
}

impl Session {
    /// Begins with what the node says first. `certified` is the name in its certificate. The frame is the answer.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn open(first: Option<FromNode>, certified: &str, replica: &Replica) -> Result<(Self, Bytes), Refusal> {
        let Some(FromNode::Hello(hello)) = first else { return Err(Refusal::OutOfTurn("the first message was another")) };
        if hello.node != certified {
            return Err(Refusal::AnothersName { certificate: certified.to_owned(), hello: hello.node });
        }
        let version = common(&hello)?;
        let cursors = Kind::ALL.map(|kind| Cursor::Waiting(known(&hello, kind, replica)));
        let (cluster, replicas) = (replica.cluster().to_owned(), replica.replicas().to_vec());
        let welcome = Welcome { version, cluster, replicas, orders: replica.gives_orders() };
        let directive = if hello.cluster == replica.cluster() { hello.directive } else { 0 };
        let peers = hello.looks.then_some(0);
        let session = Self {
            node: hello.node,
            cursors,
            resynced: Default::default(),
            directive,
            peers,
            order: 0,
            snapshots: 0,
            seen: hello.positions,
        };
        Ok((session, frame::encode(&FromFleet { message: Some(ToNode::Welcome(welcome)) })))
    }

    /// Whose it is.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// How many snapshots it has been sent, of all kinds.
    #[must_use]
    pub fn snapshots(&self) -> u64 {
        self.snapshots
    }

    /// The number of the change that comes next, of each kind; nothing for one that it is not in the middle of.
    #[must_use]
    pub fn places(&self) -> [Option<u64>; Kind::ALL.len()] {
        self.cursors.each_ref().map(|cursor| if let Cursor::At(next) = cursor { Some(*next) } else { None })
    }

    /// Where the node has last said that it is.
    #[must_use]
    pub fn seen(&self) -> &[Position] {
        &self.seen
    }

    /// What the node says behind its hello, at `now` (milliseconds). A message that this version does not know is passed over.
    ///
    /// # Errors
    /// A second hello.
    pub fn hear(&mut self, message: Option<FromNode>, now: u64) -> Result<(), Refusal> {
        match message {
            Some(FromNode::Hello(_)) => return Err(Refusal::OutOfTurn("a second one")),
            Some(FromNode::Seen(seen)) => self.seen = seen.positions,
            Some(FromNode::Resync(resync)) => {
                if let Some(kind) = Kind::of(resync.kind)
                    && self.resynced[kind.index()].is_none_or(|last| now >= last + RESYNC_EVERY)
                {
                    self.resynced[kind.index()] = Some(now);
                    self.cursors[kind.index()] = Cursor::Waiting(nothing(kind));
                }
            }
            // A report is the server's to hand on; one that comes here is of nobody's interest. A node speaks for itself alone.
            Some(FromNode::Report(_) | FromNode::Forwarded(_) | FromNode::StatusRequest(_)) | None => {}
        }
        Ok(())
    }

    /// The replica has not come as far as the node within a time: from here on it is the node that is wrong, as after a restored etcd.
    pub fn stop_waiting(&mut self, replica: &Replica) {
        for kind in Kind::ALL {
            if let Cursor::Waiting(position) = &mut self.cursors[kind.index()]
                && replica.log(kind).is_ready()
            {
                *position = nothing(kind);
            }
        }
    }

    /// What to send next, some `budget` bytes of it; nothing: the node has all there is.
    pub fn next(&mut self, replica: &mut Replica, budget: usize) -> Vec<Bytes> {
        let mut frames = Vec::new();
        if let Some((number, frame)) = replica.directive(&self.node)
            && *number > self.directive
        {
            self.directive = *number;
            frames.push(frame.clone());
        }
        frames.extend(self.next_peers(replica));
        frames.extend(self.next_order(replica));
        for kind in Kind::ALL {
            let had: usize = frames.iter().map(Bytes::len).sum();
            if had < budget {
                frames.extend(self.next_of(kind, replica, budget - had));
            }
        }
        frames
    }

    /// Nothing said of a node that was told of peers is that it has none.
    fn next_peers(&mut self, replica: &Replica) -> Option<Bytes> {
        let told = self.peers.as_mut()?;
        let (number, frame) = match replica.peers(&self.node) {
            Some((number, frame)) => (*number, frame.clone()),
            None => (0, frame::encode(&FromFleet { message: Some(ToNode::Peers(Peers::default())) })),
        };
        (std::mem::replace(told, number) != number).then_some(frame)
    }

    /// A node that the API server does not show any more keeps its last one.
    fn next_order(&mut self, replica: &Replica) -> Option<Bytes> {
        let (number, frame) = replica.order_of(&self.node).filter(|_| self.peers.is_some())?;
        (std::mem::replace(&mut self.order, *number) != *number).then(|| frame.clone())
    }

    fn next_of(&mut self, kind: Kind, replica: &mut Replica, budget: usize) -> Vec<Bytes> {
        let log = replica.log_mut(kind);
        let cursor = &mut self.cursors[kind.index()];
        if let Cursor::Waiting(position) = cursor {
            *cursor = match log.resume(position) {
                Resume::Later => return Vec::new(),
                Resume::From(next) => Cursor::At(next),
                Resume::Snapshot => begin(log.snapshot(), &mut self.snapshots),
            };
        }
        if let Cursor::At(next) = cursor {
            if let Some((frames, behind)) = log.frames_from(*next, budget) {
                *next = behind;
                return frames;
            }
            *cursor = begin(log.snapshot(), &mut self.snapshots);
        }
        let Cursor::Snapshot(snapshot, sent) = cursor else { return Vec::new() };
        let (mut frames, mut bytes) = (Vec::new(), 0);
        while let Some(frame) = snapshot.frames.get(*sent).filter(|_| bytes < budget) {
            bytes += frame.len();
            frames.push(frame.clone());
            *sent += 1;
        }
        if *sent == snapshot.frames.len() {
            *cursor = Cursor::At(snapshot.next);
        }
        frames
    }

    /// A sign of life, with where the replica is if the node is there, too.
    #[must_use]
    pub fn checkpoint(&self, replica: &Replica) -> Bytes {
        let is_there = |kind: Kind| matches!(self.cursors[kind.index()], Cursor::At(next) if next == replica.log(kind).end());
        if Kind::ALL.into_iter().all(is_there) {
            return replica.checkpoint();
        }
        frame::encode(&FromFleet { message: Some(ToNode::Checkpoint(Checkpoint::default())) })
    }
}

/// The version that both speak.
pub(crate) fn common(hello: &Hello) -> Result<u32, Refusal> {
    let theirs = hello.versions.unwrap_or_default();
    let none = || Refusal::NoCommonVersion { oldest: theirs.oldest, newest: theirs.newest };
    agree(Versions { oldest: OLDEST, newest: NEWEST }, theirs).ok_or_else(none)
}

fn begin(snapshot: Arc<Snapshot>, count: &mut u64) -> Cursor {
    *count += 1;
    Cursor::Snapshot(snapshot, 0)
}

fn nothing(kind: Kind) -> Position {
    Position { kind: kind.number(), ..Position::default() }
}

/// What the node knows of `kind`, if it is of this cluster.
fn known(hello: &Hello, kind: Kind, replica: &Replica) -> Position {
    let said = hello.positions.iter().find(|position| position.kind == kind.number());
    said.filter(|_| hello.cluster == replica.cluster()).copied().unwrap_or_else(|| nothing(kind))
}
