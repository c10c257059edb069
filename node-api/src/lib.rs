//! What the plugin and the command line say to the node daemon, and how.
//!
//! One connection carries one request and one response. Each is a frame: its length in bytes as a big-endian `u32`,
//! then JSON. A request about a pod carries the pod's network namespace as a file descriptor (`SCM_RIGHTS`, unix(7)),
//! so that the daemon never has to see the runtime's mount namespace. Why not gRPC: docs/adr/0002.
//!
//! A DEL that finds no daemon is written to the [`queue`], which the daemon applies before it answers anything.

mod client;
mod clock;
mod frame;
mod message;
pub mod queue;

pub use client::{ClientError, Receipt, call, call_for_receipt};
pub use clock::{BootMillis, boot_id};
pub use frame::{FRAME_MAX, FrameError, read_frame, read_frame_with_fd, write_frame};
pub use message::{
    AddRequest, CheckRequest, DelRequest, Envelope, GcRequest, NotUnderstood, PROTOCOL_VERSION, Reply, Request, Response, Understood,
    accepts, understand,
};

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/barewire/cni.sock";
