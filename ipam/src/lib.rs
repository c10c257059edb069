//! barewired, the node daemon: it owns this node's pod addresses and attachments.
//!
//! From the inside out: [`pool`] decides which address, [`store`] remembers, [`attachments`] makes ADD, DEL, CHECK, GC and
//! STATUS of both and the kernel, [`recovery`] settles what a crash left, [`server`] answers the socket, [`daemon`] starts
//! and stops all of it. The pool, the configuration and recovery's plan are pure.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod attachments;
pub mod check;
pub mod cloud_record;
mod cloud_uplinks;
pub mod conditions;
pub mod config;
mod conflist;
pub mod daemon;
pub mod driver;
mod failure;
mod housekeeping;
pub mod kernel;
mod leftover;
pub mod link_numbers;
pub mod max_pods;
pub mod metrics;
mod node_network;
pub mod plugins;
pub mod pool;
pub mod range;
pub mod readiness;
pub mod record;
pub mod recovery;
pub mod server;
mod slow_path;
pub mod sources;
pub mod store;
pub mod supply;
mod telemetry;
mod uplink_watch;
