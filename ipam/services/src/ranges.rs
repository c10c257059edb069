//! Ranges of sources that may use a load balancer's address.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::Family;

/// Who may use the load balancer's addresses of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sources {
    /// Everybody: no ranges, or one of them is all addresses.
    All,
    /// These. None where what is written makes no sense: then nobody may, rather than everybody.
    Of(Vec<IpNetwork>),
}

/// Reads `spec.loadBalancerSourceRanges`; spaces around them are let pass by the API server. What is no range is told by `bad`.
pub(crate) fn sources(family: Family, ranges: &[String], mut bad: impl FnMut(String)) -> Sources {
    let (mut found, mut has_bad) = (Vec::new(), false);
    for range in ranges {
        match range.trim().parse::<IpNetwork>() {
            Ok(range) if family.has(range.ip()) => found.push(range),
            Ok(_) => {}
            Err(_) => {
                has_bad = true;
                bad(format!("loadBalancerSourceRanges has {range:.60?}, which is no range of addresses"));
            }
        }
    }
    if found.iter().any(|range| range.prefix() == 0) || (found.is_empty() && !has_bad) { Sources::All } else { Sources::Of(found) }
}

/// As an anonymous set of nftables, which takes no range within another.
pub(crate) fn as_set(ranges: impl IntoIterator<Item = IpNetwork>) -> String {
    let mut ranges: Vec<IpNetwork> = ranges.into_iter().filter_map(|range| IpNetwork::new(range.network(), range.prefix()).ok()).collect();
    ranges.sort_unstable_by_key(|range| (range.prefix(), range.ip()));
    let mut apart: Vec<IpNetwork> = Vec::new();
    for range in ranges {
        if !apart.iter().any(|wider| wider.contains(range.ip())) {
            apart.push(range);
        }
    }
    let texts: Vec<_> = apart.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", texts.join(", "))
}

/// One address as a range.
pub(crate) fn only(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_make_no_sense_let_nobody_in() {
        let of = |family, ranges: &[&str]| {
            let mut told = Vec::new();
            let ranges: Vec<_> = ranges.iter().map(|range| (*range).to_owned()).collect();
            (sources(family, &ranges, |bad| told.push(bad)), told.len())
        };
        assert_eq!(of(Family::V4, &[]), (Sources::All, 0));
        assert_eq!(of(Family::V4, &["10.0.0.0/8", " 0.0.0.0/0"]), (Sources::All, 0));
        assert_eq!(of(Family::V6, &["10.0.0.0/8"]), (Sources::All, 0), "of the other family alone: as kube-proxy has it");
        assert_eq!(of(Family::V4, &["office"]), (Sources::Of(Vec::new()), 1));
        assert_eq!(of(Family::V4, &[" 10.0.0.0/8 ", "x"]), (Sources::Of(vec!["10.0.0.0/8".parse().unwrap()]), 1));
    }

    #[test]
    fn a_range_within_another_is_not_named_twice() {
        let ranges = ["10.1.0.0/16", "10.0.0.7/8", "192.0.2.1/32", "10.0.0.0/8"].map(|range| range.parse().unwrap());
        assert_eq!(as_set(ranges), "{ 10.0.0.0/8, 192.0.2.1/32 }");
    }
}
