//! barewired, the node daemon: it owns this node's pod addresses and attachments.
//!
//! From the inside out: [`attachments`] makes ADD, DEL, CHECK, GC and STATUS of pool, store and [`kernel`], [`cloud`] drives the supply
//! of addresses, `reconcile` keeps what is there as it should be, `services` serves Services, `serve` answers the socket, [`start`] starts and stops all of it. Which address,
//! what to ask a cloud for and what a start makes of the store are decided in crates of their own, which are pure: `ipam-pool`,
//! `ipam-supply` and `ipam-state`.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod allowed;
pub mod attachments;
pub mod check;
mod chores;
mod clockwork;
pub mod cloud;
mod cni_errors;
pub mod conditions;
pub mod config;
mod conflist;
mod execute;
mod fleet;
pub mod health;
pub mod health_check;
mod http;
mod http_server;
pub mod kernel;
pub mod latencies;
pub mod limits;
pub mod logs;
pub mod max_pods;
pub mod plugins;
pub mod readiness;
mod reconcile;
pub mod reference;
pub mod scheduling;
pub mod serve;
mod services;
pub mod start;
mod sync;
