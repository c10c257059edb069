//! Who has which address, noted apart from the nodes' own books: what pools and supplies believe is held against it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cloudsim::cloud::{Cloud, InstanceId};
use cloudsim::fabric::{Change, Event};
use ipnetwork::IpNetwork;

/// A promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A pod was given an address that another pod has.
    TwoOwners {
        /// The address.
        address: IpAddr,
        /// The nodes of both.
        nodes: [InstanceId; 2],
    },
    /// A pod was given an address that the cloud has not assigned to its node.
    NotAssigned {
        /// The address.
        address: IpAddr,
        /// The pod's node.
        node: InstanceId,
    },
    /// The cloud took an address from a node on which a pod has it. Somebody asked for that; it may not have been the node.
    TakenAway {
        /// The address.
        address: IpAddr,
        /// The pod's node.
        node: InstanceId,
    },
}

/// Live pods by address.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    owners: BTreeMap<IpAddr, InstanceId>,
    violations: Vec<Violation>,
}

impl Ledger {
    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn begin(&mut self, cloud: &Cloud, node: InstanceId, address: IpAddr) {
        if let Some(other) = self.owners.insert(address, node) {
            self.violations.push(Violation::TwoOwners { address, nodes: [other, node] });
        }
        let assigned = cloud.interfaces_of(node).iter().any(|interface| interface.networks().any(|network| network.contains(address)));
        if !assigned {
            self.violations.push(Violation::NotAssigned { address, node });
        }
    }

    pub(crate) fn end(&mut self, address: IpAddr) {
        self.owners.remove(&address);
    }

    /// Takes in what packets have felt.
    pub(crate) fn note(&mut self, events: Vec<Event>) {
        for event in events {
            match event.change {
                Change::Unassigned { network, .. } => self.taken_away(network),
                Change::Detached { interface } => interface.networks().for_each(|network| self.taken_away(network)),
                Change::Attached { .. } | Change::Assigned { .. } => {}
            }
        }
    }

    fn taken_away(&mut self, network: IpNetwork) {
        let last = match network {
            IpNetwork::V4(network) => IpAddr::V4(network.broadcast()),
            IpNetwork::V6(network) => IpAddr::V6(network.broadcast()),
        };
        let lost = self.owners.range(network.network()..=last);
        self.violations.extend(lost.map(|(address, node)| Violation::TakenAway { address: *address, node: *node }));
    }
}

#[cfg(test)]
mod tests {
    use cloudsim::cloud::{InterfaceSpec, LaunchSpec, Settings, SubnetSpec};
    use cloudsim::time::Millis;

    use super::*;

    #[test]
    fn each_broken_promise_is_seen() {
        let mut cloud = Cloud::new(Settings::default());
        let spec = SubnetSpec { availability_zone: "a".into(), cidr: "10.0.0.0/24".parse().unwrap(), ipv6_cidr: None, tags: [].into() };
        let subnet = cloud.create_subnet(spec).unwrap();
        let interface = InterfaceSpec { ipv4_prefix_count: 1, ..InterfaceSpec::new(subnet) };
        let launch = LaunchSpec { interfaces: vec![interface], ..LaunchSpec::new("m5.large", subnet) };
        let [one, other] = [(); 2].map(|()| cloud.launch(Millis(1), &launch).unwrap());
        let address = IpAddr::V4(cloud.interfaces_of(one)[0].ipv4_prefixes[0].nth(3).unwrap());
        let mut ledger = Ledger::default();
        ledger.note(cloud.take_events());
        ledger.begin(&cloud, one, address);
        assert_eq!(ledger.violations(), []);
        ledger.begin(&cloud, other, address);
        let (twice, foreign) = (Violation::TwoOwners { address, nodes: [one, other] }, Violation::NotAssigned { address, node: other });
        assert_eq!(ledger.violations(), [twice, foreign]);
        ledger.begin(&cloud, one, address);
        cloud.terminate(Millis(2), one).unwrap();
        ledger.note(cloud.take_events());
        assert!(ledger.violations().contains(&Violation::TakenAway { address, node: one }));
        let before = ledger.violations().len();
        ledger.end(address);
        ledger.begin(&cloud, other, address);
        assert_eq!(ledger.violations().len(), before + 1, "an owner that has ended is none");
    }
}
