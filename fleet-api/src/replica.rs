//! All that one replica of the fleet knows.

use std::collections::HashMap;

use bytes::Bytes;

use crate::frame;
use crate::message::{Checkpoint, Directive, FromFleet, ToNode};
use crate::{Kind, Limits, Log};

/// The logs of all kinds, and what single nodes shall do.
#[derive(Debug)]
pub struct Replica {
    cluster: String,
    replicas: Vec<String>,
    logs: [Log; Kind::ALL.len()],
    directives: HashMap<String, (u64, Bytes)>,
}

impl Replica {
    /// One that has read nothing yet, of the cluster with this UID.
    #[must_use]
    pub fn new(cluster: &str, replicas: Vec<String>, limits: Limits) -> Self {
        Self { cluster: cluster.to_owned(), replicas, logs: Kind::ALL.map(|kind| Log::new(kind, limits)), directives: HashMap::new() }
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

    /// What `node` shall do from now on. The number decides whether it has been told.
    pub fn direct(&mut self, node: &str, directive: Directive) {
        let number = directive.number;
        let frame = frame::encode(&FromFleet { message: Some(ToNode::Directive(directive)) });
        self.directives.insert(node.to_owned(), (number, frame));
    }

    pub(crate) fn directive(&self, node: &str) -> Option<&(u64, Bytes)> {
        self.directives.get(node)
    }

    /// Where it is, for nodes that have had everything.
    pub(crate) fn checkpoint(&self) -> Bytes {
        let positions = self.logs.iter().map(Log::position).collect();
        frame::encode(&FromFleet { message: Some(ToNode::Checkpoint(Checkpoint { positions })) })
    }
}
