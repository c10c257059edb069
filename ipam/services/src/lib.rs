//! Services of Kubernetes as an nftables ruleset, with the semantics of kube-proxy's nftables mode.
//!
//! [`Services`] takes the fleet's tables and renders each service that has changed into a fragment of the ruleset: chains, and elements of
//! a few maps. What differs from before is an [`Edit`], which [`Script`] writes as one transaction for `nft`. The tables of nftables
//! are our own ([`TABLE`]), one for each family; nothing else is touched. Nothing here does I/O, and times are arguments.
//!
#![forbid(unsafe_code)]

mod edit;
mod endpoints;
mod family;
mod fragment;
mod node;
mod port;
mod ranges;
mod ruleset;
mod script;
mod services;
mod udp;

pub use edit::{Edit, Turn};
pub use family::Family;
pub use fragment::Fronts;
pub use node::Node;
pub use ruleset::{ChainKey, Container, ElementKey, LeadsTo, Ruleset};
pub use script::{Script, TABLE};
pub use services::{Counts, HealthCheck, Services};
pub use udp::Frontends;
