//! What can go wrong in the lab. Every message names the command, file, node or value it is about.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Result of everything in the lab.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the lab could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A topology file that cannot be deployed as it stands.
    #[error("{}: {message}", file.display())]
    Topology {
        /// The file as it was given.
        file: PathBuf,
        /// Node, key and value, and what would be right.
        message: String,
    },

    /// A call to the system that failed.
    #[error("{what}: {cause}")]
    Io {
        /// The call, with its path or value.
        what: String,
        /// What the system said.
        cause: io::Error,
    },

    /// A command that ended with a failure.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Exit code or signal.
        status: String,
        /// What it wrote to standard error, or to standard output when that was empty.
        stderr: String,
    },

    /// Something that did not happen within its bound.
    #[error("{what}: not within {} s{}", limit.as_secs_f32(), if detail.is_empty() { String::new() } else { format!(": {detail}") })]
    Timeout {
        /// What was waited for.
        what: String,
        /// The bound.
        limit: Duration,
        /// The last thing that was seen.
        detail: String,
    },

    /// A node that did not come to life.
    #[error("node {node}: {message}")]
    Node {
        /// Its name in the topology.
        node: String,
        /// What its init reported.
        message: String,
    },

    /// A lab that is not there, or is there already.
    #[error("lab {lab}: {message}")]
    Lab {
        /// Its name in the topology.
        lab: String,
        /// What is wrong and what to run.
        message: String,
    },

    /// The container runtime's answer.
    #[error(transparent)]
    Cri(#[from] crate::cri::Error),

    /// A program that a cluster is made of has not been built.
    #[error(transparent)]
    World(#[from] crate::world::Missing),
}

/// Names the call that failed.
pub(crate) trait Context<T> {
    /// Turns an I/O error into one that says what was being done.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io { what: what(), cause: error.into() })
    }
}
