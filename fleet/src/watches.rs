//! One list and one watch for each kind, for all nodes.
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
use crate::objects::{self, BadObject, SELECTOR};

/// How long the API server may keep a watch; it answers with its end, and the next goes on.
const WATCH: u64 = 290;
/// Bookmarks come every minute: without anything for so long, the connection is half open.
const SILENT: Duration = Duration::from_secs(150);
/// At least between two attempts, whatever came of the first.
const PAUSE: Duration = Duration::from_secs(1);
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
}

/// All that is watched.
pub const ALL: [Watched; Kind::ALL.len()] = [Watched::of(Kind::Services), Watched::of(Kind::Endpoints)];

impl Watched {
    const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Services => Self { group: "", version: "v1", resource: "services" },
            Kind::Endpoints => Self { group: "discovery.k8s.io", version: "v1", resource: "endpointslices" },
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
        let Self { group, version, resource } = self;
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

/// Follows one kind. Never returns.
#[derive(Debug)]
pub struct Watch {
    kind: Kind,
    hub: Arc<Hub>,
    /// As of when what the hub has is; nothing: list first.
    version: Option<u64>,
    streams: bool,
}

impl Watch {
    /// Of one kind, into `hub`.
    #[must_use]
    pub fn new(kind: Kind, hub: Arc<Hub>) -> Self {
        Self { kind, hub, version: None, streams: true }
    }

    /// Lists and watches for ever.
    pub async fn run(mut self, client: Client) {
        let mut backoff = Backoff::new(PAUSE, Duration::from_secs(60));
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
            match ended.status().map(|status| status.code) {
                // What it was to go on from is compacted.
                Some(410) => self.version = None,
                // A restored etcd has not come as far yet.
                Some(504) if ended.to_string().contains("Too large resource version") => self.version = None,
                // An API server that has no streaming list (before 1.32) takes the question for nonsense.
                Some(400 | 422) if self.version.is_none() && self.streams => self.streams = false,
                _ => {}
            }
            let wait = backoff.next(fastrand::f64()).max(ended.retry_after());
            tracing::warn!(kind = ?self.kind, error = %ended, retry_after_ms = wait.as_millis(), "watch ended");
            sleep(wait).await;
        }
    }

    async fn once(&mut self, client: &Client) -> Result<(), Ended> {
        let mut building = None;
        let start = match self.version {
            Some(version) => format!("resourceVersion={version}"),
            None if self.streams => {
                building = Some(Table::default());
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
                WatchEvent::Added(object) | WatchEvent::Modified(object) => self.take(&mut building, object, objects::applied)?,
                WatchEvent::Deleted(object) => self.take(&mut building, object, objects::deleted)?,
                WatchEvent::Bookmark(bookmark) => {
                    let version = number(&bookmark.metadata.resource_version)?;
                    match building.take_if(|_| bookmark.metadata.annotations.contains_key(LIST_END)) {
                        Some(table) => self.listed(version, table),
                        None if building.is_some() => {}
                        None => self.record(version, Vec::new()),
                    }
                }
                WatchEvent::Error(status) => return Err(Ended::Status(status)),
            }
        }
    }

    fn take(
        &mut self,
        building: &mut Option<Table>,
        object: Value,
        change: fn(Kind, &Table, Value) -> Result<Vec<Change>, BadObject>,
    ) -> Result<(), Ended> {
        if let Some(table) = building {
            let changes = self.told(change(self.kind, table, object));
            for change in changes {
                table.apply(change);
            }
            return Ok(());
        }
        let version = objects::version_of(&object).ok_or_else(|| Ended::Version("none".to_owned()))?;
        let changes = change(self.kind, self.hub.replica().log(self.kind).table(), object);
        let changes = self.told(changes);
        self.record(version, changes);
        Ok(())
    }

    /// A bad object is skipped, and kills nothing.
    fn told(&self, changes: Result<Vec<Change>, BadObject>) -> Vec<Change> {
        changes.unwrap_or_else(|bad| {
            tracing::warn!(kind = ?self.kind, error = %bad, "object skipped");
            Vec::new()
        })
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
        let (mut table, mut next) = (Table::default(), String::new());
        loop {
            let list: List = client.request(self.request(&format!("limit={PAGE}&continue={next}"))?).await?;
            for object in list.items {
                for change in self.told(objects::applied(self.kind, &table, object)) {
                    table.apply(change);
                }
            }
            next = list.metadata.next;
            if next.is_empty() {
                let version = number(&list.metadata.resource_version)?;
                self.listed(version, table);
                return Ok(());
            }
        }
    }

    fn listed(&mut self, version: u64, table: Table) {
        tracing::info!(kind = ?self.kind, entries = table.len(), resource_version = version, "listed");
        self.hub.change(|replica| replica.log_mut(self.kind).replace(version, table));
        self.version = Some(version);
    }

    fn record(&mut self, version: u64, changes: Vec<Change>) {
        self.hub.change(|replica| replica.log_mut(self.kind).record(version, changes));
        self.version = Some(version);
    }

    fn request(&self, query: &str) -> Result<Request<Vec<u8>>, http::Error> {
        let path = Watched::of(self.kind).path();
        // The selector's own characters may stand in a query as they are, but for the exclamation mark, which proxies do not like.
        let selector = SELECTOR.replace('!', "%21").replace('/', "%2F");
        Request::get(format!("{path}?labelSelector={selector}&{query}")).body(Vec::new())
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
