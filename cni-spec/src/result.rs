//! The result of ADD (section 5, "ADD Success"): what we made, and what the plugins before us made.
//!
//! Ours is held in the newest form and written in the version asked for. Theirs is [passed on](PrevResult) as it came: no
//! field of a plugin or a version that we do not know is lost, and none is judged.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::{Version, absent};

type Extra = Map<String, Value>;

const LISTS: [&str; 3] = ["interfaces", "ips", "routes"];

/// What an ADD made. `null` counts as absent on reading, at every place; an address or a route without what makes it one
/// is passed over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddResult {
    /// Interfaces on the host and in the container.
    #[serde(deserialize_with = "interfaces")]
    pub interfaces: Vec<Interface>,
    /// Addresses given to them.
    #[serde(deserialize_with = "ips")]
    pub ips: Vec<IpConfig>,
    /// Routes made in the container.
    #[serde(deserialize_with = "routes")]
    pub routes: Vec<Route>,
    #[serde(flatten)]
    extra: Extra,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    #[serde(deserialize_with = "absent::or_default")]
    pub name: String,
    /// Its MAC address, like `0a:58:0a:00:01:11`.
    #[serde(deserialize_with = "absent::or_default", skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Bytes of payload a frame carries. Since 1.1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The network namespace's path; empty for an interface of the host.
    #[serde(deserialize_with = "absent::or_default", skip_serializing_if = "String::is_empty")]
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
    #[serde(default, deserialize_with = "hop", skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Which of [`AddResult::interfaces`] has it.
    #[serde(default, deserialize_with = "index", skip_serializing_if = "Option::is_none")]
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
    #[serde(default, deserialize_with = "hop", skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    #[serde(flatten)]
    extra: Extra,
}

/// An interface that is `null` keeps its place: addresses name theirs by number.
fn interfaces<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Interface>, D::Error> {
    let list: Vec<Option<Interface>> = absent::or_default(deserializer)?;
    Ok(list.into_iter().map(Option::unwrap_or_default).collect())
}

fn ips<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpConfig>, D::Error> {
    entries_with("address", deserializer)
}

fn routes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Route>, D::Error> {
    entries_with("dst", deserializer)
}

fn entries_with<'de, D: Deserializer<'de>, T: for<'a> Deserialize<'a>>(key: &str, deserializer: D) -> Result<Vec<T>, D::Error> {
    let list: Vec<Value> = absent::or_default(deserializer)?;
    let is_whole = |entry: &Value| match entry {
        Value::Null => false,
        Value::Object(members) => match members.get(key) {
            None | Some(Value::Null) => false,
            Some(value) => !value.as_str().is_some_and(absent::is_no_address),
        },
        _ => true,
    };
    list.into_iter().filter(is_whole).map(|entry| T::deserialize(entry).map_err(D::Error::custom)).collect()
}

fn hop<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.filter(|text| !absent::is_no_address(text))
        .map(|text| text.parse().map_err(|why| D::Error::custom(format!("{text:?}: {why}"))))
        .transpose()
}

/// It is signed in Go.
fn index<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let number: Option<i64> = Option::deserialize(deserializer)?;
    Ok(number.and_then(|number| usize::try_from(number).ok()))
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

/// The result of the plugins before us in the chain. It is theirs: what is in its lists is counted, and otherwise passed
/// on unread.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PrevResult(Extra);

impl<'de> Deserialize<'de> for PrevResult {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut members = Extra::deserialize(deserializer)?;
        members.retain(|_, value| !value.is_null());
        match LISTS.into_iter().find_map(|key| members.get(key).filter(|value| !value.is_array()).map(|value| (key, value))) {
            Some((key, value)) => Err(D::Error::custom(format!("{key} is {value}, not a list"))),
            None => Ok(Self(members)),
        }
    }
}

impl AddResult {
    /// A result without name resolution, which Barewire leaves to the kubelet.
    #[must_use]
    pub fn new(interfaces: Vec<Interface>, ips: Vec<IpConfig>, routes: Vec<Route>) -> Self {
        Self { interfaces, ips, routes, extra: Extra::new() }
    }

    /// The result as `version` writes it, behind that of the plugins before this one, if there are any.
    #[must_use]
    pub fn to_json(&self, version: Version, previous: Option<PrevResult>) -> String {
        let PrevResult(mut whole) = previous.unwrap_or_default();
        let mut ours = self.clone();
        if version < Version::V1_1_0 {
            ours.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
        }
        let [interfaces, ips, routes] = LISTS;
        let before = append(&mut whole, interfaces, &ours.interfaces);
        for ip in &mut ours.ips {
            ip.interface = ip.interface.map(|index| index + before);
        }
        append(&mut whole, ips, &ours.ips);
        append(&mut whole, routes, &ours.routes);
        whole.get_mut(ips).and_then(Value::as_array_mut).into_iter().flatten().for_each(|ip| mark_family(ip, version));
        for (key, value) in ours.extra {
            whole.entry(key).or_insert(value);
        }
        // That of a prevResult comes with it.
        whole.insert("cniVersion".to_owned(), version.as_str().into());
        Value::Object(whole).to_string()
    }
}

/// Appends to a list, which is made where it is missing; tells how long it was.
fn append<T: Serialize>(whole: &mut Extra, key: &str, entries: &[T]) -> usize {
    let slot = whole.entry(key).or_insert_with(|| Value::Array(Vec::new()));
    let Value::Array(list) = slot else { unreachable!("a previous result has lists there, or nothing") };
    let before = list.len();
    list.extend(entries.iter().map(|entry| serde_json::to_value(entry).unwrap_or_else(|_| unreachable!("strings and numbers serialise"))));
    before
}

/// `ips[].version` was required until 0.4.0 and is gone since.
fn mark_family(ip: &mut Value, version: Version) {
    let Value::Object(members) = ip else { return };
    if version >= Version::V1_0_0 {
        members.remove("version");
    } else if let Some(Ok(address)) = members.get("address").and_then(Value::as_str).map(str::parse::<IpNetwork>) {
        let family = if address.is_ipv4() { "4" } else { "6" };
        members.insert("version".to_owned(), family.into());
    }
}

#[cfg(test)]
mod tests;
