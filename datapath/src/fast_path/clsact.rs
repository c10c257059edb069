//! Programs by a clsact qdisc with direct-action filters (tc-bpf(8)): on one interface, one filter each way, or on all pods' links,
//! which share one filter block each way (tc(8), "SHARED BLOCKS").
//!
//! A filter is replaced in place, so that there is no moment without one; it needs no pin, and goes with its interface or with the
//! last one that shares its block.
//!
//! Pods share blocks because the kernel keeps all blocks of the host in a list and looks through it for each new one
//! (`find_indir_dev`, net/core/flow_offload.c): with blocks of their own, the thousandth pod waits 0.3 ms for its qdisc.

use std::os::fd::{AsFd, AsRawFd};

use aya::programs::ProgramFd;
use netlink_packet_core::{DefaultNla, Emitable, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use nix::errno::Errno;

use super::uplink_hooks::Hook;
use crate::Ifindex;
use crate::netlink::{NetlinkError, Request, Socket};

/// Before all others.
const PRIORITY: u32 = 1;
/// Ours on the pods' blocks, which nobody else has.
const HANDLE_OF_PODS: u32 = 1;
/// Ours on an uplink, among others of the same priority.
const HANDLE_OF_UPLINKS: u32 = 0xb3;
/// What stands in a filter of ours, and of no other.
const NAME: &str = "barewire";
/// `ETH_P_ALL` in network order, where the kernel expects it.
const ALL_PROTOCOLS: u32 = 0x0300;
/// The two hooks of clsact (`TC_H_MIN_INGRESS`, `TC_H_MIN_EGRESS`, linux/pkt_sched.h).
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// An index that says that the parent is a block (`TCM_IFINDEX_MAGIC_BLOCK`, linux/rtnetlink.h).
const BLOCK: i32 = -1;
/// The blocks of all pods' links: what comes in from pods, and what goes out to them.
const FROM_PODS: u32 = 0xb301;
const TO_PODS: u32 = 0xb302;

/// What a filter hangs on.
#[derive(Debug, Clone, Copy)]
struct Place {
    index: i32,
    parent: u32,
    handle: u32,
}

impl Place {
    const FROM_PODS: Self = Self { index: BLOCK, parent: FROM_PODS, handle: HANDLE_OF_PODS };
    const TO_PODS: Self = Self { index: BLOCK, parent: TO_PODS, handle: HANDLE_OF_PODS };

    fn hooks(ifindex: Ifindex) -> [Self; 2] {
        [INGRESS, EGRESS].map(|parent| Self { index: ifindex.0.cast_signed(), parent, handle: HANDLE_OF_UPLINKS })
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
    detach_handle(host, Place::hooks(ifindex).map(|place| Place { handle: HANDLE_OF_PODS, ..place }))
}

/// Takes our programs off an uplink. The qdisc stays: it does nothing by itself, and somebody else may use it.
/// An interface without programs, or none, is no error.
pub(super) fn detach(host: &mut Socket, ifindex: Ifindex) -> Result<(), NetlinkError> {
    for handle in [HANDLE_OF_UPLINKS, HANDLE_OF_PODS] {
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
    Ok([state(&filters(host, ingress)?, wanted[0]), state(&filters(host, egress)?, wanted[1])])
}

/// What the filters of a hook, in the order in which the kernel asks them, mean for ours. Pure.
fn state(filters: &[Found], program: Option<u32>) -> Hook {
    let Some(position) = filters.iter().position(|found| found.is_ours() && found.handle == HANDLE_OF_UPLINKS) else {
        return Hook::Gone("its filter is not there".to_owned());
    };
    if program.is_some() && filters[position].program != program {
        return Hook::Gone("another program is in its filter".to_owned());
    }
    match filters[..position].iter().find(|found| !found.is_ours()) {
        None => Hook::Stands,
        Some(other) => {
            let name = other.name.as_deref().unwrap_or(&other.kind);
            Hook::Behind(format!("the filter {name} (priority {}, handle {:#x})", other.priority, other.handle))
        }
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

/// The requests that make a new link share the pods' programs. The filters are set again each time: the first pod's link makes the
/// blocks.
pub(super) fn pod_requests(ifindex: Ifindex, from_pod: &ProgramFd, to_pod: &ProgramFd) -> Vec<Request> {
    let mut message = clsact(ifindex);
    message.attributes.extend(blocks());
    vec![new_qdisc(message), filter(Place::FROM_PODS, from_pod), filter(Place::TO_PODS, to_pod)]
}

/// Attaches to a pod's link that may share programs of ours already: with it, all that do have these from now on.
pub(super) fn attach_pod(host: &mut Socket, ifindex: Ifindex, from_pod: &ProgramFd, to_pod: &ProgramFd) -> Result<(), NetlinkError> {
    unless(&[Errno::EEXIST], host.execute_each(pod_requests(ifindex, from_pod, to_pod))?)
}

/// Whether a pod's link shares the pods' programs, and these are there.
pub(super) fn is_attached_to_pod(host: &mut Socket, ifindex: Ifindex) -> Result<bool, NetlinkError> {
    let qdisc = host.ask("ask for a qdisc", RouteNetlinkMessage::GetQueueDiscipline(clsact(ifindex)));
    let shares = match qdisc {
        Ok(RouteNetlinkMessage::NewQueueDiscipline(qdisc)) => blocks().iter().all(|block| qdisc.attributes.contains(block)),
        Err(error) if !is_nothing(&error) => return Err(error),
        _ => false,
    };
    if !shares {
        return Ok(false);
    }
    for place in [Place::FROM_PODS, Place::TO_PODS] {
        match host.ask("ask for a program", RouteNetlinkMessage::GetTrafficFilter(filter_at(place))) {
            Ok(_) => {}
            Err(error) if is_nothing(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The kernel's words for a qdisc, a block or a filter that is not there.
fn is_nothing(error: &NetlinkError) -> bool {
    error.is_absence() || error.is(Errno::EINVAL)
}

/// Takes our programs off all pods' links.
pub(super) fn detach_pods(host: &mut Socket) -> Result<(), NetlinkError> {
    remove(host, &[Place::FROM_PODS, Place::TO_PODS])
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

/// The pods' blocks as a qdisc names them.
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
    message.header.info = PRIORITY << 16 | ALL_PROTOCOLS;
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
        let (ours, other) = (filter(HANDLE_OF_UPLINKS, NAME, 7), filter(1, "theirs", 9));
        assert_eq!(state(&[ours.clone(), other.clone()], Some(7)), Hook::Stands);
        assert!(matches!(state(&[other.clone(), ours.clone()], Some(7)), Hook::Behind(who) if who.contains("theirs")));
        assert!(matches!(state(std::slice::from_ref(&ours), Some(8)), Hook::Gone(_)), "another program");
        assert_eq!(state(&[ours], None), Hook::Stands);
        assert!(matches!(state(&[filter(HANDLE_OF_UPLINKS, "theirs", 7)], Some(7)), Hook::Gone(_)), "only our handle");
        assert!(matches!(state(&[other], None), Hook::Gone(_)));
    }
}
