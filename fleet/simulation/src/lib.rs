//! What the fleet's leader decides, of thousands of nodes: `cargo xtask bench teams` and `health`.
#![forbid(unsafe_code)]

pub mod health;
pub mod preflight;
pub mod report;
pub mod teams;
