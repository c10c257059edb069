//! Programs on an interface: a clsact qdisc with one direct-action filter each way (tc-bpf(8)).
//!
//! A filter is replaced in place, so that there is no moment without one; it needs no pin, and goes with its interface.

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

/// Attaches to an interface that may have programs of ours already.
pub(super) fn attach(host: &mut Socket, ifindex: Ifindex, ingress: &ProgramFd, egress: &ProgramFd) -> Result<(), NetlinkError> {
    let refused = host.execute_each(requests(ifindex, ingress, egress))?;
    match refused.into_iter().find(|error| !error.is(Errno::EEXIST)) {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

/// The requests that attach to a new interface.
pub(super) fn requests(ifindex: Ifindex, ingress: &ProgramFd, egress: &ProgramFd) -> Vec<Request> {
    let qdisc = RouteNetlinkMessage::NewQueueDiscipline(clsact(ifindex));
    vec![
        Request { step: "give the interface a clsact qdisc", message: qdisc, flags: NLM_F_CREATE | NLM_F_EXCL },
        filter("attach the program for what comes in", ifindex, INGRESS, ingress),
        filter("attach the program for what goes out", ifindex, EGRESS, egress),
    ]
}

/// Takes our programs off an interface. The qdisc stays: it does nothing by itself, and somebody else may use it.
/// An interface without programs, or none, is no error.
pub(super) fn detach(host: &mut Socket, ifindex: Ifindex) -> Result<(), NetlinkError> {
    let requests = [INGRESS, EGRESS].map(|hook| Request {
        step: "take a program off the interface",
        message: RouteNetlinkMessage::DelTrafficFilter(filter_of(ifindex, hook)),
        flags: 0,
    });
    let refused = host.execute_each(requests.into())?;
    match refused.into_iter().find(|error| ![Errno::EINVAL, Errno::ENOENT, Errno::ENODEV].iter().any(|errno| error.is(*errno))) {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

fn clsact(ifindex: Ifindex) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = ifindex.0.cast_signed();
    message.header.handle = TcHandle { major: 0xffff, minor: 0 };
    message.header.parent = TcHandle::CLSACT;
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    message
}

fn filter_of(ifindex: Ifindex, hook: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = ifindex.0.cast_signed();
    message.header.handle = TcHandle::from(HANDLE);
    message.header.parent = TcHandle::from(hook);
    message.header.info = PRIORITY << 16 | ALL_PROTOCOLS;
    message.attributes = vec![TcAttribute::Kind("bpf".to_owned())];
    message
}

fn filter(step: &'static str, ifindex: Ifindex, hook: u32, program: &ProgramFd) -> Request {
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

    let mut message = filter_of(ifindex, hook);
    message.attributes.push(TcAttribute::Other(DefaultNla::new(OPTIONS, nested)));
    // Without NLM_F_EXCL, a filter of this handle is replaced in place.
    Request { step, message: RouteNetlinkMessage::NewTrafficFilter(message), flags: NLM_F_CREATE }
}
