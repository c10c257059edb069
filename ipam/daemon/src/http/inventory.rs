//! `/pods` and `/addresses`: what there is, as JSON, from the records, the pool and the programs' tables.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use datapath::{Ifindex, NodeNetwork};
use ipam_pool::{Counts, Pool, RangeState};
use ipam_state::record::Record;
use node_api::BootMillis;
use serde::Serialize;

use super::Watched;
use crate::attachments::link::pod_link;

/// An attachment.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Pod {
    namespace: String,
    name: String,
    container_id: String,
    /// In the pod.
    interface: String,
    addresses: Vec<IpAddr>,
    /// What it may use beside these, now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_addresses: Vec<IpAddr>,
    mac: Option<String>,
    /// The number of its network namespace, as `lsns` and `/proc/PID/ns/net` tell it.
    netns: Option<u64>,
    mtu: u32,
    host_interface: String,
    host_ifindex: u32,
    /// `fast` where the programs carry its packets, `slow` where the kernel's network stack does.
    path: &'static str,
    /// Why it is slow.
    why: Option<&'static str>,
    attached_seconds: u64,
    /// What the programs hold it to; nothing where it has no limit, or no programs are in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<PodLimits>,
}

/// Bits a second.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct PodLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    internet_egress: Option<u64>,
    /// Who says so of the internet: `pod`, `namespace` or `node`.
    #[serde(skip_serializing_if = "Option::is_none")]
    internet_egress_from: Option<&'static str>,
}

/// All ranges, and all addresses that are not simply free.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Addresses {
    ranges: Vec<Range>,
    addresses: Vec<Address>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Range {
    range: String,
    /// `open`, `suspect` or `closed`
    state: &'static str,
    /// Why it is closed.
    why: Option<String>,
    size: u64,
    in_use: usize,
    free: u64,
    cooldown: usize,
    quarantined: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Address {
    address: IpAddr,
    /// `in_use`, `allowed` (used beside a pod's own), `cooldown`, `quarantined` or `of_host`
    state: &'static str,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Owner>,
    /// Until it has cooled down.
    #[serde(skip_serializing_if = "Option::is_none")]
    free_in_seconds: Option<u64>,
    /// Why it is quarantined.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Owner {
    namespace: String,
    name: String,
    container_id: String,
    interface: String,
}

/// Reads maps of the kernel: not for a thread that others wait for.
pub(super) fn pods(watched: &Watched) -> Vec<Pod> {
    let records = watched.attachments.records();
    let links: Vec<_> = records.iter().map(|record| Ifindex(record.host_ifindex)).collect();
    let slow = watched.attachments.kernel().fast_path().map(|fast_path| match fast_path.not_carried(&links) {
        Ok(slow) => slow.into_iter().collect(),
        Err(error) => {
            tracing::warn!(%error, "fast-path state of pods not read");
            links.iter().map(|link| (*link, "the programs' tables cannot be read")).collect()
        }
    });
    let now = BootMillis::now();
    let network = watched.attachments.kernel().network();
    let limits = |record: &Record| if slow.is_some() { limits(record, &network) } else { None };
    let allowed = |record: &Record| {
        let link = pod_link(record).filter(|link| !link.allowed.is_empty());
        link.map_or_else(Vec::new, |link| network.granted(link).allowed)
    };
    let told = |record: &Record| Pod { limits: limits(record), allowed_addresses: allowed(record), ..pod(record, slow.as_ref(), now) };
    records.iter().map(told).collect()
}

/// `slow` are the links whose packets are not carried; nothing where no programs are in use.
fn pod(record: &Record, slow: Option<&HashMap<Ifindex, &'static str>>, now: BootMillis) -> Pod {
    let why = match slow {
        None => Some("no programs are in use on this node"),
        Some(slow) => slow.get(&Ifindex(record.host_ifindex)).copied(),
    };
    Pod {
        namespace: record.pod.namespace.clone(),
        name: record.pod.name.clone(),
        container_id: record.key.container_id.to_string(),
        interface: record.key.ifname.to_string(),
        addresses: record.addresses.clone(),
        allowed_addresses: Vec::new(),
        mac: record.mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":")),
        netns: record.netns.map(|(_, inode)| inode),
        mtu: record.mtu,
        host_interface: record.host_ifname.clone(),
        host_ifindex: record.host_ifindex,
        path: if why.is_some() { "slow" } else { "fast" },
        why,
        attached_seconds: now.since(record.attached_at) / 1000,
        limits: None,
    }
}

fn limits(record: &Record, network: &NodeNetwork) -> Option<PodLimits> {
    let asked = record.bandwidth.unwrap_or_default();
    let of_namespace = network.internet_egress_of.get(&record.pod.namespace).map(|bytes| (bytes * 8, "namespace"));
    let of_node = Some((network.internet_egress * 8, "node")).filter(|(rate, _)| *rate != 0);
    let internet = record.internet_egress.map(|rate| (rate, "pod")).or(of_namespace).or(of_node);
    let some = |rate: u64| (rate != 0).then_some(rate);
    let told = PodLimits {
        egress: some(asked.egress_rate),
        ingress: some(asked.ingress_rate),
        internet_egress: internet.map(|(rate, _)| rate),
        internet_egress_from: internet.map(|(_, from)| from),
    };
    (told != PodLimits { egress: None, ingress: None, internet_egress: None, internet_egress_from: None }).then_some(told)
}

pub(super) fn addresses(watched: &Watched) -> Addresses {
    let records = watched.attachments.records();
    let now = BootMillis::now();
    watched.attachments.look_at_pool(|pool| Addresses { ranges: ranges(pool, now), addresses: states(&records, pool, now) })
}

fn ranges(pool: &Pool, now: BootMillis) -> Vec<Range> {
    let of = |(range, state): (&ipam_pool::range::AddressRange, &RangeState)| {
        let counts = pool.counts_of(range, now).unwrap_or_default();
        let Counts { size, held, cooling, quarantined } = counts;
        let (state, why) = match state {
            RangeState::Open => ("open", None),
            RangeState::Suspect => ("suspect", None),
            RangeState::Closed(why) => ("closed", Some(why.to_string())),
        };
        Range { range: range.to_string(), state, why, size, in_use: held, free: counts.free(), cooldown: cooling, quarantined }
    };
    pool.ranges().map(of).collect()
}

/// The records are a moment older than the pool: what it knows to be freed since is so.
fn states(records: &[Record], pool: &Pool, now: BootMillis) -> Vec<Address> {
    let plain = |address, state| Address { address, state, owner: None, free_in_seconds: None, why: None };
    let mut known = BTreeMap::new();
    for address in pool.of_host() {
        known.insert(*address, plain(*address, "of_host"));
    }
    for record in records {
        let owner = || Owner {
            namespace: record.pod.namespace.clone(),
            name: record.pod.name.clone(),
            container_id: record.key.container_id.to_string(),
            interface: record.key.ifname.to_string(),
        };
        for address in &record.addresses {
            known.insert(*address, Address { owner: Some(owner()), ..plain(*address, "in_use") });
        }
        for address in &record.allowed {
            known.insert(*address, Address { owner: Some(owner()), ..plain(*address, "allowed") });
        }
    }
    for (address, left) in pool.cooling(now) {
        known.insert(address, Address { free_in_seconds: Some(left.div_ceil(1000)), ..plain(address, "cooldown") });
    }
    for (address, why) in pool.quarantined() {
        known.insert(*address, Address { why: Some(why.to_owned()), ..plain(*address, "quarantined") });
    }
    known.into_values().collect()
}

#[cfg(test)]
mod tests {
    use cni_spec::PodIdentity;
    use ipam_pool::range::Family;
    use ipam_state::record::{AttachmentKey, RECORD_FORMAT};

    use super::*;

    fn record(address: IpAddr) -> Record {
        Record {
            format: RECORD_FORMAT,
            key: AttachmentKey { container_id: "c1".parse().unwrap(), ifname: "eth0".parse().unwrap() },
            network: "barewire".parse().unwrap(),
            pod: PodIdentity { namespace: "web".to_owned(), name: "api".to_owned(), uid: String::new() },
            netns: None,
            host_ifname: "bw7".to_owned(),
            host_ifindex: 7,
            mtu: 9001,
            mac: Some([2, 0, 0, 0, 0, 1]),
            addresses: vec![address],
            attached_at: BootMillis(1_000),
            bandwidth: None,
            internet_egress: None,
            allowed: Vec::new(),
        }
    }

    #[test]
    fn every_address_that_is_not_free_has_a_state() {
        let mut pool = Pool::new(&["10.0.0.0/29".parse().unwrap()], 30_000);
        let owner = record("10.0.0.1".parse().unwrap()).key;
        let [held, freed, bad] = [0, 1, 2].map(|_| pool.take(Family::V4, &owner, BootMillis(0)).unwrap());
        pool.release(freed, &owner, BootMillis(10_000));
        pool.quarantine(bad, "seen elsewhere".to_owned());
        let of_host: IpAddr = "10.0.0.5".parse().unwrap();
        pool.set_host_addresses(&[of_host, "192.0.2.1".parse().unwrap()], BootMillis(0));
        let now = BootMillis(10_500);
        let beside: IpAddr = "10.0.50.7".parse().unwrap();
        let told = states(&[Record { allowed: vec![beside], ..record(held) }], &pool, now);
        let told: Vec<_> = told.iter().map(|entry| (entry.address, entry.state, entry.free_in_seconds)).collect();
        assert_eq!(
            told,
            [
                (held, "in_use", None),
                (freed, "cooldown", Some(30)),
                (bad, "quarantined", None),
                (of_host, "of_host", None),
                (beside, "allowed", None)
            ]
        );
        // The record of one that was freed a moment ago.
        assert_eq!(states(&[record(freed)], &pool, now).iter().filter(|entry| entry.address == freed).count(), 1);
        let [range] = &ranges(&pool, now)[..] else { panic!("one range") };
        assert_eq!((range.size, range.in_use, range.free, range.cooldown, range.quarantined), (8, 1, 4, 1, 2));
    }

    #[test]
    fn the_limit_of_the_nearest_is_told() {
        let mut record = record("10.0.0.1".parse().unwrap());
        let mut network = NodeNetwork::default();
        let internet = |record: &Record, network: &NodeNetwork| {
            let told = limits(record, network)?;
            Some((told.internet_egress?, told.internet_egress_from?))
        };
        assert_eq!(limits(&record, &network), None);
        network.internet_egress = 1_000;
        assert_eq!(internet(&record, &network), Some((8_000, "node")));
        network.internet_egress_of.insert("web".to_owned(), 500);
        assert_eq!(internet(&record, &network), Some((4_000, "namespace")));
        record.internet_egress = Some(16_000);
        assert_eq!(internet(&record, &network), Some((16_000, "pod")));
        record.bandwidth = Some(cni_spec::Bandwidth { ingress_rate: 10_000, ..cni_spec::Bandwidth::default() });
        let told = limits(&record, &NodeNetwork::default()).unwrap();
        assert_eq!((told.egress, told.ingress), (None, Some(10_000)));
    }

    #[test]
    fn a_pod_that_is_not_carried_says_why() {
        let record = record("10.0.0.1".parse().unwrap());
        let told = pod(&record, Some(&HashMap::new()), BootMillis(61_000));
        assert_eq!((told.path, told.why, told.attached_seconds, told.mac.as_deref()), ("fast", None, 60, Some("02:00:00:00:00:01")));
        let slow = HashMap::from([(Ifindex(7), "another's filter")]);
        assert_eq!(pod(&record, Some(&slow), BootMillis(0)).why, Some("another's filter"));
        assert_eq!(pod(&record, None, BootMillis(0)).path, "slow");
    }
}
