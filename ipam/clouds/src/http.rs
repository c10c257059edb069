//! One HTTP exchange, bounded in time and size, that tells what a caller has to know when it fails: whether anything was sent.
//!
//! Over sockets, through a proxy where the environment names one for the API; or, in a simulation, by calling services of the same process. All but the way there is the same code.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};

/// To begin a connection: less than any whole exchange may take, so that what takes longer was sent.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
/// A thousand interfaces are less than half of it.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// Nothing was sent: no name, no connection, no TLS.
    #[error("cannot connect: {0}")]
    NotSent(String),
    /// The request was sent, and what became of it is unknown.
    #[error("no whole reply: {0}")]
    NoReply(String),
}

/// A whole reply.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// The beginning of the body, for error messages.
    pub(crate) fn start(&self) -> String {
        excerpt(&String::from_utf8_lossy(&self.body))
    }

    /// What its clock showed.
    pub(crate) fn date(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.headers.get(DATE)?.to_str().ok()?).ok()
    }

    /// For how many milliseconds the other side asks to be left alone (`Retry-After` in seconds, RFC 9110, section 10.2.3); an hour at
    /// most, for whoever answers may be wrong.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        const LONGEST: u64 = 3600;
        let seconds = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse::<u64>().ok()?;
        Some(seconds.min(LONGEST) * 1000)
    }
}

/// The beginning of a text on one line.
pub(crate) fn excerpt(text: &str) -> String {
    const LONG: usize = 80;
    shortened(text, LONG)
}

/// The first `long` characters of a text, on one line.
pub(crate) fn shortened(text: &str, long: usize) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() <= long { words } else { words.chars().take(long).chain(['…']).collect() }
}

/// Services of the same process in place of the network and of the wall clock. Spans are tokio's: with its time paused they pass at once.
pub trait InProcess: Debug + Send + Sync {
    /// Answers a request.
    fn answer(&self, request: Request<Bytes>) -> Answer;
    /// What the wall clock shows: signatures and tags carry it.
    fn wall_clock(&self) -> SystemTime;
}

/// What a service of the same process does with a request.
#[derive(Debug)]
pub struct Answer {
    /// So long after the request…
    pub after: Duration,
    /// …this reply comes; none, and the connection ends.
    pub reply: Option<Response<Bytes>>,
}

type Sockets<C> = HyperClient<HttpsConnector<C>, Full<Bytes>>;

/// Keeps connections alive between exchanges.
#[derive(Debug, Clone)]
pub(crate) enum Client {
    Sockets(Box<Sockets<HttpConnector>>),
    /// By a proxy, which is asked for a tunnel (RFC 9110, section 9.3.6) and sees nothing of what is said.
    Tunnel(Box<Sockets<Tunnel<HttpConnector>>>),
    InProcess(Arc<dyn InProcess>),
}

impl Client {
    /// A client that trusts no certificate: for services on the node's own link, which speak plain HTTP.
    pub(crate) fn plain() -> Self {
        Self::Sockets(Box::new(sockets(tls_config().with_root_certificates(RootCertStore::empty()).with_no_client_auth(), tcp())))
    }

    /// A client that trusts the certificates that the system trusts, and goes by a proxy where there is one.
    ///
    /// # Errors
    /// Where the system has none.
    pub(crate) fn tls(proxy: Option<&Intercept>) -> std::io::Result<Self> {
        let trust = tls_config().with_native_roots()?.with_no_client_auth();
        let Some(proxy) = proxy else { return Ok(Self::Sockets(Box::new(sockets(trust, tcp())))) };
        let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp());
        if let Some(auth) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(auth.clone());
        }
        Ok(Self::Tunnel(Box::new(sockets(trust, tunnel))))
    }

    /// Sends `request` and reads all of the reply.
    pub(crate) async fn send(&self, request: Request<Bytes>, timeout: Duration) -> Result<Reply, HttpError> {
        let exchange = async {
            match self {
                Self::Sockets(sockets) => over_sockets(sockets, request).await,
                Self::Tunnel(sockets) => over_sockets(sockets, request).await,
                Self::InProcess(services) => in_process(services.as_ref(), request).await,
            }
        };
        let late = |_| HttpError::NoReply(format!("nothing within {} s", timeout.as_secs()));
        tokio::time::timeout(timeout, exchange).await.map_err(late)?
    }

    /// The time that requests carry.
    pub(crate) fn wall_clock(&self) -> SystemTime {
        match self {
            Self::Sockets(_) | Self::Tunnel(_) => SystemTime::now(),
            Self::InProcess(services) => services.wall_clock(),
        }
    }
}

fn tls_config() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    #[expect(clippy::expect_used, reason = "ring has all of rustls' default versions")]
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("TLS 1.2 and 1.3")
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp
}

fn sockets<C>(trust: ClientConfig, connector: C) -> Sockets<C>
where
    HttpsConnector<C>: Connect + Clone,
{
    let connector = HttpsConnectorBuilder::new().with_tls_config(trust).https_or_http().enable_http1().wrap_connector(connector);
    HyperClient::builder(TokioExecutor::new()).build(connector)
}

async fn over_sockets<C>(sockets: &Sockets<C>, request: Request<Bytes>) -> Result<Reply, HttpError>
where
    HttpsConnector<C>: Connect + Clone + Send + Sync + 'static,
{
    let response = sockets.request(request.map(Full::new)).await.map_err(|error| {
        let why = chain(&error);
        if error.is_connect() { HttpError::NotSent(why) } else { HttpError::NoReply(why) }
    })?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(|error| HttpError::NoReply(error.to_string()))?;
    Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes() })
}

async fn in_process(services: &dyn InProcess, request: Request<Bytes>) -> Result<Reply, HttpError> {
    let Answer { after, reply } = services.answer(request);
    if !after.is_zero() {
        tokio::time::sleep(after).await;
    }
    let (head, body) = reply.ok_or_else(|| HttpError::NoReply("the connection ended".to_owned()))?.into_parts();
    Ok(Reply { status: head.status, headers: head.headers, body })
}

/// An error and what caused it: hyper's own words are only the last link.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}
