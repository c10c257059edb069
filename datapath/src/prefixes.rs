//! Addresses as numbers, and intervals of them as prefixes. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// Bits of an address.
pub(crate) const fn width(ipv4: bool) -> u8 {
    if ipv4 { 32 } else { 128 }
}

/// An address as a number.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// A prefix's first and last address as numbers.
pub(crate) fn ends(prefix: &IpNetwork) -> (u128, u128) {
    let first = number(prefix.network());
    (first, first | hosts(width(prefix.is_ipv4()) - prefix.prefix()))
}

/// The prefix of a length that an address is in.
pub(crate) fn prefix(ipv4: bool, number: u128, length: u8) -> IpNetwork {
    let network = number & !hosts(width(ipv4) - length);
    if ipv4 {
        let address = Ipv4Addr::from(u32::try_from(network).unwrap_or(u32::MAX));
        Ipv4Network::new_checked(address, length).map_or(IpNetwork::from(IpAddr::from(address)), IpNetwork::V4)
    } else {
        let address = Ipv6Addr::from(network);
        Ipv6Network::new_checked(address, length).map_or(IpNetwork::from(IpAddr::from(address)), IpNetwork::V6)
    }
}

/// The fewest prefixes that are exactly the addresses from `first` to `last`.
pub(crate) fn of_interval(ipv4: bool, first: u128, last: u128) -> Vec<IpNetwork> {
    let (mut prefixes, mut next) = (Vec::new(), Some(first));
    while let Some(start) = next.filter(|start| *start <= last) {
        // As large as its first address is aligned, and as there is room.
        let aligned = u8::try_from(start.trailing_zeros()).unwrap_or(u8::MAX).min(width(ipv4));
        let fits = (0..=aligned).rev().find(|bits| last - start >= hosts(*bits)).unwrap_or(0);
        prefixes.push(prefix(ipv4, start, width(ipv4) - fits));
        next = start.checked_add(hosts(fits)).and_then(|end| end.checked_add(1));
    }
    prefixes
}

/// At most `room` prefixes that cover all of these, and as little else as halving their number by the longest allows.
pub(crate) fn within_room(mut prefixes: Vec<IpNetwork>, room: usize) -> Vec<IpNetwork> {
    loop {
        prefixes = without_nested(prefixes);
        let longest = prefixes.iter().map(IpNetwork::prefix).max().unwrap_or(0);
        if prefixes.len() <= room || longest == 0 {
            return prefixes;
        }
        for widened in prefixes.iter_mut().filter(|known| known.prefix() == longest) {
            *widened = prefix(widened.is_ipv4(), number(widened.network()), longest - 1);
        }
    }
}

/// Sorted, each once, and none that lies within another.
pub(crate) fn without_nested(mut prefixes: Vec<IpNetwork>) -> Vec<IpNetwork> {
    prefixes.sort_unstable_by_key(|prefix| (!prefix.is_ipv4(), ends(prefix).0, prefix.prefix()));
    let mut kept: Vec<IpNetwork> = Vec::new();
    for prefix in prefixes {
        if !kept.last().is_some_and(|before| contains(before, &prefix)) {
            kept.push(prefix);
        }
    }
    kept
}

/// Whether all of `inner` is in `outer`.
pub(crate) fn contains(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4() && outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

/// Whether they have an address in common.
pub(crate) fn intersect(one: &IpNetwork, other: &IpNetwork) -> bool {
    contains(one, other) || contains(other, one)
}

/// So many bits set.
const fn hosts(bits: u8) -> u128 {
    if bits >= 128 { u128::MAX } else { (1 << bits) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_interval_is_the_fewest_prefixes() {
        let of = |first: &str, last: &str| {
            let [first, last]: [IpAddr; 2] = [first, last].map(|text| text.parse().unwrap());
            of_interval(first.is_ipv4(), number(first), number(last))
        };
        assert_eq!(of("10.0.1.16", "10.0.1.31"), prefixes(&["10.0.1.16/28"]));
        assert_eq!(of("10.0.1.17", "10.0.1.20"), prefixes(&["10.0.1.17/32", "10.0.1.18/31", "10.0.1.20/32"]));
        assert_eq!(of("0.0.0.0", "255.255.255.255"), prefixes(&["0.0.0.0/0"]));
        assert_eq!(of("255.255.255.254", "255.255.255.255"), prefixes(&["255.255.255.254/31"]));
        assert_eq!(of("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), prefixes(&["::/0"]));
        assert_eq!(of("fd00::1", "fd00::1"), prefixes(&["fd00::1/128"]));
    }

    #[test]
    fn too_many_become_fewer_and_wider() {
        let single: Vec<_> = (0..=255).map(|last| IpNetwork::from(IpAddr::from([10, 96, 0, last]))).collect();
        assert_eq!(within_room(single, 16), (0..16).map(|part| prefix(true, 0x0a60_0000 + part * 16, 28)).collect::<Vec<_>>());
        let few = prefixes(&["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"]);
        assert_eq!(within_room(few, 16), prefixes(&["10.0.0.0/8", "fd00::/8"]));
    }
}
