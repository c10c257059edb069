//! The success result: section 5, "Success".

use serde_json::{Value, json};

use crate::{
    case::{Case, Stop, ensure, fail, skip},
    shape,
    stage::Stage,
    version::SpecVersion,
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "5.success.structure",
        requirement: "Every key of an ADD's result has the type and form that its version of the specification gives it.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let violations = shape::success_result(stage.version(), &stage.attached()?.result);
            ensure(violations.is_empty(), || violations.join("; "))
        },
    },
    Case {
        name: "5.success.nothing-else-on-stdout",
        requirement: "ADD prints its result and nothing else to stdout.",
        since: SpecVersion::V0_3_1,
        run: |stage| stage.attached().map(|_| ()),
    },
    Case {
        name: "5.success.lists-the-interface",
        requirement: "interfaces lists the interface in the pod under its name, with CNI_NETNS as its sandbox.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            let (_, entry) = attachment.entry()?;
            let netns = attachment.pod.netns.path().display().to_string();
            ensure(entry["sandbox"] == netns.as_str(), || format!("expected sandbox {netns:?}, got {}", entry["sandbox"]))
        },
    },
    Case {
        name: "5.success.ips-name-their-interface",
        requirement: "Each address says by an index which of the interfaces it belongs to; the pod's interface has one.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let attachment = stage.attached()?;
            let (index, _) = attachment.entry()?;
            let ips = attachment.result["ips"].as_array().map_or(&[][..], Vec::as_slice);
            if ips.is_empty() {
                return skip("the result has no addresses");
            }
            let unnamed: Vec<_> = ips.iter().filter(|ip| ip["interface"].is_null()).collect();
            ensure(unnamed.is_empty(), || format!("expected an index \"interface\" in each address, got {unnamed:?}"))?;
            ensure(ips.iter().any(|ip| ip["interface"].as_u64() == u64::try_from(index).ok()), || {
                format!("expected an address of interfaces[{index}], got {ips:?}")
            })
        },
    },
    Case {
        name: "5.success.includes-prev-result",
        requirement: "The result of an ADD with a prevResult is that result with the plugin's own changes.",
        since: SpecVersion::V0_3_1,
        run: includes_prev_result,
    },
    Case {
        name: "5.success.prev-result-null",
        requirement: "ADD reads null as absent: a prevResult with null for its lists is one without them.",
        since: SpecVersion::V0_3_1,
        run: |stage| {
            let pod = stage.pod()?;
            let previous = json!({ "cniVersion": stage.version().as_str(), "interfaces": null, "ips": null, "routes": null, "dns": null });
            let result = stage.call_for("ADD", &pod, "eth0").conf(&stage.conf_with("prevResult", previous)).run()?.result()?;
            let violations = shape::success_result(stage.version(), &result);
            ensure(violations.is_empty(), || violations.join("; "))
        },
    },
    Case {
        name: "5.success.keeps-fields-of-prev-result",
        requirement: "What a prevResult tells of other plugins' interfaces, addresses and routes stands in the result as it came.",
        since: SpecVersion::V1_1_0,
        run: keeps_fields_of_prev_result,
    },
];

fn keeps_fields_of_prev_result(stage: &Stage<'_>) -> Result<(), Stop> {
    let pod = stage.pod()?;
    let previous = json!({
        "cniVersion": stage.version().as_str(),
        "interfaces": [{ "name": "conform-prev", "mac": "02:00:00:c0:f0:01", "mtu": 1400, "socketPath": "/run/conform", "pciID": "0000:00:1f.6" }],
        "ips": [{ "address": "192.0.2.77/24", "gateway": "192.0.2.1", "interface": 0 }],
        "routes": [{ "dst": "198.51.100.0/24", "gw": "192.0.2.1", "mtu": 1300, "advmss": 1260, "priority": 7, "table": 100, "scope": 0 }],
    });
    let result = stage.call_for("ADD", &pod, "eth0").conf(&stage.conf_with("prevResult", previous.clone())).run()?.result()?;
    for list in ["interfaces", "ips", "routes"] {
        let kept = result[list].as_array().is_some_and(|entries| entries.contains(&previous[list][0]));
        ensure(kept, || format!("expected {} among {list} of the result, got {}", previous[list][0], result[list]))?;
    }
    Ok(())
}

fn includes_prev_result(stage: &Stage<'_>) -> Result<(), Stop> {
    if stage.version() < SpecVersion::V1_0_0 {
        return skip("before CNI 1.0.0 a plugin may suppress a prevResult");
    }
    let pod = stage.pod()?;
    let previous = json!({
        "cniVersion": stage.version().as_str(),
        "interfaces": [{ "name": "conform-prev", "mac": "02:00:00:c0:f0:01" }],
        "ips": [{ "address": "192.0.2.77/24", "gateway": "192.0.2.1", "interface": 0 }],
        "routes": [],
        "dns": { "nameservers": ["192.0.2.53"], "search": ["conform.example"] },
    });
    let conf = stage.conf_with("prevResult", previous.clone());
    let result = stage.call_for("ADD", &pod, "eth0").conf(&conf).run()?.result()?;
    let violations = shape::success_result(stage.version(), &result);
    ensure(violations.is_empty(), || violations.join("; "))?;

    let empty = Vec::new();
    let list = |key: &str| result[key].as_array().unwrap_or(&empty);
    let named = |name: &str| list("interfaces").iter().position(|interface| interface["name"] == name);
    let Some(before) = named("conform-prev") else {
        return fail(format!("expected the interface \"conform-prev\" of prevResult in the result, got {result}"));
    };
    ensure(named("eth0").is_some(), || format!("expected the plugin's own interface \"eth0\" beside prevResult's, got {result}"))?;
    let address = list("ips").iter().find(|ip| ip["address"] == "192.0.2.77/24");
    let owner = address.and_then(|ip| ip["interface"].as_u64());
    ensure(owner == u64::try_from(before).ok(), || {
        format!("expected prevResult's address 192.0.2.77/24 on interfaces[{before}] in the result, got {result}")
    })?;
    let servers = result["dns"]["nameservers"].as_array().unwrap_or(&empty);
    ensure(servers.contains(&Value::from("192.0.2.53")), || {
        format!("expected prevResult's name server in the result, got dns {}", result["dns"])
    })
}
