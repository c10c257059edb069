//! One execution of the plugin, with its environment and standard input as arguments.
#![forbid(unsafe_code)]

mod netns;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use cni_spec::{AddResult, Code, Command, ContainerId, Error, IfName, Invocation, NetworkConfig, VersionInfo};
use node_api::{AddRequest, CheckRequest, Client, ClientError, DelRequest, GcRequest, Reply, Request, queue};

const SENDER: &str = concat!("barewire-cni ", env!("CARGO_PKG_VERSION"));

/// Executes one CNI operation. The value is what goes to standard output; it may be empty.
///
/// # Errors
/// What goes to standard output as an error result.
pub fn execute(environment: impl IntoIterator<Item = (String, String)>, stdin: &[u8]) -> Result<String, Error> {
    let invocation = Invocation::from_environment(environment)?;
    if invocation.command == Command::Version {
        // Needs neither daemon nor a configuration that is valid otherwise.
        return json(&VersionInfo::answering(NetworkConfig::peek_version(stdin).as_deref()));
    }
    let config = NetworkConfig::from_json(stdin)?;
    let socket = PathBuf::from(config.socket.as_deref().unwrap_or(node_api::DEFAULT_SOCKET));
    match invocation.command {
        Command::Add => add(invocation, config, &socket),
        Command::Del => del(invocation, &socket),
        Command::Check => check(invocation, config, &socket),
        Command::Gc => gc(config, &socket),
        Command::Status => status(&socket),
        Command::Version => unreachable!("answered above"),
    }
}

fn add(invocation: Invocation, config: NetworkConfig, socket: &Path) -> Result<String, Error> {
    let (container_id, ifname) = names(&invocation)?;
    let (netns_path, netns) = netns::open(&invocation)?;
    let request = AddRequest {
        network: config.name,
        container_id,
        ifname,
        netns_path,
        pod: invocation.pod,
        ips: config.runtime.ips,
        mac: config.runtime.mac,
    };
    match ask(socket, Request::Add(request), Some(netns.as_fd()))? {
        Reply::Attached(result) => Ok(result.chained_after(config.prev_result).to_json(config.version)),
        Reply::Done => Err(unexpected()),
    }
}

/// A DEL succeeds whatever state the daemon is in: a pod must be deletable while it is being upgraded.
fn del(invocation: Invocation, socket: &Path) -> Result<String, Error> {
    let (container_id, ifname) = names(&invocation)?;
    let request = DelRequest { container_id, ifname };
    let outcome = Client::connect(socket, SENDER).and_then(|client| client.call(Request::Del(request.clone()), None));
    match outcome {
        Ok(_) => Ok(String::new()),
        Err(ClientError::Refused(error)) => Err(error),
        Err(away @ (ClientError::Unreachable { .. } | ClientError::BrokenOff(_))) => {
            let directory = queue::directory_beside(socket);
            queue::enqueue(&directory, request).map(|()| String::new()).map_err(|why| {
                let msg = format!("{away}, and the DEL cannot be queued in {}: {why}; free space there", directory.display());
                Error::new(Code::IoFailure, msg)
            })
        }
    }
}

fn check(invocation: Invocation, config: NetworkConfig, socket: &Path) -> Result<String, Error> {
    if config.version < cni_spec::Version::V0_4_0 {
        let msg = format!("CHECK came with cniVersion 0.4.0, and the configuration says {}; raise cniVersion", config.version);
        return Err(Error::new(Code::IncompatibleVersion, msg));
    }
    let (container_id, ifname) = names(&invocation)?;
    let expected = config.prev_result.ok_or_else(|| missing("prevResult", "CHECK compares with the result of the ADD"))?;
    let (_, netns) = netns::open(&invocation)?;
    done(ask(socket, Request::Check(CheckRequest { container_id, ifname, expected }), Some(netns.as_fd()))?)
}

fn gc(config: NetworkConfig, socket: &Path) -> Result<String, Error> {
    since_1_1_0("GC", &config)?;
    let valid = config.valid_attachments.ok_or_else(|| missing("cni.dev/valid-attachments", "without it GC would remove everything"))?;
    done(ask(socket, Request::Gc(GcRequest { network: config.name, valid }), None)?)
}

fn status(socket: &Path) -> Result<String, Error> {
    // STATUS has codes of its own for a plugin that is not available (section 5, "Error").
    let away = |error: ClientError| match error {
        ClientError::Refused(error) => error,
        away => Error::new(Code::NotAvailable, format!("{away}; start barewired")),
    };
    done(Client::connect(socket, SENDER).and_then(|client| client.call(Request::Status, None)).map_err(away)?)
}

fn since_1_1_0(verb: &str, config: &NetworkConfig) -> Result<(), Error> {
    if config.version >= cni_spec::Version::V1_1_0 {
        return Ok(());
    }
    let msg = format!("{verb} came with cniVersion 1.1.0, and the configuration says {}; raise cniVersion", config.version);
    Err(Error::new(Code::IncompatibleVersion, msg))
}

fn ask(socket: &Path, request: Request, netns: Option<std::os::fd::BorrowedFd<'_>>) -> Result<Reply, Error> {
    Client::connect(socket, SENDER).and_then(|client| client.call(request, netns)).map_err(|error| match error {
        ClientError::Refused(error) => error,
        away => Error::new(Code::TryAgainLater, format!("{away}; it is starting, or see `systemctl status barewired`")),
    })
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

fn missing(key: &str, why: &str) -> Error {
    Error::new(Code::InvalidConfig, format!("network configuration: {key} is missing; {why}"))
}

/// Present wherever the operation needs them: [`Invocation::from_environment`] has seen to it.
fn names(invocation: &Invocation) -> Result<(ContainerId, IfName), Error> {
    invocation
        .container_id
        .clone()
        .zip(invocation.ifname.clone())
        .ok_or_else(|| Error::new(Code::InvalidEnvironment, "CNI_CONTAINERID and CNI_IFNAME are needed; set both"))
}

fn json(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|why| Error::new(Code::IoFailure, why.to_string()))
}
