//! A flow takes one path: every packet of it, in either direction and of any shape, and every error about it.

use ebpf::packet::Frame;
use ebpf::verdict::{self, Verdict};

use super::Seen;
use super::frame::{self, Address, Piece, Shape, Way};
use super::source::{FEW, Source};
use super::tables::World;

/// What is asked of all packets of a flow alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// conntrack does not see it.
    Carried,
    /// The stack has it, and conntrack sees it.
    Tracked,
    /// Its sender may not send it.
    Refused,
}

fn class(verdict: Verdict) -> Class {
    match verdict {
        Verdict::ToPod { .. }
        | Verdict::ToClient { .. }
        | Verdict::ToUplink4 { .. }
        | Verdict::ToUplink6 { .. }
        | Verdict::Untracked(_) => Class::Carried,
        Verdict::Stack(_) | Verdict::Host => Class::Tracked,
        Verdict::Drop(_) => Class::Refused,
    }
}

/// The hook that a packet with this source passes.
#[derive(Debug, Clone, Copy)]
enum Hook {
    Pod(u32),
    Uplink,
}

fn slot_of(world: &World, address: Address) -> Option<u32> {
    let found = match address {
        Address::V4(address) => world.slots4.iter().find(|(found, _)| *found == address).map(|(_, slot)| *slot),
        Address::V6(address) => world.slots6.iter().find(|(found, _)| *found == address).map(|(_, slot)| *slot),
    };
    found.filter(|slot| world.endpoints[*slot as usize].1.ifindex != 0)
}

fn hook_of(world: &World, source: Address) -> Hook {
    slot_of(world, source).map_or(Hook::Uplink, Hook::Pod)
}

fn mac_at(world: &World, hook: Hook) -> [u8; 6] {
    match hook {
        Hook::Pod(slot) => world.endpoints[slot as usize].1.mac,
        Hook::Uplink => [9; 6],
    }
}

fn judge(world: &World, hook: Hook, bytes: &[u8], shape: Shape) -> Class {
    let frame = Frame::new(bytes).of_length(shape.length, shape.segment).tagged(shape.tagged);
    class(match hook {
        Hook::Pod(slot) => verdict::from_pod(&frame, world, slot).verdict,
        Hook::Uplink => verdict::from_uplink(&frame, world).verdict,
    })
}

fn judge_packet(world: &World, way: Way, shape: Shape) -> Class {
    let hook = hook_of(world, way.source);
    let shape = Shape { mac: mac_at(world, hook), ..shape };
    judge(world, hook, &frame::packet(way, shape), shape)
}

fn judge_error(world: &World, about: Way, router: Address, shape: Shape) -> Class {
    // The sender itself is at its own hook; a router is in the network.
    let hook = hook_of(world, router);
    let shape = Shape { mac: mac_at(world, hook), ..shape };
    judge(world, hook, &frame::error(about, router, shape), shape)
}

/// The stack emits a packet of the flow, as it does with one that it has translated to it. Whether it went on.
fn emit(world: &World, way: Way, shape: Shape) -> Option<bool> {
    let bytes = frame::packet(way, shape);
    let frame = Frame::new(&bytes).of_length(shape.length, shape.segment);
    let emission = match (slot_of(world, way.source), slot_of(world, way.destination)) {
        (_, Some(slot)) => verdict::to_pod(&frame, world, slot, false),
        (Some(_), None) => verdict::to_uplink(&frame, world),
        (None, None) => return None,
    };
    Some(!emission.without_note)
}

/// Checks it on arbitrary tables.
pub(super) fn check(source: &mut Source<'_>, seen: &mut Seen) {
    let mut world = source.world();
    let slot = u32::from(source.below(4)) % FEW;
    let pod = world.endpoints[slot as usize].1;
    let transport = source.transport();
    let (ours, theirs) = if source.byte().is_multiple_of(2) {
        (Address::V4(if source.rarely(8) { source.ipv4() } else { pod.ipv4 }), Address::V4(source.ipv4()))
    } else {
        (Address::V6(if source.rarely(8) { source.ipv6() } else { pod.ipv6 }), Address::V6(source.ipv6()))
    };
    let there = Way { source: ours, destination: theirs, transport };
    let shapes = [(); 4].map(|()| Shape::arbitrary(source, [0; 6]));
    if slot_of(&world, ours).is_none() {
        refused(&world, slot, there, shapes[0], seen);
        return;
    }
    if ours == theirs {
        return;
    }
    let opens = source.rarely(4);
    let opening = Shape { flags: if opens { 2 } else { 16 }, ..Shape::plain([0; 6]) };
    let path = judge_packet(&world, there, opening);
    one_path(&world, there, path, &shapes, source);
    seen.carried += u64::from(path == Class::Carried);
    seen.tracked += u64::from(path == Class::Tracked);

    // Whatever the stack emits of it, once, keeps both directions with the stack.
    world.pieces.get_mut().clear();
    let emitted = if source.byte().is_multiple_of(2) { there } else { there.back() };
    let room = world.flows.borrow().len();
    match emit(&world, emitted, shapes[1]) {
        Some(true) => {
            one_path(&world, there, Class::Tracked, &shapes, source);
            seen.noted += u64::from(world.flows.borrow().len() > room);
            // Nor does it change its path when all that is against carrying it passes; where a note found no room, it may.
            if world.room.is_none() {
                let path = judge_packet(&world, there, Shape::plain([0; 6]));
                nothing_against(&mut world);
                one_path(&world, there, path, &shapes, source);
            }
        }
        Some(false) => {
            seen.lost += 1;
            assert_eq!(judge_packet(&world, there, Shape::plain([0; 6])), Class::Carried, "only what is carried can be in want of a note");
        }
        None => {}
    }
}

/// Every uplink opens, every pod's flows are known, every family may be carried.
fn nothing_against(world: &mut World) {
    (world.network.carry_v4, world.network.carry_v6) = (1, 1);
    for (_, pod) in &mut world.endpoints {
        pod.stack_only = 0;
    }
    for (_, uplink) in &mut world.uplinks {
        (uplink.ifindex, uplink.gateway_v4, uplink.gateway_v6) = (2, [10, 0, 0, 1], [0xfe; 16]);
    }
    world.pieces.get_mut().clear();
}

/// Every packet and every error takes this path.
fn one_path(world: &World, there: Way, path: Class, shapes: &[Shape; 4], source: &mut Source<'_>) {
    for (way, shape) in [(there, shapes[0]), (there.back(), shapes[1])] {
        let told = |what: &str| format!("{what} of {way:?}\nas {shape:?}\nin {world:?}");
        // A SYN would begin another flow, where this one is over.
        assert_eq!(judge_packet(world, way, shape), path, "{}", told("a packet"));
        if shape.piece == Piece::First {
            assert_eq!(judge_packet(world, way, Shape { piece: Piece::Later, ..shape }), path, "{}", told("a later piece"));
        }
        // The destination refuses it; or a router on the way does, of which nobody knows where it is.
        let whole = Shape { piece: Piece::Whole, ..shape };
        assert_eq!(judge_error(world, way, way.destination, whole), path, "{}", told("its destination's error"));
        let router = match way.source {
            Address::V4(_) => Address::V4(source.ipv4()),
            Address::V6(_) => Address::V6(source.ipv6()),
        };
        let elsewhere = slot_of(world, way.source).is_some() && slot_of(world, way.destination).is_none();
        if elsewhere && slot_of(world, router).is_none() {
            assert_eq!(judge_error(world, way, router, whole), path, "{}", told("a router's error"));
        }
    }
}

/// What is not a pod's own does not leave it, whatever tag or shape it has.
fn refused(world: &World, slot: u32, way: Way, shape: Shape, seen: &mut Seen) {
    let pod = world.endpoints[slot as usize].1;
    let link_local = |octets: &[u8]| octets.iter().all(|octet| *octet == 0) || octets[..2] == [0xfe, 0x80];
    if pod.ifindex == 0 || matches!(way.source, Address::V6(address) if link_local(&address)) {
        return;
    }
    for tagged in [false, true] {
        let shape = Shape { mac: pod.mac, tagged, ..shape };
        let bytes = frame::packet(way, shape);
        assert_eq!(judge(world, Hook::Pod(slot), &bytes, shape), Class::Refused, "{way:?} from {slot} in {world:?}");
        seen.refused += 1;
    }
}
