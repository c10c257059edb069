//! What is there is compared with what should be, again and again: at start, on news of the kernel's, and every few seconds.
//!
//! [`node`] is what all pods share, completed by [`slow_path`]: what the host would treat otherwise; it has a [`thread`], and [`watch`] tells when to look. [`pods`] is each pod's
//! link on the host, [`files`] what plugins find, [`link_speed`] which limits no uplink can reach. What is
//! wanted is plain data, what the kernel has is read anew each time, and what is to be done is a pure function of both.

pub(crate) mod files;
mod filter_news;
pub(crate) mod leftover;
mod link_speed;
pub(crate) mod node;
pub(crate) mod pods;
pub(crate) mod slow_path;
pub(crate) mod thread;
pub(crate) mod watch;

use std::time::Duration;

/// Between two looks without news. What somebody has removed or altered is to be back within ten seconds.
pub(crate) const EVERY: Duration = Duration::from_secs(7);

/// What a remedy says of something that was refused: when it is tried again.
pub(crate) fn tried_again() -> String {
    format!("it is tried again every {} seconds", EVERY.as_secs())
}
