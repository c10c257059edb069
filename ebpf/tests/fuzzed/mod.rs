//! Arbitrary tables and arbitrary packets out of arbitrary bytes, and what must hold of every decision on them.
//!
//! Driven twice: by `cargo test` with seeded bytes (`ebpf/tests/invariants.rs`), and by libFuzzer (`fuzz/`).

mod frame;
mod one_path;
mod source;
#[path = "../tables/mod.rs"]
mod tables;

use ebpf::packet::{self, Bytes, Fragment, Frame, Protocol};
use ebpf::verdict::{self, Verdict};
use source::{FEW, Source};
use tables::World;

/// How many packets of a kind were seen: a driver that never sees one has tested nothing.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) redirected: u64,
    pub(crate) carried: u64,
    pub(crate) tracked: u64,
    pub(crate) noted: u64,
    pub(crate) lost: u64,
    pub(crate) refused: u64,
}

/// A flow takes one path: see [`one_path`].
pub(crate) fn check_flow(input: &[u8], seen: &mut Seen) {
    one_path::check(&mut Source(input), seen);
}

/// Makes tables and a packet of `input`, lets all four programs decide, and checks:
///
/// - nothing panics, whatever the bytes;
/// - what a pod sends is redirected only from its own, live endpoint: its MAC address, its IP address, no tag;
/// - no fragment and nothing that is no IP is redirected, and only to what exists;
/// - what comes in by the uplink never leaves by it.
pub(crate) fn check_packet(input: &[u8], seen: &mut Seen) {
    let mut source = Source(input);
    let (world, slot) = (source.world(), source.small());
    let bytes = arbitrary(&mut source);
    check_bytes(&world, slot, &bytes, seen);
}

/// The same for frames as they are.
#[allow(dead_code, reason = "libFuzzer makes its own")]
pub(crate) fn check_frames(input: &[u8], frames: &[(&str, Vec<u8>)]) {
    let world = Source(input).world();
    for (_, frame) in frames {
        check_bytes(&world, 0, frame, &mut Seen::default());
    }
}

fn check_bytes(world: &World, slot: u32, bytes: &[u8], seen: &mut Seen) {
    let frame = Frame::new(bytes);
    let sent = verdict::from_pod(&frame, world, slot);
    if check_redirect(world, &frame, sent.verdict) {
        seen.redirected += 1;
        let (_, pod) = world.endpoints[slot as usize];
        assert!(pod.ifindex != 0 && pod.stack_only == 0, "an endpoint that may not was redirected");
        assert_eq!(packet::source_mac(&frame), Some(pod.mac), "a spoofed MAC address was redirected");
        let own = match packet::protocol(&frame) {
            Some(Protocol::V4) => world.slots4.contains(&(packet::ipv4(&frame).unwrap().source, slot)),
            Some(Protocol::V6) => world.slots6.contains(&(ebpf::scope::whole(packet::ipv6(&frame).unwrap().source), slot)),
            other => panic!("{other:?} was redirected"),
        };
        assert!(own, "a spoofed address was redirected");
        assert!(sent.sent.is_some(), "what a pod sends is counted");
    }
    let arrived = verdict::from_uplink(&frame, world);
    assert!(!matches!(arrived.verdict, Verdict::ToUplink4 { .. } | Verdict::ToUplink6 { .. }), "in by the uplink and out again");
    if check_redirect(world, &frame, arrived.verdict) {
        seen.redirected += 1;
        assert!(matches!(arrived.received.counted(), Some((Some(_), _))), "what a pod is given is counted for it");
    }
    let _ = verdict::to_pod(&frame, world, slot.min(FEW - 1), false);
    let _ = verdict::to_uplink(&frame, world);
}

/// What a redirect needs, whoever decided it; whether it is one.
fn check_redirect(world: &World, frame: &Frame<'_>, verdict: Verdict) -> bool {
    match verdict {
        Verdict::ToPod { slot } | Verdict::ToClient { slot } => {
            assert!(world.endpoints[slot as usize].1.ifindex != 0, "redirected to {slot}, which is no pod")
        }
        Verdict::ToUplink4 { uplink } => {
            let (_, uplink) = world.uplinks[uplink as usize];
            assert!(uplink.ifindex != 0 && uplink.gateway_v4 != [0; 4], "out by no gateway");
        }
        Verdict::ToUplink6 { uplink } => {
            let (_, uplink) = world.uplinks[uplink as usize];
            assert!(uplink.ifindex != 0 && uplink.gateway_v6 != [0; 16], "out by no gateway");
        }
        Verdict::Drop(_) | Verdict::Stack(_) | Verdict::Untracked(_) | Verdict::Host => return false,
    }
    let header = match packet::protocol(frame) {
        Some(Protocol::V4) => packet::ipv4(frame).unwrap().header,
        Some(Protocol::V6) => packet::ipv6(frame).unwrap().header,
        other => panic!("{other:?} was redirected"),
    };
    assert_eq!((header.fragment, header.options), (Fragment::No, false), "what only the stack can treat was redirected");
    assert!(!frame.is_tagged());
    true
}

/// A whole header of either family with some bytes changed, or any bytes at all.
fn arbitrary(source: &mut Source<'_>) -> Vec<u8> {
    let kind = source.byte();
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, kind >> 4 & 1];
    let protocol = [6, 17, if kind & 1 == 0 { 1 } else { 58 }, 8][usize::from(kind >> 2 & 3)];
    match kind & 3 {
        0 | 2 => {
            frame.extend([0x08, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0]);
            frame.extend(source.ipv4());
            frame.extend(source.ipv4());
        }
        1 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 64]);
            frame.extend(source.ipv6());
            frame.extend(source.ipv6());
        }
        _ => {}
    }
    let changes = source.byte();
    for _ in 0..if changes < 128 { 0 } else { changes % 4 } {
        let (at, value) = (source.small() as usize * 7 % frame.len(), source.byte());
        frame[at] = value;
    }
    frame.extend(source.0);
    frame
}
