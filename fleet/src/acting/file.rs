//! The file of teams, read again while it changes. A bad one changes nothing: what was read last and was good stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fleet_plans::teams::Teams;
use tokio::sync::watch;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// What has become of the file, or of the object that is there instead.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TeamsFile {
    /// The last good one.
    pub teams: Option<Arc<Teams>>,
    /// All that is wrong with it as it is now.
    pub faults: Vec<String>,
}

impl TeamsFile {
    /// Teams that are not of a file.
    #[must_use]
    pub fn of(teams: Teams) -> Self {
        Self { teams: Some(Arc::new(teams)), faults: Vec::new() }
    }

    /// Reads it.
    ///
    /// # Errors
    /// All that is wrong, in words.
    pub fn read(path: &Path) -> Result<Teams, Vec<String>> {
        let text = std::fs::read_to_string(path).map_err(|error| vec![format!("cannot read {}: {error}", path.display())])?;
        let teams: Teams = serde_saphyr::from_str(&text).map_err(|error| vec![format!("{}: {error}", path.display())])?;
        let faults = teams.faults();
        if faults.is_empty() { Ok(teams) } else { Err(faults.iter().map(ToString::to_string).collect()) }
    }

    /// Takes note of a look at it: whether anything is new.
    pub(super) fn take(&mut self, read: Result<Teams, Vec<String>>) -> bool {
        let next = match read {
            Ok(teams) if self.teams.as_deref() == Some(&teams) => Self { teams: self.teams.clone(), faults: Vec::new() },
            Ok(teams) => {
                tracing::info!(pools = teams.pools.len(), teams = teams.teams.len(), "teams read");
                Self::of(teams)
            }
            Err(faults) => {
                for fault in faults.iter().filter(|fault| !self.faults.contains(fault)) {
                    tracing::error!(fault, "teams are bad: nothing changes");
                }
                Self { teams: self.teams.clone(), faults }
            }
        };
        let is_new = next != *self;
        *self = next;
        is_new
    }
}

/// Reads the file now and whenever it may have changed. Never returns.
pub async fn follow(path: PathBuf, told: watch::Sender<TeamsFile>) {
    loop {
        let read = TeamsFile::read(&path);
        told.send_if_modified(|file| file.take(read));
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_says_all_its_faults_and_the_last_good_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("teams.yaml");
        let mut file = TeamsFile::default();
        let mut after = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let is_new = file.take(TeamsFile::read(&path));
            (is_new, file.teams.as_ref().map(|teams| teams.teams.len()), file.faults.len())
        };
        let good = "pools: [{name: a, matchLabels: {x: y}}]\nteams: [{name: t, namespaces: [n], nodes: [{pool: a, count: 1}]}]";
        assert_eq!(after("pools: ["), (true, None, 1));
        assert_eq!(after(good), (true, Some(1), 0));
        assert_eq!(after(good), (false, Some(1), 0));
        assert_eq!(after("pools: [{name: a, matchLabels: {}}, {name: a, matchLabels: {}}]\nteams: []"), (true, Some(1), 2));
        assert_eq!(after("pools: []\nteams: []\nteam: []"), (true, Some(1), 1));
        assert_eq!(after(good), (true, Some(1), 0));
        std::fs::remove_file(&path).unwrap();
        assert!(file.take(TeamsFile::read(&path)));
        assert!(file.faults[0].starts_with("cannot read ") && file.teams.is_some());
    }
}
