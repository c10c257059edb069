//! A case: one requirement of the specification, and how to see whether a plugin meets it.

use std::fmt::Display;

use super::{invocation::ExecError, kernel::KernelError, netns::NetnsError, stage::Stage, version::SpecVersion};

/// One requirement of the specification.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Section, subject and requirement, as `2.del.idempotent`.
    pub name: &'static str,
    /// The requirement, in our words.
    pub requirement: &'static str,
    /// The first version that makes it.
    pub since: SpecVersion,
    /// Tries a plugin on a stage of the case's own.
    pub run: fn(&Stage<'_>) -> Verdict,
}

/// `Ok`: the plugin meets the requirement.
pub type Verdict = Result<(), Stop>;

/// Why a case ended before it passed.
#[derive(Debug)]
pub enum Stop {
    /// The plugin does not meet the requirement: what was expected, and what happened.
    Fail(String),
    /// The requirement cannot be judged here, and why.
    Skip(String),
    /// The suite itself cannot go on.
    Broken(Broken),
}

/// What keeps the suite itself from going on: no verdict on the plugin.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The plugin cannot be executed.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// Namespaces cannot be looked into.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Namespaces cannot be made.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

impl<E: Into<Broken>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

/// Ends the case as failed.
pub(super) fn fail<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Fail(reason.into()))
}

/// Ends the case as skipped.
pub(super) fn skip<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Skip(reason.into()))
}

/// Addresses, names and the like in a sentence.
pub(super) fn listed<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

/// Ends the case as failed unless `holds`.
pub(super) fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { fail(reason()) }
}
