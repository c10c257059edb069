//! Packet in, decision out, one row a branch.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use super::*;
use crate::layout::{Cidr4, Cidr6, Range4, Range6};
use crate::packet::{Frame, Transport};

#[derive(Default)]
struct World {
    network: Network,
    endpoints: HashMap<u32, Endpoint>,
    uplinks: HashMap<u32, Uplink>,
    flows4: RefCell<HashSet<Flow4>>,
    flows6: RefCell<HashSet<Flow6>>,
    noted_for: RefCell<Vec<u32>>,
}

impl Tables for World {
    fn network(&self) -> Option<&Network> {
        Some(&self.network)
    }
    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        self.endpoints.get(&slot)
    }
    fn uplink(&self, index: u32) -> Option<&Uplink> {
        self.uplinks.get(&index)
    }
    fn slot4(&self, address: [u8; 4]) -> Option<u32> {
        self.endpoints.iter().find(|(_, endpoint)| endpoint.ipv4 == address).map(|(slot, _)| *slot)
    }
    fn slot6(&self, address: [u8; 16]) -> Option<u32> {
        self.endpoints.iter().find(|(_, endpoint)| endpoint.ipv6 == address).map(|(slot, _)| *slot)
    }
    fn is_noted4(&self, flow: &Flow4) -> bool {
        self.flows4.borrow().contains(flow)
    }
    fn is_noted6(&self, flow: &Flow6) -> bool {
        self.flows6.borrow().contains(flow)
    }
    fn note4(&self, slot: u32, flow: &Flow4) {
        self.flows4.borrow_mut().insert(*flow);
        self.noted_for.borrow_mut().push(slot);
    }
    fn note6(&self, slot: u32, flow: &Flow6) {
        self.flows6.borrow_mut().insert(*flow);
        self.noted_for.borrow_mut().push(slot);
    }
}

const A: u32 = 0;
const B: u32 = 1;

fn v6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}

fn mac(slot: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, u8::try_from(slot).unwrap()]
}

/// Two pods: A is 10.0.1.17 and fd00:10:0:1::a, B is 10.0.1.18 and fd00:10:0:1::b.
fn world() -> World {
    let mut world = World::default();
    world.network.local4_len = 1;
    world.network.local4[0] = Range4 { first: 0x0a00_0110, last: 0x0a00_011f };
    world.network.cidrs4_len = 3;
    world.network.cidrs4[0] = Cidr4 { network: 0x0a00_000b, mask: u32::MAX, scope: Scope::Node as u32, native: 0 };
    world.network.cidrs4[1] = Cidr4 { network: 0x0a00_0000, mask: 0xffff_0000, scope: Scope::Vpc as u32, native: 1 };
    world.network.cidrs4[2] = Cidr4 { network: 0x0a60_0000, mask: 0xfff0_0000, scope: Scope::Service as u32, native: 0 };
    world.network.local6_len = 1;
    world.network.local6[0] = Range6 { first: [0xfd00_0010_0000_0001, 1], last: [0xfd00_0010_0000_0001, 0xffff] };
    world.network.cidrs6_len = 1;
    world.network.cidrs6[0] =
        Cidr6 { network: [0xfd00_0010_0000_0000, 0], mask: [0xffff_ffff_0000_0000, 0], scope: Scope::Vpc as u32, native: 1 };
    for (slot, last) in [(A, 17), (B, 18)] {
        let ipv6 = v6(if slot == A { "fd00:10:0:1::a" } else { "fd00:10:0:1::b" });
        let endpoint = Endpoint { ifindex: 100 + slot, ipv4: [10, 0, 1, last], ipv6, mac: mac(slot), ..Endpoint::default() };
        world.endpoints.insert(slot, endpoint);
    }
    world.uplinks.insert(0, Uplink { ifindex: 2, gateway_v4: [10, 0, 0, 1], gateway_v6: v6("fe80::99") });
    world
}

#[derive(Clone)]
struct Packet {
    bytes: Vec<u8>,
}

impl Packet {
    /// UDP from port 4660 to port 53, from A's MAC address.
    fn udp4(source: [u8; 4], destination: [u8; 4]) -> Self {
        let mut bytes = vec![0; 6];
        bytes.extend(mac(A));
        bytes.extend([0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend([0x12, 0x34, 0, 53, 0, 8, 0, 0]);
        Self { bytes }
    }

    fn udp6(source: &str, destination: &str) -> Self {
        let mut bytes = vec![0; 6];
        bytes.extend(mac(A));
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
        bytes.extend(v6(source));
        bytes.extend(v6(destination));
        bytes.extend([0x12, 0x34, 0, 53, 0, 8, 0, 0]);
        Self { bytes }
    }

    fn with(mut self, offset: usize, value: &[u8]) -> Self {
        self.bytes[offset..offset + value.len()].copy_from_slice(value);
        self
    }
}

const POD_A: [u8; 4] = [10, 0, 1, 17];
const POD_B: [u8; 4] = [10, 0, 1, 18];
const REMOTE: [u8; 4] = [10, 0, 1, 40];
const PORTS: Transport = Transport { protocol: 17, source: [0x12, 0x34], destination: [0, 53] };

fn sent(world: &World, packet: &Packet) -> Decision {
    from_pod(&Frame(&packet.bytes), world, A)
}

#[test]
fn from_pod_every_branch() {
    let udp = Packet::udp4;
    let stack = |reason, scope| Decision { verdict: Verdict::Stack(reason), sent: scope, received: None };
    let drop = |reason| Decision::uncounted(Verdict::Drop(reason));
    let to_b =
        Decision { verdict: Verdict::ToPod { ifindex: 101 }, sent: Some(Scope::SameNode), received: Some((Some(B), Scope::SameNode)) };
    let out = Decision { verdict: Verdict::ToUplink4 { ifindex: 2, gateway: [10, 0, 0, 1] }, sent: Some(Scope::Vpc), received: None };
    let rows: Vec<(&str, Packet, Decision)> = vec![
        ("same node", udp(POD_A, POD_B), to_b),
        ("cross node", udp(POD_A, REMOTE), out),
        ("another node", udp(POD_A, [10, 0, 0, 12]), out),
        ("this node", udp(POD_A, [10, 0, 0, 11]), stack(Reason::NotNative, Some(Scope::Node))),
        ("service", udp(POD_A, [10, 96, 0, 1]), stack(Reason::NotNative, Some(Scope::Service))),
        ("internet", udp(POD_A, [1, 1, 1, 1]), stack(Reason::NotNative, Some(Scope::Internet))),
        ("no such pod", udp(POD_A, [10, 0, 1, 30]), stack(Reason::NoSuchPod, Some(Scope::Vpc))),
        ("itself", udp(POD_A, POD_A), stack(Reason::NoSuchPod, Some(Scope::SameNode))),
        ("multicast", udp(POD_A, [224, 0, 0, 1]), stack(Reason::LinkLocal, Some(Scope::Node))),
        ("metadata service", udp(POD_A, [169, 254, 169, 254]), stack(Reason::LinkLocal, Some(Scope::Node))),
        ("spoofed address", udp(POD_B, REMOTE), drop(Reason::SpoofedAddress)),
        ("no address", udp([0; 4], [255; 4]), drop(Reason::SpoofedAddress)),
        ("spoofed MAC", udp(POD_A, POD_B).with(6, &mac(B)), drop(Reason::SpoofedMac)),
        ("ARP", udp(POD_A, POD_B).with(12, &[8, 6]), stack(Reason::NotIp, None)),
        ("nonsense", udp(POD_A, POD_B).with(14, &[0x41]), drop(Reason::Malformed)),
        ("first fragment", udp(POD_A, REMOTE).with(20, &[0x20, 0]), stack(Reason::Fragment, Some(Scope::Vpc))),
        ("later fragment", udp(POD_A, REMOTE).with(20, &[0, 9]), stack(Reason::Fragment, Some(Scope::Vpc))),
        ("options", udp(POD_A, REMOTE).with(14, &[0x46]), stack(Reason::Options, Some(Scope::Vpc))),
        ("GRE", udp(POD_A, REMOTE).with(23, &[47]), stack(Reason::Unusual, Some(Scope::Vpc))),
        ("ICMP error", udp(POD_A, REMOTE).with(23, &[1]).with(34, &[3]), stack(Reason::Unusual, Some(Scope::Vpc))),
        ("echo", udp(POD_A, REMOTE).with(23, &[1]).with(34, &[8]), out),
    ];
    for (name, packet, expected) in rows {
        assert_eq!(sent(&world(), &packet), expected, "{name}");
    }
}

#[test]
fn from_pod_ipv6() {
    let row = |source, destination| sent(&world(), &Packet::udp6(source, destination)).verdict;
    let (a, b) = ("fd00:10:0:1::a", "fd00:10:0:1::b");
    assert_eq!(row(a, b), Verdict::ToPod { ifindex: 101 });
    assert_eq!(row(a, "fd00:10:0:2::b"), Verdict::ToUplink6 { ifindex: 2, gateway: v6("fe80::99") });
    assert_eq!(row(a, "2001:db8::1"), Verdict::Stack(Reason::NotNative));
    assert_eq!(row(b, a), Verdict::Drop(Reason::SpoofedAddress));
    for source in ["fe80::1234", "::"] {
        assert_eq!(row(source, "ff02::1"), Verdict::Stack(Reason::LinkLocal));
        assert_eq!(row(source, "fe80::1"), Verdict::Stack(Reason::LinkLocal));
        assert_eq!(row(source, b), Verdict::Drop(Reason::SpoofedAddress), "a link-local source leaves its link");
    }
    let extension = |next| sent(&world(), &Packet::udp6(a, b).with(20, &[next])).verdict;
    assert_eq!(extension(0), Verdict::Stack(Reason::Options));
    assert_eq!(extension(44), Verdict::Stack(Reason::Fragment));
}

#[test]
fn an_endpoint_that_is_gone_sends_nothing() {
    let mut world = world();
    world.endpoints.insert(A, Endpoint::default());
    assert_eq!(sent(&world, &Packet::udp4(POD_A, POD_B)).verdict, Verdict::Drop(Reason::NoEndpoint));
    world.endpoints.remove(&A);
    assert_eq!(sent(&world, &Packet::udp4(POD_A, POD_B)).verdict, Verdict::Drop(Reason::NoEndpoint));
}

#[test]
fn without_an_uplink_the_stack_finds_the_way() {
    let mut world = world();
    world.uplinks.clear();
    assert_eq!(sent(&world, &Packet::udp4(POD_A, REMOTE)).verdict, Verdict::Stack(Reason::NoUplink));
}

#[test]
fn stack_only_holds_at_both_ends() {
    for slot in [A, B] {
        let mut world = world();
        world.endpoints.get_mut(&slot).unwrap().stack_only = 1;
        assert_eq!(sent(&world, &Packet::udp4(POD_A, POD_B)).verdict, Verdict::Stack(Reason::StackOnly));
    }
}

/// What the stack emitted to B is noted so that B's reply takes the stack, and no other flow of B's does.
#[test]
fn replies_return_the_way_the_request_came() {
    let mut world = world();
    let request = Packet::udp4(POD_B, POD_A);
    assert_eq!(to_pod(&Frame(&request.bytes), &world, A), Emission { scope: Scope::SameNode, hosts_own: false });
    assert_eq!(*world.noted_for.borrow(), [A]);
    assert!(world.flows4.borrow().contains(&Flow4::new(POD_A, POD_B, PORTS.reversed())));
    let reply = Packet::udp4(POD_A, POD_B).with(34, &[0, 53, 0x12, 0x34]);
    assert_eq!(sent(&world, &reply).verdict, Verdict::ToPod { ifindex: 101 }, "not looked at before the endpoint says so");
    world.endpoints.get_mut(&A).unwrap().has_flows = 1;
    assert_eq!(sent(&world, &reply).verdict, Verdict::Stack(Reason::NotedFlow));
    assert_eq!(sent(&world, &Packet::udp4(POD_A, POD_B)).verdict, Verdict::ToPod { ifindex: 101 }, "another flow");
}

#[test]
fn a_request_translated_to_a_remote_pod_has_its_reply_stopped_at_the_uplink() {
    let mut world = world();
    let request = Packet::udp4(POD_A, REMOTE);
    assert_eq!(to_uplink(&Frame(&request.bytes), &world), Emission { scope: Scope::Vpc, hosts_own: false });
    assert_eq!(*world.noted_for.borrow(), [A]);
    world.endpoints.get_mut(&A).unwrap().has_flows = 1;
    let reply = Packet::udp4(REMOTE, POD_A).with(34, &[0, 53, 0x12, 0x34]);
    assert_eq!(from_uplink(&Frame(&reply.bytes), &world).verdict, Verdict::Stack(Reason::NotedFlow));
    let other = Packet::udp4(REMOTE, POD_A);
    let expected = Decision { verdict: Verdict::ToPod { ifindex: 100 }, sent: None, received: Some((Some(A), Scope::Vpc)) };
    assert_eq!(from_uplink(&Frame(&other.bytes), &world), expected);
}

#[test]
fn from_uplink_every_branch() {
    let udp = Packet::udp4;
    let host = |scope| Decision { verdict: Verdict::Host, sent: None, received: Some((None, scope)) };
    let stack = |reason| Decision::uncounted(Verdict::Stack(reason));
    let rows: Vec<(&str, Packet, Decision)> = vec![
        ("to the node, from another", udp([10, 0, 0, 12], [10, 0, 0, 11]), host(Scope::Vpc)),
        ("to the node, from the internet", udp([1, 1, 1, 1], [10, 0, 0, 11]), host(Scope::Internet)),
        ("no such pod", udp(REMOTE, [10, 0, 1, 30]), stack(Reason::NoSuchPod)),
        ("fragment", udp(REMOTE, POD_A).with(20, &[0x20, 0]), stack(Reason::Fragment)),
        ("a local source from outside", udp(POD_B, POD_A), stack(Reason::SpoofedAddress)),
        ("ARP", udp(REMOTE, POD_A).with(12, &[8, 6]), Decision::uncounted(Verdict::Host)),
        ("nonsense", udp(REMOTE, POD_A).with(14, &[0x41]), Decision::uncounted(Verdict::Host)),
    ];
    for (name, packet, expected) in rows {
        assert_eq!(from_uplink(&Frame(&packet.bytes), &world()), expected, "{name}");
    }
}

#[test]
fn what_the_stack_emits_is_noted_only_where_a_reply_could_miss_it() {
    let note = |packet: Packet| {
        let world = world();
        let _ = to_pod(&Frame(&packet.bytes), &world, A);
        !world.noted_for.take().is_empty()
    };
    assert!(note(Packet::udp4(REMOTE, POD_A)));
    assert!(note(Packet::udp4(POD_B, POD_A)));
    assert!(!note(Packet::udp4([1, 1, 1, 1], POD_A)), "replies to the internet take the stack anyway");
    assert!(!note(Packet::udp4([10, 0, 0, 11], POD_A)), "so do replies to this node");
    assert!(note(Packet::udp4(REMOTE, POD_A).with(20, &[0x20, 0])), "a first fragment has ports");
    assert!(!note(Packet::udp4(REMOTE, POD_A).with(20, &[0, 9])));
    let host = to_uplink(&Frame(&Packet::udp4([10, 0, 0, 11], [1, 1, 1, 1]).bytes), &world());
    assert_eq!(host, Emission { scope: Scope::Internet, hosts_own: true });
}

/// A conversation of the host is in its account in both directions, or in neither.
#[test]
fn the_hosts_own_is_counted_both_ways() {
    let world = world();
    let node = [10, 0, 0, 11];
    for other in [[10, 0, 0, 12], [1, 1, 1, 1], [10, 96, 0, 1], [169, 254, 169, 254]] {
        let asked = to_uplink(&Frame(&Packet::udp4(node, other).bytes), &world);
        let answered = from_uplink(&Frame(&Packet::udp4(other, node).bytes), &world);
        assert!(asked.hosts_own, "{other:?}");
        assert_eq!(answered.received, Some((None, asked.scope)), "{other:?}");
    }
    let asked = to_uplink(&Frame(&Packet::udp6("fd00:10::11", "fe80::1").bytes), &world);
    let answered = from_uplink(&Frame(&Packet::udp6("fe80::1", "fd00:10::11").bytes), &world);
    assert_eq!((asked.hosts_own, answered.received), (true, Some((None, asked.scope))));
}

/// Whatever the bytes, a decision is made, and a packet is carried only from the endpoint's own addresses.
#[test]
fn arbitrary_bytes_never_panic_nor_spoof() {
    let world = world();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..200_000 {
        let mut packet = if round % 2 == 0 { Packet::udp4(POD_A, POD_B) } else { Packet::udp6("fd00:10:0:1::a", "fd00:10:0:1::b") };
        for _ in 0..next() % 4 {
            let at = usize::try_from(next()).unwrap() % packet.bytes.len();
            packet.bytes[at] = next().to_be_bytes()[0];
        }
        let length = usize::try_from(next()).unwrap() % (packet.bytes.len() + 1);
        if next() % 8 == 0 {
            packet.bytes.truncate(length);
        }
        let frame = Frame(&packet.bytes);
        if let Verdict::ToPod { .. } | Verdict::ToUplink4 { .. } | Verdict::ToUplink6 { .. } = sent(&world, &packet).verdict {
            assert_eq!(packet.bytes[6..12], mac(A));
            match packet::protocol(&frame) {
                Some(Protocol::V4) => assert_eq!(packet::ipv4(&frame).unwrap().source, POD_A),
                Some(Protocol::V6) => assert_eq!(packet::ipv6(&frame).unwrap().source, v6("fd00:10:0:1::a")),
                other => panic!("{other:?}"),
            }
        }
        let _ = (from_uplink(&frame, &world), to_pod(&frame, &world, A), to_uplink(&frame, &world));
    }
}
