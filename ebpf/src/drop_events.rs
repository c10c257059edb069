//! Tells whoever watches of packets that are lost ([`ebpf::drop_event`]).

use aya_ebpf::bindings::{__sk_buff, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_skb_load_bytes};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use ebpf::account::Reason;
use ebpf::drop_event::{DropEvent, HEADERS, Hook, RATE, RING, Told};
use ebpf::packet::ETHERNET;
use ebpf::shape::Judgement;

use crate::tables::{Bucket, add};

/// Until when somebody watches, in nanoseconds of the kernel's monotonic clock. Whoever watches says so again and again.
#[map]
static DROPS_WATCHED: Array<u64> = Array::with_max_entries(1, 0);
/// By [`Reason`].
#[map]
static DROPS_TOLD: Array<Told> = Array::with_max_entries(Reason::ALL.len() as u32, 0);
#[map]
static DROP_EVENTS: RingBuf = RingBuf::with_byte_size(RING, 0);

/// Tells of a packet, where somebody watches and not too many were told. A function of its own for the verifier: it is looked at once where
/// it is called from, and not on each way that leads there.
#[inline(never)]
pub(crate) fn tell(skb: *mut __sk_buff, hook: Hook, reason: Reason) {
    let Some(watched) = DROPS_WATCHED.get(0) else { return };
    if *watched == 0 {
        return;
    }
    // SAFETY: the helper takes nothing and reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    if *watched < now {
        return;
    }
    let Some(told) = DROPS_TOLD.get_ptr_mut(reason as u32) else { return };
    // SAFETY: the fields of the value of an array, which stays where it is for as long as the program lives.
    let (paid, untold) = unsafe { (&raw mut (*told).paid, &raw mut (*told).untold) };
    let bucket = Bucket::judge(paid, RATE, 1, now);
    if bucket.judgement() == Judgement::Drop {
        add(untold, 1);
        return;
    }
    let Some(mut entry) = DROP_EVENTS.reserve::<DropEvent>(0) else {
        add(untold, 1);
        return;
    };
    bucket.pay();
    // SAFETY: the context is valid for as long as the program runs.
    let (length, ifindex) = unsafe { ((*skb).len, (*skb).ifindex) };
    let event = entry.as_mut_ptr();
    // SAFETY: the entry is ours until it is submitted, and its fields are aligned in it. The headers are bytes, which are not read from here.
    unsafe {
        (&raw mut (*event).at).write(now);
        (&raw mut (*event).ifindex).write(ifindex);
        (&raw mut (*event).hook).write(hook as u32);
        (&raw mut (*event).reason).write(reason as u32);
        (&raw mut (*event).length).write(length);
        (&raw mut (*event).padding).write(0);
    }
    // SAFETY: as above.
    let headers = unsafe { &raw mut (*event).headers };
    // Compared with a length that no frame is shorter than, and not with nothing: of "it is not zero" older verifiers learn nothing.
    let copied = if length < ETHERNET as u32 {
        0
    } else {
        let copied = if length < HEADERS as u32 { length } else { HEADERS as u32 };
        // SAFETY: the helper writes so many bytes there, which are no more than there is room for.
        if unsafe { bpf_skb_load_bytes(skb.cast(), 0, headers.cast(), copied) } == 0 { copied } else { 0 }
    };
    // SAFETY: as above.
    unsafe { (&raw mut (*event).copied).write(copied) };
    // It is looked for again and again: nobody has to be woken.
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}
