//! Which nodes are whose team's.

mod file;
mod plan;
mod quota;

pub use file::{Claim, Fault, Pool, Team, Teams};
pub use plan::{DOMAIN_LABEL, Move, Plan, Told, plan};
pub use quota::quotas;

/// The taint and label of a team's node. A pod that can be pre-empted tolerates all its values.
pub const TEAM: &str = "teams.barewire.cloud/team";
/// The taint of a node of a team that does not lend: only the team's pods tolerate it. The label is [`TEAM`] all the same.
pub const RESERVED: &str = "teams.barewire.cloud/reserved";
/// The annotation that says which team the fleet has given a node to: what is not in it is somebody else's.
pub const ASSIGNED: &str = "teams.barewire.cloud/assigned";
