//! What the exit code of a command says.

use std::process::ExitCode;

/// The outcome of a command, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// All is well.
    Fine = 0,
    /// Something is wrong, or what was asked for is not there.
    Degraded = 1,
    /// An ADD would fail.
    NotReady = 2,
    /// The daemon does not answer.
    Unreachable = 3,
    /// The command line is wrong: `EX_USAGE` of sysexits(3).
    Usage = 64,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
