//! A watch of an API server that goes away and comes back, on a clock that does not wait.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use serde_json::json;

use super::*;

/// What the API server does, and what has become of it.
#[derive(Debug, Default)]
struct Server {
    is_away: bool,
    /// What it has is as of this version, and nobody may go on from an earlier one.
    version: u64,
    asked: usize,
    listed: Vec<u64>,
}

type Shared = Arc<Mutex<Server>>;

async fn answer(State(server): State<Shared>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    let mut server = server.lock().unwrap();
    server.asked += 1;
    if server.is_away {
        return (StatusCode::SERVICE_UNAVAILABLE, String::new());
    }
    let version = server.version;
    let bookmark = |annotations: Value| {
        let metadata = json!({ "resourceVersion": version.to_string(), "annotations": annotations });
        json!({ "type": "BOOKMARK", "object": { "kind": "Service", "apiVersion": "v1", "metadata": metadata } })
    };
    let query = query.unwrap_or_default();
    let event = if query.contains("sendInitialEvents") {
        bookmark(json!({ LIST_END: "true" }))
    } else if query.contains(&format!("resourceVersion={version}")) {
        bookmark(json!({}))
    } else {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "too old resource version", "reason": "Expired", "code": 410 });
        json!({ "type": "ERROR", "object": status })
    };
    (StatusCode::OK, format!("{event}\n"))
}

fn with(server: &Shared, work: impl FnOnce(&mut Server)) {
    work(&mut server.lock().unwrap());
}

struct Services(Shared);

impl Target for Services {
    type List = ();

    fn watched(&self) -> Watched {
        Watched::of(Kind::Services)
    }

    fn read(&self, (): &mut (), _: Event) {}

    fn listed(&mut self, version: u64, (): ()) {
        with(&self.0, |server| server.listed.push(version));
    }

    fn changed(&mut self, _: u64, _: Option<Event>) {}
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_was_away_is_neither_stormed_nor_kept_waiting() {
    let server = Shared::default();
    with(&server, |server| server.version = 1);
    let client = Client::new(Router::new().fallback(answer).with_state(Arc::clone(&server)), "default");
    let task = tokio::spawn(Watch::new(Services(Arc::clone(&server))).run(client));
    sleep(Duration::from_secs(5)).await;
    for round in 2..30 {
        with(&server, |server| {
            assert_eq!(server.listed, (1..round).collect::<Vec<_>>());
            (server.is_away, server.asked) = (true, 0);
        });
        sleep(Duration::from_secs(600)).await;
        with(&server, |server| {
            assert!((20..=120).contains(&server.asked), "asked {} times in ten minutes", server.asked);
            // Back, and it knows of nothing that was before.
            (server.is_away, server.version, server.asked) = (false, round, 0);
        });
        sleep(LONGEST + Duration::from_secs(5)).await;
        with(&server, |server| assert_eq!(server.listed.last(), Some(&round), "asked {} times since", server.asked));
    }
    task.abort();
}
