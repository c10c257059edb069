//! Why pods are given no address of a range.

/// A reason. Whoever decides compares it; its text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The cloud has attached the interface that the range is on, and the kernel does not have it (yet, or any more).
    #[error("its interface has not appeared on the node")]
    InterfaceAbsent,
    /// Routes, marks and programs do not carry the range yet.
    #[error("the node's network is not set up for it yet")]
    NotProgrammed,
    /// Every reader of the cloud misses it.
    #[error("the cloud has taken it from this node")]
    Lost,
    /// It is about to be unassigned, or was, and readers have not told yet.
    #[error("it is being given back to the cloud")]
    Releasing,
    /// The configuration keeps all of it from pods.
    #[error("source.exclude keeps it from pods")]
    Excluded,
    /// The uplinks that carry it do not run.
    #[error("its uplink is down: {0}")]
    UplinkDown(String),
}
