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
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use nix::errno::Errno;

use crate::Ifindex;
use crate::netlink::{NetlinkError, Request, Socket};

/// Ours among other filters, and ours among its rules.
const PRIORITY: u32 = 1;
const HANDLE: u32 = 1;
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
}

impl Place {
    const FROM_PODS: Self = Self { index: BLOCK, parent: FROM_PODS };
    const TO_PODS: Self = Self { index: BLOCK, parent: TO_PODS };

    fn hooks(ifindex: Ifindex) -> [Self; 2] {
        [INGRESS, EGRESS].map(|parent| Self { index: ifindex.0.cast_signed(), parent })
    }
}

/// Attaches to an interface that may have programs of ours already.
pub(super) fn attach(host: &mut Socket, ifindex: Ifindex, ingress: &ProgramFd, egress: &ProgramFd) -> Result<(), NetlinkError> {
    let qdisc = new_qdisc(clsact(ifindex));
    let [at_ingress, at_egress] = Place::hooks(ifindex);
    unless(&[Errno::EEXIST], host.execute_each(vec![qdisc, filter(at_ingress, ingress), filter(at_egress, egress)])?)
}

/// Takes our programs off an interface. The qdisc stays: it does nothing by itself, and somebody else may use it.
/// An interface without programs, or none, is no error.
pub(super) fn detach(host: &mut Socket, ifindex: Ifindex) -> Result<(), NetlinkError> {
    remove(host, Place::hooks(ifindex))
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
    remove(host, [Place::FROM_PODS, Place::TO_PODS])
}

/// What is not there need not be removed.
fn remove(host: &mut Socket, places: [Place; 2]) -> Result<(), NetlinkError> {
    let requests = places.map(|place| Request {
        step: "take a program off",
        message: RouteNetlinkMessage::DelTrafficFilter(filter_at(place)),
        flags: 0,
    });
    unless(&[Errno::EINVAL, Errno::ENOENT, Errno::ENODEV], host.execute_each(requests.into())?)
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
    message.header.handle = TcHandle::from(HANDLE);
    message.header.parent = TcHandle::from(place.parent);
    message.header.info = PRIORITY << 16 | ALL_PROTOCOLS;
    message.attributes = vec![TcAttribute::Kind("bpf".to_owned())];
    message
}

fn filter(place: Place, program: &ProgramFd) -> Request {
    /// `TCA_OPTIONS`, and within it `TCA_BPF_FD`, `TCA_BPF_NAME`, `TCA_BPF_FLAGS` (linux/pkt_cls.h).
    const OPTIONS: u16 = 2;
    const FD: u16 = 6;
    const NAME: u16 = 7;
    const FLAGS: u16 = 8;
    const DIRECT_ACTION: u32 = 1;
    let options = [
        DefaultNla::new(FD, program.as_fd().as_raw_fd().to_ne_bytes().to_vec()),
        DefaultNla::new(NAME, b"barewire\0".to_vec()),
        DefaultNla::new(FLAGS, DIRECT_ACTION.to_ne_bytes().to_vec()),
    ];
    let mut nested = vec![0; options.as_slice().buffer_len()];
    options.as_slice().emit(&mut nested);

    let mut message = filter_at(place);
    message.attributes.push(TcAttribute::Other(DefaultNla::new(OPTIONS, nested)));
    // Without NLM_F_EXCL, a filter of this handle is replaced in place.
    Request { step: "attach a program", message: RouteNetlinkMessage::NewTrafficFilter(message), flags: NLM_F_CREATE }
}
