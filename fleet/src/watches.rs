//! One list and one watch for each resource, for all nodes.
//!
//! kube-runtime's watcher does not tell as of which `resourceVersion` a list was; positions are made of that, so the loop is our own, over
//! kube's client (Kubernetes manual, "API concepts": streaming lists, bookmarks, 410 Gone).

use std::sync::Arc;
use std::time::Duration;

use fleet_api::{Change, Kind, Table};
use futures_util::{StreamExt, pin_mut};
use http::Request;
use kube::Client;
use kube::core::WatchEvent;
use kube::core::response::Status;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::hub::Hub;
use crate::objects::{self, SELECTOR};

/// How long the API server may keep a watch; it answers with its end, and the next goes on.
const WATCH: u64 = 290;
/// Bookmarks come every minute: without anything for so long, the connection is half open.
const SILENT: Duration = Duration::from_secs(150);
/// At least between two attempts, whatever came of the first.
const PAUSE: Duration = Duration::from_secs(1);
/// At most between two attempts: so long may nodes be told nothing after an API server has come back.
pub const LONGEST: Duration = Duration::from_secs(15);
/// Objects of one page, where there is no streaming list.
const PAGE: usize = 500;
/// Marks the end of a streaming list.
const LIST_END: &str = "k8s.io/initial-events-end";

/// A resource of the API server, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// Its API group; empty for the core.
    pub group: &'static str,
    /// The version that is read.
    pub version: &'static str,
    /// In the plural, as paths and rights have it.
    pub resource: &'static str,
    /// Which objects: a selector of labels; empty for all.
    pub selector: &'static str,
}

/// What is watched where the leader acts on nodes.
pub const NODES: Watched = Watched { group: "", version: "v1", resource: "nodes", selector: "" };

/// All that is watched for nodes' sake.
pub const ALL: [Watched; Kind::ALL.len()] = [Watched::of(Kind::Services), Watched::of(Kind::Endpoints)];

impl Watched {
    const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Services => Self { group: "", version: "v1", resource: "services", selector: SELECTOR },
            Kind::Endpoints => Self { group: "discovery.k8s.io", version: "v1", resource: "endpointslices", selector: SELECTOR },
        }
    }

    /// Lists one object, to see whether that is granted.
    ///
    /// # Errors
    /// The API server's.
    pub async fn try_list(self, client: &Client) -> Result<(), kube::Error> {
        let request = Request::get(format!("{}?limit=1", self.path())).body(Vec::new()).map_err(kube::Error::HttpError)?;
        client.request::<Value>(request).await.map(drop)
    }

    fn path(self) -> String {
        let Self { group, version, resource, .. } = self;
        if group.is_empty() { format!("/api/{version}/{resource}") } else { format!("/apis/{group}/{version}/{resource}") }
    }
}

/// Why a watch has ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Kube(#[from] kube::Error),
    #[error("a request that cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("silent for {} s", SILENT.as_secs())]
    Silent,
    #[error("{0}")]
    Status(Box<Status>),
    #[error("the resourceVersion {0:?} is no number; Kubernetes' are, since 1.35 by promise")]
    Version(String),
    #[error("the list ended before its end was marked")]
    CutList,
}

impl Ended {
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Kube(kube::Error::Api(status)) | Self::Status(status) => Some(status),
            _ => None,
        }
    }

    /// What the API server asks for (`Retry-After`).
    fn retry_after(&self) -> Duration {
        let seconds = self.status().and_then(|status| status.details.as_ref()).map_or(0, |details| details.retry_after_seconds);
        Duration::from_secs(seconds.into())
    }
}

/// One object, as it is now or was last.
#[derive(Debug)]
pub enum Event {
    /// New, or another than before.
    Applied(Value),
    /// No more.
    Deleted(Value),
}

/// What becomes of what is watched. A bad object is skipped, and kills nothing.
pub trait Target {
    /// A list that has not come to its end.
    type List: Default;

    /// What is watched.
    fn watched(&self) -> Watched;

    /// One object of a list, or what happens to one before the list's end.
    fn read(&self, list: &mut Self::List, event: Event);

    /// A list has come to its end: what is not in it is no more.
    fn listed(&mut self, version: u64, list: Self::List);

    /// Something has changed; or nothing, as of a later version.
    fn changed(&mut self, version: u64, event: Option<Event>);
}

/// A kind of the stream, whose table is the hub's.
#[derive(Debug)]
pub struct Tables {
    kind: Kind,
    hub: Arc<Hub>,
}

impl Tables {
    /// Of one kind, into `hub`.
    #[must_use]
    pub fn new(kind: Kind, hub: Arc<Hub>) -> Self {
        Self { kind, hub }
    }

    fn changes(&self, table: &Table, event: Event) -> Vec<Change> {
        let changes = match event {
            Event::Applied(object) => objects::applied(self.kind, table, object),
            Event::Deleted(object) => objects::deleted(self.kind, table, object),
        };
        changes.unwrap_or_else(|bad| {
            tracing::warn!(kind = ?self.kind, error = %bad, "object skipped");
            Vec::new()
        })
    }
}

impl Target for Tables {
    type List = Table;

    fn watched(&self) -> Watched {
        Watched::of(self.kind)
    }

    fn read(&self, table: &mut Table, event: Event) {
        for change in self.changes(table, event) {
            table.apply(change);
        }
    }

    fn listed(&mut self, version: u64, table: Table) {
        tracing::info!(kind = ?self.kind, entries = table.len(), resource_version = version, "listed");
        self.hub.change(|replica| replica.log_mut(self.kind).replace(version, table));
    }

    fn changed(&mut self, version: u64, event: Option<Event>) {
        let changes = event.map_or_else(Vec::new, |event| self.changes(self.hub.replica().log(self.kind).table(), event));
        self.hub.change(|replica| replica.log_mut(self.kind).record(version, changes));
    }
}

/// Follows one resource. Never returns.
#[derive(Debug)]
pub struct Watch<T> {
    target: T,
    /// As of when what the target has is; nothing: list first.
    version: Option<u64>,
    streams: bool,
}

impl<T: Target> Watch<T> {
    /// Into `target`.
    #[must_use]
    pub fn new(target: T) -> Self {
        Self { target, version: None, streams: true }
    }

    /// Lists and watches for ever.
    pub async fn run(mut self, client: Client) {
        let mut backoff = Backoff::new(PAUSE, LONGEST);
        let mut next = Instant::now();
        loop {
            sleep_until(next).await;
            next = Instant::now() + PAUSE;
            let before = self.version;
            let ended = self.once(&client).await;
            if self.version != before {
                backoff.reset();
            }
            // The API server's own end, after its time, is none to speak of.
            let Err(ended) = ended else { continue };
            let is_lost = match ended.status().map(|status| status.code) {
                // What it was to go on from is compacted, or from before the API server's start.
                Some(410) => true,
                // A restored etcd has not come as far yet.
                Some(504) => ended.to_string().contains("Too large resource version"),
                // An API server that has no streaming list (before 1.32) takes the question for nonsense.
                Some(400 | 422) if self.version.is_none() && self.streams => {
                    self.streams = false;
                    false
                }
                _ => false,
            };
            if is_lost && self.version.take().is_some() {
                // It is there and answers. How long it was away is no reason to be told still later what has changed.
                backoff.reset();
            }
            let wait = backoff.next(fastrand::f64()).max(ended.retry_after());
            tracing::warn!(resource = self.target.watched().resource, error = %ended, retry_after_ms = wait.as_millis(), "watch ended");
            sleep(wait).await;
        }
    }

    async fn once(&mut self, client: &Client) -> Result<(), Ended> {
        let mut building = None;
        let start = match self.version {
            Some(version) => format!("resourceVersion={version}"),
            None if self.streams => {
                building = Some(T::List::default());
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned()
            }
            None => {
                self.list(client).await?;
                format!("resourceVersion={}", self.version.unwrap_or_default())
            }
        };
        let request = self.request(&format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH}&{start}"))?;
        let events = client.request_events::<Value>(request).await?;
        pin_mut!(events);
        loop {
            let Some(event) = timeout(SILENT, events.next()).await.map_err(|_| Ended::Silent)? else {
                return if building.is_some() { Err(Ended::CutList) } else { Ok(()) };
            };
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.happened(&mut building, objects::version_of(&object), Event::Applied(object))?;
                }
                WatchEvent::Deleted(object) => self.happened(&mut building, objects::version_of(&object), Event::Deleted(object))?,
                WatchEvent::Bookmark(bookmark) => {
                    let version = number(&bookmark.metadata.resource_version)?;
                    match building.take_if(|_| bookmark.metadata.annotations.contains_key(LIST_END)) {
                        Some(list) => self.listed(version, list),
                        None if building.is_some() => {}
                        None => {
                            self.target.changed(version, None);
                            self.version = Some(version);
                        }
                    }
                }
                WatchEvent::Error(status) => return Err(Ended::Status(status)),
            }
        }
    }

    fn happened(&mut self, building: &mut Option<T::List>, version: Option<u64>, event: Event) -> Result<(), Ended> {
        if let Some(list) = building {
            self.target.read(list, event);
            return Ok(());
        }
        let version = version.ok_or_else(|| Ended::Version("none".to_owned()))?;
        self.target.changed(version, Some(event));
        self.version = Some(version);
        Ok(())
    }

    /// By pages, of one and the same `resourceVersion`.
    async fn list(&mut self, client: &Client) -> Result<(), Ended> {
        #[derive(Deserialize)]
        struct List {
            metadata: ListMeta,
            #[serde(default)]
            items: Vec<Value>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ListMeta {
            resource_version: String,
            #[serde(default, rename = "continue")]
            next: String,
        }
        let (mut whole, mut next) = (T::List::default(), String::new());
        loop {
            let list: List = client.request(self.request(&format!("limit={PAGE}&continue={next}"))?).await?;
            for object in list.items {
                self.target.read(&mut whole, Event::Applied(object));
            }
            next = list.metadata.next;
            if next.is_empty() {
                let version = number(&list.metadata.resource_version)?;
                self.listed(version, whole);
                return Ok(());
            }
        }
    }

    fn listed(&mut self, version: u64, list: T::List) {
        self.target.listed(version, list);
        self.version = Some(version);
    }

    fn request(&self, query: &str) -> Result<Request<Vec<u8>>, http::Error> {
        let watched = self.target.watched();
        // The selector's own characters may stand in a query as they are, but for the exclamation mark, which proxies do not like.
        let selector = watched.selector.replace('!', "%21").replace('/', "%2F");
        Request::get(format!("{}?labelSelector={selector}&{query}", watched.path())).body(Vec::new())
    }
}

fn number(version: &str) -> Result<u64, Ended> {
    version.parse().map_err(|_| Ended::Version(version.to_owned()))
}

/// The UID of namespace `kube-system`: which cluster it is.
///
/// # Errors
/// The API server's.
pub async fn cluster(client: &Client) -> Result<String, kube::Error> {
    #[derive(Deserialize)]
    struct Namespace {
        metadata: Meta,
    }
    #[derive(Deserialize)]
    struct Meta {
        uid: String,
    }
    let request = Request::get("/api/v1/namespaces/kube-system").body(Vec::new()).map_err(kube::Error::HttpError)?;
    Ok(client.request::<Namespace>(request).await?.metadata.uid)
}

#[cfg(test)]
mod tests;
