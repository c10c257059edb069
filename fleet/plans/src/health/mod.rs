//! Which node is sick, and what is done about it (ADR 31).

mod budget;
mod evidence;
mod explain;
mod leader;
mod person;
mod record;
mod settings;

pub use budget::Budgets;
pub(crate) use budget::pool;
pub use evidence::{About, Evidence, Report, Verdict};
pub use explain::{Explanation, NOTE, Note, Standing, explain};
pub use leader::{Act, Leader, Reason};
pub use person::{NoPerson, QUARANTINE, Quarantine, pardon};
pub use record::{RECORD, RELAPSES, Record, SICK, Stage, VALUE, stamp};
pub(crate) use record::{is_marked, is_quarantined};
pub use settings::{Settings, Threshold};

/// Milliseconds of a clock that all leaders share: what is written on nodes is read by the next leader.
pub type Millis = u64;
