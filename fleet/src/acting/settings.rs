//! How the leader acts, and how often it looks.

use std::path::PathBuf;
use std::time::Duration;

use fleet_plans::{health, preflight};

use super::Mode;

/// How it acts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether plans of teams are carried out.
    pub teams: Mode,
    /// Health's thresholds and budgets; `dry_run` says whether it acts.
    pub health: health::Settings,
    /// Who takes over a node that nobody has mended; the state machine comes that far only where there is one.
    pub hook: Option<PathBuf>,
    /// New nodes, where their taint is looked at; `dry_run` says whether it is lifted.
    pub preflight: Option<preflight::Settings>,
    /// Acts a second, of all parts.
    pub per_second: u32,
    /// Which replica it is, for Events.
    pub identity: String,
    /// The Lease's namespace and name; an annotation of it resets the breaker.
    pub lease: (String, String),
}

/// Between two looks where nothing is to be done.
pub(super) const CALM: Duration = Duration::from_secs(1);
/// And where something is.
pub(super) const BUSY: Duration = Duration::from_millis(100);
