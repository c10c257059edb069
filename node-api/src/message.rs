//! The messages.
//!
//! Rules of change: a field may be added if a peer that does not know it does the right thing, and then has a default;
//! anything else raises [`PROTOCOL_VERSION`]. The daemon answers the version before and after its own, so that plugin
//! and daemon can be upgraded in either order. `tests/golden` holds a request of every version to be understood.
//!
//! A DEL is never refused for its version: `request.del.container_id` and `request.del.ifname` stay where they are for
//! good, and [`understand`] reads them out of any message that has them. So it is with a [queued](crate::queue) one.

use std::net::IpAddr;

use cni_spec::{AddResult, Attachment, Bandwidth, ContainerId, Error, IfName, NetworkName, PodIdentity};
use serde::{Deserialize, Serialize};

use crate::clock::BootMillis;

/// The version of the messages in this file.
pub const PROTOCOL_VERSION: u32 = 1;

/// Whether this version's daemon serves a peer of `version`.
#[must_use]
pub const fn accepts(version: u32) -> bool {
    version.abs_diff(PROTOCOL_VERSION) <= 1
}

/// What a request travels in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope<R = Request> {
    /// The sender's [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// The sender, for the log: `barewire-cni 0.1.0`.
    #[serde(default)]
    pub sender: String,
    /// When the sender stops waiting. An ADD that nobody waits for any more must not be begun: its runtime has sent the DEL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<BootMillis>,
    /// What is asked.
    pub request: R,
}

/// What the daemon takes up of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Understood {
    /// See [`Envelope::deadline`].
    pub deadline: Option<BootMillis>,
    /// See [`Envelope::request`].
    pub request: Request,
}

/// Why a message is not taken up.
#[derive(Debug, thiserror::Error)]
pub enum NotUnderstood {
    /// Its version is not served.
    #[error("protocol {0} is not served, {PROTOCOL_VERSION} is spoken")]
    Protocol(u32),
    /// It has not the form of its version.
    #[error("{0}")]
    Form(#[from] serde_json::Error),
}

/// Reads a request of a version that is served, and a DEL of any.
///
/// # Errors
/// See [`NotUnderstood`].
pub fn understand(bytes: &[u8]) -> Result<Understood, NotUnderstood> {
    #[derive(Deserialize)]
    struct Version {
        protocol: u32,
    }
    #[derive(Deserialize)]
    struct AnyDel {
        request: DelOnly,
    }
    #[derive(Deserialize)]
    struct DelOnly {
        del: DelRequest,
    }
    // The version first: a request of a version that we do not serve may well be of another shape.
    let read = || match serde_json::from_slice(bytes)? {
        Version { protocol } if !accepts(protocol) => Err(NotUnderstood::Protocol(protocol)),
        Version { .. } => {
            let Envelope { deadline, request, .. } = serde_json::from_slice(bytes)?;
            Ok(Understood { deadline, request })
        }
    };
    read().or_else(|why| match serde_json::from_slice(bytes) {
        Ok(AnyDel { request: DelOnly { del } }) => Ok(Understood { deadline: None, request: Request::Del(del) }),
        Err(_) => Err(why),
    })
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Attach a pod. Carries the network namespace.
    Add(AddRequest),
    /// Detach it.
    Del(DelRequest),
    /// Compare it with what was made. Carries the network namespace.
    Check(CheckRequest),
    /// Detach what is not valid any more.
    Gc(GcRequest),
    /// Would an ADD succeed?
    Status,
    /// Let a quarantined address be used again. Asked by an operator's command: a daemon that does not know it says so.
    ReleaseAddress(IpAddr),
}

/// Attach a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddRequest {
    /// The network asked for.
    pub network: NetworkName,
    /// The container.
    pub container_id: ContainerId,
    /// The interface to make in it.
    pub ifname: IfName,
    /// The namespace's path in the runtime's view; told back in the result, never opened.
    pub netns_path: String,
    /// The pod behind the container.
    #[serde(default)]
    pub pod: PodIdentity,
    /// Addresses wanted; empty for any.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// MAC address wanted.
    #[serde(default)]
    pub mac: Option<[u8; 6]>,
    /// Limits of all that the pod sends and is sent. A daemon that does not know of these keeps none, as it did before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// The pod's annotation [`cni_spec::INTERNET_EGRESS`], as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internet_egress: Option<String>,
    /// The pod's annotation [`cni_spec::ALLOWED_ADDRESSES`], as it was written. A daemon that does not know of it lets the pod use none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_addresses: Option<String>,
}

/// Detach a pod. Its form is that of every version: see the rules above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelRequest {
    /// The container.
    pub container_id: ContainerId,
    /// Its interface.
    pub ifname: IfName,
}

/// Compare an attachment with what was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// The container.
    pub container_id: ContainerId,
    /// Its interface.
    pub ifname: IfName,
    /// The result that the runtime kept from the ADD.
    pub expected: AddResult,
}

/// Detach what is not valid any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRequest {
    /// The network that the list is about.
    pub network: NetworkName,
    /// What is to stay.
    pub valid: Vec<Attachment>,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// It was done.
    Ok(Reply),
    /// It was not, and left nothing behind.
    Error(Error),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// ADD: what was made.
    Attached(AddResult),
    /// DEL, CHECK, GC, STATUS: there is nothing to tell.
    Done,
}
