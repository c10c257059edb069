//! Azure's instance metadata service ("Azure Instance Metadata Service for virtual machines" in Azure's documentation).
//!
//! `/metadata/instance` and everything below it. An ipConfiguration is an address of an interface, or a block of
//! addresses. None is marked as the primary; it is the first, but for a fault.

use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{Document, JSON, Nic, TEXT, header_text, parameter};
use crate::exchange::{self, HttpReply};

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

fn compute(document: &Document) -> Value {
    let Document { instance, region, account, .. } = document;
    let name = instance.tags.get("Name").cloned().unwrap_or_else(|| instance.id.to_string());
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
