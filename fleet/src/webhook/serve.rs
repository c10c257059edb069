//! The listener: TLS with a certificate that may change, so many connections, so much time for each.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::review::{Endpoint, answer};
use crate::acting::TeamsFile;
use crate::metrics::{Histogram, Metric, Series, counters, histogram};

/// At a time: an API server opens one for each request that is under way, and keeps some.
const CONNECTIONS: usize = 512;
/// For the handshake, and for the body of a request; for the head of the next: who keeps a connection for later opens another.
const BEGIN: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);
/// Of a connection in all: certificates change.
const CONNECTION: Duration = Duration::from_secs(3_600);
/// A review has a pod as it is and as it was; an object is 1.5 MiB at most.
const BODY: usize = 4 << 20;
/// Between two looks at the files of the certificate.
const FILES: Duration = Duration::from_secs(10);
/// Upper bounds of the histogram, in microseconds.
const BOUNDS: [u64; 8] = [100, 250, 500, 1_000, 2_500, 5_000, 25_000, 100_000];

/// What can be counted.
#[derive(Debug, Default)]
pub struct Counters {
    changed: AtomicU64,
    refused: AtomicU64,
    plain: AtomicU64,
    bad: AtomicU64,
    /// By bound, not added up; what is longer than all is in the count alone.
    took: [AtomicU64; BOUNDS.len()],
    micros: AtomicU64,
}

impl Counters {
    fn count(&self, which: &AtomicU64, began: Instant) {
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        which.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        if let Some(index) = BOUNDS.iter().position(|bound| micros <= *bound) {
            self.took[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn reviews(&self) -> Series {
        [("changed", &self.changed), ("refused", &self.refused), ("admitted", &self.plain), ("bad", &self.bad)]
            .map(|(decision, count)| (vec![decision], get(count)))
            .into()
    }

    fn seconds(&self) -> Histogram {
        let mut no_longer = 0;
        let buckets = BOUNDS.iter().zip(&self.took).map(|(bound, count)| {
            no_longer += get(count);
            (seconds(*bound), no_longer)
        });
        Histogram {
            buckets: buckets.collect(),
            count: self.reviews().iter().map(|(_, count)| count).sum(),
            sum: seconds(get(&self.micros)),
        }
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

/// What is told of the webhook.
pub const METRICS: [Metric<Counters>; 2] = [
    counters("admission_reviews_total", &["decision"], "Reviews of pods that were answered, by what was decided", Counters::reviews),
    histogram("admission_seconds", "How long reviews took", Counters::seconds),
];

/// `POST /mutate` and `POST /validate`.
pub fn router(teams: watch::Receiver<TeamsFile>, counters: Arc<Counters>) -> Router {
    let endpoint = |endpoint: Endpoint| {
        let (teams, counters) = (teams.clone(), Arc::clone(&counters));
        post(move |request: Request| async move {
            match timeout(BEGIN, to_bytes(request.into_body(), BODY)).await {
                Ok(Ok(body)) => reviewed(endpoint, &teams, &counters, &body),
                Ok(Err(_)) => (StatusCode::PAYLOAD_TOO_LARGE, format!("a review has {BODY} bytes at most\n")).into_response(),
                Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
            }
        })
    };
    Router::new().route("/mutate", endpoint(Endpoint::Mutate)).route("/validate", endpoint(Endpoint::Validate))
}

fn reviewed(endpoint: Endpoint, teams: &watch::Receiver<TeamsFile>, counters: &Counters, body: &[u8]) -> Response {
    let began = Instant::now();
    let teams = teams.borrow().teams.clone();
    match answer(endpoint, teams.as_deref(), body) {
        Ok((review, is_other)) => {
            let which = match (is_other, endpoint) {
                (false, _) => &counters.plain,
                (true, Endpoint::Mutate) => &counters.changed,
                (true, Endpoint::Validate) => &counters.refused,
            };
            counters.count(which, began);
            axum::Json(review).into_response()
        }
        // What has no uid cannot be answered; the API server does as its failurePolicy says.
        Err(error) => {
            counters.count(&counters.bad, began);
            (StatusCode::BAD_REQUEST, format!("no AdmissionReview of admission.k8s.io/v1: {error}\n")).into_response()
        }
    }
}

/// What is shown to API servers: TLS 1.3 and 1.2, no client's certificate. PEM.
///
/// # Errors
/// Where the PEM is none, or key and certificate do not belong together.
pub fn tls(certificate: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>().context("the certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key).context("the key")?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_no_client_auth().with_single_cert(chain, key)?))
}

/// What to show; nothing before there is a certificate.
pub type Shows = watch::Receiver<Option<Arc<ServerConfig>>>;

/// A certificate in files that may change.
#[derive(Debug)]
pub struct Files {
    certificate: PathBuf,
    key: PathBuf,
    known: Contents,
    shown: watch::Sender<Option<Arc<ServerConfig>>>,
}

type Contents = (Vec<u8>, Vec<u8>);

impl Files {
    /// Reads them.
    ///
    /// # Errors
    /// Where they cannot be used.
    pub fn read(certificate: &Path, key: &Path) -> Result<(Self, Shows)> {
        let known = contents(certificate, key)?;
        let (shown, shows) = watch::channel(Some(tls(&known.0, &known.1)?));
        Ok((Self { certificate: certificate.to_owned(), key: key.to_owned(), known, shown }, shows))
    }

    /// Shows what is in them, as they change. Never returns.
    pub async fn follow(mut self) {
        loop {
            tokio::time::sleep(FILES).await;
            match contents(&self.certificate, &self.key).and_then(|found| Ok((tls(&found.0, &found.1)?, found))) {
                Ok((_, found)) if self.known == found => {}
                Ok((config, found)) => {
                    tracing::info!(certificate = %self.certificate.display(), "webhook certificate replaced");
                    self.shown.send_replace(Some(config));
                    self.known = found;
                }
                Err(error) => tracing::warn!(error = format!("{error:#}"), "webhook certificate not replaced: its files cannot be read"),
            }
        }
    }
}

fn contents(certificate: &Path, key: &Path) -> Result<Contents> {
    let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    Ok((read(certificate)?, read(key)?))
}

/// The listener.
#[derive(Debug)]
pub struct Webhook {
    listener: TcpListener,
    shows: Shows,
}

impl Webhook {
    /// Listens.
    ///
    /// # Errors
    /// Where the address is taken.
    pub async fn bind(listen: SocketAddr, shows: Shows) -> Result<Self> {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("listen at {listen}"))?;
        Ok(Self { listener, shows })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The kernel's.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is dropped.
    pub async fn run(self, router: Router) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            // Never closed, so there is always a permit to wait for.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { continue };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    // Without a certificate there is nothing to say; the API server does as its failurePolicy says.
                    let Some(config) = self.shows.borrow().clone() else { continue };
                    let connection = attend(stream, TlsAcceptor::from(config), router.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "webhook connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn attend(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    let Ok(Ok(stream)) = timeout(BEGIN, acceptor.accept(stream)).await else { return };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Ok(Err(error)) = timeout(CONNECTION, connection).await {
        tracing::debug!(%error, "webhook connection ended");
    }
}
