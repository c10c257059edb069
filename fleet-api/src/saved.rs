//! What a node knows, as bytes of a file: served at its next start, with or without the fleet.

use prost::Message;

use crate::message::{Directive, Entries, Position};
use crate::pack::{pack, unpack};
use crate::state::Known;
use crate::{Kind, NodeState, Table, checksum, frame};

/// The file's first bytes; the last is its format.
const MAGIC: [u8; 8] = *b"bwfleet\x01";
const LEVEL: i32 = 1;

/// Why a file is of no use. The node starts knowing nothing then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SavedError {
    /// Another file, or another format.
    #[error("it is no state of the fleet, or of another format")]
    Format,
    /// Cut short or damaged.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(uint64, tag = "1")]
    saved_at: u64,
    #[prost(string, tag = "2")]
    cluster: String,
    #[prost(message, repeated, tag = "3")]
    kinds: Vec<SavedKind>,
    #[prost(message, optional, tag = "4")]
    directive: Option<Directive>,
    #[prost(string, repeated, tag = "5")]
    replicas: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct SavedKind {
    #[prost(message, optional, tag = "1")]
    at: Option<Position>,
    #[prost(message, optional, tag = "2")]
    entries: Option<Entries>,
}

/// A state and when it was saved.
#[derive(Debug, Clone)]
pub struct Saved {
    /// Milliseconds since 1970, by the node's clock then. For people: nothing is decided by it.
    pub at: u64,
    /// What the node knew.
    pub state: NodeState,
}

impl Saved {
    /// As bytes.
    #[must_use]
    pub fn encode(state: &NodeState, at: u64) -> Vec<u8> {
        let kind = |kind| SavedKind { at: Some(state.position(kind)), entries: Some(state.table(kind).to_entries()) };
        let body = Body {
            saved_at: at,
            cluster: state.cluster.clone(),
            kinds: Kind::ALL.map(kind).to_vec(),
            directive: state.directive.clone(),
            replicas: state.replicas.clone(),
        };
        let plain = body.encode_to_vec();
        let packed = pack(&plain, LEVEL);
        [&MAGIC[..], &checksum::of_bytes(&packed).to_be_bytes(), &(plain.len() as u64).to_be_bytes(), &packed].concat()
    }

    /// Of bytes.
    ///
    /// # Errors
    /// See [`SavedError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SavedError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(SavedError::Format)?;
        let short = || SavedError::Damaged(format!("it ends after {} bytes", bytes.len()));
        let (sum, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (length, packed) = rest.split_first_chunk().ok_or_else(short)?;
        let (is, should) = (checksum::of_bytes(packed), u64::from_be_bytes(*sum));
        if is != should {
            return Err(SavedError::Damaged(format!("its checksum is {is:016x} and should be {should:016x}")));
        }
        let plain = unpack(packed, u64::from_be_bytes(*length)).map_err(SavedError::Damaged)?;
        let body: Body = frame::decode(&plain).map_err(|error| SavedError::Damaged(error.to_string()))?;
        let mut state = NodeState::default();
        (state.cluster, state.directive, state.replicas) = (body.cluster, body.directive, body.replicas);
        for saved in body.kinds {
            let Some((at, kind)) = saved.at.and_then(|at| Some((at, Kind::of(at.kind)?))) else { continue };
            let table = Table::from(saved.entries.unwrap_or_default());
            state.known[kind.index()] = Known::new(table, at.resource_version);
        }
        Ok(Self { at: body.saved_at, state })
    }
}
