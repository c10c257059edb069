//! IMDSv2 ("Use the Instance Metadata Service" and "Instance metadata categories" in the Amazon EC2 user guide).
//!
//! Version 2 only: without a token every answer is 401. What an instance does not have has no key: 404, not an empty text.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderValue, Method, Request, StatusCode};
use serde_json::json;

use super::{Document, HTML, IMAGE, Nic, TEXT, header_text, lines};
use crate::cloud::{Maintenance, MaintenanceKind, scatter};
use crate::exchange::{self, Exchange, HttpReply};
use crate::faults::MetadataFaults;
use crate::time::Millis;

const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN: &str = "x-aws-ec2-metadata-token";
/// How long credentials of a role are good.
const CREDENTIALS_LAST: Millis = Millis::seconds(6 * 3600);

pub(super) fn answer<B>(document: &Document, now: Millis, request: &Request<B>, faults: &MetadataFaults) -> Exchange {
    let path = request.uri().path();
    if request.method() == Method::PUT && path == "/latest/api/token" {
        // The reply's hop limit is too low to reach the caller: it hears nothing.
        if faults.hops.max(1) > document.instance.hop_limit {
            return Exchange::NoReply { after: Millis::ZERO };
        }
        return Exchange::now(issue(document, now, request));
    }
    let valid = header_text(request, TOKEN).is_some_and(|token| is_valid(document, now, token));
    Exchange::now(match path.trim_start_matches('/').split_once('/') {
        _ if request.method() != Method::GET => error(StatusCode::METHOD_NOT_ALLOWED),
        _ if !valid => error(StatusCode::UNAUTHORIZED),
        Some((version, rest)) if is_version(version) => find(&leaves(document, now, rest.trim_end_matches('/')), rest),
        _ => error(StatusCode::NOT_FOUND),
    })
}

fn issue<B>(document: &Document, now: Millis, request: &Request<B>) -> HttpReply {
    if request.headers().contains_key("x-forwarded-for") {
        return error(StatusCode::FORBIDDEN);
    }
    let seconds = header_text(request, TTL).and_then(|text| text.parse().ok()).filter(|seconds| (1..=21_600).contains(seconds));
    let Some(seconds) = seconds else { return error(StatusCode::BAD_REQUEST) };
    let mut reply = exchange::reply(StatusCode::OK, TEXT, token(document, now + Millis::seconds(seconds)));
    reply.headers_mut().insert(TTL, HeaderValue::from(seconds));
    reply
}

/// A token says when it ends and proves that it is ours; nobody has to remember it.
fn token(document: &Document, until: Millis) -> String {
    let proof = scatter(document.seed ^ scatter(document.instance.id.0) ^ until.0);
    format!("AQAEA{:016x}{proof:016x}==", until.0)
}

fn is_valid(document: &Document, now: Millis, given: &str) -> bool {
    let until = given.get(5..21).and_then(|digits| u64::from_str_radix(digits, 16).ok()).map(Millis);
    until.is_some_and(|until| now < until && token(document, until) == given)
}

fn is_version(segment: &str) -> bool {
    segment == "latest" || (segment.len() == 10 && segment.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'))
}

/// The text of a key, or the names in a folder.
fn find(leaves: &BTreeMap<String, String>, path: &str) -> HttpReply {
    let path = path.trim_end_matches('/');
    if let Some(text) = leaves.get(path) {
        return exchange::reply(StatusCode::OK, TEXT, text.clone());
    }
    let folder = if path.is_empty() { String::new() } else { format!("{path}/") };
    let inside = leaves.keys().filter_map(|key| key.strip_prefix(&folder));
    let names: BTreeSet<_> = inside.map(|rest| rest.split_inclusive('/').next().unwrap_or(rest)).collect();
    if names.is_empty() { error(StatusCode::NOT_FOUND) } else { exchange::reply(StatusCode::OK, TEXT, lines(names)) }
}

fn error(status: StatusCode) -> HttpReply {
    let (code, reason) = (status.as_u16(), status.canonical_reason().unwrap_or_default());
    let page = format!(
        "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<html><head><title>{code} - {reason}</title></head>\
         <body><h1>{code} - {reason}</h1></body></html>\n"
    );
    exchange::reply(status, HTML, page)
}

/// The keys that begin with `path`, with their texts. No other text is written: a request asks for one of dozens.
fn leaves(document: &Document, now: Millis, path: &str) -> BTreeMap<String, String> {
    let Document { instance, region, .. } = document;
    let mut leaves = BTreeMap::new();
    let mut add = |key: &str, text: &dyn Fn() -> String| {
        if key.starts_with(path) {
            leaves.insert(key.to_owned(), text());
        }
    };
    add("dynamic/instance-identity/document", &|| identity(document));
    add("meta-data/ami-id", &|| IMAGE.to_owned());
    add("meta-data/instance-id", &|| instance.id.to_string());
    add("meta-data/instance-type", &|| instance.instance_type.clone());
    add("meta-data/instance-life-cycle", &|| "on-demand".to_owned());
    add("meta-data/placement/availability-zone", &|| instance.availability_zone.clone());
    add("meta-data/placement/region", &|| (*region).to_owned());
    add("meta-data/services/domain", &|| "amazonaws.com".to_owned());
    add("meta-data/services/partition", &|| "aws".to_owned());
    if let Some(primary) = document.primary() {
        add("meta-data/mac", &|| primary.interface.mac.to_string());
        add("meta-data/local-ipv4", &|| primary.interface.primary.to_string());
        if let Some(address) = primary.ipv6().first() {
            add("meta-data/ipv6", &|| address.to_string());
        }
    }
    match instance.maintenance {
        Some(Maintenance { kind: MaintenanceKind::Reboot | MaintenanceKind::Planned, begins }) => {
            add("meta-data/events/maintenance/scheduled", &|| scheduled(begins));
        }
        Some(Maintenance { kind: MaintenanceKind::Reclaim, begins }) => {
            add("meta-data/spot/instance-action", &|| json!({ "action": "terminate", "time": begins.iso8601_seconds() }).to_string());
        }
        // EC2 announces none.
        Some(Maintenance { kind: MaintenanceKind::Pause, .. }) | None => {}
    }
    if let Some(role) = &instance.role {
        add(&format!("meta-data/iam/security-credentials/{role}"), &|| credentials(document, now));
    }
    for nic in &document.nics {
        let folder = format!("meta-data/network/interfaces/macs/{}/", nic.interface.mac);
        let inside = if folder.starts_with(path) { Some("") } else { path.strip_prefix(&folder) };
        if let Some(inside) = inside {
            interface(document, nic, |key, text| {
                if key.starts_with(inside) {
                    add(&format!("{folder}{key}"), text);
                }
            });
        }
    }
    leaves
}

fn interface(document: &Document, nic: &Nic, mut add: impl FnMut(&str, &dyn Fn() -> String)) {
    let Nic { interface, index, cidr, ipv6_cidr } = nic;
    add("device-number", &|| index.to_string());
    add("interface-id", &|| interface.id.to_string());
    add("local-ipv4s", &|| lines(interface.ipv4()));
    add("mac", &|| interface.mac.to_string());
    add("owner-id", &|| document.account.to_owned());
    add("security-group-ids", &|| lines(&interface.security_groups));
    add("security-groups", &|| lines(&interface.security_groups));
    add("subnet-id", &|| interface.subnet.to_string());
    add("subnet-ipv4-cidr-block", &|| cidr.to_string());
    add("vpc-id", &|| document.vpc.to_string());
    add("vpc-ipv4-cidr-block", &|| lines(document.vpc_cidrs.first()));
    add("vpc-ipv4-cidr-blocks", &|| lines(document.vpc_cidrs.iter()));
    // What it does not have has no key.
    let mut add_list = |key, is_empty: bool, text: &dyn Fn() -> String| {
        if !is_empty {
            add(key, text);
        }
    };
    add_list("ipv4-prefix", interface.ipv4_prefixes.is_empty(), &|| lines(&interface.ipv4_prefixes));
    add_list("ipv6-prefix", interface.ipv6_prefixes.is_empty(), &|| lines(&interface.ipv6_prefixes));
    add_list("ipv6s", interface.ipv6.is_empty(), &|| lines(&interface.ipv6));
    add_list("subnet-ipv6-cidr-blocks", ipv6_cidr.is_none(), &|| lines(ipv6_cidr));
    add_list("vpc-ipv6-cidr-blocks", document.vpc_ipv6_cidrs.is_empty(), &|| lines(document.vpc_ipv6_cidrs.iter()));
    let card = interface.attachment.as_ref().map_or(0, |attachment| attachment.network_card);
    if document.instance.limits().cards > 1 {
        add("network-card", &|| card.to_string());
    }
}

/// With one that is over, as they are listed for a week.
fn scheduled(begins: Millis) -> String {
    let event = |id: &str, state: &str, begins: Millis| {
        json!({
            "NotBefore": begins.in_words(), "Code": "system-reboot", "Description": "scheduled reboot", "EventId": id,
            "NotAfter": (begins + Millis::seconds(7200)).in_words(), "State": state,
        })
    };
    let over = event("instance-event-0aaaaaaaaaaaaaaa1", "completed", begins - Millis::seconds(86_400));
    json!([over, event("instance-event-0aaaaaaaaaaaaaaa2", "active", begins)]).to_string()
}

fn identity(document: &Document) -> String {
    let Document { account, region, instance, .. } = document;
    let identity = json!({
        "accountId": account,
        "architecture": if instance.limits().arm { "arm64" } else { "x86_64" },
        "availabilityZone": instance.availability_zone,
        "imageId": IMAGE,
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "pendingTime": instance.launched_at.iso8601_seconds(),
        "privateIp": document.primary().map(|nic| nic.interface.primary),
        "region": region,
        "version": "2017-09-30",
    });
    format!("{identity:#}")
}

/// They change every hour and are good for six, as EC2 hands out the next ones before the last have ended.
fn credentials(document: &Document, now: Millis) -> String {
    let updated = Millis(now.0 - now.0 % Millis::seconds(3600).0);
    let secret = scatter(document.seed ^ document.instance.id.0 ^ updated.0);
    let credentials = json!({
        "Code": "Success",
        "LastUpdated": updated.iso8601_seconds(),
        "Type": "AWS-HMAC",
        "AccessKeyId": format!("ASIA{secret:016X}"),
        "SecretAccessKey": format!("{secret:040x}"),
        "Token": format!("{secret:064x}"),
        "Expiration": (updated + CREDENTIALS_LAST).iso8601_seconds(),
    });
    format!("{credentials:#}")
}
