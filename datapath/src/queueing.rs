//! How an uplink queues what leaves: whether its queueing discipline sends each packet at the time that the packet carries, as fq does.
//!
//! Asked again at each look: an administrator may set another at any time. What is known late does no harm, for limits are kept either way
//! ([`ebpf::shape`]).

use netlink_packet_core::{DefaultNla, Nla as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use ebpf::shape::HORIZON_NANOS;

use crate::Ifindex;
use crate::netlink::{NetlinkError, Socket};

/// The queue of one uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queueing {
    /// The uplink's name.
    pub uplink: String,
    /// Whether it goes by departure times.
    pub departures: Departures,
}

/// Whether a queue goes by the times that packets carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Departures {
    /// It does.
    Kept {
        /// Packets of one flow that it holds; more are dropped.
        flow_packets: u32,
    },
    /// It does not.
    Ignored {
        /// Why, as the rest of a sentence about the uplink: `has noqueue, which knows no departure times`
        why: String,
    },
}

/// Asks for the queues of these uplinks, by number and name. One that cannot be asked for is taken for one that knows no departure times.
#[must_use]
pub fn queueing<'a>(host: &mut Socket, uplinks: impl IntoIterator<Item = (Ifindex, &'a str)>) -> Vec<Queueing> {
    let of = |(ifindex, ifname): (Ifindex, &str)| {
        let departures = departures(host, ifindex);
        let departures = departures.unwrap_or_else(|error| ignored(format!("cannot be asked for its queue: {error}")));
        Queueing { uplink: ifname.to_owned(), departures }
    };
    uplinks.into_iter().map(of).collect()
}

/// How many packets of a flow the queues of a node hold until their departure: of those that hold fewest, as pods may leave by any of them.
///
/// # Errors
/// Why packets are given no departure times.
pub(crate) fn departure_packets(queueing: &[Queueing]) -> Result<u32, String> {
    let packets = queueing.iter().map(|Queueing { uplink, departures }| match departures {
        Departures::Kept { flow_packets } => Ok(*flow_packets),
        Departures::Ignored { why } => Err(format!("{uplink} {why}")),
    });
    let packets = packets.collect::<Result<Vec<_>, _>>()?;
    packets.into_iter().min().ok_or_else(|| "no uplink was looked at yet".to_owned())
}

fn departures(host: &mut Socket, ifindex: Ifindex) -> Result<Departures, NetlinkError> {
    let mut question = TcMessage::default();
    (question.header.index, question.header.parent) = (ifindex.0.cast_signed(), TcHandle::ROOT);
    let root = match host.ask("ask for the queue of an uplink", RouteNetlinkMessage::GetQueueDiscipline(question)) {
        Ok(RouteNetlinkMessage::NewQueueDiscipline(root)) => root,
        // The kernel keeps to itself those that it has built in.
        Ok(_) => return Ok(ignored("has no queue that the kernel tells of".to_owned())),
        Err(error) if error.is_absence() => return Ok(ignored("has no queue that the kernel tells of".to_owned())),
        Err(error) => return Err(error),
    };
    // A link with several hardware queues has one of these for each.
    let children = if kind(&root) == MULTIQUEUE { children(host, ifindex, root.header.handle)? } else { Vec::new() };
    Ok(judge(&root, &children))
}

const MULTIQUEUE: &str = "mq";
const FQ: &str = "fq";

fn children(host: &mut Socket, ifindex: Ifindex, root: TcHandle) -> Result<Vec<TcMessage>, NetlinkError> {
    /// Of `struct tcmsg` (linux/rtnetlink.h): behind a family and padding.
    const IFINDEX: std::ops::Range<usize> = 4..8;
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let is_of_it = |row: &[u8]| row.get(IFINDEX) == Some(&ifindex.0.to_ne_bytes()[..]);
    host.dump_where("read the queues of an uplink", &request, is_of_it, |row| match row {
        RouteNetlinkMessage::NewQueueDiscipline(queue) => Some(queue).filter(|queue| is_child(queue, root)),
        _ => None,
    })
}

/// Not the hooks of programs, whose parent is a number of its own.
fn is_child(queue: &TcMessage, root: TcHandle) -> bool {
    queue.header.parent.major == root.major && queue.header.parent.minor != 0
}

/// Pure.
fn judge(root: &TcMessage, children: &[TcMessage]) -> Departures {
    match kind(root) {
        MULTIQUEUE => {
            let judged = children.iter().map(judge_fq);
            let all = judged.reduce(|one, other| match (one, other) {
                (Departures::Kept { flow_packets: one }, Departures::Kept { flow_packets: other }) => {
                    Departures::Kept { flow_packets: one.min(other) }
                }
                (ignored @ Departures::Ignored { .. }, _) | (_, ignored) => ignored,
            });
            all.unwrap_or_else(|| ignored("has mq without queues".to_owned()))
        }
        _ => judge_fq(root),
    }
}

fn judge_fq(queue: &TcMessage) -> Departures {
    /// Options of fq (linux/pkt_sched.h).
    const FLOW_PLIMIT: u16 = 2;
    const HORIZON: u16 = 14;
    /// Where it does not say (net/sched/sch_fq.c: `fq_init`).
    const USUAL_FLOW_PLIMIT: u32 = 100;
    if kind(queue) != FQ {
        return ignored(format!("has {}, which knows no departure times", kind(queue)));
    }
    let horizon = number(queue, HORIZON).map(|micros| u64::from(micros) * 1_000);
    if let Some(horizon) = horizon.filter(|horizon| *horizon < HORIZON_NANOS) {
        return ignored(format!("has fq with a horizon of {} ms, and packets wait up to {} ms", millis(horizon), millis(HORIZON_NANOS)));
    }
    Departures::Kept { flow_packets: number(queue, FLOW_PLIMIT).unwrap_or(USUAL_FLOW_PLIMIT) }
}

const fn millis(nanos: u64) -> u64 {
    nanos / 1_000_000
}

const fn ignored(why: String) -> Departures {
    Departures::Ignored { why }
}

fn kind(queue: &TcMessage) -> &str {
    let kind = queue.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    });
    kind.unwrap_or("a queue without a name")
}

/// An option that is a number.
fn number(queue: &TcMessage, wanted: u16) -> Option<u32> {
    let options = queue.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().find_map(|option| match option {
        TcOption::Other(option) if option.kind() == wanted => Some(u32::from_ne_bytes(value(option)?)),
        _ => None,
    })
}

fn value(option: &DefaultNla) -> Option<[u8; 4]> {
    let mut value = vec![0; option.value_len()];
    option.emit_value(&mut value);
    value.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(kind: &str, parent: (u16, u16), options: &[(u16, u32)]) -> TcMessage {
        let mut message = TcMessage::default();
        message.header.parent = TcHandle { major: parent.0, minor: parent.1 };
        let options = options.iter().map(|(kind, number)| TcOption::Other(DefaultNla::new(*kind, number.to_ne_bytes().to_vec())));
        message.attributes = vec![TcAttribute::Kind(kind.to_owned()), TcAttribute::Options(options.collect())];
        message
    }

    fn why(departures: Departures) -> String {
        match departures {
            Departures::Ignored { why } => why,
            Departures::Kept { .. } => panic!("{departures:?}"),
        }
    }

    #[test]
    fn fq_keeps_departure_times_and_others_do_not() {
        let root = |kind, options| judge(&queue(kind, (0xffff, 0xffff), options), &[]);
        assert_eq!(root(FQ, &[]), Departures::Kept { flow_packets: 100 });
        assert_eq!(root(FQ, &[(1, 10_000), (2, 500), (14, 10_000_000)]), Departures::Kept { flow_packets: 500 });
        assert_eq!(why(root("fq_codel", &[(2, 500)])), "has fq_codel, which knows no departure times");
        assert_eq!(why(root("noqueue", &[])), "has noqueue, which knows no departure times");
        assert_eq!(why(root(FQ, &[(14, 500_000)])), "has fq with a horizon of 500 ms, and packets wait up to 2000 ms");
    }

    #[test]
    fn all_queues_of_a_link_must_keep_them() {
        let root = queue(MULTIQUEUE, (0xffff, 0xffff), &[]);
        let child = |minor, kind, flow_packets| queue(kind, (0, minor), &[(2, flow_packets)]);
        assert_eq!(judge(&root, &[child(1, FQ, 100), child(2, FQ, 50)]), Departures::Kept { flow_packets: 50 });
        assert_eq!(why(judge(&root, &[child(1, FQ, 100), child(2, "pfifo_fast", 0)])), "has pfifo_fast, which knows no departure times");
        assert_eq!(why(judge(&root, &[])), "has mq without queues");
    }

    #[test]
    fn the_smallest_queue_counts_and_one_without_departures_is_named() {
        let kept = |uplink: &str, flow_packets| Queueing { uplink: uplink.to_owned(), departures: Departures::Kept { flow_packets } };
        assert_eq!(departure_packets(&[kept("eth0", 100), kept("eth1", 50)]), Ok(50));
        let without = Queueing { uplink: "eth1".to_owned(), departures: ignored("has noqueue".to_owned()) };
        assert_eq!(departure_packets(&[kept("eth0", 100), without]), Err("eth1 has noqueue".to_owned()));
        assert!(departure_packets(&[]).is_err());
    }

    #[test]
    fn hooks_of_programs_are_no_queues_of_a_link() {
        let root = TcHandle { major: 0x8001, minor: 0 };
        assert!(is_child(&queue(FQ, (0x8001, 3), &[]), root));
        assert!(!is_child(&queue("clsact", (0xffff, 0xfff1), &[]), root));
        assert!(!is_child(&queue(MULTIQUEUE, (0xffff, 0xffff), &[]), root));
    }
}
