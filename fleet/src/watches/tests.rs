//! A watch of an API server that goes away and comes back, on a clock that does not wait.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
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

/// When it was asked, how often it still refuses, and when it says to come again.
#[derive(Debug)]
struct Busy {
    asked: Vec<Instant>,
    refusals: usize,
    retry_after: Option<&'static str>,
}

/// As priority and fairness refuse, by a header and a line of text, without an object; or as a load balancer before API servers that are away.
async fn refuse(State(busy): State<Arc<Mutex<Busy>>>) -> axum::response::Response {
    let mut busy = busy.lock().unwrap();
    busy.asked.push(Instant::now());
    let is_refused = busy.refusals > 0;
    busy.refusals = busy.refusals.saturating_sub(1);
    match busy.retry_after {
        Some(seconds) if is_refused => {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds)], "Too many requests, please try again later.").into_response()
        }
        None if is_refused => (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream").into_response(),
        _ => {
            let metadata = json!({ "resourceVersion": "7", "annotations": { LIST_END: "true" } });
            let end = json!({ "type": "BOOKMARK", "object": { "kind": "Service", "apiVersion": "v1", "metadata": metadata } });
            (StatusCode::OK, format!("{end}\n")).into_response()
        }
    }
}

/// How long the program's client waits after each of two refusals; on sockets, and on a clock that waits.
async fn waits(retry_after: Option<&'static str>) -> Vec<Duration> {
    let busy = Arc::new(Mutex::new(Busy { asked: Vec::new(), refusals: 2, retry_after }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let router = Router::new().fallback(refuse).with_state(Arc::clone(&busy));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let (server, client) = (Shared::default(), crate::retry_after::client(kube::Config::new(url)).unwrap());
    let task = tokio::spawn(Watch::new(Services(Arc::clone(&server))).run(client));
    let listed = async {
        while server.lock().unwrap().listed.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), listed).await.unwrap();
    task.abort();
    let asked = &busy.lock().unwrap().asked;
    asked.windows(2).take(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test]
async fn an_api_server_that_says_when_to_come_again_is_asked_no_sooner() {
    let waits = waits(Some("4")).await;
    assert!(waits.len() == 2 && waits.iter().all(|wait| *wait >= Duration::from_secs(4)), "{waits:?}");
}

#[tokio::test]
async fn one_that_does_not_say_is_asked_neither_in_milliseconds_nor_after_minutes() {
    let waits = waits(None).await;
    assert!(waits.len() == 2 && waits.iter().all(|wait| (PAUSE..=LONGEST + PAUSE).contains(wait)), "{waits:?}");
}
