//! `/drops`: packets that the programs drop, one by one. Whoever asks has the programs tell for a while; who asks again with the number that
//! he was given has what was told since. So nothing is held open for anybody, several may watch, and it ends with whoever watches.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use datapath::fast_path::{DropHook, DroppedPacket, FastPathError, PacketSummary, Reason};
use ipam_state::record::Record;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Watched;

/// For so long after somebody has asked the programs tell.
const WATCHED: Duration = Duration::from_secs(5);
/// So many are kept for whoever asks late: some seconds' worth.
const KEPT: usize = 1024;

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// How many were told since the daemon has started.
    told: u64,
    lines: VecDeque<Line>,
}

impl Recent {
    fn take_in(&mut self, lines: impl IntoIterator<Item = Line>) {
        for line in lines {
            self.told += 1;
            if self.lines.len() == KEPT {
                self.lines.pop_front();
            }
            self.lines.push_back(line);
        }
    }

    /// Those behind so many, and how many between are not kept any more. A number that was not given by this daemon is one from before it
    /// started.
    fn after(&self, seen: u64) -> (Vec<Line>, u64) {
        let seen = if seen > self.told { 0 } else { seen };
        let first = self.told - self.lines.len() as u64;
        let skipped = usize::try_from(seen.saturating_sub(first)).unwrap_or(usize::MAX);
        (self.lines.iter().skip(skipped).cloned().collect(), first.saturating_sub(seen))
    }
}

/// What was dropped.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    /// Whether programs are in use at all.
    programs: bool,
    /// To ask with next time.
    next: u64,
    /// Packets that were told, and are not kept any more.
    missed: u64,
    /// By reason, packets that were dropped while somebody watched and not told of, for there were too many: since the programs were loaded.
    untold: BTreeMap<&'static str, u64>,
    dropped: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    time: String,
    /// The pod that sent it, or was to have it; `null` where that is the host, or is not known.
    namespace: Option<String>,
    pod: Option<String>,
    /// `sent` or `received`, as the pod sees it.
    direction: &'static str,
    reason: &'static str,
    /// Where it was seen.
    interface: Option<String>,
    /// Of the frame, in bytes.
    length: u32,
    protocol: String,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    details: Option<String>,
    source_mac: Option<String>,
}

/// The number behind `after=` in a query.
///
/// # Errors
/// In words, where it is none.
pub(super) fn after(query: &str) -> Result<Option<u64>, String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("after="));
    value.map(|value| value.parse().map_err(|_| format!("after={value} is no number; take `next` of the last answer"))).transpose()
}

/// Reads maps of the kernel: not for a thread that others wait for.
pub(super) fn page(watched: &Watched, recent: &Mutex<Recent>, after: Option<u64>) -> Result<Page, FastPathError> {
    let kernel = watched.attachments.kernel();
    let Some(programs) = kernel.fast_path() else {
        return Ok(Page { programs: false, next: 0, missed: 0, untold: BTreeMap::new(), dropped: Vec::new() });
    };
    // Held while they are taken out: what one watcher takes out is there for the others, in order.
    let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
    let (told, now) = (programs.watch_drops(WATCHED)?, SystemTime::now());
    let (records, network) = (watched.attachments.records(), kernel.network());
    let uplink = |ifindex| network.uplinks.iter().find(|uplink| uplink.ifindex.0 == ifindex).map(|uplink| uplink.ifname.clone());
    recent.take_in(told.into_iter().map(|packet| line(packet, &records, uplink, now)));
    let untold = programs.untold_drops()?.into_iter().filter(|(_, packets)| *packets > 0);
    let (dropped, missed) = after.map_or_else(Default::default, |seen| recent.after(seen));
    let untold = untold.map(|(reason, packets)| (reason.name(), packets)).collect();
    Ok(Page { programs: true, next: recent.told, missed, untold, dropped })
}

fn line(dropped: DroppedPacket, records: &[Record], uplink: impl Fn(u32) -> Option<String>, now: SystemTime) -> Line {
    let DroppedPacket { age, link, hook, reason, length, packet } = dropped;
    let PacketSummary { source_mac, protocol, source, destination, ports, details } = packet;
    let behind = records.iter().find(|record| record.host_ifindex == link.0);
    let owner = |address: Option<IpAddr>| records.iter().find(|record| address.is_some_and(|address| record.addresses.contains(&address)));
    // What a pod may be sent is judged wherever it would be handed to it: at the sender's link as well.
    let (direction, pod) = match hook {
        _ if reason == Reason::IngressLimit => ("received", owner(destination).or(behind)),
        DropHook::FromPod => ("sent", behind),
        DropHook::ToPod => ("received", behind),
        DropHook::FromUplink => ("received", owner(destination)),
        DropHook::ToUplink => ("sent", owner(source)),
    };
    let time = OffsetDateTime::from(now.checked_sub(age).unwrap_or(now));
    let time = time.replace_millisecond(time.millisecond()).unwrap_or(time);
    Line {
        time: time.format(&Rfc3339).unwrap_or_default(),
        namespace: pod.map(|record| record.pod.namespace.clone()),
        pod: pod.map(|record| record.pod.name.clone()),
        direction,
        reason: reason.name(),
        interface: behind.map(|record| record.host_ifname.clone()).or_else(|| uplink(link.0)),
        length,
        protocol,
        source,
        destination,
        source_port: ports.map(|(source, _)| source),
        destination_port: ports.map(|(_, destination)| destination),
        details,
        source_mac: source_mac.map(|address| address.map(|octet| format!("{octet:02x}")).join(":")),
    }
}

#[cfg(test)]
mod tests {
    use datapath::Ifindex;

    use super::*;

    fn record(number: u32) -> Record {
        let record = serde_json::json!({
            "format": 1, "container_id": format!("c{number}"), "ifname": "eth0", "network": "barewire",
            "pod": { "namespace": "web", "name": format!("p{number}"), "uid": "" }, "netns": null, "host_ifname": format!("bw{number}"),
            "host_ifindex": number, "mtu": 1500, "mac": null, "addresses": [format!("10.0.1.{number}")], "attached_at": 0,
        });
        serde_json::from_value(record).unwrap()
    }

    fn dropped(hook: DropHook, link: u32, reason: Reason) -> DroppedPacket {
        let packet = PacketSummary {
            source: Some("10.0.1.1".parse().unwrap()),
            destination: Some("10.0.1.2".parse().unwrap()),
            source_mac: Some([2, 0, 0, 0, 0, 10]),
            ports: Some((40_000, 53)),
            ..PacketSummary::default()
        };
        DroppedPacket { age: Duration::from_millis(1_877), link: Ifindex(link), hook, reason, length: 60, packet }
    }

    #[test]
    fn a_packet_is_told_with_its_pod_as_that_sees_it() {
        let records = [record(1), record(2)];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let told = |dropped| line(dropped, &records, |ifindex| (ifindex == 10).then(|| "eth1".to_owned()), now);
        for (hook, link, reason, pod, direction, interface) in [
            (DropHook::FromPod, 1, Reason::SpoofedAddress, Some("p1"), "sent", "bw1"),
            (DropHook::ToPod, 2, Reason::FlowTableFull, Some("p2"), "received", "bw2"),
            (DropHook::FromPod, 1, Reason::IngressLimit, Some("p2"), "received", "bw1"),
            (DropHook::FromUplink, 10, Reason::Malformed, Some("p2"), "received", "eth1"),
            (DropHook::ToUplink, 10, Reason::FlowTableFull, Some("p1"), "sent", "eth1"),
            (DropHook::FromPod, 7, Reason::NoEndpoint, None, "sent", ""),
        ] {
            let line = told(dropped(hook, link, reason));
            let found = (line.pod.as_deref(), line.direction, line.interface.as_deref().unwrap_or_default(), line.reason);
            assert_eq!(found, (pod, direction, interface, reason.name()), "{hook:?}");
        }
        let line = told(dropped(DropHook::FromPod, 1, Reason::SpoofedMac));
        assert_eq!((line.time.as_str(), line.source_mac.as_deref()), ("2023-11-14T22:13:18.123Z", Some("02:00:00:00:00:0a")));
        assert_eq!((line.source_port, line.destination_port), (Some(40_000), Some(53)));
    }

    #[test]
    fn whoever_asks_again_has_what_was_told_since() {
        let plain = |number: usize| {
            let line = line(dropped(DropHook::FromPod, 1, Reason::SpoofedMac), &[], |_| None, SystemTime::now());
            Line { details: Some(number.to_string()), ..line }
        };
        let numbers = |(lines, missed): (Vec<Line>, u64)| {
            let numbers: Vec<_> = lines.into_iter().filter_map(|line| line.details?.parse::<usize>().ok()).collect();
            (numbers, missed)
        };
        let mut recent = Recent::default();
        assert_eq!(numbers(recent.after(0)), (vec![], 0));
        recent.take_in((0..3).map(plain));
        assert_eq!(numbers(recent.after(0)), (vec![0, 1, 2], 0));
        assert_eq!(numbers(recent.after(2)), (vec![2], 0));
        assert_eq!(numbers(recent.after(3)), (vec![], 0));
        // Of the daemon before this one.
        assert_eq!(numbers(recent.after(900)), (vec![0, 1, 2], 0));
        recent.take_in((3..KEPT + 10).map(plain));
        let (lines, missed) = numbers(recent.after(2));
        assert_eq!((lines.first(), lines.last(), lines.len(), missed), (Some(&10), Some(&(KEPT + 9)), KEPT, 8));
    }

    #[test]
    fn a_number_is_understood_or_refused() {
        assert_eq!((after(""), after("after=7"), after("x=1&after=0")), (Ok(None), Ok(Some(7)), Ok(Some(0))));
        assert!(after("after=-1").is_err_and(|why| why.contains("after=-1 is no number")));
    }
}
