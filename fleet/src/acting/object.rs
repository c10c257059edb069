//! Teams as an object of the API server (`teams.barewire.cloud`), of the same schema as the file. A bad one, or none, changes nothing: what was
//! read last and was good stays.

use fleet_plans::teams::Teams;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;

use super::file::TeamsFile;
use crate::watches::{Event, Target, Watched};

/// The group of the resource.
pub const GROUP: &str = "barewire.cloud";
/// Its version.
pub const VERSION: &str = "v1alpha1";
/// Its plural; objects have no namespace.
pub const RESOURCE: &str = "teams";

/// One object, followed.
#[derive(Debug)]
pub struct TeamsObject {
    name: String,
    told: watch::Sender<TeamsFile>,
}

impl TeamsObject {
    /// The one of this name; others are nobody's.
    #[must_use]
    pub fn new(name: &str, told: watch::Sender<TeamsFile>) -> Self {
        let this = Self { name: name.to_owned(), told };
        // Until it has been read: the definition of the resource may not be there.
        this.take(Err(vec![format!(
            "{} has not been read; does `barewire-fleet manifest --teams-resource {name}` stand applied?",
            this.path()
        )]));
        this
    }

    /// What it says.
    ///
    /// # Errors
    /// All that is wrong, in words.
    pub fn read(&self, object: Option<&Value>) -> Result<Teams, Vec<String>> {
        let object = object.ok_or_else(|| vec![format!("there is no {}: create it", self.path())])?;
        let teams = Teams::deserialize(&object["spec"]).map_err(|error| vec![format!("{}: {error}", self.path())])?;
        let faults = teams.faults();
        if faults.is_empty() { Ok(teams) } else { Err(faults.iter().map(ToString::to_string).collect()) }
    }

    fn path(&self) -> String {
        format!("{RESOURCE}.{GROUP}/{}", self.name)
    }

    fn take(&self, read: Result<Teams, Vec<String>>) {
        self.told.send_if_modified(|told| told.take(read));
    }

    fn is_meant(&self, object: &Value) -> bool {
        let is_meant = object["metadata"]["name"] == *self.name;
        if !is_meant {
            tracing::warn!(name = %object["metadata"]["name"], meant = self.name, "another object of teams is nobody's: --teams-resource names one");
        }
        is_meant
    }
}

impl Target for TeamsObject {
    type List = Option<Value>;

    fn watched(&self) -> Watched {
        Watched { group: GROUP, version: VERSION, resource: RESOURCE, selector: "" }
    }

    fn read(&self, list: &mut Self::List, event: Event) {
        match event {
            Event::Applied(object) if self.is_meant(&object) => *list = Some(object),
            Event::Deleted(object) if self.is_meant(&object) => *list = None,
            _ => {}
        }
    }

    fn listed(&mut self, _: u64, list: Self::List) {
        self.take(Self::read(self, list.as_ref()));
    }

    fn changed(&mut self, _: u64, event: Option<Event>) {
        match event {
            Some(Event::Applied(object)) if self.is_meant(&object) => self.take(Self::read(self, Some(&object))),
            Some(Event::Deleted(object)) if self.is_meant(&object) => self.take(Self::read(self, None)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bad_object_or_none_says_so_and_the_last_good_one_stays() {
        let (told, seen) = watch::channel(TeamsFile::default());
        let mut object = TeamsObject::new("main", told);
        let is = |seen: &watch::Receiver<TeamsFile>| {
            let seen = seen.borrow();
            (seen.teams.as_ref().map(|teams| teams.pools.len()), seen.faults.join("; "))
        };
        assert!(is(&seen).1.contains("teams.barewire.cloud/main has not been read"));
        object.listed(1, None);
        assert_eq!(is(&seen), (None, "there is no teams.barewire.cloud/main: create it".to_owned()));
        let of = |name: &str, spec: Value| json!({ "metadata": { "name": name }, "spec": spec });
        let good = json!({ "pools": [{ "name": "a", "matchLabels": { "x": "y" } }], "teams": [] });
        let mut list = None;
        Target::read(&object, &mut list, Event::Applied(of("main", good.clone())));
        Target::read(&object, &mut list, Event::Applied(of("other", json!({}))));
        object.listed(2, list);
        assert_eq!(is(&seen), (Some(1), String::new()));
        let mut after = |event| {
            object.changed(0, Some(event));
            is(&seen)
        };
        let (pools, fault) = after(Event::Applied(of("main", json!({ "pools": [], "team": [] }))));
        assert!(pools == Some(1) && fault.contains("teams.barewire.cloud/main: unknown field `team`"), "{fault}");
        let claim = json!({ "pools": [], "teams": [{ "name": "t", "namespaces": [], "nodes": [{ "pool": "gone", "count": 1 }] }] });
        assert!(after(Event::Applied(of("main", claim))).1.contains("pool \"gone\", which is not there"));
        assert_eq!(after(Event::Applied(of("main", good))), (Some(1), String::new()));
        assert_eq!(after(Event::Deleted(of("other", json!({})))), (Some(1), String::new()));
        assert!(after(Event::Deleted(of("main", json!({})))).1.contains("there is no"));
        assert_eq!(is(&seen).0, Some(1));
    }
}
