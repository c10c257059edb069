use proptest::prelude::*;
use serde_json::json;

use super::*;

fn ours() -> AddResult {
    AddResult::new(
        vec![Interface::new("bw0", [2, 0, 0, 0, 0, 1], 9001, ""), Interface::new("eth0", [2, 0, 0, 0, 0, 2], 9001, "/run/netns/x")],
        vec![
            IpConfig::new("10.0.1.17/32".parse().unwrap(), "169.254.1.1".parse().unwrap(), 1),
            IpConfig::new("fd00::17/128".parse().unwrap(), "fe80::1".parse().unwrap(), 1),
        ],
        vec![Route::new("0.0.0.0/0".parse().unwrap(), "169.254.1.1".parse().unwrap())],
    )
}

fn json_behind(previous: Option<PrevResult>, version: Version) -> Value {
    serde_json::from_str(&ours().to_json(version, previous)).unwrap()
}

/// What the plugins of a chain may hand on, with fields of 1.1.0, of later versions and of their own at every level.
fn theirs() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            { "name": "dummy0", "mac": "02:00:00:00:00:09", "mtu": 1500, "sandbox": "/run/netns/x", "socketPath": "/run/vhost", "pciID": "0000:00:1f.6", "own": [1] },
            { "name": "host0" },
        ],
        "ips": [
            { "address": "192.0.2.1/24", "gateway": "192.0.2.254", "interface": 0, "own": { "a": null } },
            { "address": "2001:db8::1/64", "gateway": "", "interface": -1 },
        ],
        "routes": [
            { "dst": "198.51.100.0/24", "gw": "192.0.2.254", "mtu": 1400, "advmss": 1300, "priority": 5, "table": 100, "scope": 253 },
            { "dst": "2001:db8:1::/48", "gw": "" },
        ],
        "dns": { "nameservers": ["192.0.2.53"], "domain": "example", "search": ["example"], "options": ["ndots:5"] },
        "own": true,
    })
}

/// Makes members `null` or takes them away, at every depth, as `choices` say.
fn thin_out(value: &mut Value, choices: &mut impl Iterator<Item = u8>) {
    match value {
        Value::Object(members) => members.retain(|_, member| match choices.next() {
            Some(0) => false,
            Some(1) => {
                *member = Value::Null;
                true
            }
            _ => {
                thin_out(member, choices);
                true
            }
        }),
        Value::Array(entries) => {
            for entry in entries {
                if choices.next() == Some(1) {
                    *entry = Value::Null;
                } else {
                    thin_out(entry, choices);
                }
            }
        }
        _ => {}
    }
}

fn thinned() -> impl Strategy<Value = Value> {
    prop::collection::vec(0..8_u8, 120).prop_map(|choices| {
        let mut value = theirs();
        thin_out(&mut value, &mut choices.into_iter());
        value
    })
}

proptest! {
    #[test]
    fn a_result_reads_whatever_of_it_is_null_or_missing(value in thinned()) {
        let result: AddResult = serde_json::from_value(value.clone()).unwrap();
        // Addresses name their interface by number: an interface that is null must not move the others.
        let count = value["interfaces"].as_array().map_or(0, Vec::len);
        prop_assert_eq!(result.interfaces.len(), count);
    }

    #[test]
    fn what_others_made_passes_through_as_it_came(value in thinned(), version in prop::sample::select(&Version::ALL[..])) {
        let whole = json_behind(Some(serde_json::from_value(value.clone()).unwrap()), version);
        let mine = json_behind(None, version);
        for (key, theirs) in value.as_object().unwrap() {
            match theirs {
                _ if key == "cniVersion" => {}
                Value::Array(theirs) => {
                    let all = whole[key].as_array().unwrap();
                    prop_assert_eq!(all.len(), theirs.len() + mine[key].as_array().unwrap().len());
                    for (theirs, passed) in theirs.iter().zip(all) {
                        let mut passed = passed.clone();
                        passed.as_object_mut().and_then(|members| members.remove("version"));
                        prop_assert_eq!(&passed, theirs);
                    }
                }
                Value::Null => prop_assert!(LISTS.contains(&key.as_str()) || whole.get(key).is_none()),
                theirs => prop_assert_eq!(&whole[key], theirs),
            }
        }
        prop_assert_eq!(&whole["cniVersion"], version.as_str());
        let interfaces = whole["interfaces"].as_array().unwrap();
        for ip in whole["ips"].as_array().unwrap().iter().rev().take(2) {
            let index = usize::try_from(ip["interface"].as_u64().unwrap()).unwrap();
            prop_assert_eq!(&interfaces[index]["name"], "eth0");
        }
    }
}

/// What libcni 1.3.1 makes of results with something missing (`types100.NewResult`, then `MarshalJSON`).
#[test]
fn what_the_reference_library_writes_is_read() {
    for (json, counts) in [
        (r#"{"cniVersion":"1.1.0"}"#, [0, 0, 0]),
        (r#"{"cniVersion":"1.1.0","interfaces":[null,{"name":"a"}],"ips":[{"address":"10.0.0.1/24"}]}"#, [2, 1, 0]),
        (r#"{"cniVersion":"1.1.0","ips":[null]}"#, [0, 0, 0]),
        (
            r#"{"cniVersion":"0.4.0","ips":[{"version":"6","address":"<nil>","gateway":"10.0.0.1"}],"routes":[{"dst":"<nil>"}],"dns":{}}"#,
            [0, 0, 0],
        ),
    ] {
        let AddResult { interfaces, ips, routes, .. } = serde_json::from_str(json).unwrap();
        assert_eq!([interfaces.len(), ips.len(), routes.len()], counts, "{json}");
    }
}

#[test]
fn section_5_ips_version_until_0_4_0_only() {
    for version in Version::ALL {
        let value = json_behind(None, version);
        let old = version < Version::V1_0_0;
        assert_eq!(value["ips"][0].get("version").and_then(Value::as_str), old.then_some("4"), "{version}");
        assert_eq!(value["ips"][1].get("version").and_then(Value::as_str), old.then_some("6"), "{version}");
        assert_eq!(value["cniVersion"], version.as_str());
    }
}

#[test]
fn section_5_mtu_since_1_1_0_only() {
    for version in Version::ALL {
        let has = json_behind(None, version)["interfaces"][1].get("mtu").is_some();
        assert_eq!(has, version == Version::V1_1_0, "{version}");
    }
}

#[test]
fn chain_keeps_what_was_there_and_shifts_indices() {
    let previous = json!({
        "cniVersion": "0.4.0", "interfaces": [null, { "name": "dummy0", "later": 1 }], "routes": null,
        "ips": [{ "version": "4", "address": "192.0.2.1/24", "interface": 1 }],
        "dns": { "nameservers": ["10.0.0.2"] }, "own": true,
    });
    let value = json_behind(Some(serde_json::from_value(previous).unwrap()), Version::V1_0_0);
    assert_eq!(value["interfaces"].as_array().unwrap().len(), 4);
    assert_eq!(value["interfaces"][1]["later"], 1);
    assert_eq!(value["ips"][0]["interface"], 1);
    assert_eq!(value["ips"][1]["interface"], 3);
    assert!(value["ips"][0].get("version").is_none());
    assert_eq!(value["routes"].as_array().unwrap().len(), 1);
    assert_eq!(value["dns"]["nameservers"][0], "10.0.0.2");
    assert_eq!((value["own"].as_bool(), value["cniVersion"].as_str()), (Some(true), Some("1.0.0")));
}

#[test]
fn what_is_no_result_is_refused_by_name() {
    for (json, part) in [("7", "map"), ("[]", "map"), (r#"{"interfaces":7}"#, "interfaces is 7"), (r#"{"routes":{}}"#, "routes is {}")] {
        let why = serde_json::from_str::<PrevResult>(json).unwrap_err().to_string();
        assert!(why.contains(part), "{json}: {why}");
    }
}

#[test]
fn result_reads_back_what_it_writes() {
    for version in Version::ALL {
        let text = ours().to_json(version, None);
        let back: AddResult = serde_json::from_str(&text).unwrap();
        assert_eq!(back.to_json(version, None), text);
    }
}
