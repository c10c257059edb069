//! Where addresses come from: a [`Request`] of the [supply](ipam_supply) becomes calls of a cloud, and their replies an [`Outcome`].
//!
//! - What the cloud refuses in its own words is `Refused`, and so is what was never sent.
//! - What may have been done is `Unknown`: no reply, half a reply, a failure inside of the cloud. Reads change nothing, so a read that
//!   fails is `Refused` and says why.
//! - Every wait is bounded, and whatever a service answers is a value or an error that names the URL and what it said.
#![forbid(unsafe_code)]

pub mod aws;
pub mod azure;
pub mod gcp;
mod http;
mod maintenance;
mod metadata;
mod proxy;
mod xml;

use std::net::IpAddr;
use std::time::Duration;

use ipam_pool::range::Family;
use ipam_supply::{Outcome, Reading, Refusal, Request};
use ipnetwork::IpNetwork;

pub use self::http::{Answer, InProcess};
pub use self::maintenance::Maintenance;
use self::metadata::MetadataError;

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
    /// Makes the calls that `request` takes. Each exchange is bounded (2 s of metadata, 15 s of the API), and so is what is made of
    /// several: some 30 s a reading, 120 s an interface.
    pub async fn call(&self, request: &Request) -> Outcome {
        let outcome = match self {
            Self::Aws(aws) => aws.call(request).await,
            Self::Azure(azure) => azure.call(request).await,
            Self::Gcp(gcp) => gcp.call(request).await,
        };
        match outcome {
            Outcome::Read(reading) => credible(reading),
            other => other,
        }
    }

    /// Has interfaces managed whatever tags they have: pods have addresses of them since before this process started.
    pub fn manage<'a>(&self, interfaces: impl Iterator<Item = &'a str>) {
        match self {
            Self::Aws(aws) => aws.manage(interfaces),
            Self::Azure(_) | Self::Gcp(_) => {}
        }
    }

    /// How many pod addresses of a family this machine can have at most, where it asks for more as pods come; nothing where it has what
    /// was assigned to it.
    ///
    /// # Errors
    /// Why the cloud does not tell.
    pub async fn address_limit(&self, family: Family) -> Result<Option<u64>, Refusal> {
        match self {
            Self::Aws(aws) if aws.uses_api() => aws.address_limit(family).await.map(Some),
            Self::Aws(_) | Self::Azure(_) | Self::Gcp(_) => Ok(None),
        }
    }

    /// Deletes what a node has made and never attached, where this cloud has such things and they are that old.
    ///
    /// # Errors
    /// Why not all were deleted.
    pub async fn sweep_leaked(&self, age: Duration) -> Result<usize, Refusal> {
        match self {
            Self::Aws(aws) if aws.uses_api() => aws.sweep_leaked(age).await,
            Self::Aws(_) | Self::Azure(_) | Self::Gcp(_) => Ok(0),
        }
    }

    /// What the cloud has announced to do to this machine. Some seconds at most, as it is metadata.
    ///
    /// # Errors
    /// Why the cloud does not tell.
    pub async fn maintenance(&self) -> Result<Vec<Maintenance>, String> {
        let told = match self {
            Self::Aws(aws) => aws.maintenance().await,
            Self::Azure(azure) => azure.maintenance().await,
            Self::Gcp(gcp) => gcp.maintenance().await,
        };
        told.map_err(|error| error.to_string())
    }

    /// What the operator should know and no single request tells, each in a sentence.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Self::Aws(aws) => aws.warnings(),
            Self::Azure(azure) => azure.warnings(),
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
    /// The same, and the service asks to be left alone for so many milliseconds.
    Overloaded(String, u64),
}

impl Failure {
    fn other(why: impl std::fmt::Display) -> Self {
        Self::Refused(Refusal::Other(why.to_string()))
    }
}

impl From<MetadataError> for Failure {
    fn from(error: MetadataError) -> Self {
        match error {
            MetadataError::Refused { retry_after: Some(millis), .. } => Self::Refused(Refusal::Throttled(Some(millis))),
            error => Self::other(error),
        }
    }
}

/// A read changes nothing: without an answer it is refused, and the reason is told.
fn outcome_of_read(read: Result<Outcome, Failure>) -> Outcome {
    match read {
        Ok(outcome) => outcome,
        Err(Failure::Refused(refusal)) => Outcome::Refused(refusal),
        Err(Failure::Unknown(why)) => Outcome::Refused(Refusal::Other(why)),
        Err(Failure::Overloaded(why, millis)) => {
            tracing::warn!(%why, millis, "cloud throttles: waiting as it asks");
            Outcome::Refused(Refusal::Throttled(Some(millis)))
        }
    }
}

/// A reading with more blocks than any machine has is none.
fn credible(reading: Reading) -> Outcome {
    const BLOCKS_MAX: usize = 4096;
    let blocks = reading.interfaces.iter().map(|interface| interface.blocks.len()).sum::<usize>();
    if blocks <= BLOCKS_MAX {
        return Outcome::Read(reading);
    }
    let why = format!("{blocks} blocks of addresses are listed for this node, more than {BLOCKS_MAX}: is something else answering?");
    Outcome::Refused(Refusal::Other(why))
}

fn outcome_of_change(change: Result<Outcome, Failure>, request: &Request) -> Outcome {
    match change {
        Ok(outcome) => outcome,
        Err(Failure::Refused(refusal)) => Outcome::Refused(refusal),
        Err(Failure::Unknown(why) | Failure::Overloaded(why, _)) => {
            tracing::warn!(?request, %why, "outcome of a call unknown");
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
