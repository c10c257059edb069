//! What the programs are told of the network, from what the configuration and the node say. Pure.

use std::net::IpAddr;

use ebpf::layout::{CIDRS_MAX, Cidr4, Cidr6, LOCAL_MAX, Network, Range4, Range6};
use ebpf::scope::{Scope, halves};
use ipnetwork::IpNetwork;

use crate::{NodeNetwork, PodRange};

/// A network with what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destination {
    /// The network.
    pub(crate) cidr: IpNetwork,
    /// Its scope in accounts.
    pub(crate) scope: Scope,
    /// Whether packets of pods to it leave by the uplink as they are.
    pub(crate) native: bool,
}

/// More than the programs have room for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{count} {what} of one family are more than the {limit} that the fast path has room for; join some")]
pub struct ViewError {
    what: &'static str,
    count: usize,
    limit: usize,
}

/// Builds the view.
///
/// # Errors
/// [`ViewError`] where there are too many of a kind.
pub fn view(of: &NodeNetwork) -> Result<Network, ViewError> {
    let mut network = Network::default();
    let ranges4 = cover(of.pods_of(true).filter_map(interval).collect(), LOCAL_MAX).into_iter().map(range4).collect::<Vec<_>>();
    let ranges6 = cover(of.pods_of(false).filter_map(interval).collect(), LOCAL_MAX).into_iter().map(range6).collect::<Vec<_>>();
    let (mut cidrs4, mut cidrs6) = (Vec::new(), Vec::new());
    for Destination { cidr, scope, native } in of.destinations() {
        let (scope, native) = (scope as u32, native.into());
        match cidr {
            IpNetwork::V4(cidr) => cidrs4.push(Cidr4 { network: cidr.network().into(), mask: cidr.mask().into(), scope, native }),
            IpNetwork::V6(cidr) => {
                cidrs6.push(Cidr6 { network: halves(cidr.network().octets()), mask: halves(cidr.mask().octets()), scope, native });
            }
        }
    }
    keep_to_room(&mut cidrs4, CIDRS_MAX, |cidr| cidr.scope == Scope::Node as u32);
    keep_to_room(&mut cidrs6, CIDRS_MAX, |cidr| cidr.scope == Scope::Node as u32);
    network.local4_len = fill(&mut network.local4, &ranges4, "pod ranges", LOCAL_MAX)?;
    network.local6_len = fill(&mut network.local6, &ranges6, "pod ranges", LOCAL_MAX)?;
    network.cidrs4_len = fill(&mut network.cidrs4, &cidrs4, "networks with a scope", CIDRS_MAX)?;
    network.cidrs6_len = fill(&mut network.cidrs6, &cidrs6, "networks with a scope", CIDRS_MAX)?;
    Ok(network)
}

/// First and last address as numbers.
type Interval = (u128, u128);

fn interval(range: &PodRange) -> Option<Interval> {
    match (range.first, range.last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Some((u32::from(first).into(), u32::from(last).into())),
        (IpAddr::V6(first), IpAddr::V6(last)) => Some((first.into(), last.into())),
        _ => None,
    }
}

fn range4((first, last): Interval) -> Range4 {
    let number = |bits: u128| u32::try_from(bits).unwrap_or(u32::MAX);
    Range4 { first: number(first), last: number(last) }
}

fn range6((first, last): Interval) -> Range6 {
    Range6 { first: halves(first.to_be_bytes()), last: halves(last.to_be_bytes()) }
}

/// At most `room` intervals that cover all of these: neighbours become one, and where that is not enough, those with the least
/// between them. Addresses between are then looked up as if they were this node's, are not found, and take the stack: slower, and
/// right.
fn cover(mut intervals: Vec<Interval>, room: usize) -> Vec<Interval> {
    intervals.sort_unstable();
    let gap = |pair: &[Interval]| pair[1].0 - pair[0].1;
    loop {
        let least = intervals.windows(2).enumerate().min_by_key(|(_, pair)| gap(pair)).map(|(at, pair)| (at, gap(pair)));
        match least {
            Some((at, gap)) if gap <= 1 || intervals.len() > room => {
                intervals[at].1 = intervals.remove(at + 1).1;
            }
            _ => return intervals,
        }
    }
}

/// A node can have any number of addresses (kube-proxy in IPVS mode gives it one a service). The last of them may go: a packet to
/// such an address takes a longer way, by the network or the stack, and is counted as if it left.
fn keep_to_room<T>(rows: &mut Vec<T>, room: usize, may_go: impl Fn(&T) -> bool) {
    while rows.len() > room
        && let Some(position) = rows.iter().rposition(&may_go)
    {
        rows.remove(position);
    }
}

fn fill<T: Copy>(table: &mut [T], rows: &[T], what: &'static str, limit: usize) -> Result<u32, ViewError> {
    let Some(room) = table.get_mut(..rows.len()) else { return Err(ViewError { what, count: rows.len(), limit }) };
    room.copy_from_slice(rows);
    Ok(u32::try_from(rows.len()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(native: &[String]) -> NodeNetwork {
        NodeNetwork {
            node_addresses: vec!["10.0.0.11".parse().unwrap()],
            pods: vec![PodRange { first: "10.0.1.16".parse().unwrap(), last: "10.0.1.31".parse().unwrap(), uplink: 0 }],
            native: native.iter().map(|text| text.parse().unwrap()).collect(),
            ..NodeNetwork::default()
        }
    }

    #[test]
    fn every_part_is_told() {
        let view = view(&network(&["10.0.0.0/16".to_owned(), "fd00:10::/32".to_owned()])).unwrap();
        assert_eq!(view.place4([10, 0, 0, 11]).scope, Scope::Node);
        assert!(view.place4([10, 0, 9, 9]).native);
        assert!(view.place4([10, 0, 1, 31]).local);
        let octets = "fd00:10::9".parse::<std::net::Ipv6Addr>().unwrap().octets();
        assert!(view.place6(octets).native);
    }

    #[test]
    fn neighbours_are_one_and_the_least_apart_are_joined() {
        assert_eq!(cover(vec![(32, 47), (0, 15), (16, 31)], 8), [(0, 47)]);
        assert_eq!(cover(vec![(0, 15), (32, 47), (100, 115)], 2), [(0, 47), (100, 115)]);
        assert_eq!(cover(vec![], 2), []);
    }

    #[test]
    fn addresses_of_the_node_give_way() {
        let mut crowded = network(&["10.0.0.0/16".to_owned()]);
        crowded.node_addresses = (0..100).map(|last| std::net::Ipv4Addr::new(10, 96, 0, last).into()).collect();
        let view = view(&crowded).unwrap();
        assert_eq!(view.cidrs4_len as usize, CIDRS_MAX);
        assert!(view.place4([10, 0, 9, 9]).native);
    }

    #[test]
    fn too_many_are_told() {
        let many: Vec<_> = (0..=CIDRS_MAX).map(|index| format!("10.{index}.0.0/16")).collect();
        assert!(view(&network(&many)).unwrap_err().to_string().contains("25"));
    }
}
