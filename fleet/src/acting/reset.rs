//! How a person says that what tripped the breaker is over: by an annotation of the Lease, which whoever leads reads, and which the rights of the API
//! server and its audit know.

use http::Method;
use kube::Client;

use super::request::{Outcome, ask};

/// The annotation; another value than before is the word.
pub(crate) const ANNOTATION: &str = "health.barewire.cloud/reset-breaker";

/// What a look at the annotation has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reset {
    /// The API server has not answered.
    Unknown,
    /// This value, or none.
    Is(Option<String>),
}

/// Looks at the Lease `namespace/name`.
pub(super) async fn seen(client: &Client, (namespace, name): &(String, String)) -> Reset {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}");
    match ask(client, Method::GET, &path, None).await {
        Outcome::Done(lease) => Reset::Is(lease["metadata"]["annotations"][ANNOTATION].as_str().map(str::to_owned)),
        other => {
            tracing::warn!(namespace, name, outcome = ?other, "lease not read: the breaker stays");
            Reset::Unknown
        }
    }
}
