//! A real cloud beside the ADDs: [`Driver`] drives the supply, `uplinks` makes the node's networks of what the cloud tells, and
//! [`SupplyReport`] is what an operator can ask.

mod conditions;
mod native;
mod report;
mod runner;
mod source;
pub(crate) mod uplinks;

pub use report::{Call, Calls, CloudCondition, Count, SupplyReport};
pub use runner::{Driver, settings};
