//! What the programs are told of the network, from what the configuration and the node say. Pure.
//!
//! Networks overlap; the programs want to know of an address what it means, and no more. So the address space is cut into
//! intervals without overlap, each with its meaning, sorted, and neighbours that mean the same are one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ebpf::layout::{INTERVALS_MAX, Interval4, Interval6, Network};
use ebpf::scope::{Meaning, Scope, halves, whole};
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
#[error(
    "the networks of this node ({what}) cut the addresses into {count} intervals, and the fast path has room for {INTERVALS_MAX}; join some"
)]
pub struct ViewError {
    what: &'static str,
    count: usize,
}

/// Builds the view.
///
/// # Errors
/// [`ViewError`] where there are too many intervals of a family.
pub fn view(of: &NodeNetwork) -> Result<Network, ViewError> {
    let mut network = Network {
        carry_v4: of.carried.v4.into(),
        carry_v6: of.carried.v6.into(),
        untracked_mark: of.marks.untracked(),
        internet_egress: of.internet_egress,
        node_internet_egress: of.node_internet_egress,
        ..Network::default()
    };
    let four = flatten(&rows(of, true));
    let room = network.intervals4.get_mut(..four.len()).ok_or(ViewError { what: "IPv4", count: four.len() })?;
    for (interval, (first, meaning)) in room.iter_mut().zip(&four) {
        *interval = Interval4 { first: u32::try_from(*first).unwrap_or(u32::MAX), meaning: meaning.0 };
    }
    let six = flatten(&rows(of, false));
    let room = network.intervals6.get_mut(..six.len()).ok_or(ViewError { what: "IPv6", count: six.len() })?;
    for (interval, (first, meaning)) in room.iter_mut().zip(&six) {
        *interval = Interval6 { first: halves(first.to_be_bytes()), meaning: meaning.0, padding: 0 };
    }
    let length = |intervals: &[_]| u32::try_from(intervals.len()).unwrap_or(u32::MAX);
    (network.intervals4_len, network.intervals6_len) = (length(&four), length(&six));
    Ok(network)
}

/// First and last address as numbers, and what they mean.
type Row = ((u128, u128), Meaning);

/// What is said of one family's addresses. A later row wins over those before it: networks by rising prefix length, then the ranges
/// of this node's pods, then the node's own addresses.
fn rows(of: &NodeNetwork, v4: bool) -> Vec<Row> {
    let all = of.destinations();
    let of_family = || all.iter().rev().filter(|destination| destination.cidr.is_ipv4() == v4);
    // kube-proxy in IPVS mode gives the node each service's address: they mean what their network does.
    let is_service = |address: IpAddr| of.service.iter().any(|cidr| cidr.contains(address));
    let networks = of_family().filter(|row| row.scope != Scope::Node).map(|row| {
        let meaning = if row.native { Meaning::native(row.scope) } else { Meaning::of(row.scope) };
        (ends(&row.cidr), meaning)
    });
    let pods = of.pods_of(v4).filter_map(|range| Some((interval(range)?, Meaning::local())));
    let node = of_family().filter(|row| row.scope == Scope::Node && !is_service(row.cidr.network()));
    networks.chain(pods).chain(node.map(|row| (ends(&row.cidr), Meaning::of(row.scope)))).collect()
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn ends(cidr: &IpNetwork) -> (u128, u128) {
    let bits = if cidr.is_ipv4() { u32::BITS } else { u128::BITS };
    let first = number(cidr.network());
    let others = u128::MAX.checked_shr(u128::BITS - (bits - u32::from(cidr.prefix()))).unwrap_or(0);
    (first, first | others)
}

fn interval(range: &PodRange) -> Option<(u128, u128)> {
    (range.first.is_ipv4() == range.last.is_ipv4()).then(|| (number(range.first), number(range.last)))
}

/// Where each meaning begins; it ends where the next begins. The first begins at 0.
fn flatten(rows: &[Row]) -> Vec<(u128, Meaning)> {
    let mut begins = BTreeMap::from([(0, Meaning::NOWHERE)]);
    for ((first, last), meaning) in rows.iter().filter(|((first, last), _)| first <= last) {
        let behind = last.checked_add(1);
        // What was said of the address behind this interval stays true of it.
        let resumed = behind.and_then(|behind| begins.range(..=behind).next_back()).map(|(_, meaning)| *meaning);
        begins.retain(|begin, _| begin < first || begin > last);
        begins.insert(*first, *meaning);
        if let (Some(behind), Some(resumed)) = (behind, resumed) {
            begins.entry(behind).or_insert(resumed);
        }
    }
    let mut intervals: Vec<_> = begins.into_iter().collect();
    intervals.dedup_by_key(|(_, meaning)| *meaning);
    intervals
}

/// The network with every interval held back that is carried and was not, in whole, in the network before; `None` where there is no
/// such, or nothing was carried before.
pub(super) fn held_back(wanted: &Network, before: &Network) -> Option<Box<Network>> {
    if before.carry_v4 == 0 && before.carry_v6 == 0 {
        return None;
    }
    let mut held = Box::new(*wanted);
    let mut any = false;
    let mut hold = |meaning: &mut u32, carried_before: bool| {
        if Meaning(*meaning).is_carried() && !carried_before {
            *meaning = Meaning(*meaning).held_back().0;
            any = true;
        }
    };
    let of4 = |network: &Network| -> Vec<_> {
        let used = network.intervals4.iter().take(network.intervals4_len as usize);
        used.map(|interval| (u128::from(interval.first), Meaning(interval.meaning))).collect()
    };
    let (new, old) = (of4(wanted), of4(before));
    for (at, interval) in held.intervals4.iter_mut().take(new.len()).enumerate() {
        hold(&mut interval.meaning, was_carried(&new, at, &old));
    }
    let of6 = |network: &Network| -> Vec<_> {
        let used = network.intervals6.iter().take(network.intervals6_len as usize);
        used.map(|interval| (u128::from_be_bytes(whole(interval.first)), Meaning(interval.meaning))).collect()
    };
    let (new, old) = (of6(wanted), of6(before));
    for (at, interval) in held.intervals6.iter_mut().take(new.len()).enumerate() {
        hold(&mut interval.meaning, was_carried(&new, at, &old));
    }
    any.then_some(held)
}

/// Whether each address of an interval was in a carried one before.
fn was_carried(intervals: &[(u128, Meaning)], at: usize, before: &[(u128, Meaning)]) -> bool {
    let (first, behind) = (intervals[at].0, intervals.get(at + 1).map(|(next, _)| *next));
    let reaches_in = before.iter().rposition(|(begin, _)| *begin <= first);
    reaches_in.is_some_and(|from| {
        before[from..].iter().take_while(|(begin, _)| behind.is_none_or(|behind| *begin < behind)).all(|(_, meaning)| meaning.is_carried())
    })
}

#[cfg(test)]
mod tests;
