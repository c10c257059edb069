//! The dump of requests (`dump_requests`, apiserver's `apf_controller_debug.go`): comma-separated, padded, by the names in its first line. Pure.

use super::TopError;

/// One request that waits or is executed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// Who.
    pub user: String,
    /// Which verb.
    pub verb: String,
    /// Of what: a resource with its group and subresource, or a path.
    pub what: String,
    /// By which FlowSchema.
    pub schema: String,
    /// At which priority level.
    pub level: String,
}

/// One look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dump {
    /// Requests, and whether each waits.
    pub requests: Vec<(Asked, bool)>,
    /// Lines with more or fewer columns than the first.
    pub unreadable: usize,
}

impl Dump {
    /// Reads it; who asks for the dump itself is left out.
    ///
    /// # Errors
    /// Where a column is missing.
    pub fn read(text: &str) -> Result<Self, TopError> {
        let fields = |line: &str| line.split(',').map(|field| field.trim().to_owned()).collect::<Vec<_>>();
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        let header = fields(first);
        let column = |name: &'static str| {
            header
                .iter()
                .position(|column| column == name)
                .ok_or_else(|| TopError::Header { header: first.chars().take(200).collect(), column: name })
        };
        let [level, schema, index] = [column("PriorityLevelName")?, column("FlowSchemaName")?, column("RequestIndexInQueue")?];
        let [user, verb, path] = [column("UserName")?, column("Verb")?, column("APIPath")?];
        let [version, resource, subresource] = [column("APIVersion")?, column("Resource")?, column("SubResource")?];
        let mut dump = Self::default();
        for line in lines.filter(|line| !line.trim().is_empty()) {
            let fields = fields(line);
            if fields.len() != header.len() {
                dump.unreadable += 1;
                continue;
            }
            if fields[path].starts_with("/debug/api_priority_and_fairness/") {
                continue;
            }
            let what = what(&fields[version], &fields[resource], &fields[subresource], &fields[path]);
            let get = |column: usize| fields[column].clone();
            let asked = Asked { user: get(user), verb: get(verb), what, schema: get(schema), level: get(level) };
            // What is executed is in no place of a queue.
            dump.requests.push((asked, fields[index] != "-1"));
        }
        Ok(dump)
    }
}

fn what(version: &str, resource: &str, subresource: &str, path: &str) -> String {
    if resource.is_empty() {
        return path.to_owned();
    }
    named(version.split_once('/').map_or("", |(group, _)| group), resource, subresource)
}

/// A resource as it is shown.
pub(super) fn named(group: &str, resource: &str, subresource: &str) -> String {
    let group = if group.is_empty() { String::new() } else { format!(".{group}") };
    let sub = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
    format!("{resource}{group}{sub}")
}
