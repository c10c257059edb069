//! Azure's instance metadata service ("Azure Instance Metadata Service for virtual machines" in Azure's documentation).
//!
//! `/metadata/instance` and everything below it. An ipConfiguration is an address of an interface, or a block of
//! addresses. None is marked as the primary; it is the first, but for a fault.

use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{Document, JSON, Nic, TEXT, header_text, parameter};
use crate::cloud::{Maintenance, MaintenanceKind};
use crate::exchange::{self, HttpReply};
use crate::time::Millis;

pub(super) fn answer<B>(document: &Document, request: &Request<B>, primary_last: bool) -> HttpReply {
    if request.method() != Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed");
    }
    if !header_text(request, "metadata").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return refuse(StatusCode::BAD_REQUEST, "Bad request. Required metadata header not specified");
    }
    if request.headers().contains_key("x-forwarded-for") {
        return refuse(StatusCode::BAD_REQUEST, "Bad request. The request went through a proxy");
    }
    let Some(version) = parameter(request, "api-version") else {
        return refuse(StatusCode::BAD_REQUEST, "Bad request. api-version was not specified in the request");
    };
    if version.len() != 10 || !version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        return refuse(StatusCode::BAD_REQUEST, &format!("Bad request. api-version {version} is invalid or unsupported"));
    }
    if request.uri().path() == "/metadata/scheduledevents" {
        return exchange::reply(StatusCode::OK, JSON, scheduled(document).to_string());
    }
    let Some(path) = request.uri().path().strip_prefix("/metadata/instance") else {
        return refuse(StatusCode::NOT_FOUND, "Not found");
    };
    let whole = json!({ "compute": compute(document), "network": network(document, primary_last) });
    match whole.pointer(path.trim_end_matches('/')) {
        None => refuse(StatusCode::NOT_FOUND, "Not found"),
        Some(Value::String(text)) if parameter(request, "format").as_deref() == Some("text") => {
            exchange::reply(StatusCode::OK, TEXT, text.clone())
        }
        Some(found) => exchange::reply(StatusCode::OK, JSON, found.to_string()),
    }
}

fn refuse(status: StatusCode, why: &str) -> HttpReply {
    exchange::reply(status, JSON, json!({ "error": why }).to_string())
}

fn name(document: &Document) -> String {
    document.instance.tags.get("Name").cloned().unwrap_or_else(|| document.instance.id.to_string())
}

/// With one of another machine of the placement group: each is told of all of them.
fn scheduled(document: &Document) -> Value {
    let Some(Maintenance { kind, begins }) = document.instance.maintenance else {
        return json!({ "DocumentIncarnation": 1, "Events": [] });
    };
    let event = |kind: &str, resource: &str, begins: Millis| {
        json!({
            "EventId": "f020ba2e-3bc0-4c40-a10b-86575a9eabd5", "EventType": kind, "ResourceType": "VirtualMachine", "Resources": [resource],
            "EventStatus": "Scheduled", "NotBefore": begins.in_words_with_weekday(), "Description": "", "EventSource": "Platform",
            "DurationInSeconds": -1,
        })
    };
    let kind = match kind {
        MaintenanceKind::Reboot | MaintenanceKind::Planned => "Reboot",
        MaintenanceKind::Reclaim => "Preempt",
        MaintenanceKind::Pause => "Freeze",
    };
    json!({ "DocumentIncarnation": 2, "Events": [event("Redeploy", "another-machine", begins), event(kind, &name(document), begins)] })
}

fn compute(document: &Document) -> Value {
    let Document { instance, region, account, .. } = document;
    let name = name(document);
    json!({
        "azEnvironment": "AzurePublicCloud",
        "location": region,
        "name": name,
        "osType": "Linux",
        "provider": "Microsoft.Compute",
        "resourceGroupName": "cloudsim",
        "subscriptionId": account,
        "vmId": instance.id.to_string(),
        "vmScaleSetName": "cloudsim",
        "vmSize": instance.instance_type,
        "zone": instance.availability_zone,
    })
}

fn network(document: &Document, primary_last: bool) -> Value {
    json!({ "interface": document.nics.iter().map(|nic| interface(nic, primary_last)).collect::<Vec<_>>() })
}

fn interface(nic: &Nic, primary_last: bool) -> Value {
    let ipv4 = nic.configurations(primary_last).into_iter().map(|address| json!({ "privateIpAddress": address, "publicIpAddress": "" }));
    let ipv6 = nic.ipv6().iter().map(|address| json!({ "privateIpAddress": address }));
    json!({
        "ipv4": {
            "ipAddress": ipv4.collect::<Vec<_>>(),
            "subnet": [{ "address": nic.cidr.network(), "prefix": nic.cidr.prefix().to_string() }],
        },
        "ipv6": { "ipAddress": ipv6.collect::<Vec<_>>() },
        "macAddress": nic.interface.mac.bare(),
    })
}
