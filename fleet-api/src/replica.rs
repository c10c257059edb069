//! All that one replica of the fleet knows.

use std::collections::HashMap;

use bytes::Bytes;

use crate::frame;
use crate::message::{Checkpoint, Directive, FromFleet, Order, Peers, Position, ToNode};
use crate::{Kind, Limits, Log};

/// The logs of all kinds, and what single nodes shall do.
#[derive(Debug)]
pub struct Replica {
    cluster: String,
    replicas: Vec<String>,
    logs: [Log; Kind::ALL.len()],
    directives: HashMap<String, (u64, Bytes)>,
    /// Whom nodes look at, numbered by when that was said.
    peers: HashMap<String, (u64, Bytes)>,
    /// What nodes shall do about their preflights, likewise; nothing where that is not told here.
    orders: Option<HashMap<String, (u64, Bytes)>>,
    told: u64,
}

impl Replica {
    /// One that has read nothing yet, of the cluster with this UID.
    #[must_use]
    pub fn new(cluster: &str, replicas: Vec<String>, limits: Limits) -> Self {
        let logs = Kind::ALL.map(|kind| Log::new(kind, limits));
        let (directives, peers) = Default::default();
        Self { cluster: cluster.to_owned(), replicas, logs, directives, peers, orders: None, told: 0 }
    }

    /// The UID of its cluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// All replicas, as nodes are told.
    #[must_use]
    pub fn replicas(&self) -> &[String] {
        &self.replicas
    }

    /// A kind.
    #[must_use]
    pub fn log(&self, kind: Kind) -> &Log {
        &self.logs[kind.index()]
    }

    /// A kind, to be changed.
    pub fn log_mut(&mut self, kind: Kind) -> &mut Log {
        &mut self.logs[kind.index()]
    }

    /// Whether all kinds have been read once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.logs.iter().all(Log::is_ready)
    }

    /// How many changes there are that a node at these [places](crate::Session::places) has not been sent; nothing where it lacks a whole table.
    #[must_use]
    pub fn behind(&self, places: [Option<u64>; Kind::ALL.len()]) -> Option<u64> {
        let behind = |kind: Kind| places[kind.index()].map(|next| self.log(kind).end().saturating_sub(next));
        Kind::ALL.into_iter().map(behind).sum()
    }

    /// Where it is, in all kinds.
    #[must_use]
    pub fn positions(&self) -> Vec<Position> {
        self.logs.iter().map(Log::position).collect()
    }

    /// What `node` shall do from now on. The number decides whether it has been told.
    pub fn direct(&mut self, node: &str, directive: Directive) {
        let number = directive.number;
        let frame = frame::encode(&FromFleet { message: Some(ToNode::Directive(directive)) });
        self.directives.insert(node.to_owned(), (number, frame));
    }

    /// Whom `node` looks at from now on; nothing: nobody, as it is out of order or no more.
    pub fn acquaint(&mut self, node: &str, peers: Option<Peers>) {
        let Some(peers) = peers else { return drop(self.peers.remove(node)) };
        self.told += 1;
        let frame = frame::encode(&FromFleet { message: Some(ToNode::Peers(peers)) });
        self.peers.insert(node.to_owned(), (self.told, frame));
    }

    /// From here on nodes are told when their preflights are to run. Said before any node is served: it is in the welcome.
    pub fn give_orders(&mut self) {
        self.orders.get_or_insert_default();
    }

    /// Are they told here?
    #[must_use]
    pub const fn gives_orders(&self) -> bool {
        self.orders.is_some()
    }

    /// What `node` shall do about its preflight from now on; nothing: it is no more.
    pub fn order(&mut self, node: &str, order: Option<Order>) {
        let Some(orders) = &mut self.orders else { return };
        let Some(order) = order else { return drop(orders.remove(node)) };
        self.told += 1;
        let frame = frame::encode(&FromFleet { message: Some(ToNode::Order(order)) });
        orders.insert(node.to_owned(), (self.told, frame));
    }

    pub(crate) fn order_of(&self, node: &str) -> Option<&(u64, Bytes)> {
        self.orders.as_ref()?.get(node)
    }

    pub(crate) fn peers(&self, node: &str) -> Option<&(u64, Bytes)> {
        self.peers.get(node)
    }

    pub(crate) fn directive(&self, node: &str) -> Option<&(u64, Bytes)> {
        self.directives.get(node)
    }

    /// Where it is, for nodes that have had everything.
    pub(crate) fn checkpoint(&self) -> Bytes {
        frame::encode(&FromFleet { message: Some(ToNode::Checkpoint(Checkpoint { positions: self.positions() })) })
    }
}
