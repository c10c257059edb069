//! Times at which packets depart, where an uplink's queue goes by them ([`ebpf::shape`]).

use aya_ebpf::bindings::_bindgen_ty_28::BPF_SKB_TSTAMP_DELIVERY_MONO;
use aya_ebpf::helpers::bpf_skb_set_tstamp;
use aya_ebpf::programs::TcContext;

/// 1 where the kernel has `bpf_skb_set_tstamp` (Linux 5.18), as the loader has found. What is behind it is no part of the program elsewhere:
/// the verifier takes the value for what it is.
#[unsafe(no_mangle)]
static DEPARTURE_TIMES: u8 = 0;

/// Has a packet depart at a time of the kernel's monotonic clock. One that goes another way than by an uplink's queue is not held back by it:
/// the time is taken off where it is delivered (`skb_clear_delivery_time`, linux/skbuff.h).
///
/// A time that is written to the context instead is taken for that of arrival at this hook, and does not survive a redirect.
#[inline(always)]
pub(crate) fn set(ctx: &TcContext, departure: u64) {
    // SAFETY: a byte of the program's own data, which nobody writes after it was loaded.
    if departure == 0 || unsafe { (&raw const DEPARTURE_TIMES).read_volatile() } == 0 {
        return;
    }
    // SAFETY: the context is valid for as long as the program runs. Of what is no packet of IP the helper changes nothing.
    let _ = unsafe { bpf_skb_set_tstamp(ctx.skb.skb, departure, BPF_SKB_TSTAMP_DELIVERY_MONO) };
}
