//! What is set on a node once for all pods: everything follows from one description, applied whole.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use crate::fast_path::{Destination, FastPath, FastPathError, Scope};
use crate::netlink::{NetlinkError, Socket};
use crate::nft::RulesError;
use crate::nft_kept::KeptTable;
use crate::ours::{Ours, carry_out};
use crate::sysctl::{self, SysctlError};
use crate::{Marks, PodLink, Queueing, Uplink, forwarding, gateway, neighbour_proxy, policy_routes, prefixes, rules, stack, unreachable};

/// A node's networks, as its configuration, its cloud and its interfaces tell them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeNetwork {
    /// The interfaces to the cloud network; the node's own traffic leaves by the first.
    pub uplinks: Vec<Uplink>,
    /// Every address of the node, of whichever interface.
    pub node_addresses: Vec<IpAddr>,
    /// Where this node's pod addresses come from.
    pub pods: Vec<PodRange>,
    /// Destinations that see a pod's address as it is.
    pub native: Vec<IpNetwork>,
    /// Addresses of services, translated by the stack.
    pub service: Vec<IpNetwork>,
    /// Neither native nor the internet.
    pub internal: Vec<IpNetwork>,
    /// Whether other destinations see the node's address.
    pub masquerade: bool,
    /// Destinations that the host would not send by the uplink's gateway, unchanged: the stack has them.
    pub elsewhere: Vec<IpNetwork>,
    /// Of which families the programs may carry packets at all.
    pub carried: Families,
    /// The bits of a packet's mark that are ours.
    pub marks: Marks,
    /// Programs were here a while ago, and connections may live that they carried.
    pub were_carried: bool,
    /// Bytes a second that each pod may send to the internet, where the programs are in use; 0 for no limit.
    pub internet_egress: u64,
    /// The same for pods of a namespace, in place of that, by the namespace's name.
    pub internet_egress_of: BTreeMap<String, u64>,
    /// Addresses that pods of a namespace may use beside their own, each those that it has asked for.
    pub allowed_of: BTreeMap<String, Vec<IpNetwork>>,
    /// Whether who looks for such an address on an uplink's own link is to be answered by this node: in a cloud nobody asks a neighbour.
    pub answers_neighbours: bool,
    /// Bytes a second that all pods together may send to the internet, in fair shares, where the programs are in use; 0 for no limit.
    pub node_internet_egress: u64,
    /// How the uplinks queue what leaves.
    pub queueing: Vec<Queueing>,
}

/// A choice by family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    /// IPv4
    pub v4: bool,
    /// IPv6
    pub v6: bool,
}

impl Default for Families {
    /// Both.
    fn default() -> Self {
        Self { v4: true, v6: true }
    }
}

/// Pod addresses that belong to one uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodRange {
    /// The first address.
    pub first: IpAddr,
    /// The last address, of the same family.
    pub last: IpAddr,
    /// Index of the uplink: the cloud network takes a packet from these addresses by no other.
    pub uplink: u16,
}

impl PodRange {
    /// As prefixes. A range of IPv6 addresses lacks its first, which is all routers' of the subnet (RFC 4291, 2.6.1) and no host's: with it
    /// the range is one prefix, without it dozens.
    pub(crate) fn prefixes(&self) -> Vec<IpNetwork> {
        let (first, last) = (prefixes::number(self.first), prefixes::number(self.last));
        let whole = prefixes::of_interval(false, first & !1, last);
        if self.first.is_ipv6() && whole.len() == 1 { whole } else { prefixes::of_interval(self.first.is_ipv4(), first, last) }
    }

    /// In the form that nftables takes.
    pub(crate) fn interval(&self) -> String {
        format!("{}-{}", self.first, self.last)
    }
}

/// A part of a node's networks that could not be set. The other parts are; applying again tries all of them again.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The kernel does not forward packets of pods.
    #[error("the kernel does not forward: {0}")]
    Forwarding(SysctlError),
    /// A setting beside forwarding was refused.
    #[error("{0}")]
    Sysctl(SysctlError),
    /// Rules were refused.
    #[error("{0}")]
    Rules(#[from] RulesError),
    /// A route or rule was refused.
    #[error("{0}")]
    Netlink(#[from] NetlinkError),
    /// The programs were not told of the network.
    #[error("packets to and from the network take the host's stack: {0}")]
    FastPath(FastPathError),
    /// An uplink does not carry the programs.
    #[error("{0}")]
    Hooks(FastPathError),
    /// A rule of ours stays in another's chain.
    #[error("{0}")]
    Accepts(String),
}

/// The tables of ours, and how the kernel had them when they were installed: for [`NodeNetwork::apply`], from one call to the next.
#[derive(Debug)]
pub struct Kept {
    rules: KeptTable,
    accounts: KeptTable,
}

impl Default for Kept {
    /// Nothing is known of them.
    fn default() -> Self {
        Self { rules: rules::table(), accounts: stack::table() }
    }
}

impl NodeNetwork {
    /// Compares the kernel with the description and sets what differs: forwarding, rules, the ways out of further uplinks, the pods'
    /// gateway, and what the programs know. Without programs, the stack keeps the accounts. What is refused does not keep the rest from
    /// being set; it is all told. To be called at start, on news and now and then: where nothing differs, nothing is set.
    #[must_use]
    pub fn apply(&self, host: &mut Socket, fast_path: Option<&FastPath>, kept: &mut Kept) -> Vec<ApplyError> {
        let mut refused: Vec<ApplyError> = sysctl::enable_forwarding(self).into_iter().map(ApplyError::Forwarding).collect();
        refused.extend(sysctl::settle_uplinks(self).into_iter().map(ApplyError::Sysctl));
        refused.extend(rules::keep(&mut kept.rules, self, fast_path.is_some()).err().map(ApplyError::Rules));
        refused.extend(self.set_routes(host).err().map(ApplyError::Netlink));
        match fast_path {
            Some(fast_path) => {
                refused.extend(fast_path.set_network(self).err().map(ApplyError::FastPath));
                refused.extend(fast_path.attach_uplinks(host, &self.uplinks).err().map(ApplyError::Hooks));
                if let Err(error) = kept.accounts.remove() {
                    tracing::debug!(%error, "slow-path counters not removed");
                }
            }
            None => refused.extend(stack::keep(&mut kept.accounts, self).err().map(ApplyError::Rules)),
        }
        refused
    }

    fn set_routes(&self, host: &mut Socket) -> Result<(), NetlinkError> {
        // Somebody may have done the same since it was read; and an uplink that is down, or gone, takes no route.
        const EXPECTED: [Errno; 5] = [Errno::ESRCH, Errno::EEXIST, Errno::ENOENT, Errno::ENETDOWN, Errno::ENODEV];
        let found = Ours::read(host)?;
        let ways = policy_routes::plan(&found, &self.uplinks, self.marks);
        let ways = carry_out(host, ways.into_iter().chain(unreachable::plan(&found, &self.pods)).collect(), &EXPECTED);
        let gateway = carry_out(host, gateway::plan(&found, self), &[&EXPECTED[..], &[Errno::EINVAL]].concat());
        ways.and(gateway)
    }

    /// Takes away what [`NodeNetwork::apply`] has set, programs and forwarding excepted: others may rely on that by now.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn remove(host: &mut Socket) -> Result<(), ApplyError> {
        let mut kept = Kept::default();
        kept.accounts.remove()?;
        Self::default().set_routes(host)?;
        neighbour_proxy::answer_for(host, &[])?;
        forwarding::remove_accepts().map_err(ApplyError::Accepts)?;
        Ok(kept.rules.remove()?)
    }

    /// Index of the uplink that owns an address; 0, the node's own, where no range has it.
    #[must_use]
    pub fn uplink_of(&self, address: IpAddr) -> u16 {
        let owner = self.pods.iter().find(|range| (range.first..=range.last).contains(&address));
        owner.map_or(0, |range| range.uplink)
    }

    /// A pod's link with those of its further addresses alone that it may use as things are now: what the operator has taken back since, or
    /// has given to the node, it may not.
    #[must_use]
    pub fn granted(&self, link: PodLink) -> PodLink {
        if link.allowed.is_empty() {
            return link;
        }
        let ranges = self.allowed_of.get(&link.namespace).map_or(&[][..], Vec::as_slice);
        let is_of_others = |address: &IpAddr| {
            let gateways = self.uplinks.iter().flat_map(|uplink| &uplink.gateways);
            self.node_addresses.iter().chain(gateways).any(|other| other == address)
        };
        let is_granted = |address: &IpAddr| ranges.iter().any(|range| range.contains(*address)) && !is_of_others(address);
        PodLink { allowed: link.allowed.into_iter().filter(is_granted).collect(), ..link }
    }

    /// Where pods' further addresses may be, of one family.
    pub(crate) fn allowed_ranges(&self, ipv4: bool) -> Vec<IpNetwork> {
        let all = self.allowed_of.values().flatten().filter(|range| range.is_ipv4() == ipv4);
        prefixes::without_nested(all.copied().collect())
    }

    /// Every network that has a scope, in order of falling prefix length: the first match is the longest.
    pub(crate) fn destinations(&self) -> Vec<Destination> {
        let of = |cidrs: &[IpNetwork], scope, native| -> Vec<_> {
            cidrs.iter().map(|cidr| Destination { cidr: *cidr, scope, native }).collect()
        };
        let node: Vec<_> = self.node_addresses.iter().map(|address| IpNetwork::from(*address)).collect();
        let mut all = of(&node, Scope::Node, false);
        all.extend(of(&self.service, Scope::Service, false));
        // What a service or another way covers is not native, however long its prefix is.
        let is_covered = |cidr: &&IpNetwork| self.service.iter().chain(&self.elsewhere).any(|outer| prefixes::contains(outer, cidr));
        let native: Vec<_> = self.native.iter().filter(|cidr| !is_covered(cidr)).copied().collect();
        all.extend(of(&native, Scope::Vpc, true));
        all.extend(of(&self.internal, Scope::Vpc, false));
        all.extend(of(&self.elsewhere, Scope::Vpc, false));
        all.sort_by_key(|destination| std::cmp::Reverse(destination.cidr.prefix()));
        all
    }

    /// Pod ranges of one family.
    pub(crate) fn pods_of(&self, ipv4: bool) -> impl Iterator<Item = &PodRange> {
        self.pods.iter().filter(move |range| range.first.is_ipv4() == ipv4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ifindex;
    use crate::fast_path::Limits;

    #[test]
    fn an_address_belongs_to_the_uplink_of_its_range() {
        let range = |first: &str, last: &str, uplink| PodRange { first: first.parse().unwrap(), last: last.parse().unwrap(), uplink };
        let network = NodeNetwork {
            pods: vec![range("10.0.1.16", "10.0.1.31", 0), range("10.0.1.48", "10.0.1.63", 1), range("fd00::1", "fd00::ff", 2)],
            ..NodeNetwork::default()
        };
        let of = |address: &str| network.uplink_of(address.parse().unwrap());
        assert_eq!([of("10.0.1.16"), of("10.0.1.48"), of("10.0.1.63"), of("fd00::ff"), of("192.0.2.1")], [0, 1, 1, 2, 0]);
    }

    #[test]
    fn a_pod_may_use_what_its_namespace_has_now_and_the_node_has_not() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let mut network = NodeNetwork {
            node_addresses: addresses(&["10.0.50.1"]),
            allowed_of: BTreeMap::from([("edge".to_owned(), vec!["10.0.50.0/29".parse().unwrap(), "fd00:50::/64".parse().unwrap()])]),
            ..NodeNetwork::default()
        };
        let allowed = addresses(&["10.0.50.1", "10.0.50.7", "10.0.50.8", "fd00:50::7"]);
        let granted = |network: &NodeNetwork, namespace: &str| {
            let link = PodLink {
                host_ifname: "bw0000100000".to_owned(),
                host_ifindex: Ifindex(1 << 20),
                pod_ifname: "eth0".to_owned(),
                pod_mac: [2, 0, 0, 0, 0, 1],
                mtu: 9001,
                container_id: "c".to_owned(),
                addresses: addresses(&["10.0.1.17"]),
                namespace: namespace.to_owned(),
                limits: Limits::default(),
                allowed: allowed.clone(),
            };
            network.granted(link).allowed
        };
        assert_eq!(granted(&network, "edge"), addresses(&["10.0.50.7", "fd00:50::7"]));
        assert_eq!(granted(&network, "web"), addresses(&[]));
        network.allowed_of.clear();
        assert_eq!(granted(&network, "edge"), addresses(&[]));
    }

    #[test]
    fn a_longer_prefix_comes_first() {
        let network = NodeNetwork {
            node_addresses: vec!["10.0.0.11".parse().unwrap()],
            native: vec!["10.0.0.0/8".parse().unwrap()],
            service: vec!["10.96.0.0/12".parse().unwrap()],
            ..NodeNetwork::default()
        };
        let scopes: Vec<_> = network.destinations().iter().map(|destination| destination.scope).collect();
        assert_eq!(scopes, [Scope::Node, Scope::Service, Scope::Vpc]);
    }

    #[test]
    fn services_and_other_ways_win_over_what_is_native() {
        let cidrs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNetwork>>();
        let network = NodeNetwork {
            native: cidrs(&["10.0.0.0/8", "10.96.0.0/16", "10.50.1.0/24", "10.60.0.0/16"]),
            service: cidrs(&["10.96.0.0/12"]),
            elsewhere: cidrs(&["10.50.0.0/16", "10.60.0.0/16"]),
            ..NodeNetwork::default()
        };
        let is_native = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            network.destinations().iter().find(|destination| destination.cidr.contains(address)).unwrap().native
        };
        assert!(is_native("10.1.0.1"));
        for address in ["10.96.0.10", "10.50.1.1", "10.50.2.1", "10.60.0.1"] {
            assert!(!is_native(address), "{address}");
        }
    }
}
