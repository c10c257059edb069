//! The programs: they fetch what a decision needs, and obey it. What is decided, and why, is in the library.
//!
//! | program | hook | sees |
//! |---|---|---|
//! | `from_pod` | host end, ingress | what a pod sends |
//! | `to_pod` | host end, egress | what the host's stack sends to a pod |
//! | `from_uplink` | uplink, ingress | what the network sends |
//! | `to_uplink` | uplink, egress | what leaves, the fast path's own packets included |
//! | `to_backend` | behind `from_pod` | what a pod sends to services |
//! | `choose` | behind `to_backend` | what begins a flow to a service |
//! | `to_client` | behind those that send to pods | what comes back from there |
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(missing_docs, unreachable_pub, reason = "entry points are public for the macro; the table above says what each is")]

mod departures;
mod drop_events;
mod limits;
mod packet_bytes;
mod tables;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
};
use aya_ebpf::helpers::{bpf_csum_update, bpf_l4_csum_replace, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_ecn_set_ce};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ebpf::account::{Direction, Reason};
use ebpf::drop_event::Hook;
use ebpf::layout::{FIRST_IFINDEX, LIMIT_RECEIVED, LIMIT_SENT};
use ebpf::packet::{self, ETHERNET, Protocol};
use ebpf::scope::Scope;
use ebpf::service::Jump;
use ebpf::shape;
use ebpf::verdict::{self, Decision, Outcome, SumChange, Tables as _, Verdict, Writer};

use packet_bytes::{Linear, read_unusual_v4, read_unusual_v6};
use tables::Maps;

/// On to whatever program or filter comes next, and then to the stack: an uplink may carry programs of others.
const PASS: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT as i32;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// linux/if_ether.h
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86DD;
/// What `tc_index` of a packet says to the programs that see it next; whatever else it holds where a packet comes in is cleared.
/// It was sent to an uplink by the fast path.
const CARRIED: u32 = 0xB3;
/// It was given to the stack past conntrack, and is of a flow that the fast path carries.
const UNTRACKED: u32 = 0xB4;
/// Kept for `to_backend`: no endpoint was chosen for this packet yet, or it was tried.
const UNASKED: u32 = 0;
const ASKED: u32 = 1;
/// A frame for somebody else's MAC address, for a group, or for all (`PACKET_HOST`, linux/if_packet.h).
const PACKET_HOST: u32 = 0;

#[classifier]
#[inline(always)]
pub fn from_pod(ctx: TcContext) -> i32 {
    let slot = slot(&ctx);
    let decision = verdict::from_pod(&Linear::of(&ctx), &Maps, slot);
    if decision.sent == Some(Scope::Service) {
        keep(&ctx, UNASKED);
        tables::go_on(&ctx, Jump::Services);
    }
    leave_pod(&ctx, slot, &decision)
}

/// In a program of its own: `from_pod` with this in it is more than the verifier would look at, and than a program has stack for. Behind it is
/// `from_pod` again, for which the packet is one to a pod or to another node, with all that is judged and counted of it.
#[classifier]
#[inline(always)]
pub fn to_backend(ctx: TcContext) -> i32 {
    let slot = slot(&ctx);
    let outcome = match packet::protocol(&Linear::of(&ctx)) {
        Some(Protocol::V4) if read_unusual_v4(ctx.skb.skb) != 0 => to_backend_v4(ctx.skb.skb),
        Some(Protocol::V6) if read_unusual_v6(ctx.skb.skb) != 0 => to_backend_v6(ctx.skb.skb),
        _ => Outcome::AsItWas,
    };
    match outcome {
        Outcome::Translated => {
            tables::go_on(&ctx, Jump::FromPod);
            lose(&ctx, Hook::FromPod, Reason::NoTranslation)
        }
        Outcome::Broken => lose(&ctx, Hook::FromPod, Reason::Malformed),
        Outcome::Begins => {
            if kept(&ctx) == UNASKED {
                tables::go_on(&ctx, Jump::Choose);
            }
            leave_to_stack(&ctx, slot)
        }
        Outcome::AsItWas => leave_to_stack(&ctx, slot),
    }
}

/// Each family in a function of its own: both in one would take the stack of both.
#[inline(never)]
fn to_backend_v4(skb: *mut __sk_buff) -> Outcome {
    let ctx = TcContext::new(skb);
    verdict::to_backend(Protocol::V4, &Linear::of_read(&ctx), &Ends(&ctx), &Maps)
}

#[inline(never)]
fn to_backend_v6(skb: *mut __sk_buff) -> Outcome {
    let ctx = TcContext::new(skb);
    verdict::to_backend(Protocol::V6, &Linear::of_read(&ctx), &Ends(&ctx), &Maps)
}

/// Behind it is `to_backend` again, which finds what was chosen, or nothing: to judge limits as well takes more stack than there is.
#[classifier]
pub fn choose(ctx: TcContext) -> i32 {
    match packet::protocol(&Linear::of(&ctx)) {
        Some(Protocol::V4) if read_unusual_v4(ctx.skb.skb) != 0 => choose_v4(ctx.skb.skb),
        Some(Protocol::V6) if read_unusual_v6(ctx.skb.skb) != 0 => choose_v6(ctx.skb.skb),
        _ => false,
    };
    keep(&ctx, ASKED);
    tables::go_on(&ctx, Jump::ToBackend);
    lose(&ctx, Hook::FromPod, Reason::NoTranslation)
}

#[inline(never)]
fn choose_v4(skb: *mut __sk_buff) -> bool {
    let ctx = TcContext::new(skb);
    verdict::choose(Protocol::V4, &Linear::of_read(&ctx), &Maps, slot(&ctx))
}

#[inline(never)]
fn choose_v6(skb: *mut __sk_buff) -> bool {
    let ctx = TcContext::new(skb);
    verdict::choose(Protocol::V6, &Linear::of_read(&ctx), &Maps, slot(&ctx))
}

/// Keeps a number for the program behind a tail call.
#[inline(always)]
fn keep(ctx: &TcContext, number: u32) {
    // SAFETY: the context is valid for as long as the program runs, and the control block is for programs to write and read.
    unsafe { (*ctx.skb.skb).cb[0] = number };
}

#[inline(always)]
fn kept(ctx: &TcContext) -> u32 {
    // SAFETY: as in `keep`.
    unsafe { (*ctx.skb.skb).cb[0] }
}

#[inline(always)]
fn leave_to_stack(ctx: &TcContext, slot: u32) -> i32 {
    let limits = Maps.endpoint(slot).map_or(0, |pod| pod.limits);
    leave_pod(ctx, slot, &Decision::to_service(limits))
}

/// What goes into a pod whose number is in the control block, or on its way where that is 0.
#[classifier]
#[inline(always)]
pub fn to_client(ctx: TcContext) -> i32 {
    let outcome = match packet::protocol(&Linear::of(&ctx)) {
        Some(version) => verdict::to_client(version, &Linear::of(&ctx), &Ends(&ctx), &Maps),
        None => Outcome::AsItWas,
    };
    let ifindex = kept(&ctx);
    match outcome {
        Outcome::Broken => lose(&ctx, Hook::ToPod, Reason::Malformed),
        _ if ifindex == 0 => PASS,
        Outcome::AsItWas | Outcome::Begins => lose(&ctx, Hook::ToPod, Reason::NoTranslation),
        // SAFETY: the helper takes no pointer; a number that is no interface's makes it drop the packet.
        Outcome::Translated => unsafe { bpf_redirect_peer(ifindex, 0) as i32 },
    }
}

/// Goes on with `to_client`, and does not return; it does where that is not there.
#[inline(always)]
fn go_to_client(ctx: &TcContext, ifindex: u32) {
    keep(ctx, ifindex);
    tables::go_on(ctx, Jump::ToClient);
}

#[inline(always)]
fn leave_pod(ctx: &TcContext, slot: u32, decision: &Decision) -> i32 {
    let to_internet = decision.sent == Some(Scope::Internet);
    if to_internet || decision.limits & LIMIT_SENT != 0 {
        let leaves = matches!(decision.sent, Some(Scope::Vpc | Scope::Service | Scope::Internet));
        let held = limits::hold_sender(ctx.skb.skb, slot, limits::asked(decision.limits, leaves, to_internet));
        if let Some(reason) = limits::beyond(held) {
            return lose(ctx, Hook::FromPod, reason);
        }
    }
    if let Some(scope) = decision.sent {
        tables::count(Some(slot), Direction::Sent, scope, ctx.len());
    }
    obey(ctx, Hook::FromPod, decision, address_by_helper)
}

#[classifier]
#[inline(always)]
pub fn from_uplink(ctx: TcContext) -> i32 {
    // SAFETY: the context is valid for as long as the program runs.
    if unsafe { (*ctx.skb.skb).pkt_type } != PACKET_HOST {
        // The stack of this host drops what is not for it; of the rest only its own is left.
        set_tc_index(&ctx, 0);
        return PASS;
    }
    let decision = verdict::from_uplink(&Linear::of(&ctx), &Maps);
    obey(&ctx, Hook::FromUplink, &decision, address_in_place)
}

#[classifier]
#[inline(always)]
pub fn to_pod(ctx: TcContext) -> i32 {
    let slot = slot(&ctx);
    let emission = verdict::to_pod(&Linear::of(&ctx), &Maps, slot, tc_index(&ctx) == UNTRACKED);
    if emission.without_note {
        return lose(&ctx, Hook::ToPod, Reason::FlowTableFull);
    }
    // What speaks of neighbours is held to none. Asked of the table once more, and not handed through the verdict: the verifier of 6.1 would
    // see a word of the stack that was never written.
    let is_held = is_ip(&ctx) && Maps.endpoint(slot).is_some_and(|pod| pod.limits & LIMIT_RECEIVED != 0);
    if is_held && limits::hold_receiver(ctx.skb.skb, slot) == 0 {
        return lose(&ctx, Hook::ToPod, Reason::IngressLimit);
    }
    tables::count(Some(slot), Direction::Received, emission.scope, ctx.len());
    if emission.may_be_answer {
        go_to_client(&ctx, 0);
    }
    PASS
}

#[classifier]
#[inline(always)]
pub fn to_uplink(ctx: TcContext) -> i32 {
    if matches!(tc_index(&ctx), CARRIED | UNTRACKED) {
        return PASS;
    }
    let emission = verdict::to_uplink(&Linear::of(&ctx), &Maps);
    if emission.without_note {
        return lose(&ctx, Hook::ToUplink, Reason::FlowTableFull);
    }
    if emission.hosts_own {
        tables::count(None, Direction::Sent, emission.scope, ctx.len());
    }
    PASS
}

/// `address` has a frame addressed to a pod: whoever bridges or looks at frames within the pod expects it.
#[inline(always)]
fn obey(ctx: &TcContext, hook: Hook, decision: &Decision, address: impl FnOnce(&TcContext, [u8; 6]) -> Option<()>) -> i32 {
    // Only what these two do with a packet is counted as received.
    let count_received = || {
        if let Some((slot, scope)) = decision.received.counted() {
            tables::count(slot, Direction::Received, scope, ctx.len());
        }
    };
    match decision.verdict {
        Verdict::Host => {
            count_received();
            set_tc_index(ctx, 0);
            PASS
        }
        Verdict::Drop(reason) => lose(ctx, hook, reason),
        Verdict::Stack(reason) => {
            set_tc_index(ctx, 0);
            pass(reason)
        }
        Verdict::Untracked(reason) => {
            let bit = Maps.network().map_or(0, |network| network.untracked_mark);
            // SAFETY: the context is valid for as long as the program runs, and `mark` is a field that classifiers may write.
            unsafe { (*ctx.skb.skb).mark |= bit };
            set_tc_index(ctx, UNTRACKED);
            pass(reason)
        }
        Verdict::ToPod { slot } | Verdict::ToClient { slot } => {
            let Some(pod) = Maps.endpoint(slot) else { return pass(Reason::NoSuchPod) };
            if pod.limits & LIMIT_RECEIVED != 0 && limits::hold_receiver(ctx.skb.skb, slot) == 0 {
                return lose(ctx, hook, Reason::IngressLimit);
            }
            count_received();
            let ifindex = pod.ifindex;
            if address(ctx, pod.mac).is_none() {
                return lose(ctx, hook, Reason::Malformed);
            }
            if let Verdict::ToClient { .. } = decision.verdict {
                go_to_client(ctx, ifindex);
                return lose(ctx, hook, Reason::NoTranslation);
            }
            // SAFETY: the helper takes no pointer; a number that is no interface's makes it drop the packet.
            unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
        }
        Verdict::ToUplink4 { uplink } => {
            let Some(uplink) = Maps.uplink(uplink) else { return pass(Reason::NoUplink) };
            let hop = bpf_redir_neigh__bindgen_ty_1 { ipv4_nh: u32::from_ne_bytes(uplink.gateway_v4) };
            leave(ctx, uplink.ifindex, bpf_redir_neigh { nh_family: AF_INET, __bindgen_anon_1: hop })
        }
        Verdict::ToUplink6 { uplink } => {
            let Some(uplink) = Maps.uplink(uplink) else { return pass(Reason::NoUplink) };
            let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = uplink.gateway_v6;
            let words = [
                u32::from_ne_bytes([a, b, c, d]),
                u32::from_ne_bytes([e, f, g, h]),
                u32::from_ne_bytes([i, j, k, l]),
                u32::from_ne_bytes([m, n, o, p]),
            ];
            let hop = bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: words };
            leave(ctx, uplink.ifindex, bpf_redir_neigh { nh_family: AF_INET6, __bindgen_anon_1: hop })
        }
    }
}

/// Writes a frame's destination where it lies, in a third of the time that the helper takes. The kernel then sees to it, before the program
/// begins, that a clone's headers may be written (`bpf_unclone_prologue`, net/core/filter.c): what a network interface has received is none.
#[inline(always)]
fn address_in_place(ctx: &TcContext, mac: [u8; 6]) -> Option<()> {
    let start = ctx.data();
    if start + mac.len() > ctx.data_end() {
        return None;
    }
    // SAFETY: the packet's first bytes, as was just checked; the verifier checks it again.
    unsafe { (start as *mut [u8; 6]).write_unaligned(mac) };
    Some(())
}

/// Likewise, where most packets are clones and few of them are written to: what a pod's TCP sends it keeps. Headers of such a clone may be
/// written without a copy (`skb_clone_writable`, linux/skbuff.h).
#[inline(always)]
fn address_by_helper(ctx: &TcContext, mac: [u8; 6]) -> Option<()> {
    ctx.store(0, &mac, 0).ok()
}

/// The ends of a packet, and its checksums.
struct Ends<'a>(&'a TcContext);

impl Writer for Ends<'_> {
    #[inline(always)]
    fn store<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> Option<()> {
        self.0.store(offset, bytes, 0).ok()
    }

    #[inline(always)]
    fn checksum(&self, offset: usize, change: SumChange) -> Option<()> {
        let pseudo = if change.is_pseudo { BPF_F_PSEUDO_HDR } else { 0 };
        let optional = if change.is_optional { BPF_F_MARK_MANGLED_0 } else { 0 };
        let (skb, difference) = (self.0.skb.skb, u64::from(change.difference));
        // SAFETY: the context is valid for as long as the program runs; the helper refuses what lies outside the packet.
        if unsafe { bpf_l4_csum_replace(skb, offset as u32, 0, difference, u64::from(pseudo | optional)) } != 0 {
            return None;
        }
        if change.is_pseudo && change.is_v6 {
            // An interface may have summed the whole packet up. The helper takes the header's addresses and their checksum for one that make up
            // for each other, as IPv4's do, and corrects that sum by what has changed behind them. IPv6's header has none.
            // SAFETY: as above.
            let _ = unsafe { bpf_csum_update(skb, change.difference) };
        }
        Some(())
    }
}

/// Whether the kernel takes it for a packet of IP, either version.
#[inline(always)]
fn is_ip(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid for as long as the program runs, and `protocol` is a field that classifiers may read.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    protocol == u32::from(ETH_P_IP.to_be()) || protocol == u32::from(ETH_P_IPV6.to_be())
}

/// Bytes on the wire of a packet of IP: of one that is cut into segments further on, each of them has its headers.
#[inline(always)]
fn wire_bytes(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for as long as the program runs, and `gso_size` is a field that classifiers may read.
    let segment = unsafe { (*ctx.skb.skb).gso_size };
    if segment == 0 {
        return ctx.len();
    }
    let byte = |offset: u32| ctx.load::<u8>(offset as usize).unwrap_or(0);
    let headers = shape::Headers::of(byte(ETHERNET as u32));
    let headers = headers.with_transport(byte(headers.protocol), byte(headers.data_offset()));
    shape::wire_bytes(ctx.len(), segment, headers)
}

/// Says that the way is congested. Of what is no IP packet, or whose ends do not understand it, nothing is changed.
#[inline(always)]
fn mark(ctx: &TcContext) {
    // SAFETY: the context is valid for as long as the program runs.
    let _ = unsafe { bpf_skb_ecn_set_ce(ctx.skb.skb) };
}

/// The next hop, with its address where two words of it can be stored at once: on the stack the verifier takes no store that is not
/// aligned.
#[repr(C, align(8))]
struct NextHop {
    padding: u32,
    hop: bpf_redir_neigh,
}

#[inline(always)]
fn leave(ctx: &TcContext, ifindex: u32, hop: bpf_redir_neigh) -> i32 {
    set_tc_index(ctx, CARRIED);
    let mut next = NextHop { padding: 0, hop };
    // SAFETY: `next` lives on this program's stack for the length of the call, and its size is what is passed.
    unsafe { bpf_redirect_neigh(ifindex, &raw mut next.hop, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

#[inline(always)]
fn tc_index(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for as long as the program runs.
    unsafe { (*ctx.skb.skb).tc_index }
}

#[inline(always)]
fn set_tc_index(ctx: &TcContext, value: u32) {
    // SAFETY: the context is valid for as long as the program runs, and `tc_index` is a field that classifiers may write.
    unsafe { (*ctx.skb.skb).tc_index = value };
}

#[inline(always)]
fn pass(reason: Reason) -> i32 {
    tables::count_reason(reason);
    PASS
}

/// Counts a packet that is lost, and tells whoever watches.
#[inline(always)]
fn lose(ctx: &TcContext, hook: Hook, reason: Reason) -> i32 {
    tables::count_reason(reason);
    drop_events::tell(ctx.skb.skb, hook, reason);
    DROP
}

#[inline(always)]
fn slot(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for as long as the program runs.
    unsafe { (*ctx.skb.skb).ifindex }.wrapping_sub(FIRST_IFINDEX)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that redirect are for programs under the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
