//! Limits of what pods send and are sent, as functions that the verifier looks at by themselves (global ones, Linux 5.6): not once more in each
//! state that a decision can leave a program in, of which there are thousands.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use ebpf::account::Reason;

use crate::{departures, mark, tables, wire_bytes};

const LEAVES: u32 = 1 << 8;
const TO_INTERNET: u32 = 1 << 9;

/// What is asked of a packet: which limits are the pod's own (`ebpf::layout::Endpoint::limits`), whether an uplink has it, whose queue may
/// know departure times, and whether it is for the internet.
#[inline(always)]
pub(crate) const fn asked(own: u8, leaves: bool, to_internet: bool) -> u32 {
    own as u32 | if leaves { LEAVES } else { 0 } | if to_internet { TO_INTERNET } else { 0 }
}

/// Whether a packet is within what its pod may send; then it departs when it may. Else the number of the limit that it is beyond: see [`beyond`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn hold_sender(skb: *mut __sk_buff, slot: u32, asked: u32) -> u32 {
    let ctx = TcContext::new(skb);
    let (leaves, to_internet) = (asked & LEAVES != 0, asked & TO_INTERNET != 0);
    match tables::may_send(slot, || wire_bytes(&ctx), asked as u8, (leaves, to_internet), || mark(&ctx)) {
        Ok(departure) => {
            departures::set(&ctx, departure);
            0
        }
        Err(reason) => reason as u32,
    }
}

/// Whether a packet is within what its pod may be sent: 1, else 0. Asked only of pods with `ebpf::layout::LIMIT_RECEIVED`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn hold_receiver(skb: *mut __sk_buff, slot: u32) -> u32 {
    let ctx = TcContext::new(skb);
    u32::from(tables::may_receive(slot, wire_bytes(&ctx), || mark(&ctx)))
}

/// The limit of this number; none where the packet passes.
#[inline(always)]
pub(crate) const fn beyond(number: u32) -> Option<Reason> {
    const INTERNET: u32 = Reason::InternetEgressLimit as u32;
    const SENT: u32 = Reason::EgressLimit as u32;
    match number {
        0 => None,
        INTERNET => Some(Reason::InternetEgressLimit),
        SENT => Some(Reason::EgressLimit),
        _ => Some(Reason::NodeInternetEgressLimit),
    }
}
