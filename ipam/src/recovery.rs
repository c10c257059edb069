//! What a start makes of the store and the kernel. Pure: it plans, the daemon acts.
//!
//! The two are copies of one truth with different gaps. A record without a link is a pod that died while nobody looked; it
//! keeps its address until a DEL, a GC or the sweep. A link without a record is an ADD that was never answered, or a DEL
//! that was: it goes. Where the store is lost, links are the only truth left and become records again. What is not
//! understood stays, and its addresses are quarantined (invariant I6).

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use cni_spec::NetworkName;
use datapath::{FoundLink, Ifindex};
use node_api::BootMillis;

use crate::cloud_record::CloudMemory;
use crate::record::Record;
use crate::store::Found;

/// What to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Attachments known from the store.
    pub records: Vec<Record>,
    /// Attachments rebuilt from the kernel; to be written to the store.
    pub adopted: Vec<Record>,
    /// Attachments whose host end lacks a route.
    pub repair: Vec<Record>,
    /// Freed addresses.
    pub freed: Vec<(IpAddr, BootMillis)>,
    /// What is remembered of the cloud.
    pub cloud: CloudMemory,
    /// Addresses to keep out of use, with the reason.
    pub quarantine: Vec<(IpAddr, String)>,
    /// Links that no attachment owns.
    pub remove: Vec<Ifindex>,
    /// Numbers of all links found.
    pub numbers: Vec<Ifindex>,
    /// For the log.
    pub remarks: Vec<String>,
}

/// Plans a start.
#[must_use]
pub fn plan(found: Found, links: Vec<FoundLink>, network: &NetworkName, now: BootMillis) -> Plan {
    let mut plan = Plan { numbers: links.iter().map(|link| link.ifindex).collect(), ..Plan::default() };
    let contents = match found {
        Found::Present(contents) => contents,
        Found::Absent => {
            plan.adopt(links, network, now);
            return plan;
        }
        Found::OfAnotherBoot(aside) => {
            plan.remarks.push(format!("the store was of another boot; it is kept as {}", aside.display()));
            plan.adopt(links, network, now);
            return plan;
        }
        Found::Damaged(aside, why) => {
            plan.remarks.push(format!("the store was damaged ({why}); it is kept as {}, and the kernel is asked instead", aside.display()));
            plan.adopt(links, network, now);
            return plan;
        }
    };
    plan.freed = contents.freed;
    plan.cloud = contents.cloud;
    let by_number: HashMap<u32, &Record> = contents.records.iter().map(|record| (record.host_ifindex, record)).collect();
    let not_understood: HashMap<&str, &str> = contents.unreadable.iter().map(|(key, why)| (key.as_str(), why.as_str())).collect();
    for link in links {
        let owner = link.owner.as_ref().map(|(container, ifname)| format!("{container}/{ifname}"));
        let record = by_number.get(&link.ifindex.0).filter(|record| owner.as_deref() == Some(record.key.to_string().as_str()));
        if let Some(record) = record {
            if record.addresses.iter().any(|address| !link.addresses.contains(address)) {
                plan.remarks.push(format!("{} lacks a host route; repairing it", record.key));
                plan.repair.push((*record).clone());
            }
        } else if let Some(why) = owner.as_deref().and_then(|owner| not_understood.get(owner)) {
            let reason = format!("its attachment is on record but not understood: {why}");
            plan.quarantine.extend(link.addresses.iter().map(|address| (*address, reason.clone())));
        } else {
            plan.remarks.push(format!("{} belongs to no attachment; removing it", link.ifname));
            plan.freed.extend(link.addresses.iter().map(|address| (*address, now)));
            plan.remove.push(link.ifindex);
        }
    }
    plan.remarks.extend(contents.unreadable.iter().map(|(key, why)| format!("record {key} is not understood and left alone: {why}")));
    plan.records = contents.records;
    plan
}

impl Plan {
    fn adopt(&mut self, links: Vec<FoundLink>, network: &NetworkName, now: BootMillis) {
        let mut owned = HashSet::new();
        for link in links {
            // Two links that claim one address cannot both be right, and nothing says which one is.
            match Record::adopted(&link, network, now).filter(|record| record.addresses.iter().all(|address| owned.insert(*address))) {
                Some(record) => {
                    self.remarks.push(format!("{} was rebuilt from its link {}", record.key, link.ifname));
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
    use std::path::PathBuf;

    use super::*;
    use crate::accounts::Ended;
    use crate::record::{AttachmentKey, RECORD_FORMAT};
    use crate::store::Contents;

    fn link(number: u32, owner: Option<&str>, addresses: &[&str]) -> FoundLink {
        FoundLink {
            ifindex: Ifindex(number),
            ifname: format!("bw{number}"),
            mtu: 9001,
            owner: owner.map(|id| (id.to_owned(), "eth0".to_owned())),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
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
        }
    }

    fn network() -> NetworkName {
        "barewire".parse().unwrap()
    }

    fn planned(records: Vec<Record>, unreadable: &[&str], links: Vec<FoundLink>) -> Plan {
        let unreadable = unreadable.iter().map(|key| ((*key).to_owned(), "later form".to_owned())).collect();
        plan(
            Found::Present(Contents { records, unreadable, freed: vec![], cloud: CloudMemory::default(), ended: Ended::default() }),
            links,
            &network(),
            BootMillis(50),
        )
    }

    #[test]
    fn records_and_links_that_agree_stay() {
        let plan = planned(vec![record(7, "a", "10.0.0.1")], &[], vec![link(7, Some("a"), &["10.0.0.1"])]);
        assert_eq!((plan.records.len(), plan.remove.len(), plan.repair.len()), (1, 0, 0));
    }

    #[test]
    fn a_lost_route_is_repaired() {
        let plan = planned(vec![record(7, "a", "10.0.0.1")], &[], vec![link(7, Some("a"), &[])]);
        assert_eq!(plan.repair.len(), 1);
    }

    #[test]
    fn a_record_without_a_link_keeps_its_address() {
        let plan = planned(vec![record(7, "a", "10.0.0.1")], &[], vec![]);
        assert_eq!((plan.records.len(), plan.freed.len()), (1, 0));
    }

    #[test]
    fn i3_an_add_that_was_not_answered_leaves_nothing() {
        for owner in [None, Some("a")] {
            let plan = planned(vec![], &[], vec![link(7, owner, &["10.0.0.1"])]);
            assert_eq!(plan.remove, [Ifindex(7)]);
            assert_eq!(plan.freed, [("10.0.0.1".parse().unwrap(), BootMillis(50))]);
        }
    }

    #[test]
    fn a_number_used_again_by_another_pod_is_not_mistaken() {
        let plan = planned(vec![record(7, "a", "10.0.0.1")], &[], vec![link(7, Some("b"), &["10.0.0.2"])]);
        assert_eq!(plan.remove, [Ifindex(7)]);
    }

    #[test]
    fn i6_what_is_not_understood_stays_and_its_addresses_are_quarantined() {
        let plan = planned(vec![], &["a/eth0"], vec![link(7, Some("a"), &["10.0.0.1"])]);
        assert!(plan.remove.is_empty());
        assert_eq!(plan.quarantine[0].0, "10.0.0.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_lost_store_is_rebuilt_from_the_kernel() {
        let lost = || [Found::Absent, Found::Damaged(PathBuf::from("x"), "why".into()), Found::OfAnotherBoot(PathBuf::from("x"))];
        for found in lost() {
            let links = vec![
                link(7, Some("a"), &["10.0.0.1", "fd00::1"]),
                link(8, None, &[]),
                link(9, None, &["10.0.0.2"]),
                link(10, Some("b"), &["10.0.0.1"]),
            ];
            let plan = plan(found, links, &network(), BootMillis(50));
            assert_eq!(plan.adopted.len(), 1);
            assert_eq!(plan.adopted[0].addresses.len(), 2);
            assert_eq!(plan.remove, [Ifindex(8)]);
            assert!(plan.quarantine.iter().any(|(address, _)| *address == "10.0.0.2".parse::<IpAddr>().unwrap()));
        }
    }
}
