//! What the runtime is told of an attachment.

use std::net::IpAddr;

use cni_spec::{AddResult, Interface, IpConfig, Route};
use datapath::{GATEWAY_V4, GATEWAY_V6, HOST_MAC};
use ipam_state::record::Record;
use ipnetwork::IpNetwork;

/// `netns_path` is the namespace's path as the runtime named it.
pub(super) fn result(record: &Record, netns_path: &str) -> AddResult {
    const POD_INTERFACE: usize = 1;
    let interfaces = vec![
        Interface::new(&record.host_ifname, HOST_MAC, record.mtu, ""),
        Interface::new(record.key.ifname.as_str(), record.mac.unwrap_or_default(), record.mtu, netns_path),
    ];
    let gateway = |address: &IpAddr| if address.is_ipv4() { IpAddr::from(GATEWAY_V4) } else { GATEWAY_V6.into() };
    let ips = record.addresses.iter().map(|address| IpConfig::new(IpNetwork::from(*address), gateway(address), POD_INTERFACE));
    let everywhere = |address: &IpAddr| if address.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0_u16; 8]) };
    let routes = record
        .addresses
        .iter()
        .filter_map(|address| IpNetwork::new(everywhere(address), 0).ok().map(|destination| Route::new(destination, gateway(address))));
    AddResult::new(interfaces, ips.collect(), routes.collect())
}
