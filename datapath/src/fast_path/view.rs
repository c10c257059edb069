//! What the programs are told of the network, from what the configuration and the node say. Pure.

use std::net::IpAddr;

use ebpf::layout::{CIDRS_MAX, Cidr4, Cidr6, LOCAL_MAX, Network, Range4, Range6};
use ebpf::scope::{Scope, halves};
use ipnetwork::IpNetwork;

/// A network with what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// The network.
    pub cidr: IpNetwork,
    /// Its scope in accounts.
    pub scope: Scope,
    /// Whether packets of pods to it leave by the uplink as they are.
    pub native: bool,
}

/// More than the programs have room for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{count} {what} of one family are more than the {limit} that the fast path has room for; join some")]
pub struct ViewError {
    what: &'static str,
    count: usize,
    limit: usize,
}

/// Builds the view. `local` are this node's pod ranges, as first and last address.
///
/// # Errors
/// [`ViewError`] where there are too many of a kind.
pub fn view(local: &[(IpAddr, IpAddr)], destinations: &[Destination]) -> Result<Network, ViewError> {
    let mut network = Network::default();
    let (mut ranges4, mut ranges6) = (Vec::new(), Vec::new());
    for range in local {
        match range {
            (IpAddr::V4(first), IpAddr::V4(last)) => ranges4.push(Range4 { first: (*first).into(), last: (*last).into() }),
            (IpAddr::V6(first), IpAddr::V6(last)) => ranges6.push(Range6 { first: halves(first.octets()), last: halves(last.octets()) }),
            _ => {}
        }
    }
    // The first match decides, so the longest prefix comes first.
    let mut destinations = destinations.to_vec();
    destinations.sort_by_key(|destination| std::cmp::Reverse(destination.cidr.prefix()));
    let (mut cidrs4, mut cidrs6) = (Vec::new(), Vec::new());
    for Destination { cidr, scope, native } in destinations {
        let (scope, native) = (scope as u32, native.into());
        match cidr {
            IpNetwork::V4(cidr) => cidrs4.push(Cidr4 { network: cidr.network().into(), mask: cidr.mask().into(), scope, native }),
            IpNetwork::V6(cidr) => {
                cidrs6.push(Cidr6 { network: halves(cidr.network().octets()), mask: halves(cidr.mask().octets()), scope, native });
            }
        }
    }
    network.local4_len = fill(&mut network.local4, &ranges4, "pod ranges", LOCAL_MAX)?;
    network.local6_len = fill(&mut network.local6, &ranges6, "pod ranges", LOCAL_MAX)?;
    network.cidrs4_len = fill(&mut network.cidrs4, &cidrs4, "networks with a scope", CIDRS_MAX)?;
    network.cidrs6_len = fill(&mut network.cidrs6, &cidrs6, "networks with a scope", CIDRS_MAX)?;
    Ok(network)
}

fn fill<T: Copy>(table: &mut [T], rows: &[T], what: &'static str, limit: usize) -> Result<u32, ViewError> {
    let Some(room) = table.get_mut(..rows.len()) else { return Err(ViewError { what, count: rows.len(), limit }) };
    room.copy_from_slice(rows);
    Ok(u32::try_from(rows.len()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(cidr: &str, scope: Scope, native: bool) -> Destination {
        Destination { cidr: cidr.parse().unwrap(), scope, native }
    }

    #[test]
    fn the_longest_prefix_decides_whatever_the_order() {
        let node = destination("10.0.0.11/32", Scope::Node, false);
        let vpc = destination("10.0.0.0/16", Scope::Vpc, true);
        let six = destination("fd00:10::/32", Scope::Vpc, true);
        for order in [[node, vpc, six], [six, vpc, node]] {
            let network = view(&[("10.0.1.16".parse().unwrap(), "10.0.1.31".parse().unwrap())], &order).unwrap();
            assert_eq!(network.place4([10, 0, 0, 11]).scope, Scope::Node);
            assert!(network.place4([10, 0, 9, 9]).native);
            assert!(network.place4([10, 0, 1, 31]).local);
            let octets = "fd00:10::9".parse::<std::net::Ipv6Addr>().unwrap().octets();
            assert!(network.place6(octets).native);
        }
    }

    #[test]
    fn too_many_are_told() {
        let many: Vec<_> = (0..=CIDRS_MAX).map(|index| destination(&format!("10.{index}.0.0/16"), Scope::Vpc, true)).collect();
        assert!(view(&[], &many).unwrap_err().to_string().contains("25"));
    }
}
