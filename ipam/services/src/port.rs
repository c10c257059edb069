//! One port of a service: how it is named in the ruleset, and what is refused of it.

use std::net::IpAddr;

use fleet_api::message::{Protocol, ServicePort};

/// A chain's name has 255 bytes at most (`NFT_NAME_MAXLEN`); with an endpoint's address behind it, this is left for a port's.
const NAME_MAX: usize = 190;

/// A port that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port<'a> {
    /// As endpoints have it.
    pub(crate) name: &'a str,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
    /// 0: none.
    pub(crate) node_port: u16,
    /// `namespace/name/protocol/port`: of one port alone, and fit for chains' names.
    pub(crate) path: String,
}

impl<'a> Port<'a> {
    /// Reads a port of `service`.
    ///
    /// # Errors
    /// What makes no sense about it.
    pub(crate) fn of(service: &str, port: &'a ServicePort) -> Result<Self, String> {
        let protocol =
            Protocol::try_from(port.protocol).map_err(|_| format!("port {} has the unknown protocol {}", port.port, port.protocol))?;
        let number = u16::try_from(port.port).ok().filter(|number| *number != 0);
        let number = number.ok_or_else(|| format!("{} is no port", port.port))?;
        let node_port = u16::try_from(port.node_port).map_err(|_| format!("{} is no node port", port.node_port))?;
        let path = format!("{service}/{}/{}", word(protocol), port.name);
        if path.len() > NAME_MAX {
            return Err(format!("the names of port {number} have {} bytes together; at most {NAME_MAX} are served", path.len()));
        }
        // Names go into a script.
        if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'/')) || port.name.contains('/') {
            return Err(format!("port {number} has the name {:?}, which is no DNS label", port.name));
        }
        Ok(Self { name: &port.name, protocol, number, node_port, path })
    }

    /// IANA's number of its protocol: names need a file that a host may not have.
    pub(crate) fn protocol_number(&self) -> u8 {
        number(self.protocol)
    }

    /// Its key in maps by address.
    pub(crate) fn at(&self, address: IpAddr) -> String {
        format!("{address} . {} . {}", self.protocol_number(), self.number)
    }

    /// Its key in maps by node port.
    pub(crate) fn at_node(&self) -> String {
        format!("{} . {}", self.protocol_number(), self.node_port)
    }
}

/// Of all that services have, IANA's numbers.
pub(crate) const PROTOCOLS: [u8; 3] = [number(Protocol::Tcp), number(Protocol::Udp), number(Protocol::Sctp)];

const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

const fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// Whether a service's key can be part of a chain's name: `namespace/name`, each as Kubernetes allows them.
pub(crate) fn is_a_name(service: &str) -> bool {
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    service.split_once('/').is_some_and(|(namespace, name)| is_label(namespace) && is_label(name))
}
