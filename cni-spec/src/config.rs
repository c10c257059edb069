//! The plugin configuration on standard input (section 1, and section 3, "Deriving execution configuration").
//!
//! Each operation has a view of its own and looks at nothing else. DEL and STATUS need to know [where the daemon
//! listens](socket) and no more: a pod must be deletable whatever an old cache, another plugin or a later runtime has put
//! beside it, and even where what came is no configuration at all.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::peek::peek;
use crate::{AddResult, Bandwidth, Code, ContainerId, Error, IfName, NetworkName, PrevResult, Version, absent};

/// What ADD reads. Other fields are a plugin's own or of a later version, and ignored, here and below.
#[derive(Debug, Clone)]
pub struct AddConfig {
    /// The version that the runtime selected and that the result must have.
    pub version: Version,
    /// The network's name.
    pub name: NetworkName,
    /// What the runtime fills in for the capabilities that the configuration declares.
    pub runtime: RuntimeConfig,
    /// The result of the plugins before this one in the list.
    pub prev_result: Option<PrevResult>,
    /// Our own key `socket`: where the node daemon listens.
    pub socket: Option<PathBuf>,
}

/// What CHECK reads.
#[derive(Debug, Clone)]
pub struct CheckConfig {
    /// The result of the ADD that is checked.
    pub expected: AddResult,
    /// See [`AddConfig::socket`].
    pub socket: Option<PathBuf>,
}

/// What GC reads.
#[derive(Debug, Clone)]
pub struct GcConfig {
    /// The network's name.
    pub name: NetworkName,
    /// What is to stay (`cni.dev/valid-attachments`). `null` and no list at all count as an empty one, for that is how the
    /// reference library writes one, and what it sends where its caller has none.
    pub valid: Vec<Attachment>,
    /// See [`AddConfig::socket`].
    pub socket: Option<PathBuf>,
}

/// The pod annotation that limits what the pod sends to the internet.
pub const INTERNET_EGRESS: &str = "barewire.io/internet-egress";

/// The pod annotation that names addresses which the pod may use beside its own.
pub const ALLOWED_ADDRESSES: &str = "barewire.io/allowed-addresses";

/// `runtimeConfig`, for the capabilities `ips`, `mac`, `bandwidth` and `io.kubernetes.cri.pod-annotations`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Addresses asked for. The conventions give them in CIDR form; the prefix length is not ours to honour.
    pub ips: Vec<IpAddr>,
    /// The MAC address asked for.
    pub mac: Option<[u8; 6]>,
    /// Limits of all that the pod sends and is sent.
    pub bandwidth: Option<Bandwidth>,
    /// The pod's annotation [`INTERNET_EGRESS`], as it was written.
    pub internet_egress: Option<String>,
    /// The pod's annotation [`ALLOWED_ADDRESSES`], as it was written.
    pub allowed_addresses: Option<String>,
}

/// What an operation on one interface of one container is about: the parameters of DEL, an entry of a GC's list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: ContainerId,
    /// Its interface.
    pub ifname: IfName,
}

/// The first is the reference library's, which later sent both; the second is what the text of 1.1.0 said as it was
/// published (<https://github.com/containernetworking/cni/pull/1103>).
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// `sun_path` less the terminating NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// Our own key `socket` in whatever was given, for operations that need nothing else of it; `None` where that names no
/// socket, or cannot be read so far. The daemon is then where it is by default: a node has one.
#[must_use]
pub fn socket(json: &[u8]) -> Option<PathBuf> {
    peek(json, "socket").and_then(|text| socket_path(&text).ok())
}

/// The `cniVersion` of `json`, without judging anything else: an error result and the answer to VERSION echo it.
#[must_use]
pub fn version_asked(json: &[u8]) -> Option<String> {
    peek(json, "cniVersion")
}

impl AddConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// [`Code::Undecodable`] for what is not a JSON object, [`Code::IncompatibleVersion`] for a version we do not speak,
    /// [`Code::InvalidConfig`] for everything else, with the field's name in the message.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let mut fields = Fields::from_json(json)?;
        Ok(Self {
            version: fields.version()?,
            name: fields.name()?,
            runtime: fields.take::<RuntimeFields>("runtimeConfig")?.unwrap_or_default().parse()?,
            prev_result: fields.take("prevResult")?,
            socket: fields.socket()?,
        })
    }
}

impl CheckConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// See [`AddConfig::from_json`]; a version that has no CHECK is [`Code::IncompatibleVersion`].
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let mut fields = Fields::from_json(json)?;
        let version = fields.version()?;
        if version < Version::V0_4_0 {
            let msg = format!("CHECK came with cniVersion 0.4.0, and the configuration says {version}; raise cniVersion");
            return Err(Error::new(Code::IncompatibleVersion, msg));
        }
        let expected = fields.take("prevResult")?;
        let expected = expected.ok_or_else(|| missing("prevResult", "CHECK compares with the result of the ADD"))?;
        Ok(Self { expected, socket: fields.socket()? })
    }
}

impl GcConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// [`Code::Undecodable`] and [`Code::InvalidConfig`], as [`AddConfig::from_json`].
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let mut fields = Fields::from_json(json)?;
        Ok(Self { name: fields.name()?, valid: fields.valid_attachments()?, socket: fields.socket()? })
    }
}

/// The members of the outermost object, to be taken one by one.
struct Fields(Map<String, Value>);

impl Fields {
    fn from_json(json: &[u8]) -> Result<Self, Error> {
        if json.iter().all(u8::is_ascii_whitespace) {
            return Err(Error::new(Code::Undecodable, "standard input is empty; write the network configuration to it"));
        }
        serde_json::from_slice(json).map(Self).map_err(|why| {
            Error::new(Code::Undecodable, format!("standard input is not a network configuration: {why}; write one JSON object to it"))
        })
    }

    fn take<T: for<'de> Deserialize<'de>>(&mut self, key: &str) -> Result<Option<T>, Error> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|why| invalid(key, why.to_string())),
        }
    }

    fn version(&mut self) -> Result<Version, Error> {
        match self.0.remove("cniVersion") {
            None | Some(Value::Null) => {
                let msg = format!("cniVersion is missing; set it to one of {}", Version::ALL.map(Version::as_str).join(", "));
                Err(Error::new(Code::IncompatibleVersion, msg))
            }
            Some(Value::String(text)) => text.parse(),
            Some(other) => Err(invalid("cniVersion", format!("{other} is not a string"))),
        }
    }

    fn name(&mut self) -> Result<NetworkName, Error> {
        match self.0.remove("name") {
            None | Some(Value::Null) => Err(missing("name", "give the network a name")),
            Some(Value::String(text)) => NetworkName::try_from(text).map_err(|why| invalid("name", why)),
            Some(other) => Err(invalid("name", format!("{other} is not a string"))),
        }
    }

    fn socket(&mut self) -> Result<Option<PathBuf>, Error> {
        let text: Option<String> = self.take("socket")?;
        text.map(|text| socket_path(&text).map_err(|why| invalid("socket", format!("{text:?} {why}")))).transpose()
    }

    fn valid_attachments(&mut self) -> Result<Vec<Attachment>, Error> {
        let [first, second] = VALID_ATTACHMENTS;
        let list: Option<Vec<Option<Attachment>>> = match self.take(first)? {
            None => self.take(second)?,
            some => some,
        };
        // The reference library leaves the key out where its caller has no list: to it that is a list of nothing.
        Ok(list.into_iter().flatten().flatten().collect())
    }
}

/// The path, where a socket can be there.
fn socket_path(text: &str) -> Result<PathBuf, &'static str> {
    let path = Path::new(text);
    if !path.is_absolute() || path.file_name().is_none() || text.contains('\0') {
        return Err("is not the absolute path of a socket");
    }
    if text.len() > SOCKET_PATH_MAX {
        return Err("is longer than the 107 bytes that a socket's path can have");
    }
    Ok(path.to_owned())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RuntimeFields {
    #[serde(deserialize_with = "absent::list")]
    ips: Vec<String>,
    mac: Option<String>,
    bandwidth: Option<Map<String, Value>>,
    #[serde(rename = "io.kubernetes.cri.pod-annotations")]
    annotations: Option<Map<String, Value>>,
}

impl RuntimeFields {
    fn parse(self) -> Result<RuntimeConfig, Error> {
        let ips = self.ips.iter().map(|text| {
            let parsed = text.parse::<IpAddr>().or_else(|_| text.parse::<IpNetwork>().map(|network| network.ip()));
            parsed.map_err(|_| invalid("runtimeConfig.ips", format!("{text:?} is not an IP address")))
        });
        let mac = self
            .mac
            .filter(|text| !text.is_empty())
            .map(|text| parse_mac(&text).map_err(|why| invalid("runtimeConfig.mac", format!("{text:?} {why}"))));
        let bandwidth = Bandwidth::read(&self.bandwidth.unwrap_or_default())
            .map_err(|(key, why)| invalid(&format!("runtimeConfig.bandwidth.{key}"), why))?;
        let mut annotations = self.annotations.unwrap_or_default();
        let mut annotation = |name: &str| match annotations.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(invalid(&format!("the pod's annotation {name}"), format!("{other} is not a string"))),
        };
        let (internet_egress, allowed_addresses) = (annotation(INTERNET_EGRESS)?, annotation(ALLOWED_ADDRESSES)?);
        let ips = ips.collect::<Result<_, _>>()?;
        Ok(RuntimeConfig { ips, mac: mac.transpose()?, bandwidth, internet_egress, allowed_addresses })
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6], &'static str> {
    const SHAPE: &str = "is not a MAC address like 0a:58:0a:00:01:11";
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2).ok_or(SHAPE)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| SHAPE)?;
    }
    if parts.next().is_some() {
        return Err(SHAPE);
    }
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err("cannot be an interface's address: it is a group address or all zero");
    }
    Ok(mac)
}

fn invalid(key: &str, why: String) -> Error {
    Error::new(Code::InvalidConfig, format!("network configuration: {key}: {why}"))
}

fn missing(key: &str, why: &str) -> Error {
    invalid(key, format!("is missing; {why}"))
}

#[cfg(test)]
mod tests;
