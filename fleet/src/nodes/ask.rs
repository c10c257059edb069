//! One request of a person's, and what is wrong in words that say what to do.

use http::Method;
use kube::Client;
use serde_json::Value;

use crate::acting::{Outcome, ask};

/// Why a person is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodesError {
    /// None of that name.
    #[error("there is no node {0:?}: `barewire-fleet nodes --all` lists those that there are")]
    NoNode(String),
    /// What can be no node's name.
    #[error("{0:?} can be no node's name: lower-case letters, digits, `-` and `.`, 253 at most")]
    Name(String),
    /// Nothing is on it.
    #[error("there is nothing to pardon on {0:?}: neither the fleet nor a person has put anything there")]
    Nothing(String),
    /// No Lease.
    #[error("there is no lease {0}: no replica of barewire-fleet has run, or it has another (--lease-namespace, --lease)")]
    NoLease(String),
    /// The Lease names nobody that could be asked.
    #[error("the lease is held by {0:?}, which says not where it is: replicas need --advertise; name one by --server HOST:PORT")]
    NoLeader(String),
    /// What is asked cannot be now.
    #[error("{0}")]
    NotNow(#[from] fleet_plans::preflight::NotNow),
    /// Somebody else has written it.
    #[error("it has changed each time before it was written: try again")]
    Changed,
    /// Whoever asks may not.
    #[error("{message}; it takes the right to {right} (`kubectl auth can-i {right}`)")]
    Rights {
        /// What the API server says.
        message: String,
        /// Which right.
        right: &'static str,
    },
    /// Whoever asks is nobody.
    #[error("{0}; the API server does not know who asks: is the certificate or token of the kubeconfig still valid?")]
    Unknown(String),
    /// Too many ask.
    #[error("the API server is busy: try again in {0} s")]
    Busy(u64),
    /// An answer of another kind.
    #[error("the API server's answer makes no sense: {0}")]
    Answer(String),
    /// No answer.
    #[error("the API server is not reached: {0}; is it the right kubeconfig (--kubeconfig, KUBECONFIG), and the server in it up?")]
    Away(String),
}

impl NodesError {
    /// What was not found is a node.
    pub(super) fn of_node(self, name: &str) -> Self {
        if matches!(self, Self::NoNode(_)) { Self::NoNode(name.to_owned()) } else { self }
    }
}

/// The API server, and the Lease of the fleet there.
pub struct Reach {
    /// Tries nothing again by itself.
    pub client: Client,
    /// The Lease's namespace and name.
    pub lease: (String, String),
}

impl Reach {
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>, right: &'static str) -> Result<Value, NodesError> {
        match ask(&self.client, method, path, body).await {
            Outcome::Done(value) => Ok(value),
            Outcome::Conflict(_) => Err(NodesError::Changed),
            Outcome::Gone => Err(NodesError::NoNode(String::new())),
            Outcome::Later { after, .. } => Err(NodesError::Busy(after.as_secs().max(1))),
            Outcome::Refused(message) if message.starts_with("401") => Err(NodesError::Unknown(message)),
            Outcome::Refused(message) => Err(NodesError::Rights { message, right }),
            Outcome::Lost(message) => Err(NodesError::Away(message)),
        }
    }

    pub(super) fn lease_path(&self) -> String {
        let (namespace, name) = &self.lease;
        format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}")
    }

    pub(super) async fn lease(&self) -> Result<Value, NodesError> {
        let none = || NodesError::NoLease(format!("{}/{}", self.lease.0, self.lease.1));
        let lease = self.ask(Method::GET, &self.lease_path(), None, "get leases").await;
        lease.map_err(|error| if matches!(error, NodesError::NoNode(_)) { none() } else { error })
    }

    /// Nothing of a name becomes another path.
    pub(super) fn path_of(&self, name: &str) -> Result<String, NodesError> {
        let is_letter = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-.".contains(letter);
        let is_name = (1..=253).contains(&name.len()) && name.chars().all(is_letter) && !name.starts_with('.');
        if is_name { Ok(format!("/api/v1/nodes/{name}")) } else { Err(NodesError::Name(name.to_owned())) }
    }
}
