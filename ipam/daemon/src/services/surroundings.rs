//! The node that Services are served for: its name as Kubernetes has it, and the addresses that serve node ports.

use std::net::IpAddr;

use ::services::Node;
use datapath::calls;
use datapath::netlink::Socket;
use datapath::{FoundUplinks, UplinkChoice, find_uplinks};
use ipnetwork::IpNetwork;

use crate::config::{Config, ServicesConfig};

/// How the names of pods' host ends begin.
const POD_INTERFACES: &str = "bw";

/// What is looked at again and again.
#[derive(Debug)]
pub(crate) struct Surroundings {
    config: Config,
    services: ServicesConfig,
    /// As found last.
    addresses: Vec<IpAddr>,
}

impl Surroundings {
    pub(crate) const fn new(config: Config, services: ServicesConfig) -> Self {
        Self { config, services, addresses: Vec::new() }
    }

    /// The node as it is now. What cannot be found out stays as it was.
    pub(crate) fn node(&mut self) -> Node {
        if let Some(found) = self.found() {
            self.addresses = node_port_addresses(&found, &self.services.node_port_addresses);
        }
        let known = self.config.fleet.as_ref().map(|fleet| fleet.files.node());
        let name = match known {
            // The name that endpoints have: the host's is often another.
            Some(Ok(name)) => name,
            _ => self.config.node_name.clone(),
        };
        Node {
            name,
            zone: None,
            addresses: self.addresses.clone(),
            pod_interfaces: POD_INTERFACES.to_owned(),
            service_cidrs: self.config.service_cidrs.clone(),
            external_ips: self.services.external_ips,
        }
    }

    fn found(&self) -> Option<FoundUplinks> {
        calls::wait_for_others().ok()?;
        // Where a cloud tells uplinks, its first one has the default route.
        let choice = self.config.uplinks.first().cloned().unwrap_or_default();
        let choice = UplinkChoice { index: 0, ..choice };
        find_uplinks(&mut Socket::open().ok()?, &[choice]).ok()
    }
}

/// Those of the node's addresses that are in one of `ranges`; without ranges the uplink's first of each family. None that means nothing beyond
/// its link, and none of the loopback: kube-proxy's nftables mode serves neither.
fn node_port_addresses(found: &FoundUplinks, ranges: &[IpNetwork]) -> Vec<IpAddr> {
    let is_local = |address: &&IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_loopback(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_loopback(),
    };
    if !ranges.is_empty() {
        let is_wanted = |address: &&IpAddr| ranges.iter().any(|range| range.contains(**address));
        return found.node_addresses.iter().filter(is_wanted).filter(|address| !is_local(address)).copied().collect();
    }
    let own = || found.uplinks.iter().flat_map(|uplink| &uplink.addresses).filter(|address| !is_local(address));
    let first = |is_v4: bool| own().find(|address| address.is_ipv4() == is_v4).copied();
    [true, false].into_iter().filter_map(first).collect()
}

#[cfg(test)]
mod tests {
    use datapath::{Ifindex, Uplink};

    use super::*;

    #[test]
    fn node_ports_are_served_on_the_nodes_own_addresses() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let uplink = Uplink {
            index: 0,
            ifindex: Ifindex(2),
            ifname: "eth0".to_owned(),
            mtu: 9001,
            running: true,
            gateways: Vec::new(),
            addresses: addresses(&["10.0.0.10", "10.0.0.11", "fe80::2", "fd00::10"]),
        };
        let node_addresses = addresses(&["10.0.0.10", "10.0.0.11", "fe80::2", "fd00::10", "192.168.1.1"]);
        let found = FoundUplinks { uplinks: vec![uplink], node_addresses, ..FoundUplinks::default() };
        let of = |ranges: &[&str]| node_port_addresses(&found, &ranges.iter().map(|range| range.parse().unwrap()).collect::<Vec<_>>());
        assert_eq!(of(&[]), addresses(&["10.0.0.10", "fd00::10"]));
        assert_eq!(of(&["192.168.0.0/16", "10.0.0.11/32", "::/0"]), addresses(&["10.0.0.11", "fd00::10", "192.168.1.1"]));
        assert_eq!(of(&["172.16.0.0/12"]), addresses(&[]));
    }
}
