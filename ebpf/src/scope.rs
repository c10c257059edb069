//! Where an address lies, as seen from this node.

use crate::layout::{CIDRS_MAX, LOCAL_MAX, Network};

/// The other end of a packet, for accounting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Scope {
    /// Another pod of this node.
    SameNode = 0,
    /// The cloud network and what is reached as it is.
    Vpc = 1,
    /// A service's address, to be translated by the stack.
    Service = 2,
    /// This node itself.
    Node = 3,
    /// Everything else.
    Internet = 4,
}

impl Scope {
    /// Every scope, in order of its number.
    pub const ALL: [Self; 5] = [Self::SameNode, Self::Vpc, Self::Service, Self::Node, Self::Internet];

    /// Reads a scope back from a map; an unknown number is [`Scope::Internet`], the strictest.
    #[must_use]
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::SameNode,
            1 => Self::Vpc,
            2 => Self::Service,
            3 => Self::Node,
            _ => Self::Internet,
        }
    }
}

/// What is known of an address without asking for its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// It is in the ranges of this node's pods.
    pub local: bool,
    /// Packets to it leave by the uplink as they are.
    pub native: bool,
    /// Its scope where it is not a pod of this node.
    pub scope: Scope,
}

const NOWHERE: Place = Place { local: false, native: false, scope: Scope::Internet };

impl Network {
    /// Looks an IPv4 address up, in network order.
    #[must_use]
    #[inline(always)]
    pub fn place4(&self, address: [u8; 4]) -> Place {
        let address = u32::from_be_bytes(address);
        let (mut index, len) = (0, in_use(self.local4_len, LOCAL_MAX));
        while index < len {
            let range = &self.local4[index];
            if range.first <= address && address <= range.last {
                return Place { local: true, native: true, scope: Scope::Vpc };
            }
            index += 1;
        }
        let (mut index, len) = (0, in_use(self.cidrs4_len, CIDRS_MAX));
        while index < len {
            let cidr = &self.cidrs4[index];
            if address & cidr.mask == cidr.network {
                return Place { local: false, native: cidr.native != 0, scope: Scope::from_number(cidr.scope) };
            }
            index += 1;
        }
        NOWHERE
    }

    /// Looks an IPv6 address up.
    #[must_use]
    #[inline(always)]
    pub fn place6(&self, address: [u8; 16]) -> Place {
        let [high, low] = halves(address);
        let (mut index, len) = (0, in_use(self.local6_len, LOCAL_MAX));
        while index < len {
            let range = &self.local6[index];
            let from_first = high > range.first[0] || (high == range.first[0] && low >= range.first[1]);
            let to_last = high < range.last[0] || (high == range.last[0] && low <= range.last[1]);
            if from_first && to_last {
                return Place { local: true, native: true, scope: Scope::Vpc };
            }
            index += 1;
        }
        let (mut index, len) = (0, in_use(self.cidrs6_len, CIDRS_MAX));
        while index < len {
            let cidr = &self.cidrs6[index];
            // One comparison for both halves.
            if (high & cidr.mask[0] ^ cidr.network[0]) | (low & cidr.mask[1] ^ cidr.network[1]) == 0 {
                return Place { local: false, native: cidr.native != 0, scope: Scope::from_number(cidr.scope) };
            }
            index += 1;
        }
        NOWHERE
    }
}

/// How many rows of a table are in use, whatever it claims.
#[inline(always)]
const fn in_use(claimed: u32, room: usize) -> usize {
    if claimed as usize > room { room } else { claimed as usize }
}

/// The upper and the lower half of an IPv6 address as numbers.
#[must_use]
#[inline(always)]
pub const fn halves(address: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Cidr4, Cidr6, Range4, Range6};

    fn network() -> Network {
        let mut network = Network { local4_len: 1, cidrs4_len: 3, local6_len: 1, cidrs6_len: 1, ..Network::default() };
        network.local4[0] = Range4 { first: 0x0a00_0110, last: 0x0a00_011f };
        network.cidrs4[0] = Cidr4 { network: 0x0a00_000b, mask: u32::MAX, scope: Scope::Node as u32, native: 0 };
        network.cidrs4[1] = Cidr4 { network: 0x0a00_0000, mask: 0xffff_0000, scope: Scope::Vpc as u32, native: 1 };
        network.cidrs4[2] = Cidr4 { network: 0x0a60_0000, mask: 0xfff0_0000, scope: Scope::Service as u32, native: 0 };
        network.local6[0] = Range6 { first: [0xfd00_0010_0000_0001, 1], last: [0xfd00_0010_0000_0001, 0xffff] };
        network.cidrs6[0] =
            Cidr6 { network: [0xfd00_0010_0000_0000, 0], mask: [0xffff_ffff_0000_0000, 0], scope: Scope::Vpc as u32, native: 1 };
        network
    }

    #[test]
    fn the_first_match_decides() {
        let network = network();
        let place = |a, b, c, d| network.place4([a, b, c, d]);
        assert!(place(10, 0, 1, 16).local && place(10, 0, 1, 31).local);
        assert_eq!(place(10, 0, 1, 32), Place { local: false, native: true, scope: Scope::Vpc });
        assert_eq!(place(10, 0, 0, 11), Place { local: false, native: false, scope: Scope::Node });
        assert_eq!(place(10, 96, 0, 1).scope, Scope::Service);
        assert_eq!(place(1, 1, 1, 1), NOWHERE);
    }

    #[test]
    fn ipv6_ranges_compare_both_halves() {
        let network = network();
        let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        assert!(network.place6(address("fd00:10:0:1::1")).local);
        assert!(!network.place6(address("fd00:10:0:1::")).local);
        assert!(!network.place6(address("fd00:10:0:1::1:0")).local);
        assert!(network.place6(address("fd00:10:0:2::1")).native);
        assert_eq!(network.place6(address("2001:db8::1")), NOWHERE);
    }

    #[test]
    fn a_table_that_claims_too_much_is_read_to_its_end_only() {
        let network =
            Network { local4_len: u32::MAX, cidrs4_len: u32::MAX, local6_len: u32::MAX, cidrs6_len: u32::MAX, ..Network::default() };
        assert!(!network.place4([9; 4]).local);
        assert!(!network.place6([9; 16]).local);
    }
}
