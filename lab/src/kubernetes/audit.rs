//! The API server's audit log: who has asked for what.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::config::file;
use crate::error::{Context, Error, Result};
use crate::node::Node;

/// In the control plane's node.
const LOG: &str = "/run/kube-apiserver-audit.log";

/// Every request, once: what has begun and does not end is told when it begins.
const POLICY: &str =
    r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}"#;

pub(super) fn write_policy(node: &Node) -> Result<()> {
    node.write(&file("audit.json"), POLICY)
}

/// What kube-apiserver is told to keep it.
pub(super) fn arguments() -> [String; 2] {
    [format!("--audit-policy-file={}", file("audit.json")), format!("--audit-log-path={LOG}")]
}

/// A request that the API server has answered, or has begun to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Who.
    pub user: User,
    /// In whose name it says that it is asked.
    #[serde(default)]
    pub user_agent: String,
    /// From where; the first is the client itself.
    #[serde(default, rename = "sourceIPs")]
    pub sources: Vec<IpAddr>,
    /// `get`, `watch` …
    pub verb: String,
    /// Of what, if of a resource.
    pub object_ref: Option<Object>,
    #[serde(default, rename = "requestURI")]
    uri: String,
    stage: String,
    response_status: Option<Status>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct User {
    /// Its name.
    #[serde(default)]
    pub username: String,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Object {
    /// The kind, in the plural.
    #[serde(default)]
    pub resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Status {
    #[serde(default)]
    code: u32,
}

impl Request {
    /// Verb and resource, or the path of what is none.
    #[must_use]
    pub fn what(&self) -> String {
        let what = self.object_ref.as_ref().map_or(self.uri.as_str(), |object| &object.resource);
        format!("{} {what}", self.verb)
    }

    /// The end of a watch whose beginning was told.
    fn is_end(&self) -> bool {
        self.stage == "ResponseComplete" && self.verb == "watch" && self.response_status.as_ref().is_some_and(|status| status.code == 200)
    }
}

/// The log of a cluster.
#[derive(Debug, Clone)]
pub struct Audit {
    path: PathBuf,
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

impl Mark {
    /// Where the log begins.
    pub const BEGINNING: Self = Self(0);
}

impl Audit {
    pub(super) fn of(control: &Node) -> Self {
        Self { path: control.host_path(LOG) }
    }

    /// Where it ends now.
    ///
    /// # Errors
    /// When there is none.
    pub fn mark(&self) -> Result<Mark> {
        let metadata = std::fs::metadata(&self.path).context(|| format!("read {}", self.path.display()))?;
        Ok(Mark(metadata.len()))
    }

    /// What was asked since `mark`.
    ///
    /// # Errors
    /// When the log cannot be read or is not what it should be.
    pub fn since(&self, mark: Mark) -> Result<Vec<Request>> {
        let what = || format!("read {}", self.path.display());
        let mut log = std::fs::File::open(&self.path).context(what)?;
        log.seek(SeekFrom::Start(mark.0)).context(what)?;
        let mut text = String::new();
        log.read_to_string(&mut text).context(what)?;
        requests(&text).map_err(|error| Error::Io { what: what(), cause: error.into() })
    }
}

/// A last line that is being written is left out, and so is one that an API server which was killed has not written to its end.
fn requests(text: &str) -> serde_json::Result<Vec<Request>> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let read = |line: &str| match serde_json::from_str::<Request>(line) {
        Err(error) if error.is_eof() => None,
        read => Some(read),
    };
    let requests: Vec<Request> = whole.lines().filter_map(read).collect::<Result<_, _>>()?;
    Ok(requests.into_iter().filter(|request| !request.is_end()).collect())
}

/// How many of each kind, in one line.
#[must_use]
pub fn summary<'a>(requests: impl IntoIterator<Item = &'a Request>) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    requests.into_iter().for_each(|request| *counts.entry(request.what()).or_default() += 1);
    if counts.is_empty() {
        return "none".to_owned();
    }
    counts.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(verb: &str, stage: &str, code: u32) -> String {
        format!(
            r#"{{"kind": "Event", "level": "Metadata", "auditID": "1", "stage": "{stage}", "requestURI": "/api/v1/services?watch=1", "verb": "{verb}",
            "user": {{"username": "system:node:node1", "groups": ["system:nodes"]}}, "sourceIPs": ["10.0.0.11"], "userAgent": "kubelet/v1",
            "objectRef": {{"resource": "services", "apiVersion": "v1"}}, "responseStatus": {{"code": {code}}}}}"#
        )
        .replace('\n', " ")
    }

    #[test]
    fn a_watch_counts_when_it_begins_and_a_line_that_is_cut_not_at_all() {
        let refused = line("watch", "ResponseComplete", 403);
        let lines = [
            line("watch", "ResponseStarted", 200),
            line("watch", "ResponseComplete", 200),
            refused.clone(),
            line("get", "ResponseComplete", 200),
            r#"{"kind": "Event", "verb": "ge"#.to_owned(),
            r#"{"verb": "get", "user": {}, "stage": "ResponseComplete", "requestURI": "/livez"}"#.to_owned(),
            refused[..40].to_owned(),
        ];
        let found = requests(&lines.join("\n")).unwrap();
        assert_eq!(summary(&found), "1 get /livez, 1 get services, 2 watch services");
        assert_eq!((found[0].user.username.as_str(), found[0].sources[0]), ("system:node:node1", "10.0.0.11".parse().unwrap()));
        assert_eq!(summary(&[]), "none");
        assert!(requests("no JSON\n").is_err());
    }
}
