//! Counters: traffic by endpoint, direction and scope, and packets by the reason they left the fast path.

use crate::scope::Scope;

/// Which way a packet goes, as the pod sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Direction {
    /// From the pod.
    Sent = 0,
    /// To the pod.
    Received = 1,
}

/// Packets and the bytes of their frames, Ethernet header included, as interface counters count them.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counter {
    /// Packets; a GSO packet counts once, as everywhere in the kernel.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// One CPU's counters of one endpoint.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// By [`Scope`].
    pub sent: [Counter; 5],
    /// By [`Scope`].
    pub received: [Counter; 5],
}

const _: () = assert!(size_of::<Traffic>() == 160);

impl Traffic {
    /// The sum of two CPUs' counters.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let add = |a: &[Counter; 5], b: &[Counter; 5]| {
            core::array::from_fn(|scope| Counter { packets: a[scope].packets + b[scope].packets, bytes: a[scope].bytes + b[scope].bytes })
        };
        Self { sent: add(&self.sent, &other.sent), received: add(&self.received, &other.received) }
    }

    /// Counts one packet.
    #[inline(always)]
    pub fn count(&mut self, direction: Direction, scope: Scope, bytes: u32) {
        let counters = match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        };
        let counter = &mut counters[scope as usize];
        counter.packets += 1;
        counter.bytes += u64::from(bytes);
    }
}

/// Why a packet was not carried by the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Reason {
    /// Dropped: it came from a link that is no endpoint (any more).
    NoEndpoint = 0,
    /// Dropped: its source address is not the endpoint's.
    SpoofedAddress = 1,
    /// Dropped: its source MAC address is not the endpoint's.
    SpoofedMac = 2,
    /// Dropped: a claim on the link (ARP, neighbour discovery) about an address or a MAC address that is not the endpoint's.
    SpoofedNeighbour = 3,
    /// Dropped: it has a VLAN tag.
    VlanTag = 4,
    /// Dropped: its headers are cut short or nonsense.
    Malformed = 5,
    /// Dropped: neither IPv4, IPv6 nor ARP.
    NotIp = 6,
    /// Dropped: its flow must be noted, and the table, or the pod's share of it, has no room.
    FlowTableFull = 7,
    /// To the stack: a piece of a packet.
    Fragment = 8,
    /// To the stack: IPv4 options or IPv6 extension headers.
    Options = 9,
    /// To the stack: it may pass no further router.
    HopLimit = 10,
    /// To the stack: larger than the way out takes.
    TooLarge = 11,
    /// To the stack: neither TCP nor UDP nor an echo, nor an error about one of these.
    Unusual = 12,
    /// To the stack: its flow was noted.
    NotedFlow = 13,
    /// To the stack: the flows of the endpoint, or those to its peer, are not all known yet.
    StackOnly = 14,
    /// To the stack: its family is not carried on this node.
    FamilyNotCarried = 15,
    /// To the stack: its other end is neither a pod of this node nor native.
    NotNative = 16,
    /// To the stack: ARP, a multicast or a link-local packet. A solicitation of routers is dropped.
    LinkLocal = 17,
    /// To the stack: no pod of this node has the address.
    NoSuchPod = 18,
    /// To the stack: the endpoint's uplink is not open, or its gateway is not known.
    NoUplink = 19,
    /// Dropped: beyond what the pod may send to the internet.
    InternetEgressLimit = 20,
    /// Dropped: beyond what the pod may send.
    EgressLimit = 21,
    /// Dropped: beyond what the pod may be sent.
    IngressLimit = 22,
    /// Dropped: beyond the pod's share of what all pods of the node may send to the internet.
    NodeInternetEgressLimit = 23,
    /// Dropped: it comes back from a service's endpoint, and nobody knows any more which service it was.
    NoTranslation = 24,
}

impl Reason {
    /// Every reason, in order of its number, with its name in metrics.
    pub const ALL: [(Self, &'static str); 25] = [
        (Self::NoEndpoint, "no_endpoint"),
        (Self::SpoofedAddress, "spoofed_address"),
        (Self::SpoofedMac, "spoofed_mac"),
        (Self::SpoofedNeighbour, "spoofed_neighbour"),
        (Self::VlanTag, "vlan_tag"),
        (Self::Malformed, "malformed"),
        (Self::NotIp, "not_ip"),
        (Self::FlowTableFull, "flow_table_full"),
        (Self::Fragment, "fragment"),
        (Self::Options, "options"),
        (Self::HopLimit, "hop_limit"),
        (Self::TooLarge, "too_large"),
        (Self::Unusual, "unusual"),
        (Self::NotedFlow, "pinned_flow"),
        (Self::StackOnly, "slow_path_only"),
        (Self::FamilyNotCarried, "family_on_slow_path"),
        (Self::NotNative, "not_native"),
        (Self::LinkLocal, "link_local"),
        (Self::NoSuchPod, "no_such_pod"),
        (Self::NoUplink, "no_uplink"),
        (Self::InternetEgressLimit, "internet_egress_limit"),
        (Self::EgressLimit, "egress_limit"),
        (Self::IngressLimit, "ingress_limit"),
        (Self::NodeInternetEgressLimit, "node_internet_egress_limit"),
        (Self::NoTranslation, "no_translation"),
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Whether its packets are dropped; others are passed to the stack. (Of [`Self::LinkLocal`] solicitations of routers are dropped, all else is not.)
    #[must_use]
    pub const fn drops(self) -> bool {
        match self {
            Self::NoEndpoint
            | Self::SpoofedAddress
            | Self::SpoofedMac
            | Self::SpoofedNeighbour
            | Self::VlanTag
            | Self::Malformed
            | Self::NotIp
            | Self::FlowTableFull
            | Self::InternetEgressLimit
            | Self::EgressLimit
            | Self::IngressLimit
            | Self::NodeInternetEgressLimit
            | Self::NoTranslation => true,
            Self::Fragment
            | Self::Options
            | Self::HopLimit
            | Self::TooLarge
            | Self::Unusual
            | Self::NotedFlow
            | Self::StackOnly
            | Self::FamilyNotCarried
            | Self::NotNative
            | Self::LinkLocal
            | Self::NoSuchPod
            | Self::NoUplink => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order() {
        for (number, (reason, _)) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
    }

    #[test]
    fn counts_go_where_they_belong() {
        let mut traffic = Traffic::default();
        traffic.count(Direction::Sent, Scope::Internet, 100);
        traffic.count(Direction::Received, Scope::SameNode, 60);
        assert_eq!(traffic.sent[4], Counter { packets: 1, bytes: 100 });
        assert_eq!(traffic.received[0], Counter { packets: 1, bytes: 60 });
    }
}
