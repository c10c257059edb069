//! One execution of the plugin, with its environment and standard input as arguments.
#![forbid(unsafe_code)]

mod daemon;
mod netns;
mod stdin;

use std::os::fd::AsFd;
use std::path::PathBuf;

use cni_spec::{AddConfig, AddResult, Attachment, CheckConfig, Code, Error, GcConfig, Invocation, PodIdentity, VersionInfo};
use node_api::{AddRequest, CheckRequest, ClientError, DelRequest, GcRequest, Receipt, Reply, Request, queue};

pub use crate::stdin::Stdin;

/// What an operation came to.
#[derive(Debug)]
pub struct Outcome {
    /// What goes to standard output; it may be empty.
    pub text: String,
    /// For the daemon, once the text is there. Without it the daemon takes an attachment back.
    receipt: Option<Receipt>,
}

impl Outcome {
    /// The text has been told.
    pub fn is_told(self) {
        if let Some(receipt) = self.receipt {
            receipt.give();
        }
    }
}

/// Executes one CNI operation.
///
/// # Errors
/// What goes to standard output as an error result.
pub fn execute(environment: impl IntoIterator<Item = (String, String)>, stdin: &Stdin) -> Result<Outcome, Error> {
    let text = match Invocation::from_environment(environment)? {
        Invocation::Version => json(&VersionInfo::answering(cni_spec::version_asked(stdin.as_it_came()).as_deref())),
        Invocation::Add { attachment, netns, pod } => return add(attachment, &netns, pod, AddConfig::from_json(stdin.whole()?)?),
        Invocation::Check { attachment, netns } => check(attachment, &netns, CheckConfig::from_json(stdin.whole()?)?),
        Invocation::Gc => gc(GcConfig::from_json(stdin.whole()?)?),
        // The socket is all that these need. Where what came does not tell it, it is where it is by default: a node has one
        // daemon, and a pod that could not be deleted for a damaged configuration would stay for ever.
        Invocation::Del(attachment) => del(attachment, at(cni_spec::socket(stdin.as_it_came()))),
        Invocation::Status => status(at(cni_spec::socket(stdin.as_it_came()))),
    }?;
    Ok(Outcome { text, receipt: None })
}

/// Where the daemon listens.
fn at(configured: Option<PathBuf>) -> PathBuf {
    configured.unwrap_or_else(|| PathBuf::from(node_api::DEFAULT_SOCKET))
}

fn add(attachment: Attachment, netns: &str, pod: PodIdentity, config: AddConfig) -> Result<Outcome, Error> {
    let netns_fd = netns::open(netns)?;
    let request = AddRequest {
        network: config.name,
        container_id: attachment.container_id,
        ifname: attachment.ifname,
        netns_path: netns.to_owned(),
        pod,
        ips: config.runtime.ips,
        mac: config.runtime.mac,
        bandwidth: config.runtime.bandwidth,
        internet_egress: config.runtime.internet_egress,
        allowed_addresses: config.runtime.allowed_addresses,
    };
    let answer = daemon::ask_for_receipt(&at(config.socket), &Request::Add(request), netns_fd.as_fd());
    let (Reply::Attached(result), receipt) = answer.map_err(refusal)? else { return Err(unexpected()) };
    Ok(Outcome { text: result.to_json(config.version, config.prev_result), receipt: Some(receipt) })
}

/// A DEL succeeds whatever state the daemon is in: a pod must be deletable while it is being upgraded.
fn del(attachment: Attachment, socket: PathBuf) -> Result<String, Error> {
    let del = DelRequest { container_id: attachment.container_id, ifname: attachment.ifname };
    let away = match daemon::ask(&socket, &Request::Del(del.clone()), None) {
        Ok(_) => return Ok(String::new()),
        Err(ClientError::Refused(error)) if !queue_helps(error.code) => return Err(error),
        Err(away) => away,
    };
    let directory = queue::directory_beside(&socket);
    queue::enqueue(&directory, del).map(|()| String::new()).map_err(|why| {
        let msg = format!("{away}, and the DEL cannot be queued in {}: {why}; free space there", directory.display());
        Error::new(Code::IoFailure, msg)
    })
}

/// Whether a refused DEL is one that the daemon, or the next one, will do later: "try again" is what the queue is for, and a
/// daemon of an older version may not understand us.
const fn queue_helps(code: Code) -> bool {
    matches!(code, Code::TryAgainLater | Code::Undecodable)
}

fn check(attachment: Attachment, netns: &str, config: CheckConfig) -> Result<String, Error> {
    let netns = netns::open(netns)?;
    let request = CheckRequest { container_id: attachment.container_id, ifname: attachment.ifname, expected: config.expected };
    done(daemon::ask_through_restart(&at(config.socket), &Request::Check(request), Some(netns.as_fd())).map_err(refusal)?)
}

/// A GC does not wait for a daemon: pods that are attached meanwhile are not in its list, and would be detached.
fn gc(config: GcConfig) -> Result<String, Error> {
    let request = Request::Gc(GcRequest { network: config.name, valid: config.valid });
    done(daemon::ask(&at(config.socket), &request, None).map_err(refusal)?)
}

fn status(socket: PathBuf) -> Result<String, Error> {
    // STATUS has codes of its own for a plugin that is not available (section 5, "Error").
    let away = |error: ClientError| match error {
        ClientError::Refused(error) => error,
        away => Error::new(Code::NotAvailable, format!("{away}; start barewired")),
    };
    done(daemon::ask_status(&socket).map_err(away)?)
}

fn refusal(error: ClientError) -> Error {
    match error {
        ClientError::Refused(error) => error,
        away => Error::new(Code::TryAgainLater, format!("{away}; it is starting, or see `systemctl status barewired`")),
    }
}

fn done(reply: Reply) -> Result<String, Error> {
    match reply {
        Reply::Done => Ok(String::new()),
        Reply::Attached(AddResult { .. }) => Err(unexpected()),
    }
}

fn unexpected() -> Error {
    Error::new(Code::TryAgainLater, "barewired gave the answer of another operation; upgrade barewire-cni and barewired to one version")
}

fn json(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|why| Error::new(Code::IoFailure, why.to_string()))
}
