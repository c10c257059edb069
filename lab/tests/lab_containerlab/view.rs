//! A node as a topology's author sees it, whoever has deployed it: what two runners must agree on.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use lab::topology::NodeSpec;
use serde_json::Value;

/// The protocol of barewired's routes, as `ip` shows a number that has no name.
const BAREWIRED: &str = "179";

/// Facts by what they are about.
pub(crate) type View = BTreeMap<String, String>;

/// The view of a node, by programs that are run in it.
pub(crate) fn of(spec: &NodeSpec, run: &dyn Fn(&[&str]) -> Result<String>) -> Result<View> {
    let mut view = View::new();
    view.insert("host name".to_owned(), run(&["hostname"])?.trim().to_owned());
    for link in list(&run(&["ip", "-json", "link", "show"])?)? {
        let up = link["flags"].as_array().is_some_and(|flags| flags.contains(&Value::from("UP")));
        view.insert(format!("link {}", link["ifname"]), format!("up {up} mtu {}", link["mtu"]));
    }
    for link in list(&run(&["ip", "-json", "address", "show"])?)? {
        let addresses = link["addr_info"].as_array().into_iter().flatten();
        // The kernel makes these of MAC addresses, which are drawn by lot.
        let given = addresses.filter(|address| address["scope"] != "link" || address["local"] == "fe80::1");
        for address in given {
            let name = format!("address {}/{} of {}", address["local"], address["prefixlen"], link["ifname"]);
            view.insert(name, format!("scope {} tentative {}", address["scope"], address["tentative"]));
        }
    }
    for family in ["-4", "-6"] {
        for route in list(&run(&["ip", family, "-json", "route", "show"])?)? {
            // What barewired has made is no part of the topology: it runs there already, and here not yet.
            if route["protocol"] == BAREWIRED {
                continue;
            }
            let facts = ["type", "gateway", "prefsrc", "scope", "metric", "flags"].map(|key| format!("{key} {}", route[key]));
            view.insert(format!("route {family} {} {}", route["dst"], route["dev"]), facts.join(" "));
        }
    }
    // `table inet fabric`. In containerlab's nodes the daemon runs by then, and has one of its own.
    for table in run(&["nft", "list", "tables"])?.lines().filter(|table| !table.ends_with(" barewire")) {
        let words: Vec<&str> = ["nft", "--stateless", "list"].into_iter().chain(table.split(' ')).collect();
        view.insert(table.to_owned(), run(&words)?);
    }
    let parameters: Vec<String> = spec.sysctls.keys().map(|key| format!("/proc/sys/{}", key.replace('.', "/"))).collect();
    if !parameters.is_empty() {
        let argv: Vec<&str> = ["cat"].into_iter().chain(parameters.iter().map(String::as_str)).collect();
        let values = run(&argv)?;
        let wanted: Vec<&str> = spec.sysctls.values().map(String::as_str).collect();
        ensure!(values.lines().collect::<Vec<_>>() == wanted, "sysctls {:?}, but they are {values:?}", spec.sysctls);
    }
    for bind in &spec.binds {
        let target = bind.target.display().to_string();
        view.insert(format!("file {target}"), run(&["cat", &target])?);
        let writes = run(&["sh", "-c", &format!("if (: >>{target}) 2>/dev/null; then echo yes; else echo no; fi")])?;
        ensure!(writes.trim() == if bind.read_only { "no" } else { "yes" }, "{target} can be written: {}", writes.trim());
    }
    for (name, wanted) in &spec.env {
        let value = run(&["sh", "-c", &format!("echo \"${name}\"")])?;
        ensure!(value.trim() == wanted, "${name} is {:?}, not {wanted:?}", value.trim());
    }
    Ok(view)
}

/// That two runners have made the same of a node.
pub(crate) fn must_be_equal(node: &str, ours: &View, theirs: &View) -> Result<()> {
    let nothing = "nothing".to_owned();
    let keys = ours.keys().chain(theirs.keys());
    let pairs = keys.map(|key| (key, ours.get(key).unwrap_or(&nothing), theirs.get(key).unwrap_or(&nothing)));
    let mut different: Vec<String> = pairs
        .filter(|(_, ours, theirs)| ours != theirs)
        .map(|(key, ours, theirs)| format!("{key}: ours has {ours}, containerlab's {theirs}"))
        .collect();
    different.dedup();
    ensure!(different.is_empty(), "{node}: {}", different.join("\n  "));
    Ok(())
}

fn list(json: &str) -> Result<Vec<Value>> {
    // No route at all is no list either.
    if json.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(json).with_context(|| format!("not a list: {json}"))
}
