//! The CNI specification as a runnable suite, usable on any plugin that creates an interface.
//!
//! Promise: every [`Case`](case::Case) states one requirement of the specification, runs the plugin as a runtime would, and
//! judges only what a runtime can see: exit status, stdout, and what the kernel says of the network namespaces. The suite
//! knows nothing of the plugin under test and shares no code with one. It leaves no namespace, mount or attachment behind,
//! also after a panic, Ctrl-C or (from the next start on) SIGKILL.
//!
//! Source: the CNI specification, versions 0.3.1, 0.4.0, 1.0.0 and 1.1.0; numbers in the names of cases are its sections
//! as numbered since 1.0.0.
#![forbid(unsafe_code)]

pub mod case;
mod cases;
pub mod invocation;
pub mod kernel;
pub mod known;
pub mod netns;
pub mod report;
pub mod rundir;
pub mod shape;
pub mod stage;
pub mod suite;
pub mod version;
