//! One nftables table of our own, installed whole, never touched per pod: the node's address for what leaves the cloud network, marks
//! for what must leave by a further uplink, and the drop of what comes from the network as if a pod of this node had sent it.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::nft::{RulesError, anonymous_set};
use crate::nft_kept::KeptTable;
use crate::own_addresses::is_link_local;
use crate::{Marks, NodeNetwork, Uplink, prefixes};

const TABLE: &str = "barewire";
const WHAT: &str = "the rules for pods";

/// The table, to be kept.
pub(crate) const fn table() -> KeptTable {
    KeptTable::new(WHAT, TABLE)
}

/// Keeps the table as described. `programs` tells whether kernel programs may carry packets. Where there is nothing to say there is no
/// table, and nobody needs the program.
pub(crate) fn keep(table: &mut KeptTable, network: &NodeNetwork, programs: bool) -> Result<(), RulesError> {
    let chains = chains(network, programs);
    if chains.is_empty() {
        return table.remove();
    }
    // Declared before it is deleted, the table may or may not have been there.
    table.keep(&format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n{chains}}}\n"))
}

fn chains(network: &NodeNetwork, programs: bool) -> String {
    let mut text = if programs { past_conntrack(network) + &apart_from_carried(network) } else { String::new() };
    if network.were_carried && !programs {
        text += &were_carried(network);
    }
    if let Some(uplinks) = names(&network.uplinks) {
        let rules = per_family(network, from_network);
        // Behind conntrack (-200).
        text += &format!(
            "  chain from_network {{\n    type filter hook prerouting priority -190; policy accept;\n    iifname != {uplinks} return\n{rules}  }}\n"
        );
    }
    if network.masquerade {
        let rules = per_family(network, masquerade);
        // Behind the usual srcnat hooks (100): a service's own masquerade wins.
        text += &format!("  chain postrouting {{\n    type nat hook postrouting priority 105; policy accept;\n{rules}  }}\n");
    }
    if network.uplinks.iter().any(|uplink| uplink.index != 0) {
        let rules = per_family(network, marks);
        // Behind dstnat (-100): where a packet goes is known, and the route is yet to be chosen.
        text += &format!(
            "  chain uplinks {{\n    type filter hook prerouting priority -90; policy accept;\n    iifname != \"bw*\" return\n{rules}  }}\n"
        );
    }
    text
}

/// A packet of a flow that the programs carry, which only the stack can treat, has their mark: conntrack must not see it, as it sees
/// no other of the flow. Before defragmentation (-400): a piece goes on as it is. The mark says nothing to anybody else.
fn past_conntrack(network: &NodeNetwork) -> String {
    if network.pods.is_empty() {
        return String::new();
    }
    let bit = network.marks.untracked();
    let from = network.uplinks.iter().map(|uplink| uplink.ifname.as_str()).chain(["bw*"]);
    let rules: String = from
        .map(|ifname| format!("    iifname \"{ifname}\" meta mark & {bit:#x} != 0 meta mark set meta mark & {:#x} notrack\n", !bit))
        .collect();
    format!("  chain past_conntrack {{\n    type filter hook prerouting priority -450; policy accept;\n{rules}  }}\n")
}

/// Bits that are turned over, and in which ports. The ports that kernels give (32768 to 60999) and as many below them change places; a
/// program that has chosen one of the latter for itself gets one of the former.
const OTHER_PORTS: [(u16, &str); 2] = [(0xc000, "32768-49151, 16384-32767, 50176-60999, 1024-11847"), (0xf000, "49152-50175, 12288-13311")];

/// Connections that programs carried, before they were taken off, are in the middle when conntrack sees them first. It takes most up;
/// what it takes for invalid (the end of an idle connection, or anything where `nf_conntrack_tcp_loose` is 0) passes it by, as it did,
/// and is not dropped by those who drop what is invalid. A connection's first packet is never of these.
fn were_carried(network: &NodeNetwork) -> String {
    let rules = per_family(network, |network, family| {
        let (ip, own) = (family.keyword(), pods(network, family));
        let between = |ends: String| {
            let invalid = "tcp flags & (syn | ack) != syn ct state invalid notrack";
            format!("    {ip} saddr {own} {ip} daddr {ends} {invalid}\n    {ip} saddr {ends} {ip} daddr {own} {invalid}\n")
        };
        native(network, family).map_or_else(String::new, between) + &between(pods(network, family))
    });
    // Right behind conntrack (-200).
    format!("  chain were_carried {{\n    type filter hook prerouting priority -199; policy accept;\n{rules}  }}\n")
}

/// A flow through a service and one straight to its backend can have both ends in common, once the service's address is translated: a pod's
/// kernel gives one port to connections with different destinations. conntrack, which keeps such two apart, sees only one of them where
/// the programs carry the other. So what pods send through services has its source port translated as well, from those that a kernel
/// gives of itself (`net.ipv4.ip_local_port_range`) to others; its source address stays. Each port becomes one of its own, always the
/// same: a connection that conntrack has forgotten goes on as it was, and no two meet.
fn apart_from_carried(network: &NodeNetwork) -> String {
    let rules = per_family(network, |network, family| {
        let ip = family.keyword();
        let to = |destinations: String| -> String {
            let flows = format!(
                "    iifname \"bw*\" ct status dnat {ip} saddr {} {ip} daddr {destinations} meta l4proto {{ tcp, udp }}",
                pods(network, family)
            );
            let rule =
                |(bits, ports): &(u16, &str)| format!("{flows} th sport {{ {ports} }} snat {ip} to {ip} saddr:th sport ^ {bits:#x}\n");
            OTHER_PORTS.iter().map(rule).collect()
        };
        native(network, family).map_or_else(String::new, to) + &to(pods(network, family))
    });
    if rules.is_empty() {
        return rules;
    }
    // Behind the usual srcnat hooks (100): a service's own masquerade wins.
    format!("  chain apart_from_carried {{\n    type nat hook postrouting priority 104; policy accept;\n{rules}  }}\n")
}

fn per_family(network: &NodeNetwork, rules: fn(&NodeNetwork, Family) -> String) -> String {
    let with_pods = [Family::V4, Family::V6].into_iter().filter(|family| network.pods_of(family.is_v4()).next().is_some());
    with_pods.map(|family| rules(network, family)).collect()
}

/// By the uplink that a packet leaves by, to that uplink's own address where it is known, and with ports by chance: ports that are kept
/// clash when two connections are made at once, and one of the two packets is lost (`insert_failed` in `conntrack -S`).
fn masquerade(network: &NodeNetwork, family: Family) -> String {
    let (ip, pods) = (family.keyword(), pods(network, family));
    let leaves = format!("    {ip} saddr {pods}{} fib daddr type != local", not_native(network, family));
    let mut text = String::new();
    for uplink in &network.uplinks {
        if let Some(own) = own_address(uplink, family) {
            text += &format!("{leaves} oifname \"{}\" counter snat {ip} to {own} fully-random\n", uplink.ifname);
        }
    }
    text + &format!("{leaves} oifname != \"bw*\" counter masquerade fully-random\n")
}

/// The address that what leaves by an uplink gets. Of IPv6 addresses of several scopes the kernel chooses one that suits the destination
/// (RFC 6724), and better than a rule could.
fn own_address(uplink: &Uplink, family: Family) -> Option<IpAddr> {
    let mut own = uplink.addresses.iter().copied().filter(|own| own.is_ipv4() == family.is_v4() && !is_link_local(*own));
    let first = own.next()?;
    own.all(|other| is_unique_local(other) == is_unique_local(first)).then_some(first)
}

const fn is_unique_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unique_local())
}

/// A source that is a pod of this node comes from the network only where this node has sent the packet there before, by the stack: an
/// appliance or a load balancer turned it back. conntrack knows the connection then, and has confirmed it. What it has never seen is
/// somebody else's claim; what has passed it by is no pod's either, as the programs carry nothing from such a source.
fn from_network(network: &NodeNetwork, family: Family) -> String {
    let (ip, pods) = (family.keyword(), pods(network, family));
    format!("    {ip} saddr {pods} ct status confirmed return\n    {ip} saddr {pods} counter drop\n")
}

fn names(uplinks: &[Uplink]) -> Option<String> {
    (!uplinks.is_empty()).then(|| anonymous_set(uplinks.iter().map(|uplink| format!("\"{}\"", uplink.ifname))))
}

/// What a pod sends by the stack leaves by the uplink that owns its address, with three exceptions: pods of this node are
/// no way out at all; what is masqueraded belongs to the node; and the reply to what came to an address of the node (a node
/// port, a host port) goes back by that address's uplink, as its source will be that address.
fn marks(network: &NodeNetwork, family: Family) -> String {
    let ip = family.keyword();
    let mut text = format!("    {ip} daddr {} return\n", pods(network, family));
    for uplink in &network.uplinks {
        let addresses: Vec<_> = uplink.addresses.iter().filter(|address| address.is_ipv4() == family.is_v4()).collect();
        if !addresses.is_empty() {
            let addresses = anonymous_set(addresses);
            text += &format!("    ct direction reply ct original {ip} daddr {addresses} {}\n", set_mark(network.marks, uplink.index));
        }
    }
    if network.masquerade {
        text += &format!("   {} return\n", not_native(network, family));
    }
    for index in network.uplinks.iter().map(|uplink| uplink.index).filter(|index| *index != 0) {
        let owned: Vec<_> = network.pods_of(family.is_v4()).filter(|range| range.uplink == index).collect();
        if !owned.is_empty() {
            let owned = anonymous_set(owned.into_iter().map(crate::PodRange::interval));
            text += &format!("    {ip} saddr {owned} {}\n", set_mark(network.marks, index));
        }
    }
    text
}

fn set_mark(marks: Marks, uplink: u16) -> String {
    if uplink == 0 {
        return "return".to_owned();
    }
    format!("meta mark set meta mark & {:#x} | {:#x} return", !marks.of_uplinks(), marks.of_uplink(uplink))
}

fn pods(network: &NodeNetwork, family: Family) -> String {
    anonymous_set(network.pods_of(family.is_v4()).map(crate::PodRange::interval))
}

/// Matches destinations that do not see a pod's address; empty where all of them do not.
fn not_native(network: &NodeNetwork, family: Family) -> String {
    native(network, family).map_or_else(String::new, |native| format!(" {} daddr != {native}", family.keyword()))
}

/// The native networks of a family, if it has any.
fn native(network: &NodeNetwork, family: Family) -> Option<String> {
    let native: Vec<IpNetwork> = network.native.iter().filter(|cidr| cidr.is_ipv4() == family.is_v4()).copied().collect();
    // An anonymous set takes no overlapping intervals.
    let native = prefixes::without_nested(native);
    (!native.is_empty()).then(|| anonymous_set(native))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const fn is_v4(self) -> bool {
        matches!(self, Self::V4)
    }

    /// Its name in rules.
    pub(crate) const fn keyword(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ifindex, PodRange, Uplink};

    fn range(first: &str, last: &str, uplink: u16) -> PodRange {
        PodRange { first: first.parse().unwrap(), last: last.parse().unwrap(), uplink }
    }

    fn uplink(ifindex: u32, address: &str) -> Uplink {
        Uplink {
            index: u16::try_from(ifindex).unwrap() - 1,
            ifindex: Ifindex(ifindex),
            ifname: format!("eth{ifindex}"),
            mtu: 9001,
            running: true,
            gateways: Vec::new(),
            addresses: vec![address.parse().unwrap()],
        }
    }

    fn network() -> NodeNetwork {
        NodeNetwork {
            uplinks: vec![uplink(1, "10.0.0.11")],
            pods: vec![range("10.0.1.16", "10.0.1.31", 0)],
            native: vec!["10.0.0.0/16".parse().unwrap()],
            masquerade: true,
            ..NodeNetwork::default()
        }
    }

    #[test]
    fn each_family_with_pods_has_its_rule() {
        let v4 = chains(&network(), true);
        assert!(v4.contains("ip saddr { 10.0.1.16-10.0.1.31 } ip daddr != { 10.0.0.0/16 }"), "{v4}");
        assert!(!v4.contains("ip6") && !v4.contains("uplinks"), "{v4}");
        let mut both = network();
        both.pods.push(range("fd00::1", "fd00::ff", 0));
        assert!(chains(&both, true).contains("ip6 saddr { fd00::1-fd00::ff } fib"), "{}", chains(&both, true));
    }

    #[test]
    fn nothing_to_say_is_no_table() {
        let nobody = NodeNetwork { masquerade: false, uplinks: Vec::new(), pods: Vec::new(), ..network() };
        assert_eq!(chains(&nobody, true), "");
        assert!(!chains(&NodeNetwork { masquerade: false, ..network() }, true).contains("masquerade"));
    }

    #[test]
    fn what_the_programs_mark_passes_conntrack_by() {
        let text = chains(&network(), true);
        for ifname in ["eth1", "bw*"] {
            let rule = format!("iifname \"{ifname}\" meta mark & 0x10 != 0 meta mark set meta mark & 0xffffffef notrack");
            assert!(text.contains(&rule), "{text}");
        }
    }

    #[test]
    fn without_programs_there_is_nothing_to_keep_apart() {
        assert!(chains(&network(), true).contains("th sport { 49152-50175, 12288-13311 } snat ip to ip saddr:th sport ^ 0xf000"));
        let text = chains(&network(), false);
        assert!(!text.contains("sport") && !text.contains("notrack"), "{text}");
    }

    #[test]
    fn ports_that_a_kernel_gives_change_places_with_others() {
        let mut other = std::collections::BTreeMap::new();
        for (bits, ports) in OTHER_PORTS {
            for (first, last) in ports.split(", ").map(|range| range.split_once('-').unwrap()) {
                other.extend((first.parse::<u16>().unwrap()..=last.parse().unwrap()).map(|port| (port, port ^ bits)));
            }
        }
        assert!((32_768..=60_999).all(|port| (1_024..32_768).contains(&other[&port])));
        assert!(other.iter().all(|(port, becomes)| other[becomes] == *port), "no two become one");
        // The kernel programs, which translate services as well, have each flow have the same ports.
        assert!((0..=u16::MAX).all(|port| other.get(&port).copied().unwrap_or(port) == ebpf::service::apart(port)));
    }

    #[test]
    fn what_was_carried_is_taken_up_once_the_programs_are_gone() {
        let network = NodeNetwork { were_carried: true, ..network() };
        let rule = "ip saddr { 10.0.0.0/16 } ip daddr { 10.0.1.16-10.0.1.31 } tcp flags & (syn | ack) != syn ct state invalid notrack";
        assert!(chains(&network, false).contains(rule), "{}", chains(&network, false));
        assert!(!chains(&network, true).contains("invalid"));
    }

    #[test]
    fn a_further_uplink_marks_its_own_pods_and_replies_to_its_own_address() {
        let mut two = network();
        two.uplinks.push(uplink(2, "10.0.0.21"));
        two.pods.push(range("10.0.1.48", "10.0.1.63", 1));
        let text = chains(&two, true);
        let position = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is not in {text}"));
        let order = [
            "ip daddr { 10.0.1.16-10.0.1.31, 10.0.1.48-10.0.1.63 } return",
            "ct original ip daddr { 10.0.0.11 } return",
            "ct original ip daddr { 10.0.0.21 } meta mark set meta mark & 0xfffffff0 | 0x1 return",
            "ip daddr != { 10.0.0.0/16 } return",
            "ip saddr { 10.0.1.48-10.0.1.63 } meta mark set meta mark & 0xfffffff0 | 0x1 return",
        ];
        assert!(order.windows(2).all(|pair| position(pair[0]) < position(pair[1])), "{text}");
    }

    #[test]
    fn what_leaves_gets_the_uplinks_own_address_where_that_is_one() {
        let mut both = network();
        both.uplinks[0].addresses = ["10.0.0.11", "10.0.0.100", "fd00::11", "fe80::1"].map(|text| text.parse().unwrap()).to_vec();
        both.pods.push(range("fd00:1::1", "fd00:1::ff", 0));
        let text = chains(&both, true);
        assert!(text.contains("oifname \"eth1\" counter snat ip to 10.0.0.11 fully-random"), "{text}");
        assert!(text.contains("oifname \"eth1\" counter snat ip6 to fd00::11 fully-random"), "{text}");
        assert_eq!(text.matches("counter masquerade fully-random").count(), 2, "by whatever else: {text}");
        both.uplinks[0].addresses.push("2001:db8::11".parse().unwrap());
        assert!(!chains(&both, true).contains("counter snat ip6"), "the kernel chooses by the destination");
        both.uplinks[0].addresses.clear();
        assert!(!chains(&both, true).contains("counter snat"));
    }

    #[test]
    fn a_network_within_another_is_not_named_twice() {
        let mut nested = network();
        nested.native = ["10.1.0.0/16", "10.0.0.0/8", "192.168.0.0/16", "10.0.0.0/8"].map(|text| text.parse().unwrap()).to_vec();
        assert!(chains(&nested, true).contains("ip daddr != { 10.0.0.0/8, 192.168.0.0/16 }"), "{}", chains(&nested, true));
    }
}
