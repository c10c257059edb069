//! `barewire pods` and `barewire addresses`: which pod has which address, by which link, and in what state the others are.

use std::fmt::Write;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::table::{Table, bit_rate, count, duration};

/// So much of a container's ID names it: what `crictl` prints has 13 characters.
const CONTAINER_ID_MIN: usize = 6;

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct Pod {
    namespace: String,
    name: String,
    container_id: String,
    interface: String,
    addresses: Vec<IpAddr>,
    allowed_addresses: Vec<IpAddr>,
    mac: Option<String>,
    netns: Option<u64>,
    host_interface: String,
    host_ifindex: u32,
    path: String,
    why: Option<String>,
    attached_seconds: u64,
    limits: Limits,
}

/// Bits a second.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct Limits {
    egress: Option<u64>,
    ingress: Option<u64>,
    internet_egress: Option<u64>,
    internet_egress_from: Option<String>,
}

impl Limits {
    /// In words; nothing where there are none.
    fn told(&self) -> Option<String> {
        let from = self.internet_egress_from.as_deref().map_or_else(String::new, |from| format!(" (of the {from})"));
        let told = [("egress", self.egress, ""), ("ingress", self.ingress, ""), ("internet egress", self.internet_egress, from.as_str())];
        let told: Vec<_> = told.into_iter().filter_map(|(what, rate, from)| Some(format!("{what} {}{from}", bit_rate(rate?)))).collect();
        (!told.is_empty()).then(|| told.join(", "))
    }
}

impl Pod {
    /// Whether `wanted` is its name (with its namespace or without), an address (one that it may use beside its own, too), the container (or the beginning of its ID) or the host end.
    fn is(&self, wanted: &str) -> bool {
        let mut all = self.addresses.iter().chain(&self.allowed_addresses);
        let address = wanted.parse::<IpAddr>().is_ok_and(|wanted| all.any(|address| *address == wanted));
        let container =
            wanted.len() >= CONTAINER_ID_MIN && self.container_id.starts_with(wanted) || !wanted.is_empty() && self.container_id == wanted;
        // What a runtime has not told is nobody's name.
        let pod = !self.name.is_empty() && (self.name == wanted || self.full_name() == wanted);
        let link = !wanted.is_empty() && self.host_interface == wanted;
        address || container || pod || link
    }

    fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Range {
    range: String,
    state: String,
    why: Option<String>,
    size: u64,
    in_use: u64,
    free: u64,
    cooldown: u64,
    quarantined: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    address: String,
    state: String,
    owner: Option<Owner>,
    free_in_seconds: Option<u64>,
    why: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Owner {
    namespace: String,
    name: String,
    container_id: String,
    interface: String,
}

/// Entries of a list beside what they were read from.
fn entries<T: Default + for<'a> Deserialize<'a>>(list: &Value) -> Vec<(&Value, T)> {
    let all = list.as_array().map_or(&[][..], Vec::as_slice);
    all.iter().map(|entry| (entry, T::deserialize(entry).unwrap_or_default())).collect()
}

/// A pod's end, for commands about one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodEnd {
    /// With its namespace; its container where it has no name.
    pub(crate) name: String,
    pub(crate) interface: String,
    pub(crate) host_interface: String,
    pub(crate) host_ifindex: u32,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mac: Option<String>,
    /// The number of its network namespace.
    pub(crate) netns: Option<u64>,
}

/// Those that `wanted` names.
pub(crate) fn ends(page: &Value, wanted: &str) -> Vec<PodEnd> {
    let pods = entries::<Pod>(page).into_iter().map(|(_, pod)| pod).filter(|pod| pod.is(wanted));
    let end = |pod: Pod| PodEnd {
        name: if pod.name.is_empty() { pod.container_id.clone() } else { pod.full_name() },
        interface: pod.interface,
        host_interface: pod.host_interface,
        host_ifindex: pod.host_ifindex,
        addresses: pod.addresses,
        mac: pod.mac,
        netns: pod.netns,
    };
    pods.map(end).collect()
}

/// What the command prints, in words and as JSON, and what its exit code says.
pub(crate) type Told = (String, Value, Exit);

/// All pods, or those that `wanted` names; where it names an address that no pod has, what the address is.
pub(crate) fn pods(page: &Value, wanted: Option<&str>, addresses: &Value) -> Told {
    let mut found = entries::<Pod>(page);
    found.retain(|(_, pod)| wanted.is_none_or(|wanted| pod.is(wanted)));
    let json = found.iter().map(|(entry, _)| (*entry).clone()).collect();
    if let Some(wanted) = wanted.filter(|_| found.is_empty()) {
        return (no_pod(wanted, addresses), json, Exit::Degraded);
    }
    let mut table = Table::new(&["POD", "ADDRESSES", "INTERFACE", "HOST INTERFACE", ">INDEX", "PATH", ">AGE", "CONTAINER"]);
    let mut notes = String::new();
    for (_, pod) in &found {
        let addresses = pod.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let container = pod.container_id.chars().take(13).collect();
        let (interface, host) = (pod.interface.clone(), pod.host_interface.clone());
        let age = duration(pod.attached_seconds);
        table.row([
            name(&pod.namespace, &pod.name),
            addresses,
            interface,
            host,
            pod.host_ifindex.to_string(),
            pod.path.clone(),
            age,
            container,
        ]);
        if let (Some(why), Some(_)) = (&pod.why, wanted) {
            let _ = writeln!(notes, "{} takes the slow path: {why}", pod.full_name());
        }
        if !pod.allowed_addresses.is_empty() && wanted.is_some() {
            let allowed = pod.allowed_addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let _ = writeln!(notes, "{} may also use: {allowed}", pod.full_name());
        }
        if let (Some(limits), Some(_)) = (pod.limits.told(), wanted) {
            let _ = writeln!(notes, "{} is limited: {limits}", pod.full_name());
        }
    }
    (table.text() + &notes, json, Exit::Fine)
}

fn no_pod(wanted: &str, addresses: &Value) -> String {
    let known = wanted.parse::<IpAddr>().ok().and_then(|wanted| {
        let all = entries::<Address>(&addresses["addresses"]);
        all.into_iter().map(|(_, entry)| entry).find(|entry| entry.address.parse() == Ok(wanted))
    });
    match known {
        Some(entry) => format!("{wanted} is no pod's now: {}\n", state(&entry)),
        None => {
            format!("no pod of this node is, or has, {wanted}: name a pod (NAMESPACE/NAME), an address, a container or a host interface\n")
        }
    }
}

fn state(Address { state, owner, free_in_seconds, why, .. }: &Address) -> String {
    let of = |owner: &Owner| format!("in use by {}", name(&owner.namespace, &owner.name));
    match state.as_str() {
        "allowed" => {
            owner.as_ref().map_or_else(|| state.clone(), |owner| format!("used by {} beside its own", name(&owner.namespace, &owner.name)))
        }
        "cooldown" => format!("cooldown, free in {}", duration(free_in_seconds.unwrap_or_default())),
        "quarantined" => format!("quarantined: {}", why.as_deref().unwrap_or_default()),
        "of_host" => "an interface of the node itself has it".to_owned(),
        _ => owner.as_ref().map_or_else(|| state.clone(), of),
    }
}

/// A runtime need not say which pod it is.
fn name(namespace: &str, name: &str) -> String {
    if namespace.is_empty() && name.is_empty() { String::new() } else { format!("{namespace}/{name}") }
}

/// The ranges, and all addresses that are not free; with `wanted`, those in that state alone.
pub(crate) fn addresses(page: &Value, wanted: Option<&str>) -> Told {
    let mut found = entries::<Address>(&page["addresses"]);
    found.retain(|(_, entry)| wanted.is_none_or(|wanted| entry.state == wanted));
    let mut text = String::new();
    if wanted.is_none() {
        let mut table = Table::new(&["RANGE", "STATE", ">IN USE", ">FREE", ">COOLDOWN", ">QUARANTINED", ">TOTAL", "WHY"]);
        for (_, range) in entries::<Range>(&page["ranges"]) {
            let counts = [range.in_use, range.free, range.cooldown, range.quarantined, range.size].map(count);
            table.row([range.range, range.state].into_iter().chain(counts).chain([range.why.unwrap_or_default()]));
        }
        text = table.text() + "\n";
    }
    let mut table = Table::new(&["ADDRESS", "STATE", "POD", "INTERFACE", "CONTAINER", "WHY"]);
    for (_, entry) in &found {
        let owner = entry.owner.as_ref();
        let of = |field: fn(&Owner) -> String| owner.map(field).unwrap_or_default();
        let pod = of(|owner| name(&owner.namespace, &owner.name));
        let container = of(|owner| owner.container_id.chars().take(13).collect());
        let left = entry.free_in_seconds.map(|left| format!("free in {}", duration(left)));
        let why = left.or_else(|| entry.why.clone()).unwrap_or_default();
        table.row([entry.address.clone(), entry.state.clone(), pod, of(|owner| owner.interface.clone()), container, why]);
    }
    let addresses: Vec<_> = found.iter().map(|(entry, _)| (*entry).clone()).collect();
    (text + &table.text(), json!({ "ranges": page["ranges"], "addresses": addresses }), Exit::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Value {
        json!([
            { "namespace": "web", "name": "api", "container_id": "0123456789abcdef", "interface": "eth0", "addresses": ["10.0.1.16", "fd00::1"],
              "host_interface": "bw7", "host_ifindex": 7, "path": "fast", "attached_seconds": 61, "allowed_addresses": ["10.0.50.7"],
              "limits": { "ingress": 1_500_000, "internet_egress": 10_000_000, "internet_egress_from": "namespace" } },
            { "namespace": "", "name": "", "container_id": "fedcba9876543210", "interface": "eth0", "addresses": ["10.0.1.17"],
              "host_interface": "bw8", "host_ifindex": 8, "path": "slow", "why": "another's filter", "attached_seconds": 5 },
        ])
    }

    #[test]
    fn a_pod_is_found_by_all_of_its_names() {
        for wanted in ["web/api", "api", "10.0.1.16", "fd00:0::1", "10.0.50.7", "0123456789abc", "bw7"] {
            let (_, json, exit) = pods(&page(), Some(wanted), &Value::Null);
            assert_eq!((json.as_array().map(Vec::len), exit), (Some(1), Exit::Fine), "{wanted}");
        }
        let (text, _, _) = pods(&page(), Some("web/api"), &Value::Null);
        assert!(text.contains("web/api may also use: 10.0.50.7\n"), "{text}");
        assert!(text.contains("web/api is limited: ingress 1.5 Mbit/s, internet egress 10 Mbit/s (of the namespace)\n"), "{text}");
        let (text, _, _) = pods(&page(), Some("10.0.1.17"), &Value::Null);
        assert!(!text.contains("limited"), "{text}");
        assert!(text.contains("slow") && text.contains("another's filter"), "{text}");
        for wanted in ["0123", "web", "", "/", "10.0.1.1"] {
            assert_eq!(pods(&page(), Some(wanted), &Value::Null).2, Exit::Degraded, "{wanted}");
        }
        assert_eq!(pods(&page(), None, &Value::Null).1.as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn an_address_without_a_pod_has_a_state() {
        let addresses = json!({ "ranges": [], "addresses": [
            { "address": "10.0.1.18", "state": "cooldown", "free_in_seconds": 12 },
            { "address": "10.0.1.19", "state": "quarantined", "why": "seen elsewhere" },
        ] });
        assert_eq!(pods(&page(), Some("10.0.1.18"), &addresses).0, "10.0.1.18 is no pod's now: cooldown, free in 12s\n");
        assert_eq!(pods(&page(), Some("10.0.1.19"), &addresses).0, "10.0.1.19 is no pod's now: quarantined: seen elsewhere\n");
        let (text, json, _) = super::addresses(&addresses, Some("quarantined"));
        assert!(text.starts_with("ADDRESS ") && text.contains("seen elsewhere") && !text.contains("10.0.1.18"), "{text}");
        assert_eq!(json["addresses"].as_array().map(Vec::len), Some(1));
    }
}
