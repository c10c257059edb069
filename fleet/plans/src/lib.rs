//! What the fleet's leader decides (ADR 30, ADR 31): which node is whose team's, what of a pod is added or refused, which node is sick and what is done about it. Facts and
//! times are arguments, acts are values. Nothing here does I/O, knows the time or waits.
#![forbid(unsafe_code)]

pub mod admission;
pub mod bucket;
pub mod health;
pub mod node;
pub mod peers;
pub mod preflight;
pub mod teams;
