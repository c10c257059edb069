//! Who keeps an API server busy: what is in its queues (priority and fairness), sampled, and what it refuses meanwhile.
//!
//! Metrics of an API server name no client; the dump of its queues does. It is of the server that answers: behind a load balancer ask each
//! by its own address.

mod dump;
mod metrics;
mod report;

use std::time::Duration;

use http::Request;
use kube::Client;
use tokio::time::{Instant, sleep_until, timeout};

pub use dump::{Asked, Dump};
pub use metrics::{Refused, refused};
pub use report::{Report, Row};

/// The page of a server's requests, with who asks for what.
pub const PAGE: &str = "/debug/api_priority_and_fairness/dump_requests?includeRequestDetails=1";
/// A server in trouble answers late.
const ANSWER: Duration = Duration::from_secs(30);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The API server's answer; most likely a right that is missing.
    #[error("{page}: {source}; it takes the right to get this path (nonResourceURLs)")]
    Kube {
        /// What was asked for.
        page: &'static str,
        /// Why not.
        source: kube::Error,
    },
    /// None.
    #[error("{page}: no answer within {} s", ANSWER.as_secs())]
    Silent {
        /// What was asked for.
        page: &'static str,
    },
    /// Another format than is known.
    #[error("{PAGE}: the header {header:?} has no column {column:?}: is it an API server of Kubernetes 1.29 or later?")]
    Header {
        /// The first line.
        header: String,
        /// What is not in it.
        column: &'static str,
    },
}

/// Samples the queues, `samples` times with `every` between them.
///
/// # Errors
/// See [`TopError`].
pub async fn sample(client: &Client, samples: u32, every: Duration) -> Result<Report, TopError> {
    let before = refused(&ask(client, "/metrics").await?);
    let mut report = Report::default();
    let mut next = Instant::now();
    for _ in 0..samples {
        sleep_until(next).await;
        next = Instant::now() + every;
        report.add(Dump::read(&ask(client, PAGE).await?)?);
    }
    report.refused_since(&before, &refused(&ask(client, "/metrics").await?));
    Ok(report)
}

async fn ask(client: &Client, page: &'static str) -> Result<String, TopError> {
    let request = Request::get(page).body(Vec::new()).map_err(kube::Error::HttpError).map_err(|source| TopError::Kube { page, source })?;
    let text = timeout(ANSWER, client.request_text(request)).await.map_err(|_| TopError::Silent { page })?;
    text.map_err(|source| TopError::Kube { page, source })
}
