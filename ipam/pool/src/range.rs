//! Ranges of addresses, as the configuration gives them: `10.0.1.16/28`, `10.0.1.40-10.0.1.60`, `fd00::5`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of `address`.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The address with this number.
    pub(crate) fn address(self, bits: u128) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
            Self::V6 => Ipv6Addr::from(bits).into(),
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The number of an address within its family.
pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// A run of addresses of one family, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    family: Family,
    first: u128,
    last: u128,
}

impl AddressRange {
    /// The family of all its addresses.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Its first and its last address.
    #[must_use]
    pub fn ends(&self) -> (IpAddr, IpAddr) {
        (self.family.address(self.first), self.family.address(self.last))
    }

    pub(crate) const fn first(&self) -> u128 {
        self.first
    }

    pub(crate) const fn last(&self) -> u128 {
        self.last
    }

    /// How many addresses it has; 2^64 and more count as 2^64 - 1.
    #[must_use]
    pub fn size(&self) -> u64 {
        u64::try_from(self.last - self.first).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Whether `address` is one of its addresses.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.family == Family::of(address) && (self.first..=self.last).contains(&bits(address))
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.family == other.family && self.first <= other.last && other.first <= self.last
    }

    /// The addresses that the two have in common, in order.
    pub fn common(self, other: &Self) -> impl Iterator<Item = IpAddr> + use<> {
        let numbers = if self.overlaps(other) { Some(self.first.max(other.first)..=self.last.min(other.last)) } else { None };
        numbers.into_iter().flatten().map(move |number| self.family.address(number))
    }

    /// What is left of it without `hole`: nothing, one range or two.
    #[must_use]
    pub fn without(self, hole: &Self) -> Vec<Self> {
        if !self.overlaps(hole) {
            return vec![self];
        }
        let mut left = Vec::new();
        if self.first < hole.first {
            left.push(Self { last: hole.first - 1, ..self });
        }
        if hole.last < self.last {
            left.push(Self { first: hole.last + 1, ..self });
        }
        left
    }
}

impl std::str::FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| format!("{part:?} is not an IP address"));
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (parse(first)?, parse(last)?);
            if Family::of(first) != Family::of(last) {
                return Err(format!("{text:?} mixes IPv4 and IPv6"));
            }
            if last < first {
                return Err(format!("{text:?} ends before it begins"));
            }
            return Ok(Self { family: Family::of(first), first: bits(first), last: bits(last) });
        }
        if !text.contains('/') {
            let address = parse(text)?;
            return Ok(Self { family: Family::of(address), first: bits(address), last: bits(address) });
        }
        let network: IpNetwork = text.parse().map_err(|_| format!("{text:?} is not a CIDR like 10.0.1.16/28 or fd00:1::/80"))?;
        if network.ip() != network.network() {
            return Err(format!("{text:?} has host bits set; the network is {}/{}", network.network(), network.prefix()));
        }
        Ok(Self::from(network))
    }
}

impl From<IpNetwork> for AddressRange {
    /// What of a network hosts may have: all of it, but for the first address of an IPv6 subnet, which means any of its routers (RFC 4291,
    /// 2.6.1).
    fn from(network: IpNetwork) -> Self {
        let (family, first, last) = (Family::of(network.ip()), bits(network.network()), bits(network.broadcast()));
        let has_anycast = family == Family::V6 && last - first > 1;
        Self { family, first: first + u128::from(has_anycast), last }
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.family.address(self.first), self.family.address(self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn every_notation_reads() {
        assert_eq!(range("10.0.1.16/28"), range("10.0.1.16-10.0.1.31"));
        assert_eq!(range("fd00::/80").size(), (1 << 48) - 1);
        assert_eq!(range("::/0").size(), u64::MAX);
        assert_eq!(range("10.0.0.7").size(), 1);
    }

    #[test]
    fn rfc4291_2_6_1_the_subnet_router_anycast_address_is_no_pods() {
        assert!(!range("fd00::/80").contains("fd00::".parse().unwrap()));
        assert_eq!(range("fd00::/127").size(), 2);
        let of_a_cloud = AddressRange::from("fd00::/80".parse::<IpNetwork>().unwrap());
        assert_eq!(of_a_cloud, range("fd00::/80"));
        assert!(range("10.0.1.16/28").contains("10.0.1.16".parse().unwrap()));
    }

    #[test]
    fn bad_ranges_name_the_value() {
        for bad in ["", "10.0.0.0/33", "10.0.0.9-10.0.0.1", "10.0.0.1-fd00::1", "10.0.1.17/28", "x"] {
            let error = bad.parse::<AddressRange>().unwrap_err();
            assert!(error.contains(bad) || error.contains(bad.split(['-', '/']).next().unwrap()), "{bad}: {error}");
        }
    }

    #[test]
    fn holes_split() {
        assert_eq!(range("10.0.0.0/29").without(&range("10.0.0.3")), [range("10.0.0.0-10.0.0.2"), range("10.0.0.4-10.0.0.7")]);
        assert!(range("10.0.0.3").without(&range("10.0.0.0/29")).is_empty());
    }
}
