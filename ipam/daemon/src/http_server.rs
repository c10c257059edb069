//! HTTP that cannot be held up: so many connections at a time, each of which has to ask soon and is over soon, whatever its peer does.
//! That the address is taken is a condition, and tried again: pods matter more than metrics.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::conditions::{Finding, Kind, NodeConditions};

/// More than scrapers, probes and people have open; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 32;
/// For the whole head of a request.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// For all of a connection, which serves one request.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
/// Between attempts to listen, doubled each time.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// After a connection could not be taken, for want of descriptors for instance.
const REST: Duration = Duration::from_millis(200);

/// Serves `router` at `listen` until the task is dropped.
pub(crate) async fn serve(listen: SocketAddr, router: Router, conditions: &NodeConditions) -> Infallible {
    let listener = bind(listen, conditions).await;
    match accept(listener, router, Arc::new(Semaphore::new(CONNECTIONS_MAX))).await {}
}

/// Serves `router` to who connects, as many at a time as there is room for, until the task is dropped.
pub(crate) async fn accept(listener: TcpListener, router: Router, room: Arc<Semaphore>) -> Infallible {
    loop {
        // Never closed, so there is always a permit to wait for.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { continue };
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = attend(stream, router.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "http: connection not accepted");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn bind(listen: SocketAddr, conditions: &NodeConditions) -> TcpListener {
    let (mut pause, longest) = AGAIN;
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => {
                conditions.report(Kind::TelemetryNotServed, None);
                return listener;
            }
            Err(error) => {
                let reason = if error.kind() == std::io::ErrorKind::AddrInUse { "AddressInUse" } else { "ListenFailed" };
                let message = format!("telemetry.listen {listen}: {error}; metrics and health are not served, pods are");
                let remedy = format!(
                    "end what listens there (`ss -ltnp`), or set telemetry.listen; it is tried again every {} seconds",
                    AGAIN.1.as_secs()
                );
                conditions.report(Kind::TelemetryNotServed, Some(Finding::new(reason, message, remedy)));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

async fn attend(stream: TcpStream, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT).keep_alive(false);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "http: connection broken"),
        Err(_) => tracing::debug!("http: connection timed out"),
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    use super::*;

    fn router() -> Router {
        Router::new().route("/", get(|| async { "here" }))
    }

    /// A port that is taken, for now.
    async fn taken() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn ask(address: SocketAddr) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_a_condition_until_it_is_free() {
        let (other, address) = taken().await;
        let conditions = Arc::new(NodeConditions::default());
        let server = tokio::spawn({
            let conditions = Arc::clone(&conditions);
            async move { serve(address, router(), &conditions).await }
        });
        while conditions.all().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let told = conditions.all().remove(0);
        assert!(told.reason == "AddressInUse" && told.message.contains(&address.to_string()), "{told:?}");
        drop(other);
        while !conditions.all().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(ask(address).await.unwrap().ends_with("here"));
        server.abort();
    }

    #[tokio::test]
    async fn half_sent_requests_are_cut_off_and_others_are_served_meanwhile() {
        let (listener, address) = taken().await;
        drop(listener);
        let conditions = Arc::new(NodeConditions::default());
        let server = tokio::spawn(async move { serve(address, router(), &conditions).await });
        let connect = || async {
            loop {
                if let Ok(stream) = TcpSocket::new_v4().unwrap().connect(address).await {
                    return stream;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let mut silent = Vec::new();
        for half in [&b""[..], b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n"].iter().cycle().take(CONNECTIONS_MAX - 1) {
            let mut stream = connect().await;
            stream.write_all(half).await.unwrap();
            silent.push(stream);
        }
        assert!(ask(address).await.unwrap().ends_with("here"), "there is room for one more");
        let begun = tokio::time::Instant::now();
        for mut stream in silent {
            let mut rest = Vec::new();
            // Closed or reset: over in any case.
            let _ = tokio::time::timeout(HEADER_LIMIT * 3, stream.read_to_end(&mut rest)).await.expect("it is cut off");
        }
        assert!(begun.elapsed() < HEADER_LIMIT * 2, "{:?}", begun.elapsed());
        server.abort();
    }
}
