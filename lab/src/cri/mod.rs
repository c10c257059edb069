//! A client of the container runtime interface, so that pods are started the way a kubelet starts them.
//!
//! Source: Kubernetes' CRI, `runtime.v1`. The client blocks, and every call has a deadline.

mod client;
pub mod pod;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use client::Cri;

/// Why the runtime did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the socket.
    #[error("connect to the container runtime at {}: {reason}", socket.display())]
    Connect {
        /// Its path as the caller sees it.
        socket: PathBuf,
        /// What was in the way.
        reason: String,
    },
    /// The runtime answered with an error.
    #[error("{method}: {message} ({code:?})")]
    Refused {
        /// Method of the RuntimeService.
        method: &'static str,
        /// gRPC status.
        code: tonic::Code,
        /// The runtime's words.
        message: String,
    },
    /// No answer in time.
    #[error("{method}: no answer within {} s", limit.as_secs_f32())]
    Deadline {
        /// Method of the RuntimeService.
        method: &'static str,
        /// The bound.
        limit: Duration,
    },
    /// An answer that lacks what the CRI promises.
    #[error("{method}: the answer has no {missing}")]
    Incomplete {
        /// Method of the RuntimeService.
        method: &'static str,
        /// What was looked for.
        missing: &'static str,
    },
    /// The client's own event loop could not be made.
    #[error("make the client's event loop: {0}")]
    EventLoop(#[source] io::Error),
}

impl Error {
    /// The runtime's words, when it was the runtime that refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { message, .. } => Some(message),
            _ => None,
        }
    }
}
