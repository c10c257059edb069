//! What is there beside what was made. Pure.
//!
//! What plugins behind ours may change is no difference: they have told the runtime (`prevResult`), or have a CHECK of their own.

use std::net::IpAddr;

use cni_spec::AddResult;
use datapath::{GATEWAY_V4, GATEWAY_V6, HOST_MAC, HostEnd, NetnsId, PodState, WayOut};
use ipam_state::record::Record;

use super::link::is_in;
use super::owns;

/// What was found of an attachment.
pub(super) struct Found<'a> {
    /// The namespace that CHECK was called for.
    pub(super) netns: NetnsId,
    /// The pod's end.
    pub(super) pod: Option<&'a PodState>,
    /// The host's end.
    pub(super) host: Option<&'a HostEnd>,
}

/// Every difference, each as a phrase; none where all is well.
pub(super) fn of(record: &Record, expected: &AddResult, found: &Found<'_>) -> Vec<String> {
    let mut differences = Vec::new();
    let ifname = record.key.ifname.as_str();
    if !is_in(record, found.netns) {
        differences.push("CNI_NETNS is not the namespace that it was attached in".to_owned());
    }
    let told = expected.interfaces.iter().find(|interface| interface.name == ifname && !interface.sandbox.is_empty());
    if told.is_none() {
        differences.push(format!("prevResult has no container interface {ifname}"));
    }
    for address in &record.addresses {
        if !expected.ips.iter().any(|ip| ip.address.ip() == *address) {
            differences.push(format!("prevResult lacks the address {address}"));
        }
    }
    match found.pod {
        None => differences.push(format!("the container has no interface {ifname}")),
        Some(pod) => {
            let told_mac = told.map(|interface| interface.mac.as_str()).filter(|mac| !mac.is_empty());
            if let Some(told) = told_mac.filter(|told| !told.eq_ignore_ascii_case(&mac_text(&pod.mac))) {
                differences.push(format!("{ifname} has the MAC address {} instead of {told}", mac_text(&pod.mac)));
            }
            in_the_pod(record, expected, pod, &mut differences);
        }
    }
    match found.host.filter(|host| owns(record, &host.link)) {
        None => differences.push(format!("the host end {} is gone", record.host_ifname)),
        Some(host) => on_the_host(record, host, found.pod, &mut differences),
    }
    differences
}

fn in_the_pod(record: &Record, expected: &AddResult, pod: &PodState, differences: &mut Vec<String>) {
    let ifname = record.key.ifname.as_str();
    if !pod.up {
        differences.push(format!("{ifname} is down"));
    }
    // Less is a plugin's right (`tuning`); more is what the host end does not let in.
    if pod.mtu > record.mtu {
        differences.push(format!("{ifname} has an MTU of {} instead of {}", pod.mtu, record.mtu));
    }
    for address in &record.addresses {
        if !pod.addresses.contains(address) {
            differences.push(format!("{ifname} lacks the address {address}"));
        }
    }
    for WayOut { source, by_gateway, gateway_on_link, wrong_gateway_mac } in &pod.ways_out {
        let gateway = gateway_of(*source);
        // A plugin behind ours that has taken the default route away says so in its result.
        let wants_default = expected.routes.iter().any(|route| route.dst.prefix() == 0 && route.gw == Some(gateway));
        if wants_default && !by_gateway {
            differences.push(format!("{ifname} lacks the default route by {gateway} for {source}"));
        }
        if !gateway_on_link {
            differences.push(format!("{ifname} lacks the route to the gateway {gateway}"));
        }
        if let Some(mac) = wrong_gateway_mac {
            let (wrong, right) = (mac_text(mac), mac_text(&HOST_MAC));
            differences.push(format!("{ifname} has {wrong} as the MAC address of the gateway {gateway} instead of {right}"));
        }
    }
}

fn on_the_host(record: &Record, host: &HostEnd, pod: Option<&PodState>, differences: &mut Vec<String>) {
    let name = &record.host_ifname;
    if !host.up {
        differences.push(format!("the host end {name} is down"));
    }
    if host.link.mtu != record.mtu {
        differences.push(format!("the host end {name} has an MTU of {} instead of {}", host.link.mtu, record.mtu));
    }
    for address in &record.addresses {
        if !host.link.addresses.contains(address) {
            differences.push(format!("the host has no route to {address}"));
        }
        let known = host.neighbours.iter().find(|(of, _)| of == address).map(|(_, mac)| mac.as_slice());
        match (known, pod) {
            (None, _) => differences.push(format!("the host has no neighbour entry for {address}")),
            (Some(known), Some(pod)) if known != pod.mac => {
                let (wrong, right) = (mac_text(known), mac_text(&pod.mac));
                differences.push(format!("the host has {wrong} as the MAC address of {address} instead of {right}"));
            }
            _ => {}
        }
    }
}

const fn gateway_of(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { IpAddr::V4(GATEWAY_V4) } else { IpAddr::V6(GATEWAY_V6) }
}

fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
