//! What the fixtures of `datapath/tests/programs` cannot show: conversations, packet by packet. That every packet of a flow takes one
//! path, on arbitrary tables, is in `invariants.rs`.

#![expect(clippy::unwrap_used, reason = "a world that cannot be written down is a fault of the test")]

mod tables;

use ebpf::account::Reason;
use ebpf::layout::{Endpoint, Interval4, Network, Uplink};
use ebpf::packet::Frame;
use ebpf::scope::{Meaning, Scope};
use ebpf::verdict::{Verdict, from_pod, from_uplink, to_pod, to_uplink};
use tables::World;

const A: u32 = 0;
const B: u32 = 1;
const POD_A: [u8; 4] = [10, 0, 1, 17];
const POD_B: [u8; 4] = [10, 0, 1, 18];
const REMOTE: [u8; 4] = [10, 0, 2, 40];
const NODE: [u8; 4] = [10, 0, 0, 11];
const OUTSIDE: [u8; 4] = [198, 51, 100, 7];

fn mac(slot: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, u8::try_from(slot).unwrap()]
}

fn world() -> World {
    let mut network = Network { intervals4_len: 4, carry_v4: 1, carry_v6: 1, untracked_mark: 16, ..Network::default() };
    let rows = [(0, Meaning::NOWHERE), (0x0a00_0000, Meaning::of(Scope::Node)), (0x0a00_0100, Meaning::native(Scope::Vpc))];
    for (row, (first, meaning)) in rows.into_iter().chain([(0x0a01_0000, Meaning::NOWHERE)]).enumerate() {
        network.intervals4[row] = Interval4 { first, meaning: meaning.0 };
    }
    let mut world = World { network: Box::new(network), ..World::default() };
    for (slot, ipv4) in [(A, POD_A), (B, POD_B)] {
        world.endpoints.push((slot, Endpoint { ifindex: 100 + slot, ipv4, mac: mac(slot), mtu: 1500, ..Endpoint::default() }));
        world.slots4.push((ipv4, slot));
    }
    world.uplinks.push((0, Uplink { ifindex: 2, mtu: 1500, gateway_v4: [10, 0, 0, 1], gateway_v6: [0; 16] }));
    world
}

/// TCP between port 20000 of the first and port 80 of the second, whichever sends, from the sender's MAC address.
fn tcp(source: [u8; 4], destination: [u8; 4], flags: u8) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 9];
    bytes.extend(mac(if source == POD_B { B } else { A }));
    bytes.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 7, 0, 0, 64, 6, 0, 0]);
    bytes.extend(source);
    bytes.extend(destination);
    bytes.extend(if source == POD_A { [0x4e, 0x20, 0, 80] } else { [0, 80, 0x4e, 0x20] });
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    bytes
}

const SYN: u8 = 2;
const SYN_ACK: u8 = 0x12;
const FIN_ACK: u8 = 0x11;

fn sent(world: &World, slot: u32, bytes: &[u8]) -> Verdict {
    from_pod(&Frame::new(bytes), world, slot).verdict
}

fn arrived(world: &World, bytes: &[u8]) -> Verdict {
    from_uplink(&Frame::new(bytes), world).verdict
}

/// A client of a service: the stack translates, so the service's pod answers by the stack; then both are done, and the client asks the
/// pod itself from the same port.
#[test]
fn a_connection_that_is_over_does_not_meddle_with_the_next() {
    let world = world();
    let _ = to_pod(&Frame::new(&tcp(POD_A, POD_B, SYN)), &world, B, false);
    assert_eq!(sent(&world, B, &tcp(POD_B, POD_A, SYN_ACK)), Verdict::Stack(Reason::NotedFlow));
    assert_eq!(sent(&world, A, &tcp(POD_A, POD_B, SYN)), Verdict::Stack(Reason::NotedFlow), "while it lives, so does its note");
    let _ = to_pod(&Frame::new(&tcp(POD_A, POD_B, FIN_ACK)), &world, B, false);
    assert_eq!(sent(&world, B, &tcp(POD_B, POD_A, FIN_ACK)), Verdict::Stack(Reason::NotedFlow));
    assert_eq!(sent(&world, A, &tcp(POD_A, POD_B, SYN)), Verdict::ToPod { slot: B });
    assert_eq!(sent(&world, B, &tcp(POD_B, POD_A, SYN_ACK)), Verdict::ToPod { slot: A });
}

#[test]
fn who_begins_is_charged() {
    let world = world();
    let _ = to_pod(&Frame::new(&tcp(POD_A, POD_B, SYN)), &world, B, false);
    let _ = to_uplink(&Frame::new(&tcp(POD_B, REMOTE, SYN)), &world);
    let charged: Vec<_> = world.flows.borrow().iter().map(|(_, noted)| noted.slot).collect();
    assert_eq!(charged, [0, 1]);
}

#[test]
fn what_is_past_conntrack_is_not_noted() {
    let world = world();
    let emission = to_pod(&Frame::new(&tcp(POD_A, POD_B, SYN)), &world, B, true);
    assert_eq!((emission.scope, emission.without_note), (Scope::SameNode, false));
    assert!(world.flows.borrow().is_empty());
}

#[test]
fn a_client_that_is_not_native_is_the_stacks_both_ways() {
    let world = world();
    assert_eq!(arrived(&world, &tcp(OUTSIDE, POD_A, SYN)), Verdict::Stack(Reason::NotNative));
    assert_eq!(sent(&world, A, &tcp(POD_A, OUTSIDE, SYN_ACK)), Verdict::Stack(Reason::NotNative));
    assert_eq!(arrived(&world, &tcp(REMOTE, POD_A, SYN)), Verdict::ToPod { slot: A });
}

/// A flow that is tracked while its uplink is closed stays so when it opens.
#[test]
fn what_began_by_the_stack_stays_there() {
    let mut world = world();
    let open = world.uplinks[0].1;
    world.uplinks[0].1 = Uplink::default();
    assert_eq!(sent(&world, A, &tcp(POD_A, REMOTE, SYN)), Verdict::Stack(Reason::NoUplink));
    assert!(!to_uplink(&Frame::new(&tcp(POD_A, REMOTE, SYN)), &world).hosts_own);
    world.uplinks[0].1 = open;
    assert_eq!(arrived(&world, &tcp(REMOTE, POD_A, SYN_ACK)), Verdict::Stack(Reason::NotedFlow));
    assert_eq!(sent(&world, A, &tcp(POD_A, REMOTE, 16)), Verdict::Stack(Reason::NotedFlow));
}

/// A conversation of the host is in its account in both directions, or in neither.
#[test]
fn the_hosts_own_is_counted_both_ways() {
    let world = world();
    for other in [[10, 0, 0, 12], REMOTE, OUTSIDE, [169, 254, 169, 254]] {
        let asked = to_uplink(&Frame::new(&tcp(NODE, other, SYN)), &world);
        let answered = from_uplink(&Frame::new(&tcp(other, NODE, SYN_ACK)), &world);
        assert!(asked.hosts_own, "{other:?}");
        assert_eq!(answered.received.counted(), Some((None, asked.scope)), "{other:?}");
    }
}
