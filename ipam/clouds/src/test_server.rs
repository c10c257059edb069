//! A service that answers what a test tells it to, and notes what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use tokio::net::TcpListener;

/// What it was asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

/// What it answers.
pub(super) enum Answer {
    Reply(StatusCode, &'static [(&'static str, &'static str)], String),
    /// After longer than anybody waits.
    Never,
}

impl Answer {
    pub(super) fn ok(body: impl Into<String>) -> Self {
        Self::Reply(StatusCode::OK, &[], body.into())
    }

    pub(super) fn status(status: u16, body: impl Into<String>) -> Self {
        Self::Reply(StatusCode::from_u16(status).unwrap(), &[], body.into())
    }
}

/// A server on loopback that lives as long as the test's runtime.
pub(super) struct TestServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl TestServer {
    pub(super) async fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (asked.clone(), Arc::new(answer));
        let handler = move |request: Request<axum::body::Body>| {
            let (log, answer) = (log.clone(), answer.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_else(|_| Bytes::new());
                let body = String::from_utf8(body.to_vec()).unwrap();
                let asked = Asked { method: head.method, uri: head.uri, headers: head.headers, body };
                log.lock().unwrap().push(asked.clone());
                match answer(&asked) {
                    Answer::Reply(status, headers, body) => {
                        let headers: HeaderMap =
                            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
                        (status, headers, body)
                    }
                    Answer::Never => {
                        tokio::time::sleep(Duration::from_secs(600)).await;
                        unreachable!("nobody waits so long")
                    }
                }
            }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        Self { address, asked }
    }

    pub(super) fn url(&self) -> Uri {
        format!("http://{}", self.address).parse().unwrap()
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// Where nobody listens.
pub(super) async fn nobody() -> Uri {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap()).parse().unwrap()
}
