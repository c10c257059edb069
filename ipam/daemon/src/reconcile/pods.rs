//! Keeps the pods' links on the host as they were made: what somebody has altered is set again, and nothing else.

use std::collections::HashSet;
use std::sync::Arc;

use datapath::netlink::NetlinkError;
use datapath::{Difference, HostEnds, Ifindex, calls, repairs};
use ipam_state::record::Record;
use node_api::BootMillis;

use super::filter_news::FilterNews;
use crate::attachments::Attachments;
use crate::attachments::aftercare::is_fresh;
use crate::attachments::link::pod_link;
use crate::conditions::{Finding, Kind, NodeConditions};
use crate::kernel::Linux;

/// To look at a link's filters takes questions of its own: of more pods than these some are looked at each time, in turn. What the kernel
/// tells of is looked at in any case.
const FILTERS_EACH_TIME: usize = 64;
/// How many pods a condition names.
const NAMED: usize = 5;

/// The pods' reconciler.
pub(crate) struct PodLinks {
    conditions: Arc<NodeConditions>,
    news: FilterNews,
    /// Where in the list of links the next turn begins.
    next: usize,
    /// Pods whose host end was not there at the last look, by its number.
    missing: HashSet<u32>,
}

/// What is to be done about one pod.
#[derive(Debug, PartialEq, Eq)]
struct Repair {
    differences: Vec<Difference>,
    programs_know_otherwise: bool,
}

impl PodLinks {
    /// One that has looked at nothing yet.
    pub(crate) fn new(conditions: Arc<NodeConditions>) -> Self {
        Self { conditions, news: FilterNews::listen(), next: 0, missing: HashSet::new() }
    }

    /// Looks at every pod's link, and sets what differs.
    pub(crate) fn look(&mut self, attachments: &Attachments<Linux>) {
        // Before the kernel is looked at: what is attached meanwhile is looked at next time.
        let records = attachments.records();
        let ends = match calls::wait_for_others().map_err(NetlinkError::from).and_then(|()| HostEnds::read()) {
            Ok(ends) => ends,
            Err(error) => {
                tracing::warn!(%error, "pod links not inspected");
                return;
            }
        };
        let mut refused = Vec::new();
        for record in &records {
            if let Err(error) = repair(attachments, &ends, record) {
                refused.push(format!("{}: {error}", name_of(record)));
            }
        }
        self.conditions.report(Kind::PodLinkNotRestored, not_restored(&refused));
        answer_neighbours(attachments, &records);
        self.tell_of_gone(&records, &ends);
        self.heed_others(attachments, &records, &ends);
    }

    /// Tells pods whose host end was gone at the last look as well: a runtime that ends a pod sends the DEL a moment later.
    fn tell_of_gone(&mut self, records: &[Record], ends: &HostEnds) {
        let missing: HashSet<u32> = records.iter().map(|record| record.host_ifindex).filter(|link| !ends.has(Ifindex(*link))).collect();
        let gone: Vec<_> = records
            .iter()
            .filter(|record| missing.contains(&record.host_ifindex) && self.missing.contains(&record.host_ifindex))
            .map(|record| format!("{} ({})", name_of(record), record.host_ifname))
            .collect();
        let message = format!("somebody has removed the links of pods, which have no network: {}", some_of(&gone));
        let remedy = "delete these pods, to have others in their place; see what removes interfaces named bw*";
        self.conditions.report(Kind::PodLinkGone, (!gone.is_empty()).then(|| Finding::new("LinkRemoved", message, remedy)));
        self.missing = missing;
    }

    /// Has the programs on pods' links back, and leaves to the stack what another tool wants to see whole.
    fn heed_others(&mut self, attachments: &Attachments<Linux>, records: &[Record], ends: &HostEnds) {
        let living: Vec<_> = records.iter().map(|record| Ifindex(record.host_ifindex)).filter(|link| ends.has(*link)).collect();
        let told = self.news.take();
        let some: Vec<_> = living
            .iter()
            .enumerate()
            .filter(|(at, link)| is_in_turn(*at, self.next, living.len()) || told.concerns(**link) || ends.lacks_qdisc(**link))
            .map(|(_, link)| *link)
            .collect();
        self.next = if living.is_empty() { 0 } else { (self.next + FILTERS_EACH_TIME) % living.len() };
        let found = match attachments.kernel().heed_others(&some, &living) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "pod links not inspected for filters of others");
                // Whatever it was about is looked at again.
                self.news.forget();
                return;
            }
        };
        let name = |link: &Ifindex| records.iter().find(|record| record.host_ifindex == link.0).map_or_else(String::new, name_of);
        let told: Vec<_> = found.iter().map(|(link, filter)| format!("{}: {filter}", name(link))).collect();
        let remedy = "nothing, if the filter is wanted: the tool sees all of the pod's packets, which take the host's stack";
        let message = format!("pods take the slow path for another tool's filter on their link: {}", told.join("; "));
        self.conditions.report(Kind::FilterOnPodLink, (!told.is_empty()).then(|| Finding::new("SlowPath", message, remedy)));
    }
}

/// Has neighbours answered for what pods use beside their own addresses.
fn answer_neighbours(attachments: &Attachments<Linux>, records: &[Record]) {
    let kernel = attachments.kernel();
    let links = records.iter().filter(|record| !record.allowed.is_empty()).filter_map(pod_link);
    let addresses: Vec<_> = links.flat_map(|link| kernel.granted(link).allowed).collect();
    if let Err(error) = kernel.answer_neighbours_for(&addresses) {
        tracing::warn!(%error, "neighbours not answered for addresses that pods use; tried again in a few seconds");
    }
}

/// Whether it is the turn of the link at a place among so many, where the turn begins at `next`. Pure.
fn is_in_turn(at: usize, next: usize, of: usize) -> bool {
    let begin = next.min(of);
    (at + of - begin) % of < FILTERS_EACH_TIME
}

fn repair(attachments: &Attachments<Linux>, ends: &HostEnds, record: &Record) -> Result<(), datapath::WiringError> {
    let kernel = attachments.kernel();
    let plan = |record: &Record| {
        let Some(link) = pod_link(record).filter(|link| ends.has(link.host_ifindex)) else { return Ok(None) };
        let link = kernel.granted(link);
        let mut differences = ends.differences(&link);
        if is_fresh(record, BootMillis::now()) {
            // What an ADD leaves for a moment later.
            differences.retain(|difference| *difference != Difference::Ipv6Gateway);
        }
        let repair = Repair { differences, programs_know_otherwise: kernel.programs_know_otherwise(&link)? };
        let is_needed = !repair.differences.is_empty() || repair.programs_know_otherwise;
        Ok::<_, datapath::WiringError>(is_needed.then_some((link, repair)))
    };
    grant(attachments, record)?;
    if plan(record)?.is_none() {
        return Ok(());
    }
    // In its turn, of what it is then: a DEL may have ended it since, or its MAC address been followed.
    let outcome = attachments.while_it_lives(record, |record| {
        let Some((link, repair)) = plan(record)? else { return Ok(()) };
        let is_taken_back = is_taken_back(&repair, record);
        if is_taken_back {
            tracing::info!(attachment = %record.key, link = link.host_ifname, ?repair, "addresses that a pod may use no more lead nowhere");
        } else {
            tracing::warn!(attachment = %record.key, link = link.host_ifname, ?repair, "host-side veth altered by others, restored");
        }
        let restored = if repair.differences.is_empty() { Ok(()) } else { kernel.restore(&link, &repair.differences) };
        let told = if repair.programs_know_otherwise { kernel.tell_programs(&link) } else { Ok(()) };
        if restored.is_ok() && !repair.differences.is_empty() && !is_taken_back {
            repairs::note(repairs::Kind::PodLink, &link.host_ifname);
        }
        if told.is_ok() && repair.programs_know_otherwise {
            repairs::note(repairs::Kind::Endpoint, &link.host_ifname);
        }
        restored.and(told)
    });
    outcome.unwrap_or(Ok(()))
}

/// Whether all that is to be done is to take back what the pod was granted once: the configuration has changed, and nobody has altered anything.
fn is_taken_back(repair: &Repair, record: &Record) -> bool {
    let was_granted = |difference: &Difference| matches!(difference, Difference::Surplus(address) if record.allowed.contains(address));
    !repair.programs_know_otherwise && repair.differences.iter().all(was_granted)
}

/// After a reload a pod's limits may be others, and the addresses that it may use beside its own. That is no repair, and its connections live
/// on. A pod that the programs do not know is left as it is.
pub(super) fn grant(attachments: &Attachments<Linux>, record: &Record) -> Result<(), datapath::WiringError> {
    let kernel = attachments.kernel();
    let differing = |record: &Record| {
        let Some(link) = pod_link(record).map(|link| kernel.granted(link)) else { return Ok(None) };
        Ok::<_, datapath::WiringError>(kernel.is_granted_otherwise(&link)?.then_some(link))
    };
    if differing(record)?.is_none() {
        return Ok(());
    }
    let outcome = attachments.while_it_lives(record, |record| {
        let Some(link) = differing(record)? else { return Ok(()) };
        tracing::info!(attachment = %record.key, allowed = ?link.allowed, "limits and further addresses of a pod set anew");
        kernel.grant(&link)
    });
    outcome.unwrap_or(Ok(()))
}

fn not_restored(refused: &[String]) -> Option<Finding> {
    let message = format!("the host ends of pods' links were altered and cannot be set again: {}", some_of(refused));
    let remedy = "see what else manages interfaces named bw* (NetworkManager, systemd-networkd: have them unmanaged); it is tried again every few seconds";
    (!refused.is_empty()).then(|| Finding::new("RepairRefused", message, remedy))
}

fn some_of(all: &[String]) -> String {
    let more = if all.len() > NAMED { " and others" } else { "" };
    format!("{}{more}", all[..all.len().min(NAMED)].join("; "))
}

/// Namespace and name of a pod.
fn name_of(record: &Record) -> String {
    format!("{}/{}", record.pod.namespace, record.pod.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_has_its_turn_however_many_there_are() {
        for of in [1, FILTERS_EACH_TIME - 1, FILTERS_EACH_TIME, FILTERS_EACH_TIME + 1, 1000] {
            let mut looked_at = HashSet::new();
            let mut next = 0;
            for _ in 0..of.div_ceil(FILTERS_EACH_TIME) {
                let some: Vec<_> = (0..of).filter(|at| is_in_turn(*at, next, of)).collect();
                assert!(some.len() <= FILTERS_EACH_TIME, "{} of {of}", some.len());
                looked_at.extend(some);
                next = (next + FILTERS_EACH_TIME) % of;
            }
            assert_eq!(looked_at.len(), of);
        }
        assert_eq!((0..10).filter(|at| is_in_turn(*at, 900, 10)).count(), 10, "there were more of them before");
    }

    #[test]
    fn what_the_kernel_refuses_is_told_with_a_remedy_and_few_names() {
        assert_eq!(not_restored(&[]), None);
        let all: Vec<_> = (0..9).map(|number| format!("default/pod-{number}: no")).collect();
        let told = not_restored(&all).unwrap();
        assert!(told.message.ends_with("default/pod-4: no and others") && told.remedy.contains("unmanaged"), "{told:?}");
    }
}
