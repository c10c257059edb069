//! The programs: they fetch what a decision needs, and obey it. What is decided, and why, is in the library.
//!
//! | program | hook | sees |
//! |---|---|---|
//! | `from_pod` | host end, ingress | what a pod sends |
//! | `to_pod` | host end, egress | what the host's stack sends to a pod |
//! | `from_uplink` | uplink, ingress | what the network sends |
//! | `to_uplink` | uplink, egress | what leaves, the fast path's own packets included |
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(missing_docs, unreachable_pub, reason = "entry points are public for the macro; the table above says what each is")]

mod packet_bytes;
mod tables;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::helpers::{bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_ecn_set_ce};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ebpf::account::{Direction, Reason};
use ebpf::layout::{FIRST_IFINDEX, LIMIT_RECEIVED, LIMIT_SENT};
use ebpf::scope::Scope;
use ebpf::shape::Judgement;
use ebpf::verdict::{self, Decision, Tables as _, Verdict};

use packet_bytes::Linear;
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
/// A frame for somebody else's MAC address, for a group, or for all (`PACKET_HOST`, linux/if_packet.h).
const PACKET_HOST: u32 = 0;

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let slot = slot(&ctx);
    let Some(bytes) = Linear::of(&ctx) else { return PASS };
    let decision = verdict::from_pod(&bytes, &Maps, slot);
    let to_internet = decision.sent == Some(Scope::Internet);
    if to_internet || decision.limits & LIMIT_SENT != 0 {
        let (judgement, reason) = tables::may_send(slot, ctx.len(), decision.limits, to_internet);
        match judgement {
            Judgement::Pass => {}
            Judgement::Mark => mark(&ctx),
            Judgement::Drop => return because(reason, DROP),
        }
    }
    if let Some(scope) = decision.sent {
        tables::count(Some(slot), Direction::Sent, scope, ctx.len());
    }
    obey(&ctx, &decision)
}

#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    // SAFETY: the context is valid for as long as the program runs.
    if unsafe { (*ctx.skb.skb).pkt_type } != PACKET_HOST {
        // The stack of this host drops what is not for it; of the rest only its own is left.
        set_tc_index(&ctx, 0);
        return PASS;
    }
    let Some(bytes) = Linear::of(&ctx) else { return PASS };
    let decision = verdict::from_uplink(&bytes, &Maps);
    obey(&ctx, &decision)
}

#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    let slot = slot(&ctx);
    let Some(bytes) = Linear::of(&ctx) else { return PASS };
    let emission = verdict::to_pod(&bytes, &Maps, slot, tc_index(&ctx) == UNTRACKED);
    if emission.without_note {
        return because(Reason::FlowTableFull, DROP);
    }
    // What speaks of neighbours is held to none. Asked of the table once more, and not handed through the verdict: the verifier of 6.1 would
    // see a word of the stack that was never written.
    let is_held = is_ip(&ctx) && Maps.endpoint(slot).is_some_and(|pod| pod.limits & LIMIT_RECEIVED != 0);
    if is_held && is_beyond_received(&ctx, slot) {
        return because(Reason::IngressLimit, DROP);
    }
    tables::count(Some(slot), Direction::Received, emission.scope, ctx.len());
    PASS
}

#[classifier]
pub fn to_uplink(ctx: TcContext) -> i32 {
    if matches!(tc_index(&ctx), CARRIED | UNTRACKED) {
        return PASS;
    }
    let Some(bytes) = Linear::of(&ctx) else { return PASS };
    let emission = verdict::to_uplink(&bytes, &Maps);
    if emission.without_note {
        return because(Reason::FlowTableFull, DROP);
    }
    if emission.hosts_own {
        tables::count(None, Direction::Sent, emission.scope, ctx.len());
    }
    PASS
}

#[inline(always)]
fn obey(ctx: &TcContext, decision: &Decision) -> i32 {
    // Only what these two do with a packet is counted as received.
    let count_received = || {
        if let Some((slot, scope)) = decision.received {
            tables::count(slot, Direction::Received, scope, ctx.len());
        }
    };
    match decision.verdict {
        Verdict::Host => {
            count_received();
            set_tc_index(ctx, 0);
            PASS
        }
        Verdict::Drop(reason) => because(reason, DROP),
        Verdict::Stack(reason) => {
            set_tc_index(ctx, 0);
            because(reason, PASS)
        }
        Verdict::Untracked(reason) => {
            let bit = Maps.network().map_or(0, |network| network.untracked_mark);
            // SAFETY: the context is valid for as long as the program runs, and `mark` is a field that classifiers may write.
            unsafe { (*ctx.skb.skb).mark |= bit };
            set_tc_index(ctx, UNTRACKED);
            because(reason, PASS)
        }
        Verdict::ToPod { slot } => {
            let Some(pod) = Maps.endpoint(slot) else { return because(Reason::NoSuchPod, PASS) };
            if pod.limits & LIMIT_RECEIVED != 0 && is_beyond_received(ctx, slot) {
                return because(Reason::IngressLimit, DROP);
            }
            count_received();
            // Whoever bridges or looks at frames within the pod sees them addressed to it. Headers of a TCP packet's clone may be
            // written without a copy (`skb_clone_writable`, linux/skbuff.h).
            if ctx.store(0, &pod.mac, 0).is_err() {
                return because(Reason::Malformed, DROP);
            }
            // SAFETY: the helper takes no pointer; a number that is no interface's makes it drop the packet.
            unsafe { bpf_redirect_peer(pod.ifindex, 0) as i32 }
        }
        Verdict::ToUplink4 { uplink } => {
            let Some(uplink) = Maps.uplink(uplink) else { return because(Reason::NoUplink, PASS) };
            let hop = bpf_redir_neigh__bindgen_ty_1 { ipv4_nh: u32::from_ne_bytes(uplink.gateway_v4) };
            leave(ctx, uplink.ifindex, bpf_redir_neigh { nh_family: AF_INET, __bindgen_anon_1: hop })
        }
        Verdict::ToUplink6 { uplink } => {
            let Some(uplink) = Maps.uplink(uplink) else { return because(Reason::NoUplink, PASS) };
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

/// Whether the kernel takes it for a packet of IP, either version.
#[inline(always)]
fn is_ip(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid for as long as the program runs, and `protocol` is a field that classifiers may read.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    protocol == u32::from(ETH_P_IP.to_be()) || protocol == u32::from(ETH_P_IPV6.to_be())
}

/// Whether a packet is beyond what its pod may be sent. Where it is nearly, it is marked.
#[inline(always)]
fn is_beyond_received(ctx: &TcContext, slot: u32) -> bool {
    match tables::may_receive(slot, ctx.len()) {
        Judgement::Pass => false,
        Judgement::Mark => {
            mark(ctx);
            false
        }
        Judgement::Drop => true,
    }
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
fn because(reason: Reason, action: i32) -> i32 {
    tables::count_reason(reason);
    action
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
