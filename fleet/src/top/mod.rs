//! Who keeps an API server busy: what is in its queues (priority and fairness), sampled, what it refuses meanwhile, and what its audit log says.
//!
//! Metrics of an API server name no client; the dump of its queues names users, its audit log user agents as well. It is of the server that answers: behind a load balancer ask each
//! by its own address.

mod audit;
mod dump;
mod metrics;
mod report;

use std::path::Path;
use std::time::Duration;

use http::Request;
use kube::Client;
use tokio::time::{Instant, sleep_until, timeout};

pub use audit::{Asks, Count, Tail, count};
pub use dump::{Asked, Dump};
pub use metrics::{Refused, refused};
pub use report::{Client as NoisyClient, Report, Row};

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
    /// The audit log.
    #[error("{path}: {source}; it is the file of kube-apiserver's --audit-log-path, on the machine of that server")]
    Audit {
        /// Its path.
        path: String,
        /// Why it cannot be read.
        source: std::io::Error,
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

/// Samples the queues, `samples` times with `every` between them, and reads what is written to the audit log meanwhile, where one is named.
///
/// # Errors
/// See [`TopError`].
pub async fn sample(client: &Client, samples: u32, every: Duration, audit_log: Option<&Path>) -> Result<Report, TopError> {
    let failed = |source| TopError::Audit { path: audit_log.map(|path| path.display().to_string()).unwrap_or_default(), source };
    let tail = audit_log.map(Tail::begin).transpose().map_err(failed)?;
    let before = refused(&ask(client, "/metrics").await?);
    let mut report = Report::default();
    let mut next = Instant::now();
    for _ in 0..samples {
        sleep_until(next).await;
        next = Instant::now() + every;
        report.add(Dump::read(&ask(client, PAGE).await?)?);
    }
    report.refused_since(&before, &refused(&ask(client, "/metrics").await?));
    if let Some(tail) = tail {
        let (clients, unreadable) = count(&tail.read().map_err(failed)?);
        report.asked(clients, unreadable);
    }
    Ok(report)
}

async fn ask(client: &Client, page: &'static str) -> Result<String, TopError> {
    let request = Request::get(page).body(Vec::new()).map_err(kube::Error::HttpError).map_err(|source| TopError::Kube { page, source })?;
    let text = timeout(ANSWER, client.request_text(request)).await.map_err(|_| TopError::Silent { page })?;
    text.map_err(|source| TopError::Kube { page, source })
}
