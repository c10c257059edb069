//! The plugin configuration on standard input (section 1, and section 3, "Deriving execution configuration").

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AddResult, Code, ContainerId, Error, IfName, NetworkName, Version};

/// The part of a configuration that Barewire reads. Other fields are a plugin's own or of a later version, and ignored.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// The version that the runtime selected and that the result must have.
    pub version: Version,
    /// The network's name.
    pub name: NetworkName,
    /// What the runtime fills in for the capabilities that the configuration declares.
    pub runtime: RuntimeConfig,
    /// The result of the plugins before this one in the list, or of the ADD that is checked or undone.
    pub prev_result: Option<AddResult>,
    /// GC: what is to stay (`cni.dev/valid-attachments`). `None` where the key is absent; `null` counts as empty,
    /// for that is how the reference library writes an empty list.
    pub valid_attachments: Option<Vec<Attachment>>,
    /// Our own key `socket`: where the node daemon listens.
    pub socket: Option<String>,
}

/// `runtimeConfig`, for the capabilities `ips` and `mac`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Addresses asked for. The conventions give them in CIDR form; the prefix length is not ours to honour.
    pub ips: Vec<IpAddr>,
    /// The MAC address asked for.
    pub mac: Option<[u8; 6]>,
}

/// One attachment in a GC's list of valid ones.
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

impl NetworkConfig {
    /// The `cniVersion` of `json`, without judging anything else: an error result and the answer to VERSION echo it.
    #[must_use]
    pub fn peek_version(json: &[u8]) -> Option<String> {
        #[derive(Deserialize)]
        struct Peek {
            #[serde(rename = "cniVersion")]
            cni_version: String,
        }
        serde_json::from_slice::<Peek>(json).ok().map(|peek| peek.cni_version)
    }

    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// [`Code::Undecodable`] for what is not a JSON object, [`Code::IncompatibleVersion`] for a version we do not speak,
    /// [`Code::InvalidConfig`] for everything else, with the field's name in the message.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        if json.iter().all(u8::is_ascii_whitespace) {
            return Err(Error::new(Code::Undecodable, "standard input is empty; write the network configuration to it"));
        }
        let mut fields: Map<String, Value> = serde_json::from_slice(json).map_err(|why| {
            Error::new(Code::Undecodable, format!("standard input is not a network configuration: {why}; write one JSON object to it"))
        })?;
        let version = match fields.remove("cniVersion") {
            None | Some(Value::Null) => {
                return Err(Error::new(
                    Code::IncompatibleVersion,
                    format!("cniVersion is missing; set it to one of {}", Version::ALL.map(Version::as_str).join(", ")),
                ));
            }
            Some(Value::String(text)) => text.parse()?,
            Some(other) => return Err(invalid("cniVersion", format!("{other} is not a string"))),
        };
        let name = match fields.remove("name") {
            None | Some(Value::Null) => return Err(invalid("name", "is missing; give the network a name".into())),
            Some(Value::String(text)) => NetworkName::try_from(text).map_err(|why| invalid("name", why))?,
            Some(other) => return Err(invalid("name", format!("{other} is not a string"))),
        };
        let runtime = take::<RuntimeFields>(&mut fields, "runtimeConfig")?.unwrap_or_default().parse()?;
        let prev_result = take(&mut fields, "prevResult")?;
        let valid_attachments = match VALID_ATTACHMENTS.into_iter().find_map(|key| Some((key, fields.remove(key)?))) {
            None => None,
            Some((_, Value::Null)) => Some(Vec::new()),
            Some((key, value)) => Some(decode(key, value)?),
        };
        let socket = take(&mut fields, "socket")?;
        Ok(Self { version, name, runtime, prev_result, valid_attachments, socket })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RuntimeFields {
    ips: Vec<String>,
    mac: Option<String>,
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
        Ok(RuntimeConfig { ips: ips.collect::<Result<_, _>>()?, mac: mac.transpose()? })
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

fn take<T: for<'de> Deserialize<'de>>(fields: &mut Map<String, Value>, key: &str) -> Result<Option<T>, Error> {
    match fields.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => decode(key, value).map(Some),
    }
}

fn decode<T: for<'de> Deserialize<'de>>(key: &str, value: Value) -> Result<T, Error> {
    T::deserialize(value).map_err(|why| invalid(key, why.to_string()))
}

fn invalid(key: &str, why: String) -> Error {
    Error::new(Code::InvalidConfig, format!("network configuration: {key}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(json: &str) -> (Code, String) {
        let error = NetworkConfig::from_json(json.as_bytes()).unwrap_err();
        (error.code, error.msg)
    }

    #[test]
    fn unknown_fields_are_ignored_and_known_ones_read() {
        let config = NetworkConfig::from_json(
            br#"{"cniVersion":"1.1.0","cniVersions":["1.0.0","1.1.0"],"name":"pods","type":"barewire-cni","later":{"a":1},
                "runtimeConfig":{"ips":["10.0.1.17/24","fd00::1"],"mac":"0a:58:0a:00:01:11","portMappings":[]},"args":{}}"#,
        )
        .unwrap();
        assert_eq!(config.version, Version::V1_1_0);
        assert_eq!(config.runtime.ips, ["10.0.1.17".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!(config.runtime.mac, Some([0x0a, 0x58, 0x0a, 0, 1, 0x11]));
        assert!(config.valid_attachments.is_none() && config.prev_result.is_none());
    }

    #[test]
    fn each_fault_has_its_code_and_names_the_field() {
        for (json, code, part) in [
            ("", Code::Undecodable, "empty"),
            (" \n", Code::Undecodable, "empty"),
            ("nope", Code::Undecodable, "not a network configuration"),
            ("[]", Code::Undecodable, "not a network configuration"),
            (r#"{"name":"x"}"#, Code::IncompatibleVersion, "cniVersion"),
            (r#"{"cniVersion":"9.9.9","name":"x"}"#, Code::IncompatibleVersion, "9.9.9"),
            (r#"{"cniVersion":"1.0.0"}"#, Code::InvalidConfig, "name"),
            (r#"{"cniVersion":"1.0.0","name":"a b"}"#, Code::InvalidConfig, "a b"),
            (r#"{"cniVersion":"1.0.0","name":"x","prevResult":7}"#, Code::InvalidConfig, "prevResult"),
            (r#"{"cniVersion":"1.0.0","name":"x","runtimeConfig":{"ips":["10.0.0.300"]}}"#, Code::InvalidConfig, "10.0.0.300"),
            (r#"{"cniVersion":"1.0.0","name":"x","runtimeConfig":{"mac":"01:00:5e:00:00:01"}}"#, Code::InvalidConfig, "group"),
            (r#"{"cniVersion":"1.0.0","name":"x","runtimeConfig":{"mac":"0a:58"}}"#, Code::InvalidConfig, "0a:58"),
        ] {
            let (got, msg) = code_of(json);
            assert_eq!(got, code, "{json}: {msg}");
            assert!(msg.contains(part), "{json}: {msg}");
        }
    }

    #[test]
    fn valid_attachments_absent_null_empty_and_full() {
        let read = |extra: &str| {
            NetworkConfig::from_json(format!(r#"{{"cniVersion":"1.1.0","name":"x"{extra}}}"#).as_bytes()).unwrap().valid_attachments
        };
        assert_eq!(read(""), None);
        assert_eq!(read(r#","cni.dev/valid-attachments":null"#), Some(vec![]));
        assert_eq!(read(r#","cni.dev/valid-attachments":[]"#), Some(vec![]));
        let one = r#"[{"containerID":"c","ifname":"eth0"}]"#;
        assert_eq!(read(&format!(r#","cni.dev/valid-attachments":{one}"#)).unwrap().len(), 1);
        assert_eq!(read(&format!(r#","cni.dev/attachments":{one}"#)).unwrap().len(), 1);
        assert_eq!(read(&format!(r#","cni.dev/attachments":[],"cni.dev/valid-attachments":{one}"#)).unwrap().len(), 1);
    }

    #[test]
    fn version_can_be_peeked_out_of_a_bad_configuration() {
        assert_eq!(NetworkConfig::peek_version(br#"{"cniVersion":"9.9.9"}"#).as_deref(), Some("9.9.9"));
        assert_eq!(NetworkConfig::peek_version(b"{"), None);
    }
}
