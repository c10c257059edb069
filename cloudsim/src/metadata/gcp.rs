//! Google Cloud's metadata server ("View and query VM metadata" in Compute Engine's documentation).
//!
//! A tree of folders and texts, kebab-case in paths and camelCase in JSON. Alias ranges are an interface's prefixes; single further
//! addresses are alias ranges of /32. Supported are `recursive`, `wait_for_change`, `last_etag` and `timeout_sec`.

use http::header::{ETAG, LOCATION};
use http::{HeaderValue, Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{Document, HTML, Nic, header_text, parameter};
use crate::cloud::{Maintenance, MaintenanceKind, scatter};
use crate::exchange::{self, Exchange, HttpReply, Wait};
use crate::time::Millis;

const FLAVOR: &str = "metadata-flavor";
const ROOT: &str = "/computeMetadata/v1/";
const UPCOMING: &str = "instance/upcoming-maintenance";
const JSON: &str = "application/json";
const TEXT: &str = "application/text";
/// What waits without a limit of its own waits so long.
const LONGEST_WAIT: Millis = Millis::seconds(3600);

pub(super) fn answer<B>(document: &Document, now: Millis, request: &Request<B>, waited: Option<&Wait>) -> Exchange {
    if request.method() != Method::GET {
        return Exchange::now(signed(exchange::reply(StatusCode::METHOD_NOT_ALLOWED, HTML, "")));
    }
    if header_text(request, FLAVOR) != Some("Google") {
        let page = "<html><title>Error 403 (Forbidden)!!1</title><p>Missing required header: Metadata-Flavor</html>";
        return Exchange::now(signed(exchange::reply(StatusCode::FORBIDDEN, HTML, page)));
    }
    let path = request.uri().path();
    let Some(inside) = path.strip_prefix(ROOT) else { return Exchange::now(not_found()) };
    let tree = tree(document);
    let Some(found) = find(&tree, inside) else {
        return Exchange::now(if inside == UPCOMING { told_of_nothing() } else { not_found() });
    };
    let is_folder = found.is_object() || found.is_array();
    // This one is given whole, with a slash behind it or without.
    let is_whole = inside == UPCOMING && parameter(request, "alt").as_deref() == Some("json");
    if is_folder && !is_whole && !path.ends_with('/') {
        return Exchange::now(moved(path, request.uri().query()));
    }
    let etag = etag(found);
    if parameter(request, "wait_for_change").as_deref() == Some("true") {
        let known = waited.map(|wait| wait.etag.clone()).or_else(|| parameter(request, "last_etag"));
        let is_new = known.as_ref().is_some_and(|known| *known != etag);
        let until = waited.map_or_else(|| now + timeout(request), |wait| wait.until);
        if !is_new && now < until {
            return Exchange::Wait(Wait { until, etag });
        }
    }
    let mut reply = match found {
        Value::String(text) => exchange::reply(StatusCode::OK, TEXT, text.clone()),
        Value::Object(_) | Value::Array(_) if is_whole || parameter(request, "recursive").as_deref() == Some("true") => {
            exchange::reply(StatusCode::OK, JSON, found.to_string())
        }
        Value::Object(_) | Value::Array(_) => exchange::reply(StatusCode::OK, TEXT, listing(found)),
        other => exchange::reply(StatusCode::OK, TEXT, other.to_string()),
    };
    if let Ok(value) = HeaderValue::from_str(&etag) {
        reply.headers_mut().insert(ETAG, value);
    }
    Exchange::now(signed(reply))
}

fn timeout<B>(request: &Request<B>) -> Millis {
    let seconds = parameter(request, "timeout_sec").and_then(|text| text.parse().ok());
    seconds.map_or(LONGEST_WAIT, |seconds| Millis::seconds(seconds).min(LONGEST_WAIT))
}

/// Every reply says that it is Google's.
fn signed(mut reply: HttpReply) -> HttpReply {
    reply.headers_mut().insert(FLAVOR, HeaderValue::from_static("Google"));
    reply.headers_mut().insert(http::header::SERVER, HeaderValue::from_static("Metadata Server for VM"));
    reply
}

fn not_found() -> HttpReply {
    signed(exchange::reply(StatusCode::NOT_FOUND, HTML, "<html><title>Error 404 (Not Found)!!1</title></html>"))
}

/// Of what is planned for the host: that there is nothing is said as if it were not known.
fn told_of_nothing() -> HttpReply {
    let body = r#"{ "error": "no notifications have been received yet, try again later" }"#;
    signed(exchange::reply(StatusCode::SERVICE_UNAVAILABLE, JSON, body))
}

fn moved(path: &str, query: Option<&str>) -> HttpReply {
    let mut reply = exchange::reply(StatusCode::MOVED_PERMANENTLY, TEXT, "");
    let location = query.map_or_else(|| format!("{path}/"), |query| format!("{path}/?{query}"));
    if let Ok(location) = HeaderValue::from_str(&location) {
        reply.headers_mut().insert(LOCATION, location);
    }
    signed(reply)
}

fn find<'a>(tree: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('/').filter(|segment| !segment.is_empty()).try_fold(tree, |folder, segment| match folder {
        Value::Array(items) => items.get(segment.parse::<usize>().ok()?),
        Value::Object(_) => folder.get(camel_case(segment)),
        _ => None,
    })
}

fn listing(folder: &Value) -> String {
    let name = |name: String, value: &Value| if value.is_object() || value.is_array() { format!("{name}/") } else { name };
    let names: Vec<_> = match folder {
        Value::Array(items) => items.iter().enumerate().map(|(number, item)| name(number.to_string(), item)).collect(),
        Value::Object(entries) => entries.iter().map(|(key, value)| name(kebab_case(key), value)).collect(),
        _ => Vec::new(),
    };
    names.iter().map(|name| format!("{name}\n")).collect()
}

fn camel_case(kebab: &str) -> String {
    let mut words = kebab.split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let capital = letters.next().map(|letter| letter.to_ascii_uppercase());
        name + &capital.into_iter().chain(letters).collect::<String>()
    })
}

fn kebab_case(camel: &str) -> String {
    let mut name = String::new();
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// The same for the same state, and another for another.
fn etag(value: &Value) -> String {
    let hash = value.to_string().bytes().fold(0, |hash, byte| scatter(hash ^ u64::from(byte)));
    format!("{hash:016x}")
}

fn tree(document: &Document) -> Value {
    let Document { instance, region, account, .. } = document;
    let name = instance.tags.get("Name").cloned().unwrap_or_else(|| format!("vm-{:x}", instance.id.0));
    let kind = instance.maintenance.map(|maintenance| maintenance.kind);
    let event = match kind {
        Some(MaintenanceKind::Reboot) => "TERMINATE_ON_HOST_MAINTENANCE",
        Some(MaintenanceKind::Pause) => "MIGRATE_ON_HOST_MAINTENANCE",
        Some(MaintenanceKind::Planned | MaintenanceKind::Reclaim) | None => "NONE",
    };
    let mut tree = json!({
        "instance": {
            "cpuPlatform": "Intel Ice Lake",
            "hostname": format!("{name}.c.cloudsim.internal"),
            "id": instance.id.0.to_string(),
            "machineType": format!("projects/{account}/machineTypes/{}", instance.instance_type),
            "maintenanceEvent": event,
            "name": name,
            "preempted": if kind == Some(MaintenanceKind::Reclaim) { "TRUE" } else { "FALSE" },
            "networkInterfaces": document.nics.iter().map(|nic| interface(account, nic)).collect::<Vec<_>>(),
            "zone": format!("projects/{account}/zones/{}", instance.availability_zone),
        },
        "project": { "numericProjectId": account, "projectId": "cloudsim", "region": region },
    });
    if let Some(Maintenance { kind: MaintenanceKind::Planned, begins }) = instance.maintenance {
        tree["instance"]["upcomingMaintenance"] = json!({
            "canReschedule": "TRUE", "maintenanceStatus": "PENDING", "type": "SCHEDULED",
            "windowStartTime": begins.iso8601_seconds(), "windowEndTime": (begins + Millis::seconds(7200)).iso8601_seconds(),
        });
    }
    tree
}

fn interface(account: &str, nic: &Nic) -> Value {
    let single = nic.interface.secondary.iter().map(|address| format!("{address}/32"));
    let aliases = nic.interface.ipv4_prefixes.iter().map(ToString::to_string).chain(single);
    let mut interface = json!({
        "accessConfigs": [],
        "dnsServers": ["169.254.169.254"],
        "forwardedIps": [],
        "gateway": nic.gateway(),
        "ip": nic.interface.primary,
        "ipAliases": aliases.collect::<Vec<_>>(),
        "mac": nic.interface.mac.to_string(),
        "mtu": 1460,
        "network": format!("projects/{account}/networks/cloudsim"),
        "subnetmask": nic.cidr.mask(),
        "targetInstanceIps": [],
    });
    if !nic.ipv6().is_empty() {
        interface["ipv6"] = json!(nic.ipv6());
    }
    interface
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths_and_in_json_are_each_others() {
        for (kebab, camel) in [("network-interfaces", "networkInterfaces"), ("ip", "ip"), ("target-instance-ips", "targetInstanceIps")] {
            assert_eq!(camel_case(kebab), camel);
            assert_eq!(kebab_case(camel), kebab);
        }
    }

    #[test]
    fn a_folder_is_listed_one_name_a_line() {
        assert_eq!(listing(&json!({ "ipAliases": [], "ip": "x" })), "ip\nip-aliases/\n");
        assert_eq!(listing(&json!([])), "");
    }
}
