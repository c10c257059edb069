//! Who has asked an API server for what, of its audit log: the only place that has user agents. Pure but for [`Tail`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Of a log that grows faster the newest part is read.
const READ_MAX: u64 = 256 << 20;

/// A client, and what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Asks {
    /// Who.
    pub user: String,
    /// In whose name it says that it is asked.
    pub user_agent: String,
    /// Which verb.
    pub verb: String,
    /// Of what: a resource with its group and subresource, or a path.
    pub resource: String,
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Count {
    /// Requests.
    pub requests: u64,
    /// Of these, answered with 429.
    pub refused: u64,
}

/// As the API server writes it (`audit.k8s.io/v1`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    #[serde(default)]
    user: User,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    verb: String,
    object_ref: Option<Object>,
    #[serde(default, rename = "requestURI")]
    uri: String,
    response_status: Option<Status>,
}

#[derive(Deserialize, Default)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    api_group: String,
    #[serde(default)]
    subresource: String,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u32,
}

/// Requests of a piece of a log, and how many lines of it could not be read. Each counts when it ends; a watch that goes on does not.
#[must_use]
pub fn count(text: &str) -> (BTreeMap<Asks, Count>, usize) {
    let (mut counts, mut unreadable) = (BTreeMap::<_, Count>::new(), 0);
    for line in text.lines().filter(|line| !line.is_empty()) {
        let Ok(event) = serde_json::from_str::<Event>(line) else {
            unreadable += 1;
            continue;
        };
        let Event { stage, user, user_agent, verb, object_ref, uri, response_status } = event;
        if stage != "ResponseComplete" && stage != "Panic" {
            continue;
        }
        let resource = object_ref.filter(|object| !object.resource.is_empty()).map_or_else(
            || uri.split('?').next().unwrap_or_default().to_owned(),
            |object| super::dump::named(&object.api_group, &object.resource, &object.subresource),
        );
        let count = counts.entry(Asks { user: user.username, user_agent, verb, resource }).or_default();
        count.requests += 1;
        count.refused += u64::from(response_status.is_some_and(|status| status.code == 429));
    }
    (counts, unreadable)
}

/// The end of a log, from when it was first looked at.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    from: u64,
}

impl Tail {
    /// From here on.
    ///
    /// # Errors
    /// Where there is no such file.
    pub fn begin(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), from: std::fs::metadata(path)?.len() })
    }

    /// What has been written since. A log that has become shorter has been replaced; then all of it is new.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(&self) -> io::Result<String> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        let from = if length < self.from { 0 } else { self.from }.max(length.saturating_sub(READ_MAX));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(READ_MAX).read_to_end(&mut bytes)?;
        // The last line may be half written, and so may the first be where much was passed over.
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(agent: &str, stage: &str, code: u32) -> String {
        format!(
            "{{\"kind\":\"Event\",\"stage\":\"{stage}\",\"user\":{{\"username\":\"robot\"}},\"userAgent\":\"{agent}\",\"verb\":\"list\",\
             \"requestURI\":\"/apis/apps/v1/deployments?limit=1\",\
             \"objectRef\":{{\"resource\":\"deployments\",\"apiGroup\":\"apps\"}},\"responseStatus\":{{\"code\":{code}}}}}\n"
        )
    }

    #[test]
    fn requests_count_by_client_when_they_end() {
        let path = "{\"stage\":\"ResponseComplete\",\"verb\":\"get\",\"requestURI\":\"/livez?a=b\"}\n";
        let text = [
            &line("a/1", "ResponseComplete", 200),
            &line("a/1", "ResponseComplete", 429),
            &line("a/1", "ResponseStarted", 200),
            &line("b/1", "ResponseComplete", 200),
            path,
            "no JSON\n",
        ];
        let (counts, unreadable) = count(&text.map(ToString::to_string).concat());
        let found: Vec<_> =
            counts.iter().map(|(asks, count)| (&*asks.user_agent, &*asks.verb, &*asks.resource, count.requests, count.refused)).collect();
        let deployments = "deployments.apps";
        assert_eq!(found, [("", "get", "/livez", 1, 0), ("a/1", "list", deployments, 2, 1), ("b/1", "list", deployments, 1, 0)]);
        assert_eq!(unreadable, 1);
    }

    #[test]
    fn what_is_written_from_now_on_is_read_and_a_log_that_is_replaced_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        assert!(Tail::begin(&path).is_err());
        std::fs::write(&path, "old\n").unwrap();
        let tail = Tail::begin(&path).unwrap();
        std::fs::write(&path, "old\nnew\nhal").unwrap();
        assert_eq!(tail.read().unwrap(), "new\n");
        std::fs::write(&path, "n\n").unwrap();
        assert_eq!(tail.read().unwrap(), "n\n");
    }
}
