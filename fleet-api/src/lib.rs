//! What the fleet and its nodes say to each other, and the state that both keep (ADR 21).
//!
//! A *replica* of the fleet has one [`Log`] per [`Kind`]: a table of encoded values, and the last changes of it as frames that are encoded once
//! and sent to all. A node has the same tables in its [`NodeState`]. A [`Session`] is one node's place in the logs of one replica: no queue,
//! two numbers. Nothing here does I/O, knows the time or waits: bytes and times are arguments.
#![forbid(unsafe_code)]

mod checksum;
mod forwarded;
mod frame;
mod key;
mod log;
pub mod message;
mod pacer;
mod pack;
mod peers;
mod rendezvous;
mod replica;
mod report;
mod saved;
mod session;
mod state;
mod status;
mod table;
mod version;

pub use frame::{Decoder, FRAME_MAX, FrameError, HELLO_MAX, decode, encode};
pub use key::{EndpointsKey, Kind};
pub use log::{Limits, Log, Snapshot};
pub use pacer::Pacer;
pub use rendezvous::by_preference;
pub use replica::Replica;
pub use report::ReportFault;
pub use saved::{Saved, SavedError};
pub use session::{Refusal, Session};
pub use state::{Fault, Heard, NodeState, Preflight};
pub use table::{Change, Table};
pub use version::{NEWEST, OLDEST, agree};
