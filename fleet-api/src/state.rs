//! What a node knows: the tables as a replica has told them.

use crate::message::{
    Checkpoint, Delta, Directive, Entries, FromNode, Hello, Order, Peers, Piece, Position, Resync, Seen, ToNode, Versions,
};
use crate::pack::{SNAPSHOT_MAX, unpack};
use crate::{Change, Kind, NEWEST, OLDEST, Table, frame};

/// What a replica may not say. The connection is of no use any more; what is known stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A piece of a snapshot that does not follow the last one.
    #[error("a piece of a snapshot at {offset}, after {have} bytes of {packed}")]
    Piece {
        /// Where it begins.
        offset: u64,
        /// What has come before.
        have: u64,
        /// What there should be in the end.
        packed: u64,
    },
    /// A snapshot that is too large.
    #[error("a snapshot of {0} bytes; at most {SNAPSHOT_MAX} are allowed")]
    TooLarge(u64),
    /// A snapshot that cannot be unpacked.
    #[error("a snapshot that cannot be read: {0}")]
    Unreadable(String),
    /// A snapshot that does not sum up to what it says.
    #[error("a snapshot with the checksum {is:016x} that should have {should:016x}")]
    Checksum {
        /// What it has.
        is: u64,
        /// What it should have.
        should: u64,
    },
}

/// What has changed at the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Nothing that anybody acts on.
    Nothing,
    /// These keys.
    Changed(Kind, Vec<Vec<u8>>),
    /// Any of this kind.
    Replaced(Kind),
    /// A kind whose table differs from the replica's from now on: what to say to it. The table is served on, until the snapshot is there.
    Diverged(Kind, FromNode),
    /// Where the replica is: what to answer.
    Checkpoint(FromNode),
    /// What this node shall do.
    Directed(Directive),
    /// Whom this node looks at, or what it shall do about its preflight.
    Acquainted,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) table: Table,
    pub(crate) resource_version: u64,
    /// The compressed part of a snapshot that has come so far, and whose it is.
    partial: Option<(Position, Vec<u8>)>,
}

impl Known {
    pub(crate) fn new(table: Table, resource_version: u64) -> Self {
        Self { table, resource_version, partial: None }
    }
}

/// What a node knows.
#[derive(Debug, Clone, Default)]
pub struct NodeState {
    pub(crate) cluster: String,
    pub(crate) known: [Known; Kind::ALL.len()],
    pub(crate) directive: Option<Directive>,
    pub(crate) replicas: Vec<String>,
    /// Not in the file: addresses of before are no fault of those who have them now.
    peers: Peers,
    /// Of the replica that is heard, or was last. Not in the file either.
    preflight: Preflight,
    diverged: u64,
}

/// What is known of when this node's preflight is to run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Preflight {
    /// No replica has been heard since the start.
    #[default]
    Unheard,
    /// The replica that was heard last tells nobody.
    Untold,
    /// It tells, and has not told this node yet.
    Expected,
    /// This it has told.
    Told(Order),
}

impl NodeState {
    /// A copy for who acts on it: without the parts of a snapshot that is still on its way. Tables share what they have in common.
    #[must_use]
    pub fn told(&self) -> Self {
        let known = self.known.each_ref().map(|known| Known::new(known.table.clone(), known.resource_version));
        let Self { cluster, known: _, directive, replicas, peers, preflight, diverged } = self;
        let (cluster, directive, replicas, peers) = (cluster.clone(), directive.clone(), replicas.clone(), peers.clone());
        Self { cluster, known, directive, replicas, peers, preflight: preflight.clone(), diverged: *diverged }
    }

    /// The table of a kind.
    #[must_use]
    pub fn table(&self, kind: Kind) -> &Table {
        &self.known[kind.index()].table
    }

    /// Where it is in a kind.
    #[must_use]
    pub fn position(&self, kind: Kind) -> Position {
        let known = &self.known[kind.index()];
        Position { kind: kind.number(), resource_version: known.resource_version, checksum: known.table.checksum() }
    }

    /// Whether every kind is known as of some time.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.known.iter().all(|known| known.resource_version > 0)
    }

    /// What this node shall do, by the last that it has heard.
    #[must_use]
    pub fn directive(&self) -> Option<&Directive> {
        self.directive.as_ref()
    }

    /// Whom this node looks at, as the last replica has told that does.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// When this node's preflight is to run.
    #[must_use]
    pub const fn preflight(&self) -> &Preflight {
        &self.preflight
    }

    /// All replicas, as the last one has told.
    #[must_use]
    pub fn replicas(&self) -> &[String] {
        &self.replicas
    }

    /// How often a table was found to differ.
    #[must_use]
    pub fn divergences(&self) -> u64 {
        self.diverged
    }

    /// The first message of a connection. What of a snapshot has come by another one is dropped.
    pub fn hello(&mut self, node: &str, program: &str) -> Hello {
        for known in &mut self.known {
            known.partial = None;
        }
        Hello {
            versions: Some(Versions { oldest: OLDEST, newest: NEWEST }),
            node: node.to_owned(),
            positions: self.positions(),
            cluster: self.cluster.clone(),
            directive: self.directive.as_ref().map_or(0, |directive| directive.number),
            program: program.to_owned(),
            looks: false,
        }
    }

    fn positions(&self) -> Vec<Position> {
        Kind::ALL.map(|kind| self.position(kind)).to_vec()
    }

    /// Takes what a replica says. What this version does not know is passed over.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn hear(&mut self, message: Option<ToNode>) -> Result<Heard, Fault> {
        match message {
            Some(ToNode::Welcome(welcome)) => {
                if self.cluster != welcome.cluster {
                    // What is known is of another cluster: served until there is something better, but no place to go on from.
                    self.known.iter_mut().for_each(|known| known.resource_version = 0);
                    self.cluster = welcome.cluster;
                    (self.directive, self.peers) = (None, Peers::default());
                }
                if !welcome.replicas.is_empty() {
                    self.replicas = welcome.replicas;
                }
                // What another replica has told is this one's to say again.
                self.preflight = if welcome.orders { Preflight::Expected } else { Preflight::Untold };
                Ok(Heard::Acquainted)
            }
            Some(ToNode::Delta(delta)) => Ok(self.change(delta)),
            Some(ToNode::Piece(piece)) => self.piece(piece),
            Some(ToNode::Checkpoint(checkpoint)) => Ok(self.checkpoint(&checkpoint)),
            Some(ToNode::Directive(directive)) => {
                self.directive = Some(directive.clone());
                Ok(Heard::Directed(directive))
            }
            Some(ToNode::Peers(mut peers)) => {
                peers.targets.truncate(Peers::MAX);
                self.peers = peers;
                Ok(Heard::Acquainted)
            }
            Some(ToNode::Order(mut order)) => {
                order.with.truncate(Order::MAX);
                self.preflight = Preflight::Told(order);
                Ok(Heard::Acquainted)
            }
            Some(ToNode::Moved(_) | ToNode::Refused(_) | ToNode::Status(_)) | None => Ok(Heard::Nothing),
        }
    }

    fn change(&mut self, delta: Delta) -> Heard {
        let Some((after, kind)) = delta.after.and_then(|after| Some((after, Kind::of(after.kind)?))) else { return Heard::Nothing };
        let known = &mut self.known[kind.index()];
        let puts = delta.puts.into_iter().map(|entry| Change { key: entry.key, value: Some(entry.value) });
        let changes = puts.chain(delta.deletes.into_iter().map(Change::delete));
        let keys = changes.map(|change| (change.key.clone(), known.table.apply(change))).filter(|(_, is_new)| *is_new);
        let keys = keys.map(|(key, _)| key).collect();
        if known.table.checksum() != after.checksum {
            return self.diverge(kind);
        }
        known.resource_version = after.resource_version;
        Heard::Changed(kind, keys)
    }

    fn diverge(&mut self, kind: Kind) -> Heard {
        self.diverged += 1;
        self.known[kind.index()].resource_version = 0;
        Heard::Diverged(kind, FromNode::Resync(Resync { kind: kind.number() }))
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Heard {
        for told in &checkpoint.positions {
            let Some(kind) = Kind::of(told.kind) else { continue };
            if self.known[kind.index()].table.checksum() != told.checksum {
                return self.diverge(kind);
            }
            self.known[kind.index()].resource_version = told.resource_version;
        }
        Heard::Checkpoint(FromNode::Seen(Seen { positions: self.positions() }))
    }

    fn piece(&mut self, piece: Piece) -> Result<Heard, Fault> {
        let Some((at, kind)) = piece.at.and_then(|at| Some((at, Kind::of(at.kind)?))) else { return Ok(Heard::Nothing) };
        if piece.unpacked.max(piece.packed) > SNAPSHOT_MAX {
            return Err(Fault::TooLarge(piece.unpacked.max(piece.packed)));
        }
        let known = &mut self.known[kind.index()];
        let (of, mut packed) = known.partial.take().filter(|_| piece.offset > 0).unwrap_or((at, Vec::new()));
        let have = packed.len() as u64;
        if of != at || piece.offset != have || have + piece.data.len() as u64 > piece.packed || piece.data.is_empty() {
            return Err(Fault::Piece { offset: piece.offset, have, packed: piece.packed });
        }
        packed.extend_from_slice(&piece.data);
        if (packed.len() as u64) < piece.packed {
            known.partial = Some((at, packed));
            return Ok(Heard::Nothing);
        }
        let unpacked = unpack(&packed, piece.unpacked).map_err(Fault::Unreadable)?;
        let entries: Entries = frame::decode(&unpacked).map_err(|error| Fault::Unreadable(error.to_string()))?;
        let table = Table::from(entries);
        if table.checksum() != at.checksum {
            return Err(Fault::Checksum { is: table.checksum(), should: at.checksum });
        }
        known.table = table;
        known.resource_version = at.resource_version;
        Ok(Heard::Replaced(kind))
    }
}
