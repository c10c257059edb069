//! Where addresses come from: a [`Request`] of the [supply](crate::supply) becomes calls of a cloud, and their replies an [`Outcome`].
//!
//! - What the cloud refuses in its own words is `Refused`, and so is what was never sent.
//! - What may have been done is `Unknown`: no reply, half a reply, a failure inside of the cloud. Reads change nothing, so a read that
//!   fails is `Refused` and says why.
//! - Every wait is bounded, and whatever a service answers is a value or an error that names the URL and what it said.

pub mod aws;
pub mod azure;
pub mod gcp;
mod http;
mod metadata;
mod xml;

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::supply::{Outcome, Refusal, Request};
pub use http::{Answer, InProcess};
use metadata::MetadataError;

/// A cloud.
#[derive(Debug)]
pub enum Source {
    /// Amazon EC2: interfaces with prefixes or secondary addresses.
    Aws(Box<aws::Aws>),
    /// Azure: ipConfigurations of the machine's interfaces.
    Azure(azure::Azure),
    /// Google Cloud: alias ranges of the machine's interfaces.
    Gcp(gcp::Gcp),
}

impl Source {
    /// Makes the calls that `request` takes. Ends within seconds: see the constants of each source.
    pub async fn call(&self, request: &Request) -> Outcome {
        match self {
            Self::Aws(aws) => aws.call(request).await,
            Self::Azure(azure) => azure.call(request).await,
            Self::Gcp(gcp) => gcp.call(request).await,
        }
    }

    /// What the operator should know and no single request tells, each in a sentence.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Self::Aws(aws) => aws.warnings(),
            Self::Azure(_) => Vec::new(),
            Self::Gcp(gcp) => gcp.warnings(),
        }
    }

    /// The cloud network's own blocks, as far as metadata has told: those of the VPC on AWS. Azure and Google Cloud do not tell.
    #[must_use]
    pub fn native_cidrs(&self) -> Vec<IpNetwork> {
        match self {
            Self::Aws(aws) => aws.native_cidrs(),
            Self::Azure(_) | Self::Gcp(_) => Vec::new(),
        }
    }
}

/// Why a call has no value to show for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing was done.
    Refused(Refusal),
    /// It may have been done; why that is not known.
    Unknown(String),
}

impl Failure {
    fn other(why: impl std::fmt::Display) -> Self {
        Self::Refused(Refusal::Other(why.to_string()))
    }
}

impl From<MetadataError> for Failure {
    fn from(error: MetadataError) -> Self {
        Self::other(error)
    }
}

/// A read changes nothing: without an answer it is refused, and the reason is told.
fn outcome_of_read(read: Result<Outcome, Failure>) -> Outcome {
    match read {
        Ok(outcome) => outcome,
        Err(Failure::Refused(refusal)) => Outcome::Refused(refusal),
        Err(Failure::Unknown(why)) => Outcome::Refused(Refusal::Other(why)),
    }
}

fn outcome_of_change(change: Result<Outcome, Failure>, request: &Request) -> Outcome {
    match change {
        Ok(outcome) => outcome,
        Err(Failure::Refused(refusal)) => Outcome::Refused(refusal),
        Err(Failure::Unknown(why)) => {
            tracing::warn!(?request, %why, "it is not known what became of a call");
            Outcome::Unknown
        }
    }
}

/// The first address of a subnet, which all three clouds give to its gateway. A subnet of fewer than four addresses has none.
fn first_address(subnet: IpNetwork) -> Option<IpAddr> {
    match subnet {
        IpNetwork::V4(subnet) => (subnet.prefix() <= 30).then(|| subnet.nth(1)).flatten().map(IpAddr::V4),
        IpNetwork::V6(_) => None,
    }
}

#[cfg(test)]
mod test_server;
