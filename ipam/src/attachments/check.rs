//! CHECK: what is there beside what was made. Pure.

use std::net::IpAddr;

use cni_spec::AddResult;
use datapath::{FoundLink, GATEWAY_V4, GATEWAY_V6, NetnsId, PodState};

use crate::record::Record;

/// Every difference, each as a phrase; none where all is well.
pub(super) fn differences(
    record: &Record,
    expected: &AddResult,
    netns: NetnsId,
    pod: Option<&PodState>,
    host: Option<&FoundLink>,
) -> Vec<String> {
    let mut found = Vec::new();
    let ifname = record.key.ifname.as_str();
    if !record.is_in(netns) {
        found.push("CNI_NETNS is not the namespace that it was attached in".to_owned());
    }
    if !expected.interfaces.iter().any(|interface| interface.name == ifname && !interface.sandbox.is_empty()) {
        found.push(format!("prevResult has no container interface {ifname}"));
    }
    for address in &record.addresses {
        if !expected.ips.iter().any(|ip| ip.address.ip() == *address) {
            found.push(format!("prevResult lacks the address {address}"));
        }
    }
    match pod {
        None => found.push(format!("the container has no interface {ifname}")),
        Some(pod) => in_the_pod(record, pod, &mut found),
    }
    match host {
        None => found.push(format!("the host end {} is gone", record.host_ifname)),
        Some(host) => {
            for address in record.addresses.iter().filter(|address| !host.addresses.contains(address)) {
                found.push(format!("the host has no route to {address}"));
            }
        }
    }
    found
}

fn in_the_pod(record: &Record, pod: &PodState, found: &mut Vec<String>) {
    let ifname = record.key.ifname.as_str();
    if !pod.up {
        found.push(format!("{ifname} is down"));
    }
    if let Some(mac) = record.mac.filter(|mac| pod.mac != *mac) {
        found.push(format!("{ifname} has the MAC address {:02x?} instead of {mac:02x?}", pod.mac));
    }
    for address in &record.addresses {
        if !pod.addresses.contains(address) {
            found.push(format!("{ifname} lacks the address {address}"));
        }
        let gateway: IpAddr = if address.is_ipv4() { GATEWAY_V4.into() } else { GATEWAY_V6.into() };
        if !pod.default_gateways.contains(&gateway) {
            found.push(format!("{ifname} lacks the default route by {gateway}"));
        }
    }
}
