//! The success result: what ADD prints.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::Value;

use super::{Violations, is_text, is_uint, optional, require, required};
use crate::version::SpecVersion;

/// Judges the result of an ADD in `version`.
#[must_use]
pub fn success_result(version: SpecVersion, result: &Value) -> Violations {
    if !result.is_object() {
        return vec![format!("expected an object, got {result}")];
    }
    let mut violations = Violations::new();
    required(&mut violations, result, "", "cniVersion", &format!("\"{version}\", the version asked for"), |value| {
        value.as_str() == Some(version.as_str())
    });
    let interfaces = list(&mut violations, result, "interfaces");
    for (index, entry) in interfaces.iter().enumerate() {
        interface(&mut violations, version, &format!("interfaces[{index}]."), entry);
    }
    for (index, entry) in list(&mut violations, result, "ips").iter().enumerate() {
        ip(&mut violations, version, &format!("ips[{index}]."), entry, interfaces.len());
    }
    for (index, entry) in list(&mut violations, result, "routes").iter().enumerate() {
        route(&mut violations, version, &format!("routes[{index}]."), entry);
    }
    optional(&mut violations, result, "", "dns", "an object", Value::is_object);
    if let Some(dns) = result.get("dns") {
        optional(&mut violations, dns, "dns.", "nameservers", "a list of addresses", is_list_of(is_address));
        optional(&mut violations, dns, "dns.", "domain", "a string", Value::is_string);
        optional(&mut violations, dns, "dns.", "search", "a list of strings", is_list_of(Value::is_string));
        optional(&mut violations, dns, "dns.", "options", "a list of strings", is_list_of(Value::is_string));
    }
    violations
}

fn interface(violations: &mut Violations, version: SpecVersion, at: &str, entry: &Value) {
    required(violations, entry, at, "name", "an interface's name", is_text);
    optional(violations, entry, at, "mac", "a hardware address", |value| value.as_str().is_some_and(is_mac));
    optional(violations, entry, at, "sandbox", "a string", Value::is_string);
    if version >= SpecVersion::V1_1_0 {
        optional(violations, entry, at, "mtu", "an unsigned number", is_uint);
        optional(violations, entry, at, "socketPath", "a string", Value::is_string);
        optional(violations, entry, at, "pciID", "a string", Value::is_string);
    }
}

fn ip(violations: &mut Violations, version: SpecVersion, at: &str, entry: &Value, interfaces: usize) {
    required(violations, entry, at, "address", "an address with its prefix length, as \"192.0.2.1/24\"", is_cidr);
    optional(violations, entry, at, "gateway", "an address", is_address);
    optional(violations, entry, at, "interface", &format!("an index into the {interfaces} interfaces"), |value| {
        value.as_u64().is_some_and(|index| usize::try_from(index).is_ok_and(|index| index < interfaces))
    });
    if version < SpecVersion::V1_0_0 {
        let family = cidr(entry, "address").map(|address| if address.is_ipv4() { "4" } else { "6" });
        required(violations, entry, at, "version", &format!("\"{}\", the address's family", family.unwrap_or("4 or 6")), |value| {
            match family {
                Some(family) => value.as_str() == Some(family),
                None => matches!(value.as_str(), Some("4" | "6")),
            }
        });
    } else {
        require(violations, entry.get("version").is_none(), || {
            format!("{at}version: expected no such key, which ended with CNI 1.0.0; got {}", entry["version"])
        });
    }
    same_family(violations, at, entry, "address", "gateway");
}

fn route(violations: &mut Violations, version: SpecVersion, at: &str, entry: &Value) {
    required(violations, entry, at, "dst", "a destination with its prefix length, as \"0.0.0.0/0\"", is_cidr);
    optional(violations, entry, at, "gw", "an address", is_address);
    same_family(violations, at, entry, "dst", "gw");
    if version >= SpecVersion::V1_1_0 {
        for key in ["mtu", "advmss", "priority", "table", "scope"] {
            optional(violations, entry, at, key, "an unsigned number", is_uint);
        }
    }
}

fn same_family(violations: &mut Violations, at: &str, entry: &Value, prefix: &str, next_hop: &str) {
    let hop = entry.get(next_hop).and_then(Value::as_str).and_then(|text| text.parse::<IpAddr>().ok());
    if let (Some(network), Some(hop)) = (cidr(entry, prefix), hop) {
        require(violations, network.is_ipv4() == hop.is_ipv4(), || {
            format!("{at}{next_hop}: expected an address of {network}'s family, got {hop}")
        });
    }
}

/// The entries of an optional list.
fn list<'a>(violations: &mut Violations, result: &'a Value, key: &str) -> &'a [Value] {
    optional(violations, result, "", key, "a list", Value::is_array);
    result.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_list_of(holds: impl Fn(&Value) -> bool) -> impl Fn(&Value) -> bool {
    move |value| value.as_array().is_some_and(|list| list.iter().all(&holds))
}

fn is_address(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<IpAddr>().is_ok())
}

fn is_cidr(value: &Value) -> bool {
    // `IpNetwork` would also take an address without a prefix length.
    value.as_str().is_some_and(|text| text.contains('/') && text.parse::<IpNetwork>().is_ok())
}

fn cidr(entry: &Value, key: &str) -> Option<IpNetwork> {
    entry.get(key)?.as_str()?.parse().ok()
}

/// An Ethernet or longer (InfiniBand) address in hexadecimal octets; an interface without one may say "".
fn is_mac(text: &str) -> bool {
    let octets: Vec<_> = text.split(':').collect();
    text.is_empty() || (octets.len() >= 6 && octets.iter().all(|octet| octet.len() == 2 && u8::from_str_radix(octet, 16).is_ok()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good(version: SpecVersion) -> Value {
        let mut result = json!({
            "cniVersion": version.as_str(),
            "interfaces": [
                { "name": "cni0", "mac": "02:00:00:00:00:01" },
                { "name": "eth0", "mac": "02:00:00:00:00:0A", "sandbox": "/run/netns/a" },
            ],
            "ips": [
                { "address": "192.0.2.2/24", "gateway": "192.0.2.1", "interface": 1 },
                { "address": "2001:db8::2/128", "interface": 1 },
            ],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "192.0.2.1" }, { "dst": "::/0" }],
            "dns": { "nameservers": ["192.0.2.53"], "domain": "example", "search": ["example"], "options": ["ndots:5"] },
            "vendor.example/extra": true,
        });
        if version < SpecVersion::V1_0_0 {
            result["ips"][0]["version"] = json!("4");
            result["ips"][1]["version"] = json!("6");
        }
        if version >= SpecVersion::V1_1_0 {
            result["interfaces"][1]["mtu"] = json!(1500);
            result["routes"][0]["priority"] = json!(100);
        }
        result
    }

    #[test]
    fn a_good_result_conforms_in_every_version() {
        for version in SpecVersion::ALL {
            assert_eq!(success_result(version, &good(version)), Violations::new(), "{version}");
            assert_eq!(success_result(version, &json!({ "cniVersion": version.as_str() })), Violations::new(), "{version}");
        }
    }

    #[test]
    fn each_broken_key_is_one_violation() {
        let breaks: [(&str, Value); 17] = [
            ("/cniVersion", json!("0.2.0")),
            ("/interfaces/0/name", json!("")),
            ("/interfaces/1/mac", json!("02:00:00:00:00")),
            ("/interfaces/1/sandbox", json!(1)),
            ("/ips/0/address", json!("192.0.2.2")),
            ("/ips/0/address", json!("192.0.2.256/24")),
            ("/ips/0/gateway", json!("2001:db8::1")),
            ("/ips/0/gateway", json!("")),
            ("/ips/0/interface", json!(2)),
            ("/ips/0/interface", json!(-1)),
            ("/ips/0/interface", json!("1")),
            ("/routes/0/dst", json!("default")),
            ("/routes/0/gw", json!("2001:db8::1")),
            ("/dns", json!([])),
            ("/dns/nameservers/0", json!("ns.example")),
            ("/dns/search", json!("example")),
            ("/dns/domain", json!(["example"])),
        ];
        for version in SpecVersion::ALL {
            for (pointer, value) in &breaks {
                let mut broken = good(version);
                *broken.pointer_mut(pointer).unwrap() = value.clone();
                let mut violations = success_result(version, &broken);
                // An unreadable address leaves nothing to compare its "version" with.
                violations.retain(|violation| !violation.contains("the address's family"));
                assert_eq!(violations.len(), 1, "{version} {pointer} {value}: {violations:?}");
            }
        }
    }

    #[test]
    fn the_family_key_is_required_before_1_0_0_and_gone_since() {
        let mut old = good(SpecVersion::V0_4_0);
        old["ips"][0]["version"] = json!("6");
        assert_eq!(success_result(SpecVersion::V0_4_0, &old).len(), 1);
        old["ips"][0].as_object_mut().unwrap().remove("version");
        assert_eq!(success_result(SpecVersion::V0_4_0, &old).len(), 1);

        let mut new = good(SpecVersion::V1_0_0);
        new["ips"][0]["version"] = json!("4");
        assert_eq!(success_result(SpecVersion::V1_0_0, &new).len(), 1);
    }

    #[test]
    fn keys_of_1_1_0_are_judged_from_1_1_0_on() {
        for (pointer, key) in [("/interfaces/1", "mtu"), ("/routes/0", "priority"), ("/routes/0", "table")] {
            for (version, expected) in [(SpecVersion::V1_0_0, 0), (SpecVersion::V1_1_0, 1)] {
                let mut result = good(version);
                result.pointer_mut(pointer).unwrap()[key] = json!("many");
                assert_eq!(success_result(version, &result).len(), expected, "{version} {pointer} {key}");
            }
        }
    }
}
