//! The hooks of an uplink while others meddle with them: a way is open when both stand and are first, and else closed.
//!
//! The namespace forwards nothing, so what arrives was carried, and what is closed does not arrive.

use std::ffi::CString;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use datapath::fast_path::UplinkHooks;
use datapath::netlink::{Request, Socket};
use datapath::{NodeNetwork, PodRange};
use netlink_packet_core::{DefaultNla, Emitable, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use nix::libc;

use crate::carried::{FAMILIES, Node, UPLINK, exchange, network, uplink};
use crate::private::BPF_FS;
use crate::{object, private};

#[test]
fn a_way_is_open_while_both_hooks_stand() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        let mut host = Socket::open()?;
        let hooks = only(&node)?;
        println!("attached by {}", hooks.kind);
        ensure!(hooks.open && hooks.ingress == "stands" && hooks.egress == "stands", "{hooks:?}");
        carries(&node)?;
        for direction in ["ingress", "egress"] {
            take_off(&hooks, direction)?;
            node.fast_path.attach_uplinks(&mut host, &[uplink()?]).context(direction)?;
            ensure!(only(&node)?.open, "{:?}", only(&node)?);
            carries(&node)?;
        }
        Ok(())
    })
}

/// `bpftool link detach`: the pin stays, and its link is on no interface any more.
#[test]
fn a_link_that_was_detached_is_attached_anew() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        let mut host = Socket::open()?;
        let hooks = only(&node)?;
        if hooks.kind == "clsact" {
            println!("SKIP this kernel has no TCX");
            return Ok(());
        }
        for direction in ["ingress", "egress"] {
            detach(&pins().join(direction))?;
            node.fast_path.attach_uplinks(&mut host, &[uplink()?]).context(direction)?;
            ensure!(only(&node)?.open, "{:?}", only(&node)?);
            carries(&node)?;
        }
        Ok(())
    })
}

/// Opens a pinned link (`BPF_OBJ_GET`, bpf(2)) and takes it off its interface (`BPF_LINK_DETACH`).
fn detach(pin: &Path) -> Result<()> {
    const OBJECT_GET: libc::c_long = 7;
    const LINK_DETACH: libc::c_long = 34;
    let path = CString::new(pin.as_os_str().as_encoded_bytes())?;
    // A path, and neither a descriptor nor flags.
    let of_pin = [path.as_ptr().expose_provenance() as u64, 0];
    // SAFETY: the kernel reads the two numbers and the path, which all live for the length of the call.
    let link = unsafe { libc::syscall(libc::SYS_bpf, OBJECT_GET, &raw const of_pin, size_of_val(&of_pin)) };
    let link = i32::try_from(link).ok().filter(|link| *link >= 0).with_context(|| format!("open {}", pin.display()))?;
    // SAFETY: the kernel has just given it, to nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let of_link = link.as_raw_fd();
    // SAFETY: the kernel reads the descriptor, which is all that this command takes.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, LINK_DETACH, &raw const of_link, size_of_val(&of_link)) };
    ensure!(outcome == 0, "detach {}: {}", pin.display(), std::io::Error::last_os_error());
    Ok(())
}

#[test]
fn an_uplink_that_is_gone_is_closed_and_the_reason_told() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        let mut host = Socket::open()?;
        let mut message = LinkMessage::default();
        message.header.index = UPLINK.0;
        host.execute(vec![Request { step: "delete the uplink", message: RouteNetlinkMessage::DelLink(message), flags: 0 }])?;
        let refused = node.fast_path.attach_uplinks(&mut host, &[uplink()?]);
        ensure!(refused.is_err() && !only(&node)?.open && only(&node)?.why.is_some(), "{refused:?} {:?}", only(&node)?);
        Ok(())
    })
}

#[test]
fn who_goes_ahead_of_us_again_and_again_has_his_way_and_nothing_is_carried() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        let mut host = Socket::open()?;
        let kind = only(&node)?.kind;
        let mut other = Other::load(&object)?;
        for attempt in 0..2 {
            other.goes_ahead(kind)?;
            node.fast_path.attach_uplinks(&mut host, &[uplink()?]).with_context(|| format!("attempt {attempt}"))?;
            ensure!(only(&node)?.open, "ours is first again: {:?}", only(&node)?);
            carries(&node)?;
            other.leaves(kind)?;
        }
        other.goes_ahead(kind)?;
        let refused = node.fast_path.attach_uplinks(&mut host, &[uplink()?]).map_err(|error| error.to_string());
        let hooks = only(&node)?;
        ensure!(refused.is_err_and(|why| why.contains("uplink") && why.contains("behind")), "{hooks:?}");
        ensure!(!hooks.open && hooks.ingress.starts_with("behind") && hooks.egress == "stands", "{hooks:?}");
        ensure!(carries(&node).is_err(), "by the network nothing is carried while the way is closed");
        other.leaves(kind)?;
        node.fast_path.attach_uplinks(&mut host, &[uplink()?])?;
        ensure!(only(&node)?.open, "{:?}", only(&node)?);
        carries(&node)
    })
}

#[test]
fn a_network_that_does_not_fit_carries_nothing() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        let mut host = Socket::open()?;
        let native = (0..5000_u32).map(|number| Ok(format!("10.{}.{}.0/24", number / 200, number % 200).parse()?));
        let pods = (0..5000_u32).map(|number| {
            let address: IpAddr = format!("172.{}.{}.1", 16 + number / 200, number % 200).parse()?;
            Ok(PodRange { first: address, last: address, uplink: 0 })
        });
        let crowded = NodeNetwork { native: native.collect::<Result<_>>()?, pods: pods.collect::<Result<_>>()?, ..network()? };
        ensure!(node.fast_path.set_network(&crowded).is_err(), "it is too large");
        node.fast_path.attach_uplinks(&mut host, &[uplink()?])?;
        let hooks = only(&node)?;
        ensure!(!hooks.open && hooks.why.is_some(), "{hooks:?}");
        ensure!(carries(&node).is_err(), "nothing is carried");
        node.fast_path.set_network(&network()?)?;
        node.fast_path.attach_uplinks(&mut host, &[uplink()?])?;
        carries(&node)
    })
}

fn only(node: &Node) -> Result<UplinkHooks> {
    node.fast_path.uplink_hooks().pop().context("no uplink is told of")
}

/// Between pod and network, begun by the pod, in both families.
fn carries(node: &Node) -> Result<()> {
    for [a, _, remote, ..] in FAMILIES {
        exchange(&node.pods[0], a.parse()?, &node.fabric, remote.parse()?)?;
    }
    Ok(())
}

fn pins() -> PathBuf {
    Path::new(BPF_FS).join("barewire/run-test/uplinks/10")
}

/// As somebody would who does not know us.
fn take_off(hooks: &UplinkHooks, direction: &str) -> Result<()> {
    if hooks.kind == "clsact" {
        return delete_filter(if direction == "ingress" { INGRESS } else { EGRESS }, 0xb3);
    }
    let pins = pins();
    std::fs::remove_file(pins.join(direction)).with_context(|| format!("remove a pin in {}", pins.display()))
}

/// `TC_H_MIN_INGRESS`, `TC_H_MIN_EGRESS` of a clsact qdisc (linux/pkt_sched.h).
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// Another tool's filter among those of our priority.
const OTHERS: u32 = 7;

fn filter(parent: u32, handle: u32) -> TcMessage {
    const FIRST_OF_ALL_PROTOCOLS: u32 = 1 << 16 | 0x0300;
    let mut message = TcMessage::default();
    message.header.index = UPLINK.0.cast_signed();
    message.header.handle = TcHandle::from(handle);
    message.header.parent = TcHandle::from(parent);
    message.header.info = FIRST_OF_ALL_PROTOCOLS;
    message.attributes = vec![TcAttribute::Kind("bpf".to_owned())];
    message
}

fn delete_filter(parent: u32, handle: u32) -> Result<()> {
    let message = RouteNetlinkMessage::DelTrafficFilter(filter(parent, handle));
    Ok(Socket::open()?.execute(vec![Request { step: "delete a filter", message, flags: 0 }])?)
}

/// Another tool's program at the way in: one of ours that has other maps, so that it knows no pod and lets everything pass.
struct Other {
    programs: Ebpf,
    link: Option<SchedClassifierLink>,
}

impl Other {
    fn load(object: &Path) -> Result<Self> {
        let maps = Path::new(BPF_FS).join("other");
        std::fs::create_dir(&maps)?;
        let mut programs = EbpfLoader::new().default_map_pin_directory(&maps).load(&std::fs::read(object)?)?;
        let program: &mut SchedClassifier = programs.program_mut("to_uplink").context("to_uplink")?.try_into()?;
        program.load()?;
        Ok(Self { programs, link: None })
    }

    fn goes_ahead(&mut self, kind: &str) -> Result<()> {
        let program: &mut SchedClassifier = self.programs.program_mut("to_uplink").context("to_uplink")?.try_into()?;
        if kind == "tcx" {
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program.attach_with_options("uplink", TcAttachType::Ingress, order)?;
            self.link = Some(program.take_link(id)?);
            return Ok(());
        }
        // The newest filter of a priority is asked first. `TCA_BPF_FD`, `TCA_BPF_NAME`, `TCA_BPF_FLAGS` (direct action) in `TCA_OPTIONS`.
        let options = [
            DefaultNla::new(6, program.fd()?.as_fd().as_raw_fd().to_ne_bytes().to_vec()),
            DefaultNla::new(7, b"theirs\0".to_vec()),
            DefaultNla::new(8, 1_u32.to_ne_bytes().to_vec()),
        ];
        let mut nested = vec![0; options.as_slice().buffer_len()];
        options.as_slice().emit(&mut nested);
        let mut message = filter(INGRESS, OTHERS);
        message.attributes.push(TcAttribute::Other(DefaultNla::new(2, nested)));
        let message = RouteNetlinkMessage::NewTrafficFilter(message);
        Ok(Socket::open()?.execute(vec![Request { step: "attach another's filter", message, flags: NLM_F_CREATE | NLM_F_EXCL }])?)
    }

    fn leaves(&mut self, kind: &str) -> Result<()> {
        self.link = None;
        if kind == "clsact" { delete_filter(INGRESS, OTHERS) } else { Ok(()) }
    }
}
