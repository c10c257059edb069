//! Nodes and their cloud under a virtual clock: an hour of thousands of nodes passes in a minute, and the same seed is the same hour.
//!
//! What is real: the pool, the supply, and the source for AWS with its clients of EC2 and of the metadata service, signatures and XML
//! included. What is simulated: the cloud (`cloudsim`, in this process), the clock, and pods, which here are owners of addresses.
//! A [`World`] checks its promises at every step: see [`Violation`]; and when asked, [`World::leaks`].
//!
//! ```
//! use simulation::{NodeSettings, World, WorldSettings};
//! use std::time::Duration;
//!
//! simulation::run(async || {
//!     let world = World::new(WorldSettings::default());
//!     let node = world.launch(NodeSettings::default());
//!     world.pass(Duration::from_secs(60)).await;
//!     let pod = world.start_pod(&node);
//!     assert!(node.borrow().address_of(pod).is_some());
//!     assert_eq!((world.violations(), world.leaks()), (vec![], vec![]));
//! });
//! ```
#![forbid(unsafe_code)]

mod clock;
mod ledger;
mod node;
pub mod scale;
mod services;
mod world;

pub use clock::Clock;
pub use ledger::Violation;
pub use node::{Node, NodeSettings, PodId, Waits};
pub use world::{Leak, NodeHandle, World, WorldSettings};

/// Runs a simulation to its end, on this thread. Its clock stands still while anything is to be done, and else goes on at once to when
/// something is.
///
/// # Panics
/// Where the system has no room for a runtime.
pub fn run<T>(simulation: impl AsyncFnOnce() -> T) -> T {
    #[expect(clippy::expect_used, reason = "a runtime of one thread without sockets asks the system for nothing")]
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, simulation())
}
