//! What a start makes of the store and the kernel. Pure: it plans, the daemon acts.
//!
//! The two are copies of one truth with different gaps. A record without a link is a pod that died while nobody looked; it
//! keeps its address until a DEL, a GC or the sweep. A link without a record is an ADD that was never answered, or a DEL
//! that was: it goes. Where the store is lost, links are the only truth left and become records again. What is not
//! understood stays, and keeps its addresses and its interface number (invariant I6).
//!
//! Two records may claim one address or one number: whatever made them, the plan names one owner of each, and that is the one whose
//! interface is there (invariant I1).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use cni_spec::{Bandwidth, NetworkName};
use ipam_supply::memory::CloudMemory;
use node_api::BootMillis;

use crate::contents::Contents;
use crate::record::{AttachmentKey, LaterRecord, Record};

/// A link of ours as it was found in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelLink {
    /// The host end's number.
    pub ifindex: u32,
    /// The host end's name.
    pub ifname: String,
    /// Bytes.
    pub mtu: u32,
    /// Container and interface, where the link names them.
    pub owner: Option<(String, String)>,
    /// The host's routes over it.
    pub addresses: Vec<IpAddr>,
    /// The host's routes over it to addresses that the pod may use beside its own.
    pub allowed: Vec<IpAddr>,
    /// What the kernel programs hold it to, where they know it.
    pub bandwidth: Option<Bandwidth>,
    /// Bits a second that it may send to the internet, as they know it.
    pub internet_egress: Option<u64>,
}

impl KernelLink {
    fn is_of(&self, name: &str) -> bool {
        self.owner.as_ref().is_some_and(|(container, ifname)| name.split_once('/') == Some((container, ifname)))
    }
}

/// What to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Attachments known from the store.
    pub records: Vec<Record>,
    /// Attachments rebuilt from the kernel; to be written to the store.
    pub adopted: Vec<Record>,
    /// Attachments that are on record and not understood, with what their links tell of them.
    pub later: Vec<LaterRecord>,
    /// Which attachment has which address.
    pub held: BTreeMap<IpAddr, AttachmentKey>,
    /// Which attachment has which interface number; `None` is a number that is taken by a link of nobody's.
    pub numbers: BTreeMap<u32, Option<AttachmentKey>>,
    /// Attachments whose host end lacks a route.
    pub repair: Vec<Record>,
    /// Freed addresses.
    pub freed: Vec<(IpAddr, BootMillis)>,
    /// What is remembered of the cloud.
    pub cloud: CloudMemory,
    /// Addresses to keep out of use, with the reason.
    pub quarantine: Vec<(IpAddr, String)>,
    /// Links that no attachment owns.
    pub remove: Vec<u32>,
    /// For the log.
    pub remarks: Vec<String>,
}

/// Plans a start of what the store held, if it held anything, and the links in the kernel.
#[must_use]
pub fn plan(contents: Option<Contents>, links: Vec<KernelLink>, network: &NetworkName, now: BootMillis) -> Plan {
    let mut plan = Plan::default();
    let Some(contents) = contents else {
        plan.adopt(links, network);
        return plan;
    };
    let Contents { records, mut later, unreadable, freed, cloud, ended: _ } = contents;
    (plan.freed, plan.cloud) = (freed, cloud);
    plan.remarks.extend(unreadable.iter().map(|(row, why)| format!("row {row} of the store is not understood and left alone: {why}")));
    plan.remarks.extend(later.iter().map(|LaterRecord { row, why, .. }| {
        format!("record {row} is not understood: {why}; it keeps its addresses and its interface until a DEL, or a barewired that understands it")
    }));
    let by_name: HashMap<String, &Record> = records.iter().map(|record| (record.key.to_string(), record)).collect();
    let mut claims = Claims::default();
    for link in &links {
        let name = link.owner.as_ref().map_or_else(String::new, |(container, ifname)| format!("{container}/{ifname}"));
        if let Some(record) = by_name.get(&name).filter(|record| record.host_ifindex == link.ifindex) {
            claims.living.push((record.key.clone(), record.host_ifindex, all_addresses(record)));
            if record.addresses.iter().any(|address| !link.addresses.contains(address)) {
                plan.remarks.push(format!("{} lacks a host route; repairing it", record.key));
                plan.repair.push((*record).clone());
            }
        } else if let Some(later) = later.iter_mut().find(|later| link.is_of(&later.row)) {
            // What is not read in the record is read off its link.
            later.host_ifindex.get_or_insert(link.ifindex);
            let missing: Vec<_> =
                link.addresses.iter().chain(&link.allowed).filter(|address| !later.addresses.contains(address)).copied().collect();
            later.addresses.extend(missing);
            match &later.key {
                Some(key) => claims.living.push((key.clone(), link.ifindex, later.addresses.clone())),
                None => claims.nobodys.push(link.ifindex),
            }
        } else {
            plan.remarks.push(format!("{} belongs to no attachment; removing it", link.ifname));
            plan.freed.extend(link.addresses.iter().map(|address| (*address, now)));
            plan.remove.push(link.ifindex);
            claims.nobodys.push(link.ifindex);
        }
    }
    claims.recorded.extend(records.iter().map(|record| (record.key.clone(), record.host_ifindex, all_addresses(record))));
    for later in &later {
        match &later.key {
            Some(key) => claims.recorded.push((key.clone(), later.host_ifindex.unwrap_or_default(), later.addresses.clone())),
            None => {
                claims.nobodys.extend(later.host_ifindex);
                let reason = format!("record {} has it, and is not understood: {}", later.row, later.why);
                plan.quarantine.extend(later.addresses.iter().map(|address| (*address, reason.clone())));
            }
        }
    }
    claims.settle(&mut plan);
    (plan.records, plan.later) = (records, later);
    plan
}

/// A pod's own, and those that it may use besides.
fn all_addresses(record: &Record) -> Vec<IpAddr> {
    [&record.addresses[..], &record.allowed].concat()
}

/// Who says that which interface number and which addresses are its own.
#[derive(Default)]
struct Claims {
    /// Those whose link is there.
    living: Vec<(AttachmentKey, u32, Vec<IpAddr>)>,
    /// All that are on record.
    recorded: Vec<(AttachmentKey, u32, Vec<IpAddr>)>,
    /// Numbers of links that belong to nobody.
    nobodys: Vec<u32>,
}

impl Claims {
    /// The living come first, then the order of the records.
    fn settle(self, plan: &mut Plan) {
        let Self { living, recorded, nobodys } = self;
        let unowned = nobodys.into_iter().map(|number| (number, None));
        let owned = |claims: &[(AttachmentKey, u32, Vec<IpAddr>)]| {
            claims.iter().map(|(key, number, _)| (*number, Some(key.clone()))).collect::<Vec<_>>()
        };
        for (number, owner) in owned(&living).into_iter().chain(unowned).chain(owned(&recorded)) {
            plan.numbers.entry(number).or_insert(owner);
        }
        for (key, _, addresses) in living.into_iter().chain(recorded) {
            for address in addresses {
                let owner = plan.held.entry(address).or_insert_with(|| key.clone());
                if *owner != key {
                    plan.remarks.push(format!("{address} is on record for {owner} and for {key}; it stays {owner}'s"));
                }
            }
        }
    }
}

impl Plan {
    fn adopt(&mut self, links: Vec<KernelLink>, network: &NetworkName) {
        let mut owned = HashSet::new();
        for link in links {
            // Two links that claim one address cannot both be right, and nothing says which one is.
            let mut record = Record::adopted(&link, network).filter(|record| record.addresses.iter().all(|address| owned.insert(*address)));
            // What it may use besides is no reason to doubt that it is the pod's link.
            if let Some(record) = &mut record {
                record.allowed.retain(|address| owned.insert(*address));
            }
            self.numbers.insert(link.ifindex, record.as_ref().map(|record| record.key.clone()));
            match record {
                Some(record) => {
                    let limits = if record.bandwidth.is_some() || record.internet_egress.is_some() {
                        "; its limits are those that the kernel programs had"
                    } else {
                        ", and has no limits of bandwidth"
                    };
                    self.remarks.push(format!("{} was rebuilt from its link {}{limits}", record.key, link.ifname));
                    self.held.extend(all_addresses(&record).into_iter().map(|address| (address, record.key.clone())));
                    self.adopted.push(record);
                }
                None if link.addresses.is_empty() => {
                    self.remarks.push(format!("{} has no owner or address; removing it", link.ifname));
                    self.remove.push(link.ifindex);
                }
                None => {
                    let reason = format!("link {} has it, and its owner is not known", link.ifname);
                    self.remarks.push(format!("{}: {reason}", link.ifname));
                    self.quarantine.extend(link.addresses.iter().map(|address| (*address, reason.clone())));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RECORD_FORMAT;

    fn link(number: u32, owner: Option<&str>, addresses: &[&str]) -> KernelLink {
        KernelLink {
            ifindex: number,
            ifname: format!("bw{number}"),
            mtu: 9001,
            owner: owner.map(|id| (id.to_owned(), "eth0".to_owned())),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            allowed: Vec::new(),
            bandwidth: None,
            internet_egress: None,
        }
    }

    fn record(number: u32, id: &str, address: &str) -> Record {
        Record {
            format: RECORD_FORMAT,
            key: AttachmentKey { container_id: id.parse().unwrap(), ifname: "eth0".parse().unwrap() },
            network: network(),
            pod: cni_spec::PodIdentity::default(),
            netns: Some((4, 7)),
            host_ifname: format!("bw{number}"),
            host_ifindex: number,
            mtu: 9001,
            mac: Some([2; 6]),
            addresses: vec![address.parse().unwrap()],
            attached_at: BootMillis(5),
            bandwidth: None,
            internet_egress: None,
            allowed: Vec::new(),
        }
    }

    fn network() -> NetworkName {
        "barewire".parse().unwrap()
    }

    fn key(id: &str) -> AttachmentKey {
        format!("{id}/eth0").parse().unwrap()
    }

    fn planned(records: Vec<Record>, later: Vec<LaterRecord>, links: Vec<KernelLink>) -> Plan {
        plan(Some(Contents { records, later, ..Contents::default() }), links, &network(), BootMillis(50))
    }

    fn later(bytes: &str) -> LaterRecord {
        LaterRecord::of("a/eth0", bytes.as_bytes(), "later form".to_owned())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn records_and_links_that_agree_stay() {
        let plan = planned(vec![record(7, "a", "10.0.0.1")], vec![], vec![link(7, Some("a"), &["10.0.0.1"])]);
        assert_eq!((plan.records.len(), plan.remove.len(), plan.repair.len()), (1, 0, 0));
    }

    #[test]
    fn a_lost_route_is_repaired() {
        let plan = planned(vec![record(7, "a", "10.0.0.1")], vec![], vec![link(7, Some("a"), &[])]);
        assert_eq!(plan.repair.len(), 1);
    }

    #[test]
    fn a_record_without_a_link_keeps_its_address() {
        let plan = planned(vec![record(7, "a", "10.0.0.1")], vec![], vec![]);
        assert_eq!((plan.records.len(), plan.freed.len()), (1, 0));
    }

    #[test]
    fn i3_an_add_that_was_not_answered_leaves_nothing() {
        for owner in [None, Some("a")] {
            let plan = planned(vec![], vec![], vec![link(7, owner, &["10.0.0.1"])]);
            assert_eq!(plan.remove, [7]);
            assert_eq!(plan.freed, [("10.0.0.1".parse().unwrap(), BootMillis(50))]);
        }
    }

    #[test]
    fn a_number_used_again_by_another_pod_is_not_mistaken() {
        let plan = planned(vec![record(7, "a", "10.0.0.1")], vec![], vec![link(7, Some("b"), &["10.0.0.2"])]);
        assert_eq!(plan.remove, [7]);
    }

    #[test]
    fn i6_what_is_not_understood_keeps_what_its_link_has() {
        let plan = planned(vec![], vec![later("not even JSON")], vec![link(7, Some("a"), &["10.0.0.1"])]);
        assert!(plan.remove.is_empty());
        assert_eq!(plan.held, [(ip("10.0.0.1"), key("a"))].into());
        assert_eq!(plan.numbers, [(7, Some(key("a")))].into());
    }

    #[test]
    fn i6_what_is_not_understood_keeps_what_its_record_says_without_a_link() {
        let record = later(r#"{"format": 2, "host_ifindex": 7, "addresses": ["10.0.0.1", "fd00::1"], "attached_at": 5, "new": {}}"#);
        assert_eq!(record.attached_at, Some(BootMillis(5)));
        let plan = planned(vec![], vec![record], vec![]);
        assert_eq!(plan.held, [(ip("10.0.0.1"), key("a")), (ip("fd00::1"), key("a"))].into());
        assert_eq!(plan.numbers, [(7, Some(key("a")))].into());
    }

    #[test]
    fn i6_a_row_that_names_nobody_keeps_its_address_out_of_use() {
        let record = LaterRecord::of("odd", br#"{"addresses": ["10.0.0.1"], "host_ifindex": 7}"#, "odd".into());
        let plan = planned(vec![], vec![record], vec![]);
        assert_eq!(plan.quarantine[0].0, ip("10.0.0.1"));
        assert_eq!(plan.numbers, [(7, None)].into());
    }

    #[test]
    fn i1_of_two_records_of_one_address_and_number_the_living_one_has_both() {
        for order in [["a", "b"], ["b", "a"]] {
            let records = order.map(|id| record(7, id, "10.0.0.1")).to_vec();
            let plan = planned(records, vec![], vec![link(7, Some("b"), &["10.0.0.1"])]);
            assert_eq!(plan.held, [(ip("10.0.0.1"), key("b"))].into());
            assert_eq!(plan.numbers, [(7, Some(key("b")))].into());
            assert!(plan.remove.is_empty() && plan.records.len() == 2 && plan.remarks.len() == 1, "{plan:?}");
        }
    }

    #[test]
    fn a_lost_store_is_rebuilt_from_the_kernel() {
        let links = vec![
            link(7, Some("a"), &["10.0.0.1", "fd00::1"]),
            link(8, None, &[]),
            link(9, None, &["10.0.0.2"]),
            link(10, Some("b"), &["10.0.0.1"]),
        ];
        let plan = plan(None, links, &network(), BootMillis(50));
        assert_eq!(plan.adopted.len(), 1);
        assert_eq!(plan.adopted[0].addresses.len(), 2);
        assert_eq!(plan.adopted[0].attached_at, BootMillis(0), "every DEL that was queued came later");
        assert_eq!(plan.remove, [8]);
        assert!(plan.quarantine.iter().any(|(address, _)| *address == "10.0.0.2".parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn what_a_pod_may_use_besides_is_rebuilt_as_such() {
        let found = KernelLink { allowed: vec![ip("10.0.50.7")], ..link(7, Some("a"), &["10.0.0.1"]) };
        let rebuilt = plan(None, vec![found.clone()], &network(), BootMillis(50));
        assert_eq!((&rebuilt.adopted[0].addresses, &rebuilt.adopted[0].allowed), (&vec![ip("10.0.0.1")], &vec![ip("10.0.50.7")]));
        assert_eq!(rebuilt.held, [(ip("10.0.0.1"), key("a")), (ip("10.0.50.7"), key("a"))].into());
        // One that died before its ADD was answered has left its link, with the same.
        let half_made = KernelLink { allowed: vec![ip("10.0.50.7")], ..link(8, Some("b"), &["10.0.0.2"]) };
        let both = plan(None, vec![found.clone(), half_made], &network(), BootMillis(50));
        assert_eq!(both.adopted.iter().map(|record| record.allowed.len()).collect::<Vec<_>>(), [1, 0]);
        let kept = planned(vec![], vec![later("not even JSON")], vec![found]);
        assert_eq!(kept.held, [(ip("10.0.0.1"), key("a")), (ip("10.0.50.7"), key("a"))].into());
    }
}
