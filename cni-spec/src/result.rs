//! The result of ADD (section 5, "ADD Success"), held in the newest form and written in the version asked for.
//!
//! Fields that we do not know, of a chained plugin or of a later version, are kept as they came.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Version;

type Extra = Map<String, Value>;

/// What an ADD made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddResult {
    /// Interfaces on the host and in the container.
    pub interfaces: Vec<Interface>,
    /// Addresses given to them.
    pub ips: Vec<IpConfig>,
    /// Routes made in the container.
    pub routes: Vec<Route>,
    /// Name resolution.
    pub dns: Dns,
    #[serde(flatten)]
    extra: Extra,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address, like `0a:58:0a:00:01:11`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Bytes of payload a frame carries. Since 1.1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The network namespace's path; empty for an interface of the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    #[serde(flatten)]
    extra: Extra,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IpConfig {
    /// The address and its prefix length.
    pub address: IpNetwork,
    /// The gateway for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Which of [`AddResult::interfaces`] has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    #[serde(flatten)]
    extra: Extra,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Its destination.
    pub dst: IpNetwork,
    /// Its next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    #[serde(flatten)]
    extra: Extra,
}

/// Name resolution, which Barewire leaves to the kubelet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Dns {
    #[serde(flatten)]
    extra: Extra,
}

impl Interface {
    /// An interface; `sandbox` is empty for one of the host.
    #[must_use]
    pub fn new(name: &str, mac: [u8; 6], mtu: u32, sandbox: &str) -> Self {
        let [a, b, c, d, e, f] = mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        Self { name: name.to_owned(), mac, mtu: Some(mtu), sandbox: sandbox.to_owned(), extra: Extra::new() }
    }
}

impl IpConfig {
    /// An address of the interface with this index.
    #[must_use]
    pub fn new(address: IpNetwork, gateway: IpAddr, interface: usize) -> Self {
        Self { address, gateway: Some(gateway), interface: Some(interface), extra: Extra::new() }
    }
}

impl Route {
    /// A route through a gateway.
    #[must_use]
    pub fn new(dst: IpNetwork, gw: IpAddr) -> Self {
        Self { dst, gw: Some(gw), extra: Extra::new() }
    }
}

impl AddResult {
    /// A result without name resolution.
    #[must_use]
    pub fn new(interfaces: Vec<Interface>, ips: Vec<IpConfig>, routes: Vec<Route>) -> Self {
        Self { interfaces, ips, routes, ..Self::default() }
    }

    /// This result behind that of the plugins before it: theirs comes first and stays whole.
    #[must_use]
    pub fn chained_after(mut self, previous: Option<Self>) -> Self {
        let Some(mut previous) = previous else { return self };
        for ip in &mut self.ips {
            ip.interface = ip.interface.map(|index| index + previous.interfaces.len());
        }
        previous.interfaces.append(&mut self.interfaces);
        previous.ips.append(&mut self.ips);
        previous.routes.append(&mut self.routes);
        previous
    }

    /// The result as `version` writes it.
    #[must_use]
    pub fn to_json(&self, version: Version) -> String {
        let mut result = self.clone();
        // They come back from a runtime as part of prevResult and must not stand twice.
        result.extra.remove("cniVersion");
        for ip in &mut result.ips {
            ip.extra.remove("version");
            if version < Version::V1_0_0 {
                let family = if ip.address.is_ipv4() { "4" } else { "6" };
                ip.extra.insert("version".into(), family.into());
            }
        }
        if version < Version::V1_1_0 {
            result.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
        }
        #[derive(Serialize)]
        struct Wire<'a> {
            #[serde(rename = "cniVersion")]
            cni_version: Version,
            #[serde(flatten)]
            result: &'a AddResult,
        }
        serde_json::to_string(&Wire { cni_version: version, result: &result })
            .unwrap_or_else(|_| unreachable!("strings and numbers always serialise"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> AddResult {
        AddResult {
            interfaces: vec![
                Interface::new("bw0", [2, 0, 0, 0, 0, 1], 9001, ""),
                Interface::new("eth0", [2, 0, 0, 0, 0, 2], 9001, "/run/netns/x"),
            ],
            ips: vec![
                IpConfig::new("10.0.1.17/32".parse().unwrap(), "169.254.1.1".parse().unwrap(), 1),
                IpConfig::new("fd00::17/128".parse().unwrap(), "fe80::1".parse().unwrap(), 1),
            ],
            routes: vec![Route::new("0.0.0.0/0".parse().unwrap(), "169.254.1.1".parse().unwrap())],
            ..AddResult::default()
        }
    }

    fn json(result: &AddResult, version: Version) -> Value {
        serde_json::from_str(&result.to_json(version)).unwrap()
    }

    #[test]
    fn section_5_ips_version_until_0_4_0_only() {
        for version in Version::ALL {
            let value = json(&ours(), version);
            let old = version < Version::V1_0_0;
            assert_eq!(value["ips"][0].get("version").and_then(Value::as_str), old.then_some("4"), "{version}");
            assert_eq!(value["ips"][1].get("version").and_then(Value::as_str), old.then_some("6"), "{version}");
            assert_eq!(value["cniVersion"], version.as_str());
        }
    }

    #[test]
    fn section_5_mtu_since_1_1_0_only() {
        for version in Version::ALL {
            let has = json(&ours(), version)["interfaces"][1].get("mtu").is_some();
            assert_eq!(has, version == Version::V1_1_0, "{version}");
        }
    }

    #[test]
    fn chain_keeps_what_was_there_and_shifts_indices() {
        let previous: AddResult = serde_json::from_str(
            r#"{"cniVersion":"0.4.0","interfaces":[{"name":"dummy0","later":1}],"ips":[{"version":"4","address":"192.0.2.1/24","interface":0}],
                "dns":{"nameservers":["10.0.0.2"]},"own":true}"#,
        )
        .unwrap();
        let value = json(&ours().chained_after(Some(previous)), Version::V1_0_0);
        assert_eq!(value["interfaces"].as_array().unwrap().len(), 3);
        assert_eq!(value["interfaces"][0]["later"], 1);
        assert_eq!(value["ips"][0]["interface"], 0);
        assert_eq!(value["ips"][1]["interface"], 2);
        assert!(value["ips"][0].get("version").is_none());
        assert_eq!(value["dns"]["nameservers"][0], "10.0.0.2");
        assert_eq!((value["own"].as_bool(), value["cniVersion"].as_str()), (Some(true), Some("1.0.0")));
    }

    #[test]
    fn result_reads_back_what_it_writes() {
        for version in Version::ALL {
            let text = ours().to_json(version);
            let back: AddResult = serde_json::from_str(&text).unwrap();
            assert_eq!(back.to_json(version), text);
        }
    }
}
