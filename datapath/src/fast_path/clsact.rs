//! Programs by a clsact qdisc with direct-action filters (tc-bpf(8)), one each way.
//!
//! A filter is replaced in place, so that there is no moment without one; it needs no pin, and goes with its interface.
//!
//! On an uplink ours comes first. On a pod's link it has a priority in the middle: another tool's filters can stand before it, and see
//! all that the pod sends, or behind it, and see what the programs leave to the stack.
//!
//! That holds for [`OWN_BLOCKS_MAX`] pods. The kernel keeps all filter blocks of the host in a list and looks through it for each new one
//! (`find_indir_dev`, net/core/flow_offload.c): with blocks of their own, the thousandth pod waits 0.3 ms for its qdisc. So further pods,
//! and those of earlier versions, share one block each way (tc(8), "SHARED BLOCKS"), where nobody else can add a filter to one pod's link.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};

use aya::programs::ProgramFd;
use ebpf::layout::FIRST_IFINDEX;
use netlink_packet_core::{DefaultNla, Emitable, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use nix::errno::Errno;

use super::uplink_hooks::Hook;
use crate::Ifindex;
use crate::netlink::{NetlinkError, Request, Socket};

/// Before all others.
const FIRST: u32 = 1;
/// On pods' links: behind whoever names a small priority or none (tc then takes the one before the first that is there).
const AMONG_OTHERS: u32 = 0xb300;
/// More than kubelet runs on a node by default (110), fewer than anybody would wait for.
const OWN_BLOCKS_MAX: u32 = 256;
/// Ours, among others of the same priority.
const HANDLE: u32 = 0xb3;
/// Ours on the shared blocks of pods, and on uplinks, in earlier versions.
const EARLIER_HANDLE: u32 = 1;
/// What stands in a filter of ours, and of no other.
const NAME: &str = "barewire";
/// `ETH_P_ALL` in network order, where the kernel expects it.
const ALL_PROTOCOLS: u32 = 0x0300;
/// The two hooks of clsact (`TC_H_MIN_INGRESS`, `TC_H_MIN_EGRESS`, linux/pkt_sched.h).
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// An index that says that the parent is a block (`TCM_IFINDEX_MAGIC_BLOCK`, linux/rtnetlink.h).
const BLOCK: i32 = -1;
/// The shared blocks: what comes in from pods, and what goes out to them.
const FROM_PODS: u32 = 0xb301;
const TO_PODS: u32 = 0xb302;

/// What a filter hangs on.
#[derive(Debug, Clone, Copy)]
struct Place {
    index: i32,
    parent: u32,
    priority: u32,
    handle: u32,
}

impl Place {
    const SHARED: [Self; 2] = [Self::shared(FROM_PODS), Self::shared(TO_PODS)];

    const fn shared(parent: u32) -> Self {
        Self { index: BLOCK, parent, priority: FIRST, handle: EARLIER_HANDLE }
    }

    /// Of an uplink.
    fn hooks(ifindex: Ifindex) -> [Self; 2] {
        [INGRESS, EGRESS].map(|parent| Self { index: ifindex.0.cast_signed(), parent, priority: FIRST, handle: HANDLE })
    }

    /// Of a pod's link.
    fn hooks_of_pod(ifindex: Ifindex) -> [Self; 2] {
        Self::hooks(ifindex).map(|place| Self { priority: AMONG_OTHERS, ..place })
    }
}

/// A filter of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    priority: u32,
    handle: u32,
    kind: String,
    name: Option<String>,
    program: Option<u32>,
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { priority, handle, kind, name, program: _ } = self;
        write!(out, "the filter {} (priority {priority}, handle {handle:#x})", name.as_ref().unwrap_or(kind))
    }
}

impl Found {
    fn is_ours(&self) -> bool {
        self.kind == "bpf" && self.name.as_deref() == Some(NAME)
    }
}

/// Attaches to an uplink that may have programs of ours already, or others'. Another's filter stays as it is.
pub(super) fn attach(host: &mut Socket, ifindex: Ifindex, programs: [&ProgramFd; 2]) -> Result<(), NetlinkError> {
    unless(&[Errno::EEXIST], host.execute_each(vec![new_qdisc(clsact(ifindex))])?)?;
    for (place, program) in Place::hooks(ifindex).into_iter().zip(programs) {
        let request = filter(place, program);
        let stands = filters(host, place)?.iter().any(|found| found.is_ours() && found.handle == place.handle);
        // In place, without a moment without it, only where it is ours.
        let flags = if stands { NLM_F_CREATE } else { NLM_F_CREATE | NLM_F_EXCL };
        host.execute(vec![Request { flags, ..request }])?;
    }
    // Those of an earlier version had the handle that others like to have.
    detach_handle(host, Place::hooks(ifindex).map(|place| Place { handle: EARLIER_HANDLE, ..place }))
}

/// Takes our programs off an uplink. The qdisc stays: it does nothing by itself, and somebody else may use it.
/// An interface without programs, or none, is no error.
pub(super) fn detach(host: &mut Socket, ifindex: Ifindex) -> Result<(), NetlinkError> {
    for handle in [HANDLE, EARLIER_HANDLE] {
        detach_handle(host, Place::hooks(ifindex).map(|place| Place { handle, ..place }))?;
    }
    Ok(())
}

fn detach_handle(host: &mut Socket, places: [Place; 2]) -> Result<(), NetlinkError> {
    for place in places {
        if filters(host, place)?.iter().any(|found| found.is_ours() && found.handle == place.handle) {
            remove(host, &[place])?;
        }
    }
    Ok(())
}

/// How ours stand on an uplink, the way in first. `program` is whose number it has to be, where that is known.
pub(super) fn look(host: &mut Socket, ifindex: Ifindex, programs: Option<[u32; 2]>) -> Result<[Hook; 2], NetlinkError> {
    let [ingress, egress] = Place::hooks(ifindex);
    let wanted = programs.map_or([None; 2], |programs| programs.map(Some));
    Ok([state(&filters(host, ingress)?, HANDLE, wanted[0]), state(&filters(host, egress)?, HANDLE, wanted[1])])
}

/// What the filters of a hook, in the order in which the kernel asks them, mean for ours. Pure.
fn state(filters: &[Found], handle: u32, program: Option<u32>) -> Hook {
    let Some(position) = filters.iter().position(|found| found.is_ours() && found.handle == handle) else {
        return Hook::Gone("its filter is not there".to_owned());
    };
    if program.is_some() && filters[position].program != program {
        return Hook::Gone("another program is in its filter".to_owned());
    }
    match filters[..position].iter().find(|found| !found.is_ours()) {
        None => Hook::Stands,
        Some(other) => Hook::Behind(other.to_string()),
    }
}

/// Every filter of a hook; none where there is no such hook.
fn filters(host: &mut Socket, place: Place) -> Result<Vec<Found>, NetlinkError> {
    let mut message = TcMessage::default();
    message.header.index = place.index;
    message.header.parent = TcHandle::from(place.parent);
    let found = host.dump("read the filters of an interface", &RouteNetlinkMessage::GetTrafficFilter(message), |row| match row {
        RouteNetlinkMessage::NewTrafficFilter(filter) => Some(found(&filter)),
        _ => None,
    });
    match found {
        // Each priority has a row of its own before its filters', without a handle.
        Ok(found) => Ok(found.into_iter().filter(|found| found.handle != 0).collect()),
        Err(error) if is_nothing(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn found(filter: &TcMessage) -> Found {
    let mut found =
        Found { priority: filter.header.info >> 16, handle: filter.header.handle.into(), kind: String::new(), name: None, program: None };
    for attribute in &filter.attributes {
        match attribute {
            TcAttribute::Kind(kind) => found.kind.clone_from(kind),
            TcAttribute::Options(options) => {
                for option in options {
                    match option {
                        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => found.name = Some(name.clone()),
                        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => found.program = Some(*id),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// The requests that make a new link carry the programs. Numbers of links are dense, and the lowest is taken first: by them it is told who
/// has blocks of its own. Shared filters are set again each time: the first link that shares them makes the blocks.
pub(super) fn pod_requests(ifindex: Ifindex, from_pod: &ProgramFd, to_pod: &ProgramFd) -> Vec<Request> {
    let has_own = ifindex.0.wrapping_sub(FIRST_IFINDEX) < OWN_BLOCKS_MAX;
    let mut qdisc = clsact(ifindex);
    if !has_own {
        qdisc.attributes.extend(blocks());
    }
    let [ingress, egress] = if has_own { Place::hooks_of_pod(ifindex) } else { Place::SHARED };
    vec![new_qdisc(qdisc), filter(ingress, from_pod), filter(egress, to_pod)]
}

/// Attaches to a pod's link that may have programs of ours already: these take their place.
pub(super) fn attach_pod(host: &mut Socket, ifindex: Ifindex, from_pod: &ProgramFd, to_pod: &ProgramFd) -> Result<(), NetlinkError> {
    let requests = if shares_blocks(host, ifindex)? {
        Place::SHARED.into_iter().zip([from_pod, to_pod]).map(|(place, program)| filter(place, program)).collect()
    } else {
        pod_requests(ifindex, from_pod, to_pod)
    };
    unless(&[Errno::EEXIST], host.execute_each(requests)?)
}

/// How ours stand on a pod's link, what comes from the pod first; and another's filter, wherever it stands.
pub(super) fn look_at_pod(host: &mut Socket, ifindex: Ifindex) -> Result<([Hook; 2], Option<String>), NetlinkError> {
    let [ingress, egress] = Place::hooks_of_pod(ifindex);
    // Of a link that shares its blocks the kernel tells the filters of these.
    let (filters_in, filters_out) = (filters(host, ingress)?, filters(host, egress)?);
    let is_shared = filters_in.iter().chain(&filters_out).any(|found| found.is_ours() && found.handle == EARLIER_HANDLE);
    let handle = if is_shared { EARLIER_HANDLE } else { HANDLE };
    let other = filters_in.iter().chain(&filters_out).find(|found| !found.is_ours()).map(Found::to_string);
    Ok(([state(&filters_in, handle, None), state(&filters_out, handle, None)], other))
}

/// Whether a pod's link was made by an earlier version.
fn shares_blocks(host: &mut Socket, ifindex: Ifindex) -> Result<bool, NetlinkError> {
    match host.ask("ask for a qdisc", RouteNetlinkMessage::GetQueueDiscipline(clsact(ifindex))) {
        Ok(RouteNetlinkMessage::NewQueueDiscipline(qdisc)) => Ok(blocks().iter().all(|block| qdisc.attributes.contains(block))),
        Err(error) if !is_nothing(&error) => Err(error),
        _ => Ok(false),
    }
}

/// The kernel's words for a qdisc, a block or a filter that is not there.
fn is_nothing(error: &NetlinkError) -> bool {
    error.is_absence() || error.is(Errno::EINVAL)
}

/// Takes our programs off pods' links, and off the blocks that some of them may share.
pub(super) fn detach_pods(host: &mut Socket, links: &[Ifindex]) -> Result<(), NetlinkError> {
    remove(host, &Place::SHARED)?;
    links.iter().try_for_each(|link| remove(host, &Place::hooks_of_pod(*link)))
}

/// What is not there need not be removed.
fn remove(host: &mut Socket, places: &[Place]) -> Result<(), NetlinkError> {
    let requests = places.iter().map(|place| Request {
        step: "take a program off",
        message: RouteNetlinkMessage::DelTrafficFilter(filter_at(*place)),
        flags: 0,
    });
    unless(&[Errno::EINVAL, Errno::ENOENT, Errno::ENODEV], host.execute_each(requests.collect())?)
}

/// The first refusal that is none of these.
fn unless(expected: &[Errno], refused: Vec<NetlinkError>) -> Result<(), NetlinkError> {
    refused.into_iter().find(|error| !expected.iter().any(|errno| error.is(*errno))).map_or(Ok(()), Err)
}

fn clsact(ifindex: Ifindex) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = ifindex.0.cast_signed();
    message.header.handle = TcHandle { major: 0xffff, minor: 0 };
    message.header.parent = TcHandle::CLSACT;
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    message
}

/// The shared blocks as a qdisc names them.
fn blocks() -> [TcAttribute; 2] {
    /// `TCA_INGRESS_BLOCK`, `TCA_EGRESS_BLOCK` (linux/rtnetlink.h).
    const BLOCKS: [(u16, u32); 2] = [(13, FROM_PODS), (14, TO_PODS)];
    BLOCKS.map(|(kind, block)| TcAttribute::Other(DefaultNla::new(kind, block.to_ne_bytes().to_vec())))
}

fn new_qdisc(message: TcMessage) -> Request {
    let message = RouteNetlinkMessage::NewQueueDiscipline(message);
    Request { step: "give the interface a clsact qdisc", message, flags: NLM_F_CREATE | NLM_F_EXCL }
}

fn filter_at(place: Place) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = place.index;
    message.header.handle = TcHandle::from(place.handle);
    message.header.parent = TcHandle::from(place.parent);
    message.header.info = place.priority << 16 | ALL_PROTOCOLS;
    message.attributes = vec![TcAttribute::Kind("bpf".to_owned())];
    message
}

fn filter(place: Place, program: &ProgramFd) -> Request {
    /// `TCA_OPTIONS`, and within it `TCA_BPF_FD`, `TCA_BPF_NAME`, `TCA_BPF_FLAGS` (linux/pkt_cls.h).
    const OPTIONS: u16 = 2;
    const FD: u16 = 6;
    const NAMED: u16 = 7;
    const FLAGS: u16 = 8;
    const DIRECT_ACTION: u32 = 1;
    let options = [
        DefaultNla::new(FD, program.as_fd().as_raw_fd().to_ne_bytes().to_vec()),
        DefaultNla::new(NAMED, [NAME.as_bytes(), &[0]].concat()),
        DefaultNla::new(FLAGS, DIRECT_ACTION.to_ne_bytes().to_vec()),
    ];
    let mut nested = vec![0; options.as_slice().buffer_len()];
    options.as_slice().emit(&mut nested);

    let mut message = filter_at(place);
    message.attributes.push(TcAttribute::Other(DefaultNla::new(OPTIONS, nested)));
    // Without NLM_F_EXCL, a filter of this handle is replaced in place.
    Request { step: "attach a program", message: RouteNetlinkMessage::NewTrafficFilter(message), flags: NLM_F_CREATE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(handle: u32, name: &str, program: u32) -> Found {
        Found { priority: 1, handle, kind: "bpf".to_owned(), name: Some(name.to_owned()), program: Some(program) }
    }

    #[test]
    fn ours_is_known_by_its_name_and_handle_and_has_to_be_first() {
        let (ours, other) = (filter(HANDLE, NAME, 7), filter(1, "theirs", 9));
        assert_eq!(state(&[ours.clone(), other.clone()], HANDLE, Some(7)), Hook::Stands);
        assert!(matches!(state(&[other.clone(), ours.clone()], HANDLE, Some(7)), Hook::Behind(who) if who.contains("theirs")));
        assert!(matches!(state(std::slice::from_ref(&ours), HANDLE, Some(8)), Hook::Gone(_)), "another program");
        assert_eq!(state(&[ours], HANDLE, None), Hook::Stands);
        assert!(matches!(state(&[filter(HANDLE, "theirs", 7)], HANDLE, Some(7)), Hook::Gone(_)), "only our handle");
        assert!(matches!(state(&[other], HANDLE, None), Hook::Gone(_)));
    }
}
