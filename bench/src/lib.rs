//! What the benchmarks of Barewire share.
//!
//! - Everything happens in network and mount namespaces that end with the process ([`node`], [`netns`]): nothing on the
//!   machine is touched, and nothing is left to clean up, however the process ends.
//! - A figure stands beside a peer's, measured in the same run with the same caller ([`plugin`]), in rounds that
//!   alternate; a round gives a percentile, the rounds give the median of those ([`samples`]).
//! - What is promised is judged by the same program that measured it ([`report`]).
#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a measurement of a minute shows its progress; stdout belongs to the figures")]

pub mod add;
pub mod burst;
pub mod cluster_ip;
pub mod contender;
pub mod daemon;
pub mod datapath;
pub mod floor;
pub mod machine;
pub mod netns;
pub mod node;
pub mod noise;
pub mod page;
pub mod plugin;
pub mod pods;
pub mod report;
pub mod samples;
pub mod shape;
pub mod wiring;
