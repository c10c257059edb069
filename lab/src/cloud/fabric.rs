//! The lab's VPC carries the packets of a simulated cloud: an interface is a veth pair between the fabric and its node, an assignment
//! a route of the fabric.
//!
//! - A device in a node is as a cloud's is: it has the interface's MAC address, it comes down and without addresses, and it goes without
//!   a warning. What a machine image does for the first one (DHCP, router advertisements) is done for the first one only.
//! - The fabric sends to the MAC address that it knows, and never asks for one.
//! - What the kernel refuses is kept for [`LabCloud::complaints`](super::LabCloud::complaints): the cloud's callers cannot be told.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use cloudsim::cloud::{InstanceId, Interface, InterfaceId, Mac};
use cloudsim::fabric::Fabric;
use ipnetwork::IpNetwork;

use crate::error::Result;
use crate::node::Node;
use crate::vpc::{self, Attachment, GATEWAY_V4, GATEWAY_V6};

/// Bytes that a cloud's network carries inside of it.
const MTU: u32 = 9001;

/// What the kernel refused, each in a sentence.
pub(super) type Complaints = Arc<Mutex<Vec<String>>>;

pub(super) struct VpcFabric {
    vpc: Node,
    guests: BTreeMap<InstanceId, Node>,
    plugged: BTreeMap<InterfaceId, Attachment>,
    complaints: Complaints,
}

impl VpcFabric {
    pub(super) const fn new(vpc: Node, guests: BTreeMap<InstanceId, Node>, complaints: Complaints) -> Self {
        Self { vpc, guests, plugged: BTreeMap::new(), complaints }
    }

    fn plug(&mut self, interface: &Interface) -> Result<()> {
        let (Some(attachment), Some(device)) = (&interface.attachment, interface.device()) else { return Ok(()) };
        // Instances that were launched by hand have no node.
        let Some(guest) = self.guests.get(&attachment.instance) else { return Ok(()) };
        let Interface { id, mac, primary, .. } = interface;
        let (near, far, netns) = (end_of(*mac), &device.name, guest.init().pid);
        let ip = |line: String| self.vpc.run_in_network(&[&["ip"], &line.split(' ').collect::<Vec<_>>()[..]].concat());
        ip(format!("link add {near} mtu {MTU} type veth peer name {far} address {mac} mtu {MTU} netns /proc/{netns}/ns/net"))?;
        // The gateway's address is the only one that it speaks from.
        ip(format!("link set {near} addrgenmode none up"))?;
        let plugged = Attachment {
            interface: near.clone(),
            primary_v4: *primary,
            // Prefixes need a next hop even where the interface has no IPv6 address.
            primary_v6: interface.ipv6.first().copied().unwrap_or_else(|| link_local(*mac)),
        };
        for command in plugged.plug() {
            self.vpc.run_in_network(&command)?;
        }
        for next_hop in [IpAddr::V4(plugged.primary_v4), IpAddr::V6(plugged.primary_v6)] {
            ip(format!("neighbour replace {next_hop} lladdr {mac} dev {near} nud permanent"))?;
        }
        for network in interface.networks().filter(|network| !is_primary(&plugged, network)) {
            vpc::assign(&self.vpc, &plugged, &network)?;
        }
        if attachment.device_index == 0 {
            configure(guest, far, interface)?;
        }
        self.plugged.insert(*id, plugged);
        Ok(())
    }

    fn unplug(&mut self, interface: &Interface) -> Result<()> {
        let Some(plugged) = self.plugged.remove(&interface.id) else { return Ok(()) };
        for command in plugged.unplug() {
            self.vpc.run_in_network(&command)?;
        }
        Ok(())
    }

    fn note(&self, what: &str, interface: InterfaceId, result: Result<()>) {
        if let Err(error) = result {
            let complaint = format!("{interface}: {what}: {error}");
            self.complaints.lock().unwrap_or_else(PoisonError::into_inner).push(complaint);
        }
    }
}

impl Fabric for VpcFabric {
    fn attached(&mut self, interface: &Interface) {
        let plugged = self.plug(interface);
        self.note("attach", interface.id, plugged);
    }

    fn detached(&mut self, interface: &Interface) {
        let unplugged = self.unplug(interface);
        self.note("detach", interface.id, unplugged);
    }

    fn assigned(&mut self, interface: InterfaceId, network: IpNetwork) {
        let plugged = self.plugged.get(&interface);
        let assigned = plugged.map_or(Ok(()), |plugged| vpc::assign(&self.vpc, plugged, &network));
        self.note(&format!("assign {network}"), interface, assigned);
    }

    fn unassigned(&mut self, interface: InterfaceId, network: IpNetwork) {
        let plugged = self.plugged.get(&interface);
        let unassigned = plugged.map_or(Ok(()), |plugged| vpc::unassign(&self.vpc, plugged, &network));
        self.note(&format!("unassign {network}"), interface, unassigned);
    }
}

/// The fabric's end of an interface: fifteen characters, which is as many as a name may have.
pub(super) fn end_of(mac: Mac) -> String {
    format!("eni{}", mac.bare().to_lowercase())
}

/// The address that the kernel makes from a MAC address (RFC 4291, appendix A).
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    let halves = [[a ^ 2, b], [c, 0xff], [0xfe, d], [e, f]].map(u16::from_be_bytes);
    Ipv6Addr::new(0xfe80, 0, 0, 0, halves[0], halves[1], halves[2], halves[3])
}

/// Whether the fabric's route to a network is the one of [`Attachment::plug`].
fn is_primary(plugged: &Attachment, network: &IpNetwork) -> bool {
    [IpAddr::V4(plugged.primary_v4), IpAddr::V6(plugged.primary_v6)].contains(&network.ip())
}

/// What DHCP and router advertisements do for an instance's first interface.
fn configure(guest: &Node, device: &str, interface: &Interface) -> Result<()> {
    let primary = interface.primary;
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("link set {device} up"),
        format!("address add {primary}/32 dev {device}"),
        format!("route add {GATEWAY_V4}/32 dev {device} scope link"),
        format!("route add default via {GATEWAY_V4} dev {device} src {primary}"),
    ];
    if let Some(address) = interface.ipv6.first() {
        // As a network daemon does, which takes advertisements itself.
        guest.run_in_network(&["sysctl", "-qw", &format!("net.ipv6.conf.{device}.accept_ra=0")])?;
        lines.push(format!("-6 address add {address}/128 dev {device} nodad"));
        lines.push(format!("-6 route add default via {GATEWAY_V6} dev {device} src {address}"));
    }
    for line in lines {
        guest.run_in_network(&[&["ip"], &line.split(' ').collect::<Vec<_>>()[..]].concat())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_the_kernels() {
        assert_eq!(link_local("02:1a:2b:3c:4d:5e".parse().unwrap()).to_string(), "fe80::1a:2bff:fe3c:4d5e");
    }

    #[test]
    fn the_fabrics_end_is_an_interface_name() {
        assert_eq!(end_of("02:1a:2b:3c:4d:5e".parse().unwrap()), "eni021a2b3c4d5e");
    }
}
