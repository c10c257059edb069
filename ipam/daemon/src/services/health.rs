//! What load balancers ask a node: whether it has endpoints of one service (`healthCheckNodePort` of services whose
//! `externalTrafficPolicy` is `Local`), and whether it serves Services at all (`/healthz`, `/livez`). Paths, codes and bodies are
//! kube-proxy's (`pkg/proxy/healthcheck`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::services::HealthCheck;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::conditions::{Finding, Kind, NodeConditions, timestamp};
use crate::http_server;

/// Of all ports together: load balancers ask from a few places, now and then.
const CONNECTIONS_MAX: usize = 64;
/// So long what was told may wait to be set before the node calls itself sick: kube-proxy's default.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between attempts to listen.
const AGAIN: Duration = Duration::from_secs(5);

/// What there is to answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    /// On which the services' ports are listened on.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) checks: Vec<HealthCheck>,
    /// Since when something waits to be set; nothing where all is.
    pub(crate) waits_since: Option<Instant>,
    /// Whether something was set, ever.
    pub(crate) has_stood: bool,
}

impl Answers {
    /// Whether what was told is set, or will be soon.
    fn is_healthy(&self, now: Instant) -> bool {
        self.has_stood && self.waits_since.is_none_or(|since| now.duration_since(since) < PATIENCE)
    }

    /// What is to be listened on: where, and for which service.
    fn ports(&self) -> BTreeMap<SocketAddr, String> {
        let of = |check: &HealthCheck| {
            let (port, service) = (check.port, check.service.clone());
            self.addresses.iter().map(move |address| (SocketAddr::new(*address, port), service.clone()))
        };
        self.checks.iter().flat_map(of).collect()
    }
}

const NO_SNIFF: (HeaderName, &str) = (HeaderName::from_static("x-content-type-options"), "nosniff");
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

type Told = watch::Receiver<Arc<Answers>>;
type Response = (StatusCode, [(HeaderName, String); 2], Json<Value>);

fn of_service(service: &str, told: &Told) -> Response {
    let answers = told.borrow().clone();
    let count = answers.checks.iter().find(|check| check.service == service).map_or(0, |check| check.local_endpoints);
    let healthy = answers.is_healthy(Instant::now());
    let status = if count > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let (namespace, name) = service.split_once('/').unwrap_or(("", service));
    let body = json!({
        "service": { "namespace": namespace, "name": name },
        "localEndpoints": count,
        "serviceProxyHealthy": healthy,
    });
    (status, [(WEIGHT, count.to_string()), (NO_SNIFF.0, NO_SNIFF.1.to_owned())], Json(body))
}

fn of_node(told: &Told) -> Response {
    let answers = told.borrow().clone();
    let (healthy, now) = (answers.is_healthy(Instant::now()), SystemTime::now());
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let waits = answers.waits_since.filter(|_| !healthy).map_or(Duration::ZERO, |since| since.elapsed());
    let body = json!({ "lastUpdated": timestamp(now.checked_sub(waits).unwrap_or(now)), "currentTime": timestamp(now) });
    (status, [(CONTENT_TYPE, "application/json".to_owned()), (NO_SNIFF.0, NO_SNIFF.1.to_owned())], Json(body))
}

/// Serves until the task is dropped, and at `node` as well where it is given.
pub(crate) async fn serve(mut told: Told, node: Option<SocketAddr>, conditions: &NodeConditions) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut ports = Ports { listening: BTreeMap::new(), tasks: JoinSet::new(), room };
    loop {
        let mut wanted: BTreeMap<SocketAddr, Option<String>> =
            told.borrow_and_update().ports().into_iter().map(|(at, service)| (at, Some(service))).collect();
        wanted.extend(node.map(|node| (node, None)));
        let refused = ports.follow(&wanted, &told).await;
        let is_well = refused.is_empty();
        conditions.report(Kind::HealthChecksNotServed, finding(&refused));
        let again = async {
            match is_well {
                true => std::future::pending().await,
                false => tokio::time::sleep(AGAIN).await,
            }
        };
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

fn finding(refused: &[(SocketAddr, std::io::Error)]) -> Option<Finding> {
    let (_, first) = refused.first()?;
    let reason = if first.kind() == std::io::ErrorKind::AddrInUse { "AddressInUse" } else { "ListenFailed" };
    let told: Vec<_> = refused.iter().map(|(at, error)| format!("{at}: {error}")).collect();
    let remedy = format!(
        "end what listens there (`ss -ltnp`; kube-proxy does until it is gone), or set services.health_listen; it is tried again every {} seconds",
        AGAIN.as_secs()
    );
    Some(Finding::new(reason, format!("load balancers that ask there find nobody, or somebody else: {}", told.join(", ")), remedy))
}

/// What is listened on.
struct Ports {
    listening: BTreeMap<SocketAddr, (Option<String>, tokio::task::AbortHandle)>,
    tasks: JoinSet<Infallible>,
    room: Arc<Semaphore>,
}

impl Ports {
    /// Has exactly what is wanted be listened on, by service; for the node as a whole by none. What could not be.
    async fn follow(&mut self, wanted: &BTreeMap<SocketAddr, Option<String>>, told: &Told) -> Vec<(SocketAddr, std::io::Error)> {
        self.listening.retain(|at, (service, task)| {
            let stays = wanted.get(at) == Some(service) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        // A port is free once its task is gone.
        while self.tasks.len() > self.listening.len() {
            self.tasks.join_next().await;
        }
        let mut refused = Vec::new();
        for (at, service) in wanted {
            if self.listening.contains_key(at) {
                continue;
            }
            match TcpListener::bind(at).await {
                Ok(listener) => {
                    let router = router(service.clone(), told.clone());
                    let task = self.tasks.spawn(http_server::accept(listener, router, Arc::clone(&self.room)));
                    self.listening.insert(*at, (service.clone(), task));
                }
                Err(error) => refused.push((*at, error)),
            }
        }
        refused
    }
}

fn router(service: Option<String>, told: Told) -> Router {
    match service {
        // Whatever the path is.
        Some(service) => Router::new().fallback(move || {
            let answer = of_service(&service, &told);
            async move { answer }
        }),
        None => {
            let answer = move || {
                let answer = of_node(&told);
                async move { answer }
            };
            Router::new().route("/healthz", get(answer.clone())).route("/livez", get(answer))
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    fn answers(port: u16, local_endpoints: usize) -> Arc<Answers> {
        let checks = vec![HealthCheck { service: "shop/web".to_owned(), port, local_endpoints }];
        Arc::new(Answers { addresses: vec![[127, 0, 0, 1].into()], checks, waits_since: None, has_stood: true })
    }

    /// Ports that nobody listens on, for now.
    async fn free() -> [u16; 2] {
        let listeners = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
        listeners.map(|listener| listener.local_addr().unwrap().port())
    }

    async fn ask(port: u16, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn until(port: u16, path: &str, parts: &[&str]) {
        let asked = async {
            loop {
                if let Ok(answer) = ask(port, path).await
                    && parts.iter().all(|part| answer.contains(part))
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), asked).await.unwrap_or_else(|_| panic!("no {parts:?} at {path}"));
    }

    #[tokio::test]
    async fn a_load_balancer_is_told_how_many_endpoints_are_here() {
        let [port, node] = free().await;
        let (tell, told) = watch::channel(answers(port, 2));
        let conditions = Arc::new(NodeConditions::default());
        let server = tokio::spawn({
            let conditions = Arc::clone(&conditions);
            async move { serve(told, Some(SocketAddr::new([127, 0, 0, 1].into(), node)), &conditions).await }
        });
        let body = r#"{"localEndpoints":2,"service":{"name":"web","namespace":"shop"},"serviceProxyHealthy":true}"#;
        until(port, "/", &["200 OK", "content-type: application/json", "x-load-balancing-endpoint-weight: 2", "nosniff", body]).await;
        until(node, "/healthz", &["200 OK", "currentTime"]).await;
        assert!(ask(node, "/other").await.unwrap().contains("404"));
        tell.send_replace(answers(port, 0));
        until(port, "/any", &["503 Service Unavailable", "x-load-balancing-endpoint-weight: 0"]).await;
        // Rules that could not be set for a minute.
        let long_ago = Instant::now().checked_sub(PATIENCE).unwrap();
        tell.send_replace(Arc::new(Answers { waits_since: Some(long_ago), ..(*answers(port, 2)).clone() }));
        until(port, "/", &["503", "\"serviceProxyHealthy\":false"]).await;
        until(node, "/livez", &["503"]).await;
        // The service is gone, and so is its port; somebody has taken it when another wants it.
        tell.send_replace(Arc::new(Answers { checks: Vec::new(), ..(*answers(port, 0)).clone() }));
        while let Ok(answer) = ask(port, "/").await {
            assert!(answer.contains("503"), "{answer}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let other = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        tell.send_replace(answers(port, 1));
        while conditions.all().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let condition = conditions.all().remove(0);
        assert!(condition.reason == "AddressInUse" && condition.message.contains(&port.to_string()), "{condition:?}");
        drop(other);
        until(port, "/", &["200 OK"]).await;
        while !conditions.all().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server.abort();
    }
}
