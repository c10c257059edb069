//! What happens to a packet between a pod and the network: the layout of the maps, the reading of headers, and every
//! decision. The programs in `main.rs` only fetch and obey, so all of this runs, and is tested, on any host.
//!
//! Two rules shape it. When in doubt, the kernel: what is not plainly ours to carry goes to the host's stack, which knows
//! what to do. And every packet that is dropped or sent to the stack is counted by its reason.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod account;
pub mod drop_event;
pub mod filter;
pub mod flow;
pub mod layout;
pub mod packet;
pub mod scope;
pub mod service;
pub mod shape;
pub mod verdict;
